"""A common interface of the engines that ``benchmarks/index.py`` compares."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import faiss
import numpy as np

from agent_memory.index import IndexOptions, TieredIndex
from agent_memory.types import FloatArray, RowArray


def read_resident_bytes() -> int:
    """Return the anonymous resident memory of this process, without the pages of mapped files."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


class Engine(ABC):
    """An engine to be measured; ``effort`` is its search-time knob, None if it has none."""

    name = ""
    efforts: tuple[int, ...] = ()
    version = f"faiss {faiss.__version__}"

    @abstractmethod
    def build(self, rows: FloatArray) -> None:
        """Index rows with ids 0 to n - 1."""

    @abstractmethod
    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Return ids (nq, k)."""

    def search_filtered(self, query: FloatArray, k: int, allowed: RowArray, effort: int | None) -> RowArray | None:
        """Return ids (1, k) among ``allowed``, or None if the engine cannot filter."""
        return None

    def add(self, number: int, row: FloatArray) -> bool:
        """Add one row (1, d); return False if the engine cannot."""
        return False

    def remove(self, ids: RowArray) -> bool:
        """Remove rows; return False if the engine cannot."""
        return False

    def count_disk_bytes(self) -> int:
        """Return the bytes in files."""
        return 0


class AgentMemory(Engine):
    """This package's index, saved, so that rows are served from mapped files."""

    name = "agent-memory"
    version = "this tree"

    def __init__(self, tiers: tuple[int, ...], target: float, out_of_core: bool = False) -> None:
        self.tiers, self.options = tiers, IndexOptions(recall_target=target)
        self.out_of_core = out_of_core
        self.folder = tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP"))

    def build(self, rows: FloatArray) -> None:
        """Add in pieces, maintain, and save."""
        self.index = TieredIndex(self.tiers[-1], self.tiers, options=self.options)
        step = 50_000
        for number, at in enumerate(range(0, len(rows), step)):
            piece = rows[at : at + step]
            self.index.add(np.arange(at, at + len(piece)), piece)
            if self.out_of_core and number % 10 == 9:
                self.save(number)
        self.index.maintain()
        self.save(10**6)

    def save(self, seq: int) -> None:
        """Save a snapshot."""
        self.path = self.index.save(Path(self.folder.name), generation="bench", seq=seq)

    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Search with the plan that the index chose."""
        return self.index.search(queries, k).ids

    def search_filtered(self, query: FloatArray, k: int, allowed: RowArray, effort: int | None) -> RowArray:
        """Filter inside the search."""
        return self.index.search(query, k, allowed=allowed).ids

    def add(self, number: int, row: FloatArray) -> bool:
        """Add one row."""
        self.index.add(np.array([number]), row)
        return True

    def remove(self, ids: RowArray) -> bool:
        """Leave tombstones."""
        return self.index.remove(ids) == len(ids)

    def count_disk_bytes(self) -> int:
        """Return the bytes of the snapshot."""
        return sum(file.stat().st_size for file in self.path.iterdir())


class Faiss(Engine):
    """A FAISS index built from a factory string."""

    def __init__(self, name: str, factory: str, knob: str | None = None, efforts: tuple[int, ...] = ()) -> None:
        self.name, self.factory, self.knob, self.efforts = name, factory, knob, efforts

    def build(self, rows: FloatArray) -> None:
        """Train on up to 100,000 rows and add all."""
        self.index = faiss.index_factory(rows.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        self.index.train(rows[:100_000])
        for at in range(0, len(rows), 50_000):
            self.index.add(np.ascontiguousarray(rows[at : at + 50_000], np.float32))

    def _make_options(self, effort: int | None, selector: object) -> object:
        if self.knob == "efSearch":
            return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        if self.knob == "nprobe":
            return faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        return faiss.SearchParameters(sel=selector)

    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Search."""
        return self.index.search(queries, k, params=self._make_options(effort, None))[1]

    def search_filtered(self, query: FloatArray, k: int, allowed: RowArray, effort: int | None) -> RowArray:
        """Search with a bitmap."""
        mask = np.zeros(self.index.ntotal, bool)
        mask[allowed] = True
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        return self.index.search(query, k, params=self._make_options(effort, selector))[1]

    def add(self, number: int, row: FloatArray) -> bool:
        """Add one row."""
        self.index.add(row)
        return True

    def remove(self, ids: RowArray) -> bool:
        """Remove and shift, if the index supports it."""
        try:
            self.index.remove_ids(ids)
        except RuntimeError:
            return False
        return True


class Hnswlib(Engine):
    """hnswlib, inner product, M = 16, ef_construction = 200."""

    name = "hnswlib"
    efforts = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400)

    def build(self, rows: FloatArray) -> None:
        """Build on one thread."""
        import hnswlib

        self.version = "hnswlib " + importlib.metadata.version("hnswlib")
        self.index = hnswlib.Index(space="ip", dim=rows.shape[1])
        self.index.init_index(max_elements=len(rows) + 2000, M=16, ef_construction=200, random_seed=1)
        self.index.set_num_threads(1)
        self.index.add_items(rows, np.arange(len(rows)))

    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Search."""
        self.index.set_ef(effort)
        return self.index.knn_query(queries, k)[0].astype(np.int64)

    def search_filtered(self, query: FloatArray, k: int, allowed: RowArray, effort: int | None) -> RowArray | None:
        """Search with a Python callback, the only kind of filter it has."""
        self.index.set_ef(effort)
        keep = set(allowed.tolist())
        try:
            return self.index.knn_query(query, k, filter=keep.__contains__)[0].astype(np.int64)
        except RuntimeError:
            return np.full((1, k), -1)

    def add(self, number: int, row: FloatArray) -> bool:
        """Add one row."""
        self.index.add_items(row, np.array([number]))
        return True

    def remove(self, ids: RowArray) -> bool:
        """Mark as deleted."""
        for entry in ids.tolist():
            self.index.mark_deleted(entry)
        return True


class Usearch(Engine):
    """usearch, half precision, connectivity 16."""

    name = "usearch f16"
    efforts = (16, 32, 48, 64, 96, 128, 192, 256, 400)

    def build(self, rows: FloatArray) -> None:
        """Build on one thread."""
        import usearch
        from usearch.index import Index

        self.version = f"usearch {usearch.__version__}"
        self.index = Index(ndim=rows.shape[1], metric="ip", dtype="f16", connectivity=16)
        for at in range(0, len(rows), 50_000):
            piece = rows[at : at + 50_000]
            self.index.add(np.arange(at, at + len(piece)), piece, threads=1)

    def search(self, queries: FloatArray, k: int, effort: int | None) -> RowArray:
        """Search."""
        self.index.expansion_search = effort
        keys = self.index.search(queries, k, threads=1).keys
        return np.asarray(keys, np.int64).reshape(len(queries), -1)

    def add(self, number: int, row: FloatArray) -> bool:
        """Add one row."""
        self.index.add(number, row[0])
        return True

    def remove(self, ids: RowArray) -> bool:
        """Remove each."""
        for entry in ids.tolist():
            self.index.remove(entry)
        return True
