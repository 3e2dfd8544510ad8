"""Searching the index that the database keeps, together with what has changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from agent_memory.live.rows import entries_of
from agent_memory.storage.nearest import Nearest, NearestFound, NearestState, choose_coarse
from agent_memory.storage.records import Generation
from agent_memory.types import FloatArray, IdArray

if TYPE_CHECKING:
    from agent_memory.index import IndexView, SearchResult, TierTrace

FEW = 20_000
"""Rows up to which all that satisfy a filter are compared."""

_MOST_CANDIDATES = 1_000


class ServedView:
    """The index on the server as one transaction sees it; it has the methods of ``IndexView`` that are searched by.

    Args:
        nearest: The index, in a transaction.
        generation: The generation.
        state: How far it is.
        changed: Entries that have changed since, int64 (n,).
        fresh: Those of them that are searched; None if there are none.
    """

    def __init__(
        self,
        nearest: Nearest,
        generation: Generation,
        state: NearestState,
        changed: IdArray,
        fresh: IndexView | None,
    ) -> None:
        self._nearest, self._generation, self._state = nearest, generation, state
        self._changed, self._fresh = changed, fresh

    def __len__(self) -> int:
        """Return how many rows there are at most."""
        return self._state.rows + (0 if self._fresh is None else len(self._fresh))

    def ids(self) -> IdArray:
        """Return the ids of all rows, int64 (n,), ascending."""
        return self._merge_ids(self._nearest.read_ids(self._generation))

    def select_ids(self, ids: IdArray) -> IdArray:
        """Return those of some ids of rows that there are, int64 (m,), ascending."""
        zero = np.zeros(self._generation.dimension, np.float32)
        return self._merge_ids(self._nearest.score(self._generation, zero, ids)[0], ids)

    def _merge_ids(self, held: IdArray, among: IdArray | None = None) -> IdArray:
        if self._fresh is None:
            return held
        fresh = self._fresh.ids() if among is None else np.intersect1d(self._fresh.ids(), among)
        return np.union1d(held[~np.isin(entries_of(held), self._changed)], fresh)

    def vectors_of(self, ids: npt.ArrayLike) -> FloatArray:
        """Return the vectors of rows, float32 (m, dimension), in ascending order of id."""
        held, order = self._fresh, np.sort(np.asarray(ids, np.int64))
        new = np.empty(0, np.int64) if held is None else np.intersect1d(held.ids(), order)
        old = np.setdiff1d(order, new)
        matrix = np.empty((len(order), self._generation.dimension), np.float32)
        matrix[np.isin(order, old)] = self._nearest.read_vectors(self._generation, old)
        for row_id in new.tolist() if held is not None else ():
            matrix[order == row_id] = held.vectors_of(np.array([row_id]))  # type: ignore[union-attr]
        return matrix

    # --- searching ---------------------------------------------------------------------------------------

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
        """Return the nearest rows of each query; see ``IndexView.search``.

        Args:
            queries: As there.
            k: As there.
            allowed: As there.
            exact: As there.
            budget_ms: Not looked at: a statement on the server is one step.
            explain: As there. The first tier is the approximate index, if it was asked; its candidates are the rows
                that were compared as a whole.
        """
        from agent_memory.index import SearchResult
        from agent_memory.index.vectors import check_ids, deduplicate, normalise_queries

        unit = normalise_queries(queries, self._generation.dimension)
        rows = None if allowed is None else deduplicate(check_ids(allowed))
        found = self._search_server(unit, k, rows, exact=exact)
        new = self._fresh and self._fresh.search(unit, k, allowed=rows, exact=True, explain=explain)
        scores = np.full((len(unit), k), -np.inf, np.float32)
        ids = np.full((len(unit), k), -1, np.int64)
        traces: list[tuple[TierTrace, ...]] = []
        for number, one in enumerate(found):
            mine_ids, mine = one.ids, one.scores
            if new:
                kept = new.ids[number] >= 0
                mine_ids = np.concatenate([mine_ids, new.ids[number][kept]])
                mine = np.concatenate([mine, new.scores[number][kept]])
            order = np.lexsort((mine_ids, -mine))
            best = order[:k]
            ids[number, : len(best)], scores[number, : len(best)] = mine_ids[best], mine[best]
            if explain:
                traces.append(self._trace(one, mine_ids[order], mine[order], len(best)))
        return SearchResult(scores=scores, ids=ids, tier_reached=self._generation.dimension, traces=tuple(traces))

    def _search_server(
        self, queries: FloatArray, k: int, allowed: IdArray | None, *, exact: bool
    ) -> list[NearestFound]:
        """Return what the server finds: exactly where few rows are allowed, or the approximate index has too few."""
        if allowed is not None and not len(allowed):
            none = np.empty(0, np.int64)
            return [NearestFound(ids=none, scores=np.empty(0, np.float32), nearness=None)] * len(queries)
        candidates = self._count_candidates(k)
        if exact or (allowed is not None and len(allowed) <= FEW):
            candidates = 0
        found = self._ask(queries, k, allowed, candidates)
        short = [number for number, one in enumerate(found) if len(one.ids) < k]
        if candidates and short:
            again = self._ask(queries[short], k, allowed, 0)
            for number, one in zip(short, again, strict=True):
                found[number] = one
        return found

    def _ask(self, queries: FloatArray, k: int, allowed: IdArray | None, candidates: int) -> list[NearestFound]:
        return self._nearest.search(
            self._generation, queries, k, candidates=candidates, allowed=allowed, without=self._changed
        )

    def _count_candidates(self, k: int) -> int:
        """Return how many candidates the approximate index is asked for; 0 if it can hand on too few of them."""
        wanted = max(int(self._state.candidates * max(1.0, k / 10) ** 0.5), 2 * k)
        return wanted if self._state.candidates and wanted <= _MOST_CANDIDATES else 0

    def _trace(self, found: NearestFound, ids: IdArray, scores: FloatArray, kept: int) -> tuple[TierTrace, ...]:
        from agent_memory.index import TierTrace

        last = TierTrace(tier=self._generation.dimension, ids=ids, scores=scores, kept=kept)
        if found.nearness is None:
            return (last,)
        order = np.argsort(-found.nearness, kind="stable")
        coarse = choose_coarse(self._generation)
        first = TierTrace(tier=coarse, ids=found.ids[order], scores=found.nearness[order], kept=len(order))
        return first, last

    def score(self, query: npt.ArrayLike, ids: npt.ArrayLike) -> tuple[IdArray, FloatArray]:
        """Return those of some rows that there are, int64 (m,), and their scores, float32 (m,); see ``IndexView``."""
        from agent_memory.index.vectors import check_ids, deduplicate, normalise_queries

        unit = normalise_queries(query, self._generation.dimension)
        rows = deduplicate(check_ids(ids))
        old = rows[~np.isin(entries_of(rows), self._changed)]
        found, scores = self._nearest.score(self._generation, unit[0], old) if len(old) else (old, np.empty(0))
        if self._fresh is None:
            return found, scores.astype(np.float32)
        new, theirs = self._fresh.score(unit[0], rows)
        return np.concatenate([found, new]), np.concatenate([scores, theirs]).astype(np.float32)
