"""The search itself: coarse codes, then int8 prefixes, then whole vectors, with the filter inside."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent_memory.index.coarse import CoarseTier
from agent_memory.index.exact import ExactScan
from agent_memory.index.records import EVERYWHERE, ScoreArray, TierTrace
from agent_memory.index.rows import Rows
from agent_memory.index.state import State
from agent_memory.index.vectors import best, ordered, scores_of
from agent_memory.types import FloatArray, IdArray, RowArray

_CHUNK = 1024
_GROUP = 64
"""Queries of a batch that go through the tiers together: more gain nothing and take memory."""
_GATHER_LIMIT, GATHER_SHARE = 4096, 24
"""With fewer rows allowed than this, or than this part of all, gathering them beats a scan under a bitmap."""
_FURTHEST, _REACH_GROWTH = 10, 0.1
"""A reach is measured for ten of one row in ``GATHER_SHARE``; up to so many times beyond, it grows to this power."""
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
        further = grow * state.live / (GATHER_SHARE * max(self.matching, 1))
        self.reach = EVERYWHERE if further > _FURTHEST else plan.reach * max(further, 1.0) ** _REACH_GROWTH
        self.exact = exact or plan.layout == "exact" or state.coarse is None
        few = max(_GATHER_LIMIT, state.count // GATHER_SHARE, self.coarse_count)
        self.gather = not self.exact and self.matching <= few
        self.mask = self._mask() if not self.gather else None
        self.bits = self._bits() if self.mask is not None and not self.exact else None

    def run(self, queries: FloatArray) -> list[Found]:
        """Answer each query (nq, d)."""
        if not self.matching:
            nothing = Found(np.empty(0, np.float32), np.empty(0, np.int64), self.tiers[-1])
            return [nothing] * len(queries)
        groups = (queries[at : at + _GROUP] for at in range(0, len(queries), _GROUP))
        return [found for group in groups for found in self._run(group)]

    def _run(self, queries: FloatArray) -> list[Found]:
        coarse = self.state.coarse
        if self.exact or coarse is None:
            scan = ExactScan(self.state, self.chosen, self.mask, self.k)
            found = scan.best_of_many(queries)
            return [self._finish(query, rows, []) for query, rows in zip(queries, found, strict=True)]
        if self.gather:
            return self._gather(queries)
        return self._scan(queries, coarse)

    def _gather(self, queries: FloatArray) -> list[Found]:
        """Refine all rows that may be returned; those of the main tier are read once for all queries."""
        rows, main = self._all_rows(), self.state.main
        if main is None or self.deadline is not None or len(rows) <= self.main_count:
            return [self._refine(query, rows, []) for query in queries]
        scores = main_scores(self.state, main, rows, queries)
        return [self._refine(query, rows, [], mine) for query, mine in zip(queries, scores, strict=True)]

    def _all_rows(self) -> RowArray:
        return self.state.live_rows if self.chosen is None else self.chosen

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

    def _final(self, query: FloatArray, rows: RowArray) -> ScoreArray:
        if len(rows) <= _CHUNK:
            return scores_of(self.state.native.take(rows), query)
        pieces = np.array_split(rows, -(-len(rows) // _CHUNK))
        return np.concatenate([scores_of(self.state.native.take(piece), query) for piece in pieces])

    def _scan(self, queries: FloatArray, coarse: CoarseTier) -> list[Found]:
        tail = self._tail_rows(len(coarse))
        count = min(self.coarse_count, len(coarse))
        ranked = self.explain or self.deadline is not None
        candidates = coarse.candidates(queries, count, self.bits, reach=self.reach, ranked=ranked)
        answers = []
        for query, (found, places) in zip(queries, candidates, strict=True):
            kept = places >= 0
            places = places[kept]
            traces = self._trace([], 0, places, found[kept], len(places))
            places = np.concatenate([places, tail])
            if len(places) < min(self.k, self.matching):
                places = self._all_rows()
            answers.append(self._refine(query, places, traces))
        return answers

    def _refine(
        self, query: FloatArray, rows: RowArray, traces: list[TierTrace], scores: ScoreArray | None = None
    ) -> Found:
        """Narrow candidates with the main tier, whose scores may be known, then score the rest at the native one."""
        state = self.state
        if state.main is None or len(rows) <= self.main_count:
            return self._finish(query, rows, traces)
        room, reached = self._room(), self.tiers[-1]
        if room < len(rows) * _REFINE_US:
            rows, reached = rows[: max(self.k, int(room / _REFINE_US))], self.tiers[0]
        if scores is None:
            scores = main_scores(state, state.main, rows, query[None])[0]
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


def main_scores(state: State, main: Rows, rows: RowArray, queries: FloatArray) -> ScoreArray:
    """Scores (nq, m) of rows (m,) at the main tier, in pieces that stay in the processor's cache.

    A query's scores do not depend on the other queries, which a matrix product would not promise.
    """
    scores = np.empty((len(queries), len(rows)), np.float32)
    for at in range(0, len(rows), _CHUNK):
        codes = main.take(rows[at : at + _CHUNK]).astype(np.float32)
        for mine, query in zip(scores, queries, strict=True):
            np.vecdot(codes, query[: main.width], out=mine[at : at + _CHUNK])
    scores *= state.scales.take(rows)
    return scores
