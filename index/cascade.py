"""The search itself: coarse codes, then int8 prefixes, then whole vectors, with the filter inside."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent_memory.index.coarse import CoarseTier
from agent_memory.index.exact import ROUNDING, ExactScan, find_kth, score_roughly
from agent_memory.index.records import EVERYWHERE, TierTrace
from agent_memory.index.rows import Bitmap, Rows
from agent_memory.index.state import State
from agent_memory.index.vectors import score_rows, select_best, sort_best
from agent_memory.types import FloatArray, IdArray, RowArray

_CHUNK = 1024
_GROUP = 64
"""Queries of a batch that go through the tiers together; larger groups are no faster and take more memory."""
_GATHER_LIMIT, GATHER_SHARE = 4096, 24
"""If fewer rows than this, or fewer than one in this many, are allowed, gathering them beats scanning with a bitmap."""
_FURTHEST, _REACH_GROWTH = 10, 0.1
"""The reach is measured for ten results among one row in ``GATHER_SHARE``. Where results are up to ten times sparser,
the reach is multiplied by the sparseness to this power; beyond that, all lists are scanned."""
_MANY = 2
"""With more candidates than so many times k, those that rounding cannot lift among the best k are left out first."""
_REFINE_US, _RERANK_US = 0.1, 1.0
"""Estimated cost of a row at the main and at the native tier, used to fit the work into a time budget."""


@dataclass(slots=True)
class Answer:
    """Answer to one query: float32 scores (c,) and int64 ids (c,), c <= k, best first."""

    scores: FloatArray
    ids: IdArray
    tier_reached: int
    traces: tuple[TierTrace, ...] = ()


class Cascade:
    """One search call: the same state, filter and limits for all its queries.

    Args:
        state: What is searched.
        tiers: Dimensions of the tiers.
        allowed: Live rows that may be returned, unique; None for all live rows.
        k: Results per query.
        exact: Scan all rows at the native dimension.
        deadline: ``time.perf_counter`` value after which tiers are skipped, None for never.
        explain: Record traces.
    """

    def __init__(
        self,
        state: State,
        tiers: tuple[int, ...],
        allowed: RowArray | None,
        k: int,
        *,
        exact: bool,
        deadline: float | None,
        explain: bool,
    ) -> None:
        self.state, self.tiers, self.allowed, self.k = state, tiers, allowed, k
        self.deadline, self.explain = deadline, explain
        self.matching = state.live if allowed is None else len(allowed)
        plan, grow = state.plan, max(1.0, k / 10)
        self.coarse_count = int(plan.coarse_candidates * grow**0.5) + k
        self.main_count = max(int(plan.main_candidates * grow), k)
        further = grow * state.live / (GATHER_SHARE * max(self.matching, 1))
        self.reach = EVERYWHERE if further > _FURTHEST else plan.reach * max(further, 1.0) ** _REACH_GROWTH
        self.exact = exact or plan.layout == "exact" or state.coarse is None
        few = max(_GATHER_LIMIT, state.count // GATHER_SHARE, self.coarse_count)
        self.gather = not self.exact and self.matching <= few
        self.mask = self._make_mask() if not self.gather else None
        self.bitmap = self._make_bitmap() if self.mask is not None and not self.exact else None

    def answer(self, queries: FloatArray) -> list[Answer]:
        """Answer each query (nq, d)."""
        if not self.matching:
            nothing = Answer(np.empty(0, np.float32), np.empty(0, np.int64), self.tiers[-1])
            return [nothing] * len(queries)
        groups = (queries[at : at + _GROUP] for at in range(0, len(queries), _GROUP))
        return [answer for group in groups for answer in self._answer_group(group)]

    def _answer_group(self, queries: FloatArray) -> list[Answer]:
        coarse = self.state.coarse
        if self.exact or coarse is None:
            scan = ExactScan(self.state, self.allowed, self.mask, self.k)
            shortlists = scan.shortlist_many(queries)
            return [self._rank(query, rows, []) for query, rows in zip(queries, shortlists, strict=True)]
        if self.gather:
            return self._gather(queries)
        return self._scan(queries, coarse)

    def _gather(self, queries: FloatArray) -> list[Answer]:
        """Refine all rows that may be returned; the main tier reads each of them once for all queries."""
        rows, main = self._list_allowed(), self.state.main
        if main is None or self.deadline is not None or len(rows) <= self.main_count:
            return [self._refine(query, rows, []) for query in queries]
        scores = score_main(self.state, main, rows, queries)
        return [self._refine(query, rows, [], mine) for query, mine in zip(queries, scores, strict=True)]

    def _list_allowed(self) -> RowArray:
        return self.state.live_rows if self.allowed is None else self.allowed

    def _make_mask(self) -> npt.NDArray[np.bool_] | None:
        """Return where a row may be returned, or None if every row may."""
        state = self.state
        if self.allowed is None:
            return state.alive[: state.count] if state.dead else None
        mask = np.zeros(state.count, bool)
        mask[self.allowed] = True
        return mask

    def _make_bitmap(self) -> Bitmap | None:
        if self.allowed is None:
            return self.state.alive_bits
        return np.packbits(self.mask, bitorder="little") if self.mask is not None else None

    def _list_tail(self, start: int) -> RowArray:
        if self.mask is None:
            return np.arange(start, self.state.count)
        return start + np.flatnonzero(self.mask[start:])

    def _scan(self, queries: FloatArray, coarse: CoarseTier) -> list[Answer]:
        tail = self._list_tail(len(coarse))
        count = min(self.coarse_count, len(coarse))
        ranked = self.explain or self.deadline is not None
        candidates = coarse.find_candidates(queries, count, self.bitmap, reach=self.reach, ranked=ranked)
        answers = []
        for query, (scores, rows) in zip(queries, candidates, strict=True):
            kept = rows >= 0
            rows = rows[kept]
            traces = self._add_trace([], 0, rows, scores[kept], len(rows))
            rows = np.concatenate([rows, tail])
            if len(rows) < min(self.k, self.matching):
                rows = self._list_allowed()
            answers.append(self._refine(query, rows, traces))
        return answers

    def _refine(
        self, query: FloatArray, rows: RowArray, traces: list[TierTrace], scores: FloatArray | None = None
    ) -> Answer:
        """Narrow candidates at the main tier, then rank the rest at the native tier.

        Args:
            query: float32 (d,).
            rows: int64 (c,), the candidates.
            traces: Traces of the tiers before.
            scores: float32 (c,), scores at the main tier if they were computed already.
        """
        state = self.state
        if state.main is None or len(rows) <= self.main_count:
            return self._rank(query, rows, traces)
        left, reached = self._measure_time_left(), self.tiers[-1]
        if left < len(rows) * _REFINE_US:
            rows, reached = rows[: max(self.k, int(left / _REFINE_US))], self.tiers[0]
        if scores is None:
            scores = score_main(state, state.main, rows, query[None])[0]
        kept = self.main_count
        if self._measure_time_left() < kept * _RERANK_US:
            kept, reached = self.k, min(reached, self.tiers[-2])
        chosen = select_best(scores, kept)
        if self.explain:
            order = np.argsort(-scores, kind="stable")
            traces = self._add_trace(traces, -2, rows[order], scores[order], kept)
        return self._rank(query, rows[chosen], traces, reached=reached)

    def _measure_time_left(self) -> float:
        """Return the microseconds until the deadline."""
        return np.inf if self.deadline is None else max(0.0, (self.deadline - time.perf_counter()) * 1e6)

    def _rank(
        self, query: FloatArray, rows: RowArray, traces: list[TierTrace], *, reached: int | None = None
    ) -> Answer:
        """Rank candidates at the native tier and keep the best k."""
        if len(rows) > _MANY * self.k and not self.explain:
            rough = score_roughly(self.state, rows, query)
            rows = rows[rough >= find_kth(rough, self.k) - ROUNDING]
        scores = score_native(self.state, rows, query)
        ids = self.state.ids.read_ids(self.state.count)[rows]
        order = sort_best(scores, ids, len(rows) if self.explain else self.k)
        if self.explain:
            traces = self._add_trace(traces, -1, rows[order], scores[order], min(self.k, len(rows)))
            order = order[: self.k]
        return Answer(scores[order], ids[order], self.tiers[-1] if reached is None else reached, tuple(traces))

    def _add_trace(
        self, traces: list[TierTrace], tier: int, rows: RowArray, scores: FloatArray, kept: int
    ) -> list[TierTrace]:
        if not self.explain:
            return traces
        ids = self.state.ids.read_ids(self.state.count)[rows]
        return [*traces, TierTrace(tier=self.tiers[tier], ids=ids, scores=scores, kept=min(kept, len(rows)))]


def score_native(state: State, rows: RowArray, query: FloatArray) -> FloatArray:
    """Return the scores (m,) of rows (m,) at the native tier for one query (d,)."""
    if len(rows) <= _CHUNK:
        return score_rows(state.native.take(rows), query)
    pieces = np.array_split(rows, -(-len(rows) // _CHUNK))
    return np.concatenate([score_rows(state.native.take(piece), query) for piece in pieces])


def score_main(state: State, main: Rows, rows: RowArray, queries: FloatArray) -> FloatArray:
    """Return the scores (nq, m) of rows (m,) at the main tier, computed in chunks that fit the processor's cache.

    A query's scores do not depend on the other queries; a matrix product would not guarantee that.
    """
    scores = np.empty((len(queries), len(rows)), np.float32)
    for at in range(0, len(rows), _CHUNK):
        codes = main.take(rows[at : at + _CHUNK]).astype(np.float32)
        for mine, query in zip(scores, queries, strict=True):
            np.vecdot(codes, query[: main.width], out=mine[at : at + _CHUNK])
    scores *= state.scales.take(rows)
    return scores
