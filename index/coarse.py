"""The coarse tier: 4-bit product codes scanned in registers (FAISS FastScan).

One inverted list holds all rows. Unlike the flat FastScan index, the inverted-list one takes a bitmap of
the rows that may be returned, so filters and tombstones cost next to nothing. Source: André, Kermarrec, Le
Scouarnec, "Cache locality is not enough" (VLDB 2015); Douze et al., "The Faiss library" (arXiv 2401.08281).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.index.faiss_tools import faiss, one_call
from agent_memory.index.vectors import FloatArray, best

BLOCK_ROWS = 32
"""FastScan interleaves the codes of this many rows."""

CENTROIDS = 16

_SAMPLE_STEP = BLOCK_ROWS
"""One row of so many tells where a query's best scores begin."""
_SMALLEST_RANK = 10
"""A threshold guessed from a better rank among the sampled rows is too far off too often."""


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
        sample: What ``_sampled`` returned for the first of them.
    """

    def __init__(
        self,
        codebook: Codebook,
        packed: npt.NDArray[np.uint8] | None = None,
        count: int = 0,
        sample: tuple[Any, Any] | None = None,
    ) -> None:
        self.codebook = codebook
        self._index, self._quantizer = _index_of(codebook, packed, np.arange(count))
        self._sample = self._sampled(sample)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    @property
    def nbytes(self) -> int:
        """Resident bytes: codes and row numbers of the list and of the sample."""
        rows = len(self) + -(-len(self) // _SAMPLE_STEP)
        return packed_bytes(self.codebook.code_bytes, rows) + 8 * rows

    def _codes(self, count: int) -> npt.NDArray[np.uint8]:
        return _codes_of(self._index, self.codebook, count)

    def _sampled(self, former: tuple[Any, Any] | None) -> tuple[Any, Any]:
        """Return an index of the codes of every so manyth row; ``former`` is one of the first of them."""
        rows = np.arange(0, len(self), _SAMPLE_STEP)
        done = 0 if former is None else int(former[0].ntotal)
        if former is not None and done == len(rows):
            return former
        packed = np.zeros(packed_bytes(self.codebook.code_bytes, len(rows)), np.uint8)
        if former is not None and done:
            known = _codes_of(former[0], self.codebook, done)
            packed[: len(known)] = known
        if len(rows):
            lib, packer = faiss(), self._index.get_CodePacker()
            code = np.zeros(self.codebook.code_bytes, np.uint8)
            source, target, between = (lib.swig_ptr(array) for array in (self._codes(len(self)), packed, code))
            for place in range(done, len(rows)):
                packer.unpack_1_c(source, place * _SAMPLE_STEP, between)
                packer.pack_1_c(between, place, target)
        return _index_of(self.codebook, packed, rows)

    def packed(self) -> npt.NDArray[np.uint8]:
        """Return a copy of the codes, in blocks of 32 rows."""
        return self._codes(len(self)).copy() if len(self) else np.empty(0, np.uint8)

    def extended(self, batches: Iterable[FloatArray], *, threads: int) -> CoarseTier:
        """Return a tier with the rows of these (m, >= d) float32 batches behind the present ones."""
        codes = self._codes(len(self)) if len(self) else None
        grown = CoarseTier(self.codebook, codes, len(self), self._sample)
        with one_call(threads):
            for batch in batches:
                grown._index.add(self.codebook.arranged(batch))
        grown._sample = grown._sampled(self._sample)
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
        with one_call(threads):
            scores, rows = self._index.search(self.codebook.arranged(queries), count, params=_parameters(bitmap))
        return scores, rows

    def candidates(
        self, queries: FloatArray, count: int, bitmap: npt.NDArray[np.uint8] | None, *, ranked: bool
    ) -> list[tuple[FloatArray, npt.NDArray[np.int64]]]:
        """Return about ``count`` approximate scores and rows of each query (nq, >= d), best first if ``ranked``.

        To keep the best so many of a million rows costs half as much again as to score them. All rows that
        reach a threshold cost next to nothing, so the rank among sampled rows that stands for ``count`` gives
        one. Queries are divided by their thresholds, FAISS takes but one. Where a threshold is no good, the best
        ``count`` are found after all: it is never less than half or more than twice as many, unless fewer may be
        returned; rows may be padded with -1.
        """
        expected = count / _SAMPLE_STEP
        rank = math.ceil(expected + math.sqrt(expected))
        if rank < _SMALLEST_RANK:
            return list(zip(*self.search(queries, count, bitmap, threads=1), strict=True))
        arranged, options = self.codebook.arranged(queries), _parameters(bitmap)
        with one_call(1):
            floors = self._sample[0].search(arranged, rank, params=options)[0][:, -1:]
            floors[~(floors > 0)] = 1  # which no row reaches
            limits, scores, rows = self._index.range_search(arranged / floors, 1.0, params=options)
        answers = []
        for number, (start, stop) in enumerate(pairwise(limits.tolist())):
            mine, places = scores[start:stop] * floors[number], rows[start:stop]
            if 2 * len(places) < count:
                found, near = self.search(queries[number : number + 1], count, bitmap, threads=1)
                mine, places = found[0], near[0]
            elif len(places) > 2 * count:
                kept = best(mine, count)
                mine, places = mine[kept], places[kept]
            if ranked:
                order = np.argsort(-mine, kind="stable")
                mine, places = mine[order], places[order]
            answers.append((mine, places))
        return answers


def _parameters(bitmap: npt.NDArray[np.uint8] | None) -> Any:  # noqa: ANN401 - FAISS has no type information
    lib = faiss()
    if bitmap is None:
        return lib.IVFSearchParameters(nprobe=1)
    return lib.IVFSearchParameters(nprobe=1, sel=lib.IDSelectorBitmap(bitmap))


def _codes_of(index: Any, codebook: Codebook, count: int) -> npt.NDArray[np.uint8]:  # noqa: ANN401
    view: npt.NDArray[np.uint8] = faiss().rev_swig_ptr(
        index.invlists.get_codes(0), packed_bytes(codebook.code_bytes, count)
    )
    return view


def packed_bytes(code_bytes: int, count: int) -> int:
    """Bytes of ``count`` codes in FastScan blocks."""
    return -(-count // BLOCK_ROWS) * BLOCK_ROWS * code_bytes


def _index_of(codebook: Codebook, packed: npt.NDArray[np.uint8] | None, rows: npt.NDArray[np.int64]) -> tuple[Any, Any]:
    """Return an index of these packed codes of rows, and the quantizer that it refers to."""
    lib = faiss()
    dimension, groups = codebook.dimension, len(codebook.centroids)
    quantizer = lib.IndexFlatIP(dimension)
    quantizer.add(np.zeros((1, dimension), np.float32))
    index = lib.IndexIVFPQFastScan(quantizer, dimension, 1, groups, 4, lib.METRIC_INNER_PRODUCT, BLOCK_ROWS)
    index.by_residual = False
    lib.copy_array_to_vector(codebook.centroids.reshape(-1), index.pq.centroids)
    index.is_trained = True
    if len(rows) and packed is not None:
        index.invlists.resize(0, len(rows))
        _codes_of(index, codebook, len(rows))[:] = packed
        lib.rev_swig_ptr(index.invlists.get_ids(0), len(rows))[:] = rows
        index.ntotal = len(rows)
    return index, quantizer
