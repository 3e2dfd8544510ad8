"""The engines that ``benchmarks/index.py`` compares, including stores with an index of their own."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from index_engines import AgentMemory, Engine, Faiss, Hnswlib, Usearch

from agent_memory.types import FloatArray, RowArray

# Every engine gets one thread; the Rust libraries read this when they start their thread pools.
os.environ["RAYON_NUM_THREADS"] = "1"

_PIECE = 1000


def count_folder_bytes(folder: str) -> int:
    """Return the bytes of all files below a folder."""
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())


def iter_pieces(rows: FloatArray, size: int = _PIECE) -> Iterator[tuple[int, FloatArray]]:
    """Yield (first id, float32 rows) until all rows were seen."""
    for at in range(0, len(rows), size):
        yield at, np.ascontiguousarray(rows[at : at + size], np.float32)


class FolderEngine(Engine):
    """An engine that keeps its rows in a folder."""

    def __init__(self) -> None:
        self.folder = tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP"), ignore_cleanup_errors=True)

    def count_disk_bytes(self) -> int:
        """Return the bytes of the folder."""
        return count_folder_bytes(self.folder.name)


class QdrantEdge(FolderEngine):
    """Qdrant's engine within this process: HNSW with m = 16, ef_construct = 100, full vectors in RAM."""

    name = "qdrant-edge"
    efforts = (16, 24, 32, 48, 64, 96, 128, 192, 256, 400)

    def build(self, rows: FloatArray) -> None:
        """Insert, then build the graph on one thread."""
        import qdrant_edge as q

        self.q, self.version = q, "qdrant-edge-py " + importlib.metadata.version("qdrant-edge-py")
        config = q.EdgeConfig(
            vectors={"": q.EdgeVectorParams(size=rows.shape[1], distance=q.Distance.Dot)},
            hnsw_config=q.HnswIndexConfig(m=16, ef_construct=100, full_scan_threshold=10_000, max_indexing_threads=1),
            optimizers=q.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=1000),
            max_search_threads=1,
        )
        self.shard = q.EdgeShard.create(self.folder.name, config)
        for at, piece in iter_pieces(rows):
            points = [q.Point(at + place, row) for place, row in enumerate(piece.tolist())]
            self.shard.update(q.UpdateOperation.upsert_points(points))
        self.shard.optimize()
        self.shard.flush()

    def _search(self, query: FloatArray, k: int, effort: int | None, keep: Any) -> list[int]:  # noqa: ANN401
        q = self.q
        request = q.SearchRequest(
            query=q.Query.Nearest(query.tolist()), limit=k, filter=keep, params=q.SearchParams(hnsw_ef=effort)
        )
        found = [point.id for point in self.shard.search(request)]
        return found + [-1] * (k - len(found))

    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Search one by one; batches are not supported."""
        return np.array([self._search(query, k, effort, None) for query in queries])

    def search_filtered(self, query: FloatArray, k: int, allowed: RowArray, effort: int | None) -> RowArray:
        """Filter by ids."""
        keep = self.q.Filter(must=[self.q.HasIdCondition(set(allowed.tolist()))])
        return np.array([self._search(query[0], k, effort, keep)])

    def add(self, number: int, row: FloatArray) -> bool:
        """Insert one row."""
        self.shard.update(self.q.UpdateOperation.upsert_points([self.q.Point(number, row[0].tolist())]))
        return True

    def remove(self, ids: RowArray) -> bool:
        """Delete by id."""
        self.shard.update(self.q.UpdateOperation.delete_points(ids.tolist()))
        return True


class Chroma(FolderEngine):
    """Chroma's persistent client: inner product, M = 16, ef_search at its default of 100."""

    name = "Chroma"

    def build(self, rows: FloatArray) -> None:
        """Insert in large batches."""
        import chromadb

        self.version = f"chromadb {chromadb.__version__}"
        settings = chromadb.Settings(anonymized_telemetry=False)
        client = chromadb.PersistentClient(self.folder.name, settings=settings)
        graph = {"space": "ip", "max_neighbors": 16, "ef_construction": 100, "num_threads": 1}
        self.rows = client.create_collection("bench", configuration={"hnsw": graph}, embedding_function=None)
        for at, piece in iter_pieces(rows, min(5000, client.get_max_batch_size())):
            self.rows.add(ids=[str(at + place) for place in range(len(piece))], embeddings=piece)

    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Search."""
        found = self.rows.query(query_embeddings=queries, n_results=k, include=[])["ids"]
        return np.array([[int(name) for name in names] + [-1] * (k - len(names)) for names in found])

    def search_filtered(self, query: FloatArray, k: int, allowed: RowArray, effort: int | None) -> RowArray:
        """Filter by ids."""
        names = [str(name) for name in allowed.tolist()]
        found = self.rows.query(query_embeddings=query, n_results=k, include=[], ids=names)["ids"][0]
        return np.array([[int(name) for name in found] + [-1] * (k - len(found))])

    def add(self, number: int, row: FloatArray) -> bool:
        """Insert one row."""
        self.rows.add(ids=[str(number)], embeddings=row)
        return True

    def remove(self, ids: RowArray) -> bool:
        """Delete by id."""
        for at in range(0, len(ids), _PIECE):
            self.rows.delete(ids=[str(name) for name in ids[at : at + _PIECE].tolist()])
        return True


class SqliteVec(FolderEngine):
    """sqlite-vec: compares every row, in SQL."""

    name = "sqlite-vec"

    def build(self, rows: FloatArray) -> None:
        """Insert into a virtual table."""
        # The sqlite3 module of the standard library is often built without support for extensions.
        import apsw
        import sqlite_vec

        self.version = "sqlite-vec " + importlib.metadata.version("sqlite-vec")
        self.base = apsw.Connection(str(Path(self.folder.name) / "bench.db"))
        self.base.enable_load_extension(True)
        sqlite_vec.load(self.base)
        self.base.execute("PRAGMA journal_mode = WAL")
        self.base.execute(f"CREATE VIRTUAL TABLE v USING vec0(e float[{rows.shape[1]}] distance_metric=cosine)")
        for at, piece in iter_pieces(rows):
            found = [(at + place, row.tobytes()) for place, row in enumerate(piece)]
            with self.base:
                self.base.executemany("INSERT INTO v(rowid, e) VALUES (?, ?)", found)

    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Search one by one; batches are not supported."""
        sql = "SELECT rowid FROM v WHERE e MATCH ? AND k = ? ORDER BY distance"
        return np.array([[row[0] for row in self.base.execute(sql, (query.tobytes(), k))] for query in queries])

    def search_filtered(self, query: FloatArray, k: int, allowed: RowArray, effort: int | None) -> RowArray:
        """Filter by ids."""
        sql = (
            "SELECT rowid FROM v WHERE e MATCH ? AND k = ? "
            "AND rowid IN (SELECT value FROM json_each(?)) ORDER BY distance"
        )
        found = self.base.execute(sql, (query.tobytes(), k, json.dumps(allowed.tolist())))
        return np.array([[row[0] for row in found]])

    def add(self, number: int, row: FloatArray) -> bool:
        """Insert one row."""
        self.base.execute("INSERT INTO v(rowid, e) VALUES (?, ?)", (number, row.tobytes()))
        return True

    def remove(self, ids: RowArray) -> bool:
        """Delete by id."""
        with self.base:
            self.base.executemany("DELETE FROM v WHERE rowid = ?", [(name,) for name in ids.tolist()])
        return True


class Turbovec(Engine):
    """turbovec: scans 4-bit TurboQuant codes of all dimensions."""

    name = "turbovec 4-bit"

    def build(self, rows: FloatArray) -> None:
        """Encode."""
        import turbovec

        self.version = f"turbovec {turbovec.__version__}"
        self.index = turbovec.IdMapIndex(rows.shape[1], 4)
        for at, piece in iter_pieces(rows, 50_000):
            self.index.add_with_ids(piece, np.arange(at, at + len(piece), dtype=np.uint64))
        self.index.prepare()

    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Search."""
        return self.index.search(queries, k)[1].astype(np.int64)

    def search_filtered(self, query: FloatArray, k: int, allowed: RowArray, effort: int | None) -> RowArray:
        """Filter by ids."""
        return self.index.search(query, k, allowlist=allowed.astype(np.uint64))[1].astype(np.int64)

    def add(self, number: int, row: FloatArray) -> bool:
        """Add one row."""
        self.index.add_with_ids(row, np.array([number], np.uint64))
        return True

    def remove(self, ids: RowArray) -> bool:
        """Remove each."""
        for name in ids.tolist():
            self.index.remove(name)
        return True


def make_engines(wanted: set[str], tiers: tuple[int, ...], target: float, rows: int) -> list[Engine]:
    """Return the wanted engines that are installed, agent-memory first; all of them if none is named."""
    lists = max(64, 2 ** round(np.log2(4 * rows**0.5)))
    probes = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    found: list[Engine] = [
        AgentMemory(tiers, target, out_of_core=rows > 2_000_000),
        Faiss("FAISS Flat", "Flat"),
        Faiss("FAISS HNSW32", "HNSW32", "efSearch", (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400)),
        Faiss("FAISS IVF-SQ8", f"IVF{lists},SQ8", "nprobe", probes),
    ]
    optional = {
        "hnswlib": Hnswlib,
        "usearch": Usearch,
        "turbovec": Turbovec,
        "qdrant_edge": QdrantEdge,
        "chromadb": Chroma,
        "apsw": SqliteVec,
    }
    found += [make() for module, make in optional.items() if importlib.util.find_spec(module)]
    return [engine for engine in found if not wanted or engine.name in wanted]
