"""The coarse tier: 4-bit product codes scanned in registers (FAISS FastScan).

One inverted list holds all rows. Unlike the flat FastScan index, the inverted-list one takes a bitmap of
the rows that may be returned, so filters and tombstones cost next to nothing. Source: André, Kermarrec, Le
Scouarnec, "Cache locality is not enough" (VLDB 2015); Douze et al., "The Faiss library" (arXiv 2401.08281).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.index.faiss_tools import faiss, one_call
from agent_memory.index.vectors import FloatArray

BLOCK_ROWS = 32
"""FastScan interleaves the codes of this many rows."""

CENTROIDS = 16


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """What turns a prefix into a code.

    Attributes:
        centroids: float32 (m, 16, d / m), of each group of d / m dimensions.
        order: int64 (d,), the prefix dimension that stands at each place before grouping.
    """

    centroids: FloatArray
    order: npt.NDArray[np.int64]

    @property
    def dimension(self) -> int:
        """Leading dimensions of a vector that the code describes."""
        return len(self.order)

    @property
    def code_bytes(self) -> int:
        """Bytes of a code."""
        return len(self.centroids) // 2

    def arranged(self, vectors: FloatArray) -> FloatArray:
        """Return the prefixes of (n, >= d) vectors in the order of the code, (n, d)."""
        return np.ascontiguousarray(vectors[:, self.order])


def balanced_order(dimension: int, groups: int) -> npt.NDArray[np.int64]:
    """Deal dimensions out to groups so that each gets an equal share of a falling spectrum.

    Group i takes i, 2g-1-i, 2g+i, 4g-1-i, …: forth and back, the allocation that parametric OPQ makes for a
    spectrum in falling order (Ge et al., "Optimized Product Quantization", TPAMI 2014).
    """
    rounds = np.arange(dimension).reshape(-1, groups)
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds.T.reshape(-1).astype(np.int64)


def train(prefixes: FloatArray, code_bytes: int, *, threads: int, seed: int) -> Codebook:
    """Learn a codebook from a sample (n, d) of prefixes, d a multiple of ``2 * code_bytes``."""
    groups = 2 * code_bytes
    order = balanced_order(prefixes.shape[1], groups)
    quantizer = faiss().ProductQuantizer(prefixes.shape[1], groups, 4)
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1
    with one_call(threads):
        quantizer.train(np.ascontiguousarray(prefixes[:, order]))
    centroids = faiss().vector_to_array(quantizer.centroids).reshape(groups, CENTROIDS, -1)
    return Codebook(centroids.astype(np.float32), order)


class CoarseTier:
    """Codes of rows 0 to n; immutable.

    Args:
        codebook: How rows were encoded.
        packed: uint8, the codes as ``packed`` returned them.
        count: Rows that they describe.
    """

    def __init__(self, codebook: Codebook, packed: npt.NDArray[np.uint8] | None = None, count: int = 0) -> None:
        self.codebook = codebook
        self._index, self._quantizer = _empty_index(codebook)
        if count and packed is not None:
            self._index.invlists.resize(0, count)
            self._codes(count)[:] = packed
            ids = faiss().rev_swig_ptr(self._index.invlists.get_ids(0), count)
            ids[:] = np.arange(count)
            self._index.ntotal = count

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def nbytes(self) -> int:
        """Resident bytes: codes and the list's row numbers."""
        return packed_bytes(self.codebook.code_bytes, len(self)) + 8 * len(self)

    def _codes(self, count: int) -> npt.NDArray[np.uint8]:
        size = packed_bytes(self.codebook.code_bytes, count)
        view: npt.NDArray[np.uint8] = faiss().rev_swig_ptr(self._index.invlists.get_codes(0), size)
        return view

    def packed(self) -> npt.NDArray[np.uint8]:
        """Return a copy of the codes, in blocks of 32 rows."""
        return self._codes(len(self)).copy() if len(self) else np.empty(0, np.uint8)

    def extended(self, batches: Iterable[FloatArray], *, threads: int) -> CoarseTier:
        """Return a tier with the rows of these (m, >= d) float32 batches behind the present ones."""
        grown = CoarseTier(self.codebook, self._codes(len(self)) if len(self) else None, len(self))
        with one_call(threads):
            for batch in batches:
                grown._index.add(self.codebook.arranged(batch))
        return grown

    def search(
        self, queries: FloatArray, count: int, bitmap: npt.NDArray[np.uint8] | None, *, threads: int
    ) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Return approximate scores and rows (nq, count), best first, rows padded with -1.

        Args:
            queries: float32 (nq, >= d).
            count: Candidates per query.
            bitmap: Bit per row (little-endian), set where the row may be returned; None for all.
            threads: Threads to use.
        """
        lib = faiss()
        options = lib.IVFSearchParameters(nprobe=1)
        if bitmap is not None:
            selector = lib.IDSelectorBitmap(bitmap)
            options = lib.IVFSearchParameters(nprobe=1, sel=selector)
        with one_call(threads):
            scores, rows = self._index.search(self.codebook.arranged(queries), count, params=options)
        return scores, rows


def packed_bytes(code_bytes: int, count: int) -> int:
    """Bytes of ``count`` codes in FastScan blocks."""
    return -(-count // BLOCK_ROWS) * BLOCK_ROWS * code_bytes


def _empty_index(codebook: Codebook) -> tuple[Any, Any]:
    lib = faiss()
    dimension, groups = codebook.dimension, len(codebook.centroids)
    quantizer = lib.IndexFlatIP(dimension)
    quantizer.add(np.zeros((1, dimension), np.float32))
    index = lib.IndexIVFPQFastScan(quantizer, dimension, 1, groups, 4, lib.METRIC_INNER_PRODUCT, BLOCK_ROWS)
    index.by_residual = False
    lib.copy_array_to_vector(codebook.centroids.reshape(-1), index.pq.centroids)
    index.is_trained = True
    return index, quantizer
