"""The coarse tier: 4-bit product codes scanned in registers (FAISS FastScan), in one inverted list or in many.

Unlike the flat FastScan index, inverted lists accept a bitmap of the rows that may be returned, so filters and
tombstones cost next to nothing. Source: André, Kermarrec, Le Scouarnec, "Cache locality is not enough" (VLDB
2015); Douze et al., "The Faiss library" (arXiv 2401.08281).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from agent_memory.index.codebook import Codebook, make_single_list
from agent_memory.index.faiss_tools import limit_threads, load_faiss
from agent_memory.index.lists import BLOCK_ROWS, CodeLists, count_packed_bytes
from agent_memory.index.records import EVERYWHERE
from agent_memory.index.rows import Bitmap
from agent_memory.index.vectors import select_best
from agent_memory.types import FloatArray, RowArray

SAMPLE_STEP = 32
"""One row in this many is sampled; the sample shows where a query's best scores, and its lists, begin."""
_SMALLEST_RANK = 10
"""A threshold taken from a better rank among the sampled rows is too inaccurate too often."""
_SIGNPOSTS = 10
"""Number of nearest sampled rows whose lists count as a query's own."""

ListNumbers: TypeAlias = npt.NDArray[np.uint16]
"""List numbers of rows, uint16 (n,)."""
Candidates: TypeAlias = tuple[FloatArray, RowArray]
"""Approximate scores and rows of one query, (c,) each."""


@dataclass(frozen=True, slots=True, eq=False)
class Codes:
    """A coarse tier as arrays.

    Attributes:
        packed: uint8, the codes of one list after the other, each list in blocks of 32 rows.
        lists: uint16 (n,), the list of each row.
        sample: uint8, the codes of every 32nd row, in blocks.
    """

    packed: npt.NDArray[np.uint8]
    lists: ListNumbers
    sample: npt.NDArray[np.uint8]


class CoarseTier:
    """The codes of rows 0 to n; immutable.

    Args:
        codebook: How rows are encoded.
        codes: What ``export_codes`` returned; None for a tier without rows.
    """

    def __init__(self, codebook: Codebook, codes: Codes | None = None) -> None:
        self.codebook = codebook
        self._rows = CodeLists(codebook, codebook.directions)
        self._sample = CodeLists(codebook, make_single_list(codebook.dimension))
        self._sample_lists = np.empty(0, np.uint16)
        if codes is not None:
            self._import_codes(codes)

    def _import_codes(self, codes: Codes) -> None:
        order = np.argsort(codes.lists, kind="stable")
        sizes = np.bincount(codes.lists, minlength=self.codebook.lists)
        row = byte = 0
        for number, size in enumerate(sizes.tolist()):
            length = count_packed_bytes(self.codebook.code_bytes, size)
            self._rows.fill(number, codes.packed[byte : byte + length], order[row : row + size])
            row, byte = row + size, byte + length
        self._sample.fill(0, codes.sample, np.arange(0, len(order), SAMPLE_STEP))
        self._sample_lists = codes.lists[::SAMPLE_STEP].copy()

    def export_codes(self) -> Codes:
        """Return a copy of everything that was encoded."""
        packed = [self._rows.view_codes(number) for number in range(self.codebook.lists)]
        return Codes(np.concatenate(packed), self.export_lists(), self._sample.view_codes(0).copy())

    def export_lists(self) -> ListNumbers:
        """Return the list of each row, (n,)."""
        lists = np.empty(len(self), np.uint16)
        for number in range(self.codebook.lists):
            lists[self._rows.view_rows(number)] = number
        return lists

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def nbytes(self) -> int:
        """Resident bytes: codes, row numbers, the sample and the directions of the lists."""
        rows = len(self) + len(self._sample)
        codes = count_packed_bytes(self.codebook.code_bytes, rows + self.codebook.lists * BLOCK_ROWS // 2)
        return codes + 8 * rows + self._sample_lists.nbytes + self.codebook.directions.nbytes

    def extend(self, batches: Iterable[FloatArray], *, threads: int) -> CoarseTier:
        """Return a tier with the rows of these (m, >= d) float32 batches after the present ones."""
        grown = CoarseTier(self.codebook)
        grown._rows, grown._sample = self._rows.copy(), self._sample.copy()
        lists = [self._sample_lists]
        with limit_threads(threads):
            for batch in batches:
                arranged, first = self.codebook.arrange(batch), len(grown)
                rows = np.arange(first, first + len(arranged))
                grown._rows.add(arranged, rows)
                sampled = arranged[-first % SAMPLE_STEP :: SAMPLE_STEP]
                if len(sampled):
                    grown._sample.add(sampled, rows[-first % SAMPLE_STEP :: SAMPLE_STEP])
                    lists.append(grown._rows.find_lists(sampled).astype(np.uint16))
        grown._sample_lists = np.concatenate(lists)
        return grown

    def search(
        self, queries: FloatArray, count: int, bitmap: Bitmap | None, *, threads: int
    ) -> tuple[FloatArray, RowArray]:
        """Search all lists; return approximate scores and rows (nq, count), best first, rows padded with -1.

        Args:
            queries: float32 (nq, >= d).
            count: Candidates per query.
            bitmap: Rows that may be returned; None for all.
            threads: Threads to use.
        """
        options = _make_options(self.codebook.lists, bitmap)
        with limit_threads(threads):
            scores, rows = self._rows.index.search(self.codebook.arrange(queries), count, params=options)
        return scores, rows

    def measure_gaps(self, queries: FloatArray, bitmap: Bitmap | None) -> FloatArray:
        """Return how much further from each query (nq, >= d) each list is than the nearest of the query's own lists.

        A query's own lists are those of the ten nearest sampled rows that may be returned. Gaps are differences of
        cosines, (nq, lists); minus infinity where no sampled row may be returned.
        """
        arranged = self.codebook.arrange(queries)
        with limit_threads(1):
            near = self._sample.index.search(arranged, _SIGNPOSTS, params=_make_options(1, bitmap))[1]
        return self._measure_gaps(arranged, self._find_own_lists(near))

    def _measure_gaps(self, arranged: FloatArray, own: list[ListNumbers]) -> FloatArray:
        gaps = np.empty((len(arranged), self.codebook.lists), np.float32)
        for mine, query, lists in zip(gaps, arranged, own, strict=True):
            near = np.vecdot(self.codebook.directions, query, out=mine)
            np.subtract(near[lists[:_SIGNPOSTS]].max(initial=-np.inf), near, out=mine)
            mine /= max(np.sqrt(query.dot(query)), np.float32(1e-12))
        return gaps

    def _find_own_lists(self, sampled: RowArray) -> list[ListNumbers]:
        return [self._sample_lists[rows[rows >= 0] // SAMPLE_STEP] for rows in sampled]

    def find_candidates(
        self, queries: FloatArray, count: int, bitmap: Bitmap | None, *, reach: float, ranked: bool
    ) -> list[Candidates]:
        """Return about ``count`` approximate scores and rows of each query (nq, >= d).

        Keeping the best ``count`` of a million rows costs half as much again as scoring them, but keeping all rows
        above a threshold costs next to nothing. The sampled row whose rank corresponds to ``count`` provides the
        threshold. FAISS takes a single threshold, so each query is divided by its own. Where a threshold turns out
        to be wrong, the best ``count`` of all lists are searched instead, so that there are never fewer than half of
        the expected candidates or more than twice ``count``, unless fewer rows may be returned.

        Args:
            queries: float32 (nq, >= d).
            count: Candidates per query; fewer are expected if lists are left out.
            bitmap: Rows that may be returned; None for all.
            reach: Largest gap at which a list is scanned.
            ranked: Whether to sort the candidates, best first.

        Returns:
            Scores and rows of each query; rows may be padded with -1.
        """
        expected = count / SAMPLE_STEP
        rank = math.ceil(expected + math.sqrt(expected))
        guess = rank >= _SMALLEST_RANK
        if not guess and self.codebook.lists == 1:
            return list(zip(*self.search(queries, count, bitmap, threads=1), strict=True))
        arranged = self.codebook.arrange(queries)
        with limit_threads(1):
            options = _make_options(1, bitmap)
            known, sampled = self._sample.index.search(arranged, max(rank, _SIGNPOSTS), params=options)
            probes, shares = self._choose_probes(arranged, sampled, reach)
            if not guess:
                return self._scan(arranged, probes, bitmap, count)
            floors = known[:, -1:]
            floors[~(floors > 0)] = 1  # no row scores that high
            passing = self._scan(arranged / floors, probes, bitmap)
        answers = []
        for number, (quotients, rows) in enumerate(passing):
            scores = quotients * floors[number]
            if 2 * len(rows) < count * shares[number]:
                found, near = self.search(queries[number : number + 1], count, bitmap, threads=1)
                scores, rows = found[0], near[0]
            elif len(rows) > 2 * count:
                kept = select_best(scores, count)
                scores, rows = scores[kept], rows[kept]
            order = np.argsort(-scores, kind="stable") if ranked else slice(None)
            answers.append((scores[order], rows[order]))
        return answers

    def _choose_probes(
        self, arranged: FloatArray, sampled: RowArray, reach: float
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """Return how many lists to scan for each query, and the share of its sampled rows that lie in these lists."""
        probes, shares = np.full(len(arranged), self.codebook.lists), np.ones(len(arranged))
        if self.codebook.lists == 1 or reach >= EVERYWHERE:
            return probes, shares
        own = self._find_own_lists(sampled)
        near = self._measure_gaps(arranged, own) <= reach
        for number, (mine, lists) in enumerate(zip(near, own, strict=True)):
            probes[number] = np.count_nonzero(mine)
            shares[number] = mine[lists].mean() if len(lists) else 1
        return probes, shares

    def _scan(
        self, arranged: FloatArray, probes: npt.NDArray[np.int64], bitmap: Bitmap | None, count: int | None = None
    ) -> list[Candidates]:
        """Scan the nearest lists of each query; return the best ``count`` rows, or all that score over 1."""
        answers: dict[int, Candidates] = {}
        for lists in sorted(set(probes.tolist())):  # np.unique would import numpy.ma
            members = np.flatnonzero(probes == lists)
            options = _make_options(lists, bitmap)
            if count is None:
                limits, scores, rows = self._rows.index.range_search(arranged[members], 1.0, params=options)
                found = [(scores[start:stop], rows[start:stop]) for start, stop in pairwise(limits.tolist())]
            else:
                found = list(zip(*self._rows.index.search(arranged[members], count, params=options), strict=True))
            answers.update(zip(members.tolist(), found, strict=True))
        return [answers[number] for number in range(len(arranged))]


def _make_options(probes: int, bitmap: Bitmap | None) -> Any:  # noqa: ANN401 - FAISS has no type information
    faiss = load_faiss()
    if bitmap is None:
        return faiss.IVFSearchParameters(nprobe=probes)
    return faiss.IVFSearchParameters(nprobe=probes, sel=faiss.IDSelectorBitmap(bitmap))
