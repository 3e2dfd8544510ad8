"""Searching an index as it was at one moment."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from agent_memory.errors import InvalidInputError
from agent_memory.index.cascade import Answer, Cascade, score_native
from agent_memory.index.records import IndexOptions, SearchResult, TierTrace
from agent_memory.index.state import State
from agent_memory.index.vectors import check_ids, deduplicate, normalise_queries
from agent_memory.types import FloatArray, IdArray, RowArray


class IndexView:
    """An index as it was when ``TieredIndex.view`` was called; immutable, and safe to share between threads."""

    def __init__(self, state: State, tiers: tuple[int, ...], options: IndexOptions) -> None:
        self._state, self._tiers, self._options = state, tiers, options

    def __len__(self) -> int:
        return self._state.live

    def ids(self) -> IdArray:
        """Return the live ids, int64 (n,), in order of arrival."""
        return self._state.live_ids.copy()

    def vectors_of(self, ids: npt.ArrayLike) -> FloatArray:
        """Return the native vectors of live ids as they are stored, float32 (m, dimension), in order of arrival."""
        return np.asarray(self._state.native.take(np.sort(self._find_rows(ids))), dtype=np.float32)

    def search(
        self,
        queries: npt.ArrayLike,
        k: int,
        *,
        allowed: npt.ArrayLike | None = None,
        exact: bool = False,
        budget_ms: float | None = None,
        explain: bool = False,
    ) -> SearchResult:
        """Return the nearest rows of each query by inner product of unit vectors.

        Args:
            queries: (nq, d) or (d,), normalised here.
            k: Results per query.
            allowed: int64 (m,), ids that may be returned, all if None; unknown ids are ignored. Exactly
                min(k, live allowed ids) results are returned.
            exact: Score every allowed row at the native dimension; ``budget_ms`` is ignored.
            budget_ms: Milliseconds for the whole call. The coarse tier always runs. Work that does not fit after it
                is skipped, beginning with rows added since the last maintenance; ``tier_reached`` shows this.
            explain: Fill ``traces``.

        Raises:
            DimensionMismatchError: Queries of another dimension.
            InvalidInputError: k < 1, a query that is NaN, infinite or zero, ids that are not integers, or a negative
                budget.
            CorruptSnapshotError: A mapped file was damaged since it was saved.
        """
        deadline = _compute_deadline(budget_ms)
        unit = normalise_queries(queries, self._tiers[-1])
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidInputError(f"k must be a positive integer, got {k!r}")
        rows = None if allowed is None else self._find_rows(allowed)
        cascade = Cascade(self._state, self._tiers, rows, int(k), exact=exact, deadline=deadline, explain=explain)
        return _assemble(self._answer(cascade, unit), int(k), self._tiers[-1], explain)

    def score(self, query: npt.ArrayLike, ids: npt.ArrayLike) -> tuple[IdArray, FloatArray]:
        """Return those of some ids that are live, int64 (m,), and what an exact search gives each, float32 (m,).

        Args:
            query: (d,), normalised here.
            ids: int64 (n,), in any order.

        Raises:
            DimensionMismatchError: A query of another dimension.
            InvalidInputError: A query that is NaN, infinite or zero, or ids that are not integers.
            CorruptSnapshotError: A mapped file was damaged since it was saved.
        """
        unit = normalise_queries(query, self._tiers[-1])
        rows = self._find_rows(ids)
        return self._state.ids.read_ids(self._state.count)[rows], score_native(self._state, rows, unit[0])

    def _find_rows(self, ids: npt.ArrayLike) -> RowArray:
        """Return the live rows of these ids, each once."""
        return deduplicate(self._state.find_rows(check_ids(ids)))

    def _answer(self, cascade: Cascade, queries: FloatArray) -> list[Answer]:
        parts = min(self._options.threads, len(queries))
        if parts < 2:
            return cascade.answer(queries)
        with ThreadPoolExecutor(parts) as pool:
            pieces = list(pool.map(cascade.answer, np.array_split(queries, parts)))
        return [answer for piece in pieces for answer in piece]


def _compute_deadline(budget_ms: float | None) -> float | None:
    if budget_ms is None:
        return None
    if isinstance(budget_ms, bool) or not isinstance(budget_ms, (int, float)) or not budget_ms >= 0:
        raise InvalidInputError(f"budget_ms must be a number of at least 0, got {budget_ms!r}")
    return time.perf_counter() + budget_ms / 1e3


def _assemble(answers: list[Answer], k: int, native: int, explain: bool) -> SearchResult:
    scores: FloatArray = np.full((len(answers), k), -np.inf, np.float32)
    ids: IdArray = np.full((len(answers), k), -1, np.int64)
    for number, answer in enumerate(answers):
        scores[number, : len(answer.ids)] = answer.scores
        ids[number, : len(answer.ids)] = answer.ids
    traces: tuple[tuple[TierTrace, ...], ...] = tuple(answer.traces for answer in answers) if explain else ()
    reached = min((answer.tier_reached for answer in answers), default=native)
    return SearchResult(scores=scores, ids=ids, tier_reached=reached, traces=traces)
