"""One face for every engine that ``benchmarks/index.py`` compares."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import faiss
import numpy as np
import numpy.typing as npt

from agent_memory.index import IndexOptions, TieredIndex

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


def resident_bytes() -> int:
    """Anonymous resident memory of this process: pages of mapped files are not counted."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssAnon"].split()[0]) * 1024


class Engine(ABC):
    """An engine under test; ``effort`` is its one search-time knob, None if it has none."""

    name = ""
    efforts: tuple[int, ...] = ()
    version = f"faiss {faiss.__version__}"

    @abstractmethod
    def build(self, rows: Floats) -> None:
        """Index rows with ids 0 to n - 1."""

    @abstractmethod
    def search(self, queries: Floats, k: int, effort: int | None) -> Ints:
        """Return ids (nq, k)."""

    def filtered(self, query: Floats, k: int, allowed: Ints, effort: int | None) -> Ints | None:
        """Return ids (1, k) among ``allowed``, None if the engine cannot filter."""
        return None

    def add(self, number: int, row: Floats) -> bool:
        """Add one row (1, d); False if the engine cannot."""
        return False

    def remove(self, ids: Ints) -> bool:
        """Remove rows; False if the engine cannot."""
        return False

    def disk_bytes(self) -> int:
        """Bytes in files."""
        return 0


class Ours(Engine):
    """This package's index, saved and reopened, so that rows are served from mapped files."""

    name = "agent-memory"
    version = "this tree"

    def __init__(self, tiers: tuple[int, ...], target: float, out_of_core: bool = False) -> None:
        self.tiers, self.options = tiers, IndexOptions(recall_target=target)
        self.out_of_core = out_of_core
        self.folder = tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_TMP"))

    def build(self, rows: Floats) -> None:
        """Add in pieces, maintain, save, and serve from the saved files."""
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

    def search(self, queries: Floats, k: int, effort: int | None) -> Ints:
        """Search with the plan that the index chose."""
        return self.index.search(queries, k).ids

    def filtered(self, query: Floats, k: int, allowed: Ints, effort: int | None) -> Ints:
        """Filter inside the search."""
        return self.index.search(query, k, allowed=allowed).ids

    def add(self, number: int, row: Floats) -> bool:
        """Add one row."""
        self.index.add(np.array([number]), row)
        return True

    def remove(self, ids: Ints) -> bool:
        """Set tombstones."""
        return self.index.remove(ids) == len(ids)

    def disk_bytes(self) -> int:
        """Bytes of the snapshot."""
        return sum(file.stat().st_size for file in self.path.iterdir())


class Faiss(Engine):
    """A FAISS index made by a factory string."""

    def __init__(self, name: str, factory: str, knob: str | None = None, efforts: tuple[int, ...] = ()) -> None:
        self.name, self.factory, self.knob, self.efforts = name, factory, knob, efforts

    def build(self, rows: Floats) -> None:
        """Train on at most 100,000 rows and add."""
        self.index = faiss.index_factory(rows.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
        self.index.train(rows[:100_000])
        for at in range(0, len(rows), 50_000):
            self.index.add(np.ascontiguousarray(rows[at : at + 50_000], np.float32))

    def _options(self, effort: int | None, selector: object) -> object:
        if self.knob == "efSearch":
            return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
        if self.knob == "nprobe":
            return faiss.SearchParametersIVF(nprobe=effort, sel=selector)
        return faiss.SearchParameters(sel=selector)

    def search(self, queries: Floats, k: int, effort: int | None) -> Ints:
        """Search."""
        return self.index.search(queries, k, params=self._options(effort, None))[1]

    def filtered(self, query: Floats, k: int, allowed: Ints, effort: int | None) -> Ints:
        """Search with a bitmap."""
        mask = np.zeros(self.index.ntotal, bool)
        mask[allowed] = True
        selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))
        return self.index.search(query, k, params=self._options(effort, selector))[1]

    def add(self, number: int, row: Floats) -> bool:
        """Add one row."""
        self.index.add(row)
        return True

    def remove(self, ids: Ints) -> bool:
        """Remove and shift, where the index can."""
        try:
            self.index.remove_ids(ids)
        except RuntimeError:
            return False
        return True


class Hnswlib(Engine):
    """hnswlib, inner product, M = 16, ef_construction = 200."""

    name = "hnswlib"
    efforts = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400)

    def build(self, rows: Floats) -> None:
        """Build on one thread."""
        import hnswlib

        self.version = "hnswlib " + importlib.metadata.version("hnswlib")
        self.index = hnswlib.Index(space="ip", dim=rows.shape[1])
        self.index.init_index(max_elements=len(rows) + 2000, M=16, ef_construction=200, random_seed=1)
        self.index.set_num_threads(1)
        self.index.add_items(rows, np.arange(len(rows)))

    def search(self, queries: Floats, k: int, effort: int | None) -> Ints:
        """Search."""
        self.index.set_ef(effort)
        return self.index.knn_query(queries, k)[0].astype(np.int64)

    def filtered(self, query: Floats, k: int, allowed: Ints, effort: int | None) -> Ints | None:
        """Search with a Python callback, the only filter it has."""
        self.index.set_ef(effort)
        keep = set(allowed.tolist())
        try:
            return self.index.knn_query(query, k, filter=keep.__contains__)[0].astype(np.int64)
        except RuntimeError:
            return np.full((1, k), -1)

    def add(self, number: int, row: Floats) -> bool:
        """Add one row."""
        self.index.add_items(row, np.array([number]))
        return True

    def remove(self, ids: Ints) -> bool:
        """Mark as deleted."""
        for entry in ids.tolist():
            self.index.mark_deleted(entry)
        return True


class Usearch(Engine):
    """usearch, half precision, connectivity 16."""

    name = "usearch f16"
    efforts = (16, 32, 48, 64, 96, 128, 192, 256, 400)

    def build(self, rows: Floats) -> None:
        """Build on one thread."""
        import usearch
        from usearch.index import Index

        self.version = f"usearch {usearch.__version__}"
        self.index = Index(ndim=rows.shape[1], metric="ip", dtype="f16", connectivity=16)
        for at in range(0, len(rows), 50_000):
            piece = rows[at : at + 50_000]
            self.index.add(np.arange(at, at + len(piece)), piece, threads=1)

    def search(self, queries: Floats, k: int, effort: int | None) -> Ints:
        """Search."""
        self.index.expansion_search = effort
        keys = self.index.search(queries, k, threads=1).keys
        return np.asarray(keys, np.int64).reshape(len(queries), -1)

    def add(self, number: int, row: Floats) -> bool:
        """Add one row."""
        self.index.add(number, row[0])
        return True

    def remove(self, ids: Ints) -> bool:
        """Remove each."""
        for entry in ids.tolist():
            self.index.remove(entry)
        return True
