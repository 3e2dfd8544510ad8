"""The search itself: coarse codes, then int8 prefixes, then whole vectors, with the filter inside."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent_memory.index.coarse import CoarseTier
from agent_memory.index.faiss_tools import scan_block
from agent_memory.index.records import IdArray, ScoreArray, TierTrace
from agent_memory.index.rows import Rows
from agent_memory.index.state import State
from agent_memory.index.vectors import FloatArray, best, ordered, rough_scores_of, scores_of

RowArray = npt.NDArray[np.int64]

_CHUNK = 1024
_ROUNDING = 1e-4
"""Twice the worst error of a float32 inner product of unit vectors of 800 dimensions."""
_GATHER_LIMIT, _GATHER_SHARE = 4096, 24
"""With fewer rows allowed than this, or than this part of all, gathering them beats a scan under a bitmap."""
_REFINE_US, _RERANK_US = 0.1, 1.0
"""Cost of a row at the main and at the native tier, from which a budget is shared out."""


@dataclass(slots=True)
class Found:
    """Answer to one query: float32 scores (c,) and int64 ids (c,), c <= k, best first."""

    scores: ScoreArray
    ids: IdArray
    tier_reached: int
    traces: tuple[TierTrace, ...] = ()


class Cascade:
    """One search call: the same view, filter and limits for all its queries.

    Args:
        state: What is searched.
        tiers: Tier dimensions.
        chosen: Live rows that may be returned, unique; None for all live rows.
        k: Results per query.
        exact: Scan all rows at the native dimension.
        deadline: ``time.perf_counter`` value after which tiers are skipped, None for never.
        explain: Record traces.
    """

    def __init__(
        self,
        state: State,
        tiers: tuple[int, ...],
        chosen: RowArray | None,
        k: int,
        *,
        exact: bool,
        deadline: float | None,
        explain: bool,
    ) -> None:
        self.state, self.tiers, self.chosen, self.k = state, tiers, chosen, k
        self.deadline, self.explain = deadline, explain
        self.matching = state.live if chosen is None else len(chosen)
        plan, grow = state.plan, max(1.0, k / 10)
        self.coarse_count = int(plan.coarse_candidates * grow**0.5) + k
        self.main_count = max(int(plan.main_candidates * grow), k)
        self.exact = exact or plan.layout == "exact" or state.coarse is None
        few = max(_GATHER_LIMIT, state.count // _GATHER_SHARE, self.coarse_count)
        self.gather = not self.exact and self.matching <= few
        self.mask = self._mask() if not self.gather else None
        self.bits = self._bits() if self.mask is not None and not self.exact else None

    def run(self, queries: FloatArray) -> list[Found]:
        """Answer each query (nq, d)."""
        if not self.matching:
            nothing = Found(np.empty(0, np.float32), np.empty(0, np.int64), self.tiers[-1])
            return [nothing] * len(queries)
        coarse = self.state.coarse
        if self.exact or coarse is None:
            return [self._finish(query, self._exact_rows(query), []) for query in queries]
        if self.gather:
            rows = self._all_rows()
            return [self._refine(query, rows, []) for query in queries]
        return self._scan(queries, coarse)

    def _all_rows(self) -> RowArray:
        if self.chosen is not None:
            return self.chosen
        return np.flatnonzero(self.state.alive[: self.state.count])

    def _mask(self) -> npt.NDArray[np.bool_] | None:
        """Set where a row may be returned; None if that is everywhere."""
        state = self.state
        if self.chosen is None:
            return state.alive[: state.count] if state.dead else None
        mask = np.zeros(state.count, bool)
        mask[self.chosen] = True
        return mask

    def _bits(self) -> npt.NDArray[np.uint8] | None:
        if self.chosen is None:
            return self.state.alive_bits
        return np.packbits(self.mask, bitorder="little") if self.mask is not None else None

    def _tail_rows(self, start: int) -> RowArray:
        if self.mask is None:
            return np.arange(start, self.state.count)
        return start + np.flatnonzero(self.mask[start:])

    def _exact_rows(self, query: FloatArray) -> RowArray:
        """Return rows that certainly include the best k, ties at the end included."""
        state = self.state
        if self.matching <= self.k:
            return self._all_rows()
        if self.chosen is not None and 8 * len(self.chosen) < state.count:
            scores = self._gathered(query, self.chosen)
            return self.chosen[scores >= _kth(scores, self.k) - _ROUNDING]
        count = self.k + 16
        while True:
            scores, rows, unseen = self._scan_native(query, count)
            floor = _kth(scores, self.k) - _ROUNDING if scores.size >= self.k else -np.inf
            if unseen < floor:
                return rows[scores >= floor]
            count *= 4

    def _scan_native(self, query: FloatArray, count: int) -> tuple[ScoreArray, RowArray, float]:
        """Return the best ``count`` of each block together, and the most that any other row can score."""
        scores, rows, unseen = [np.empty(0, np.float32)], [np.empty(0, np.int64)], -np.inf
        for block in self.state.native.blocks:
            size = len(block.array)
            if not size:
                continue
            if block.checks:
                block.checks.ensure_span(0, size)
            bits = None
            if self.mask is not None:
                bits = np.packbits(self.mask[block.start : block.stop], bitorder="little")
            found, places = scan_block(block, query[None, :], min(count, size), bits)
            kept = places >= 0
            if count < size and kept.all():
                unseen = max(unseen, float(found[-1]))
            scores.append(found[kept])
            rows.append(places[kept] + block.start)
        return np.concatenate(scores), np.concatenate(rows), unseen

    def _final(self, query: FloatArray, rows: RowArray) -> ScoreArray:
        if len(rows) <= _CHUNK:
            return scores_of(self.state.native.take(rows), query)
        pieces = np.array_split(rows, -(-len(rows) // _CHUNK))
        return np.concatenate([scores_of(self.state.native.take(piece), query) for piece in pieces])

    def _gathered(self, query: FloatArray, rows: RowArray) -> ScoreArray:
        """Rough native scores of any number of rows, some at a time."""
        scores = np.empty(len(rows), np.float32)
        for at in range(0, len(rows), _CHUNK):
            piece = rows[at : at + _CHUNK]
            scores[at : at + _CHUNK] = rough_scores_of(self.state.native.take(piece), query)
        return scores

    def _scan(self, queries: FloatArray, coarse: CoarseTier) -> list[Found]:
        tail = self._tail_rows(len(coarse))
        count = min(self.coarse_count, len(coarse))
        scores, rows = coarse.search(queries, count, self.bits, threads=1)
        answers = []
        for query, found, places in zip(queries, scores, rows, strict=True):
            kept = places >= 0
            places = places[kept]
            traces = self._trace([], 0, places, found[kept], len(places))
            places = np.concatenate([places, tail])
            if len(places) < min(self.k, self.matching):
                places = self._all_rows()
            answers.append(self._refine(query, places, traces))
        return answers

    def _refine(self, query: FloatArray, rows: RowArray, traces: list[TierTrace]) -> Found:
        """Narrow candidates with the main tier, then score the survivors at the native one."""
        state = self.state
        if state.main is None or len(rows) <= self.main_count:
            return self._finish(query, rows, traces)
        room, reached = self._room(), self.tiers[-1]
        if room < len(rows) * _REFINE_US:
            rows, reached = rows[: max(self.k, int(room / _REFINE_US))], self.tiers[0]
        scores = main_scores(state, state.main, rows, query)
        kept = self.main_count
        if self._room() < kept * _RERANK_US:
            kept, reached = self.k, min(reached, self.tiers[-2])
        chosen = best(scores, kept)
        if self.explain:
            order = np.argsort(-scores, kind="stable")
            traces = self._trace(traces, -2, rows[order], scores[order], kept)
        return self._finish(query, rows[chosen], traces, reached=reached)

    def _room(self) -> float:
        """Microseconds left."""
        return np.inf if self.deadline is None else max(0.0, (self.deadline - time.perf_counter()) * 1e6)

    def _finish(
        self, query: FloatArray, rows: RowArray, traces: list[TierTrace], *, reached: int | None = None
    ) -> Found:
        scores = self._final(query, rows)
        ids = self.state.ids.ids(self.state.count)[rows]
        order = ordered(scores, ids, len(rows) if self.explain else self.k)
        if self.explain:
            traces = self._trace(traces, -1, rows[order], scores[order], min(self.k, len(rows)))
            order = order[: self.k]
        return Found(scores[order], ids[order], self.tiers[-1] if reached is None else reached, tuple(traces))

    def _trace(
        self, traces: list[TierTrace], tier: int, rows: RowArray, scores: ScoreArray, kept: int
    ) -> list[TierTrace]:
        if not self.explain:
            return traces
        ids = self.state.ids.ids(self.state.count)[rows]
        return [*traces, TierTrace(tier=self.tiers[tier], ids=ids, scores=scores, kept=min(kept, len(rows)))]


def main_scores(state: State, main: Rows, rows: RowArray, query: FloatArray) -> ScoreArray:
    """Scores of rows at the main tier, in pieces that stay in the processor's cache."""
    prefix = query[: main.width]
    scores = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), _CHUNK):
        piece = rows[at : at + _CHUNK]
        np.vecdot(main.take(piece).astype(np.float32), prefix, out=scores[at : at + _CHUNK])
    scores *= state.scales.take(rows)
    return scores


def _kth(scores: ScoreArray, k: int) -> float:
    """The k-th highest score."""
    return float(np.partition(scores, scores.size - k)[scores.size - k])
