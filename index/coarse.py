"""The coarse tier: 4-bit product codes scanned in registers (FAISS FastScan), in one inverted list or in many.

Unlike the flat FastScan index, inverted lists take a bitmap of the rows that may be returned, so filters and
tombstones cost next to nothing. Source: André, Kermarrec, Le Scouarnec, "Cache locality is not enough" (VLDB
2015); Douze et al., "The Faiss library" (arXiv 2401.08281).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.index.codebook import Codebook, one_list
from agent_memory.index.faiss_tools import faiss, one_call
from agent_memory.index.lists import BLOCK_ROWS, CodeLists, packed_bytes
from agent_memory.index.records import EVERYWHERE
from agent_memory.index.vectors import best
from agent_memory.types import FloatArray

SAMPLE_STEP = 32
"""One row of so many tells where a query's best scores, and its lists, begin."""
_SMALLEST_RANK = 10
"""A threshold guessed from a better rank among the sampled rows is too far off too often."""
_SIGNPOSTS = 10
"""So many of the nearest sampled rows tell which lists a query belongs to."""


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A coarse tier as arrays.

    Attributes:
        packed: uint8, the codes of one list after the other, each in blocks of 32 rows.
        lists: uint16 (n,), the list of each row.
        sample: uint8, the codes of every 32nd row in blocks.
    """

    packed: npt.NDArray[np.uint8]
    lists: npt.NDArray[np.uint16]
    sample: npt.NDArray[np.uint8]


class CoarseTier:
    """Codes of rows 0 to n; immutable.

    Args:
        codebook: How rows were encoded.
        codes: What ``codes`` returned.
    """

    def __init__(self, codebook: Codebook, codes: Codes | None = None) -> None:
        self.codebook = codebook
        self._rows = CodeLists(codebook, codebook.directions)
        self._sample = CodeLists(codebook, one_list(codebook.dimension))
        self._sample_lists = np.empty(0, np.uint16)
        if codes is not None:
            self._fill(codes)

    def _fill(self, codes: Codes) -> None:
        order = np.argsort(codes.lists, kind="stable")
        sizes = np.bincount(codes.lists, minlength=self.codebook.lists)
        row = byte = 0
        for number, size in enumerate(sizes.tolist()):
            length = packed_bytes(self.codebook.code_bytes, size)
            self._rows.put(number, codes.packed[byte : byte + length], order[row : row + size])
            row, byte = row + size, byte + length
        self._sample.put(0, codes.sample, np.arange(0, len(order), SAMPLE_STEP))
        self._sample_lists = codes.lists[::SAMPLE_STEP].copy()

    def codes(self) -> Codes:
        """Return a copy of all that was encoded."""
        packed = [self._rows.codes_of(number) for number in range(self.codebook.lists)]
        return Codes(np.concatenate(packed), self.lists(), self._sample.codes_of(0).copy())

    def lists(self) -> npt.NDArray[np.uint16]:
        """Return the list of each row, (n,)."""
        lists = np.empty(len(self), np.uint16)
        for number in range(self.codebook.lists):
            lists[self._rows.rows_of(number)] = number
        return lists

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Resident bytes: codes, row numbers, the sample and the directions of lists."""
        rows = len(self) + len(self._sample)
        codes = packed_bytes(self.codebook.code_bytes, rows + self.codebook.lists * BLOCK_ROWS // 2)
        return codes + 8 * rows + self._sample_lists.nbytes + self.codebook.directions.nbytes

    def extended(self, batches: Iterable[FloatArray], *, threads: int) -> CoarseTier:
        """Return a tier with the rows of these (m, >= d) float32 batches behind the present ones."""
        grown = CoarseTier(self.codebook)
        grown._rows, grown._sample = self._rows.copy(), self._sample.copy()
        lists = [self._sample_lists]
        with one_call(threads):
            for batch in batches:
                arranged, first = self.codebook.arranged(batch), len(grown)
                rows = np.arange(first, first + len(arranged))
                grown._rows.add(arranged, rows)
                sampled = arranged[-first % SAMPLE_STEP :: SAMPLE_STEP]
                if len(sampled):
                    grown._sample.add(sampled, rows[-first % SAMPLE_STEP :: SAMPLE_STEP])
                    lists.append(grown._rows.nearest(sampled).astype(np.uint16))
        grown._sample_lists = np.concatenate(lists)
        return grown

    def search(
        self, queries: FloatArray, count: int, bitmap: npt.NDArray[np.uint8] | None, *, threads: int
    ) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Return approximate scores and rows (nq, count) out of all lists, best first, rows padded with -1.

        Args:
            queries: float32 (nq, >= d).
            count: Candidates per query.
            bitmap: Bit per row (little-endian), set where the row may be returned; None for all.
            threads: Threads to use.
        """
        options = _parameters(self.codebook.lists, bitmap)
        with one_call(threads):
            scores, rows = self._rows.index.search(self.codebook.arranged(queries), count, params=options)
        return scores, rows

    def gaps(self, queries: FloatArray, bitmap: npt.NDArray[np.uint8] | None) -> FloatArray:
        """Return how much further from each query (nq, >= d) each list is than the nearest list of its own.

        Its own are the lists of the ten nearest sampled rows that may be returned. Distances are differences of
        cosine, (nq, lists); minus infinity where no sampled row may be returned.
        """
        arranged = self.codebook.arranged(queries)
        with one_call(1):
            near = self._sample.index.search(arranged, _SIGNPOSTS, params=_parameters(1, bitmap))[1]
        return self._gaps(arranged, self._lists_of(near))

    def _gaps(self, arranged: FloatArray, nearest: list[npt.NDArray[np.uint16]]) -> FloatArray:
        gaps = np.empty((len(arranged), self.codebook.lists), np.float32)
        for mine, query, lists in zip(gaps, arranged, nearest, strict=True):
            near = np.vecdot(self.codebook.directions, query, out=mine)
            np.subtract(near[lists[:_SIGNPOSTS]].max(initial=-np.inf), near, out=mine)
            mine /= max(np.sqrt(query.dot(query)), np.float32(1e-12))
        return gaps

    def _lists_of(self, sampled: npt.NDArray[np.int64]) -> list[npt.NDArray[np.uint16]]:
        return [self._sample_lists[rows[rows >= 0] // SAMPLE_STEP] for rows in sampled]

    def candidates(
        self,
        queries: FloatArray,
        count: int,
        bitmap: npt.NDArray[np.uint8] | None,
        *,
        reach: float,
        ranked: bool,
    ) -> list[tuple[FloatArray, npt.NDArray[np.int64]]]:
        """Return about ``count`` approximate scores and rows of each query (nq, >= d), best first if ``ranked``.

        Lists are scanned if their gap is at most ``reach``, and have less than ``count`` among them by what is left
        out. To keep the best so many of a million rows costs half as much again as to score them. All rows that
        reach a threshold cost next to nothing, so the rank among sampled rows that stands for ``count`` gives one.
        Queries are divided by their thresholds, FAISS takes but one. Where a threshold is no good, the best
        ``count`` of all lists are found after all: it is never less than half of what was to be expected or more
        than twice ``count``, unless fewer may be returned; rows may be padded with -1.
        """
        expected = count / SAMPLE_STEP
        rank = math.ceil(expected + math.sqrt(expected))
        guess = rank >= _SMALLEST_RANK
        if not guess and self.codebook.lists == 1:
            return list(zip(*self.search(queries, count, bitmap, threads=1), strict=True))
        arranged = self.codebook.arranged(queries)
        with one_call(1):
            known, sampled = self._sample.index.search(arranged, max(rank, _SIGNPOSTS), params=_parameters(1, bitmap))
            probes, shares = self._probes(arranged, sampled, reach)
            if not guess:
                return self._scanned(arranged, probes, bitmap, count)
            floors = known[:, -1:]
            floors[~(floors > 0)] = 1  # which no row reaches
            passing = self._scanned(arranged / floors, probes, bitmap)
        answers = []
        for number, (scores, rows) in enumerate(passing):
            mine, places = scores * floors[number], rows
            if 2 * len(places) < count * shares[number]:
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

    def _probes(
        self, arranged: FloatArray, sampled: npt.NDArray[np.int64], reach: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return how many lists to scan for each query, and the share of its sampled rows that lie there."""
        probes, shares = np.full(len(arranged), self.codebook.lists), np.ones(len(arranged))
        if self.codebook.lists == 1 or reach >= EVERYWHERE:
            return probes, shares
        nearest = self._lists_of(sampled)
        near = self._gaps(arranged, nearest) <= reach
        for number, (mine, lists) in enumerate(zip(near, nearest, strict=True)):
            probes[number] = np.count_nonzero(mine)
            shares[number] = mine[lists].mean() if len(lists) else 1
        return probes, shares

    def _scanned(
        self,
        arranged: FloatArray,
        probes: npt.NDArray[np.int64],
        bitmap: npt.NDArray[np.uint8] | None,
        count: int | None = None,
    ) -> list[tuple[FloatArray, npt.NDArray[np.int64]]]:
        """Return scores and rows in the nearest lists of each query: the best ``count``, or all that score over 1."""
        answers: dict[int, tuple[FloatArray, npt.NDArray[np.int64]]] = {}
        for lists in np.unique(probes).tolist():
            members = np.flatnonzero(probes == lists)
            options = _parameters(lists, bitmap)
            if count is None:
                limits, scores, rows = self._rows.index.range_search(arranged[members], 1.0, params=options)
                found = [(scores[start:stop], rows[start:stop]) for start, stop in pairwise(limits.tolist())]
            else:
                found = list(zip(*self._rows.index.search(arranged[members], count, params=options), strict=True))
            answers.update(zip(members.tolist(), found, strict=True))
        return [answers[number] for number in range(len(arranged))]


def _parameters(probes: int, bitmap: npt.NDArray[np.uint8] | None) -> Any:  # noqa: ANN401 - FAISS has no type information
    lib = faiss()
    if bitmap is None:
        return lib.IVFSearchParameters(nprobe=probes)
    return lib.IVFSearchParameters(nprobe=probes, sel=lib.IDSelectorBitmap(bitmap))
