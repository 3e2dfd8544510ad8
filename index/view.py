"""Searching an index as it was at one moment."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from agent_memory.errors import InvalidInputError
from agent_memory.index.cascade import Cascade, Found
from agent_memory.index.records import IndexOptions, ScoreArray, SearchResult, TierTrace
from agent_memory.index.state import State
from agent_memory.index.vectors import as_ids, as_queries, distinct
from agent_memory.types import FloatArray, IdArray


class IndexView:
    """An index as it was when ``TieredIndex.view`` was called; immutable, safe to share between threads."""

    def __init__(self, state: State, tiers: tuple[int, ...], options: IndexOptions) -> None:
        self._state, self._tiers, self._options = state, tiers, options

    def __len__(self) -> int:
        return self._state.live

    def ids(self) -> IdArray:
        """Return the live ids, int64 (n,), in order of arrival."""
        return self._state.live_ids.copy()

    def vectors_of(self, ids: npt.ArrayLike) -> FloatArray:
        """Return the native vectors of live ids as they are stored, float32 (m, dimension), in the order of rows."""
        return np.asarray(self._state.native.take(np.sort(self._rows_of(ids))), dtype=np.float32)

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
                min(k, live allowed ids) results come back.
            exact: Score every allowed row at the native dimension; ignores ``budget_ms``.
            budget_ms: Milliseconds for the whole call. The coarse tier always runs; what does not fit
                after it is skipped, rows added since the last maintenance first, and ``tier_reached`` tells.
            explain: Fill ``traces``.

        Raises:
            DimensionMismatchError: Queries of another dimension.
            InvalidInputError: k < 1, a NaN, infinite or zero query, ids that are not integers, a negative
                budget.
            CorruptSnapshotError: A mapped file was damaged since it was saved.
        """
        deadline = _deadline(budget_ms)
        wanted = as_queries(queries, self._tiers[-1])
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InvalidInputError(f"k must be a positive integer, got {k!r}")
        chosen = None if allowed is None else self._rows_of(allowed)
        cascade = Cascade(self._state, self._tiers, chosen, int(k), exact=exact, deadline=deadline, explain=explain)
        return _assemble(self._run(cascade, wanted), int(k), self._tiers[-1], explain)

    def _rows_of(self, allowed: npt.ArrayLike) -> npt.NDArray[np.int64]:
        """Return the live rows of these ids, each once."""
        return distinct(self._state.rows_of(as_ids(allowed)))

    def _run(self, cascade: Cascade, queries: FloatArray) -> list[Found]:
        parts = min(self._options.threads, len(queries))
        if parts < 2:
            return cascade.run(queries)
        with ThreadPoolExecutor(parts) as pool:
            pieces = list(pool.map(cascade.run, np.array_split(queries, parts)))
        return [found for piece in pieces for found in piece]


def _deadline(budget_ms: float | None) -> float | None:
    if budget_ms is None:
        return None
    if isinstance(budget_ms, bool) or not isinstance(budget_ms, (int, float)) or not budget_ms >= 0:
        raise InvalidInputError(f"budget_ms must be a number of at least 0, got {budget_ms!r}")
    return time.perf_counter() + budget_ms / 1e3


def _assemble(answers: list[Found], k: int, native: int, explain: bool) -> SearchResult:
    scores: ScoreArray = np.full((len(answers), k), -np.inf, np.float32)
    ids: IdArray = np.full((len(answers), k), -1, np.int64)
    for number, found in enumerate(answers):
        scores[number, : len(found.ids)] = found.scores
        ids[number, : len(found.ids)] = found.ids
    traces: tuple[tuple[TierTrace, ...], ...] = tuple(found.traces for found in answers) if explain else ()
    reached = min((found.tier_reached for found in answers), default=native)
    return SearchResult(scores=scores, ids=ids, tier_reached=reached, traces=traces)
