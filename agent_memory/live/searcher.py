"""``Searcher``: searches the index and the full-text index for entries that satisfy a condition."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from agent_memory.errors import CorruptSnapshotError, StorageError
from agent_memory.live.columns import LiveColumns
from agent_memory.live.index import LiveIndex
from agent_memory.live.internal import LiveInternal
from agent_memory.live.rows import RowView, evolve_passages, measure_luck
from agent_memory.live.served import ServedIndex
from agent_memory.live.words import LiveWords
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Accept, Condition, LexicalQuery, Span
from agent_memory.types import FloatArray, IdArray

if TYPE_CHECKING:
    from agent_memory.index import SearchResult
    from agent_memory.index.words import WordsView

_log = logging.getLogger("agent_memory")

_Answer = TypeVar("_Answer")

_FEW_HIDDEN = 1_000


class Searcher:
    """Finds entries that satisfy a condition, in one read transaction.

    Args:
        live_index: The index.
        live_words: The words tier.
        live_columns: The columns that filters look at.
        live_internal: The entries of internal namespaces.
        tx: A read transaction in which nothing was read yet.
        accept: Raises if the caller cannot work with the generation found.
        condition: Which entries may be returned.
        dense: False if no vectors will be searched; the index is then not loaded.
        in_haste: True if there is no time to read columns, or to build the words tier.
    """

    def __init__(
        self,
        live_index: LiveIndex | ServedIndex,
        live_words: LiveWords,
        live_columns: LiveColumns,
        live_internal: LiveInternal,
        tx: Transaction,
        accept: Accept,
        condition: Condition,
        *,
        dense: bool = True,
        in_haste: bool = False,
    ) -> None:
        self._live_index, self._live_words, self._live_columns = live_index, live_words, live_columns
        self._tx, self._accept = tx, accept
        self._condition, self._in_haste = condition, in_haste
        self._live_internal = live_internal
        self._view = live_index.view(tx, accept) if dense else None
        self._words: tuple[WordsView | None] | None = None
        self.empty = dense and self._view is None

    # --- which entries -----------------------------------------------------------------------------------

    @cached_property
    def hidden(self) -> Collection[int]:
        """Ids of expired and internal entries that the indexes hold and that callers must skip.

        Skipping a few entries is faster than listing all others. If there are many, or the condition has
        filters, this is empty, and the indexes are given the ids to search instead.
        """
        return self._restriction[0]

    @cached_property
    def _restriction(self) -> tuple[frozenset[int], IdArray | None]:
        entries = self._tx.entries
        if self._condition.is_open and self._condition.moment is not None:
            hidden = frozenset(entries.select_expired_ids(self._condition.moment))
            if not self._condition.internal:
                hidden |= self._live_internal.list_ids(self._tx)
            if len(hidden) <= _FEW_HIDDEN:
                return hidden, None
        found = self._live_columns.select(self._tx, self._condition, in_haste=self._in_haste)
        return frozenset(), np.sort(entries.select_ids(self._condition)) if found is None else found

    @property
    def _allowed(self) -> IdArray | None:
        return self._restriction[1]

    def select_allowed(self, ids: Iterable[int]) -> set[int]:
        """Return the given ids that the condition allows, hidden ones included."""
        allowed, found = self._allowed, set(ids)
        if allowed is None or not len(allowed):
            return found if allowed is None else set()
        given = np.array(sorted(found), np.int64)
        return set(given[allowed[np.minimum(np.searchsorted(allowed, given), len(allowed) - 1)] == given].tolist())

    def list_allowed(self) -> IdArray | None:
        """Return the ids that the condition allows, int64 (n,), ascending; None if it allows all."""
        return None if self._allowed is None else np.sort(self._allowed)

    # --- by meaning --------------------------------------------------------------------------------------

    def search(
        self,
        queries: FloatArray,
        k: int,
        *,
        spans: Sequence[Span] | None = None,
        exact: bool = False,
        budget_ms: float | None = None,
        explain: bool = False,
    ) -> SearchResult:
        """Return the k nearest entries of each query, hidden ones included; see ``RowView.search``.

        Args:
            queries: float32 of shape (m, dimension).
            k: Number of entries per query.
            spans: Only entries that happened in one of these, or mention a time in one; see ``Condition``.
            exact: True to compare with every vector instead of searching tier by tier.
            budget_ms: Milliseconds after which no further tier is started.
            explain: True to record the candidates of each tier.
        """
        allowed = self._allowed
        if spans is not None:
            dated = self._tx.entries.select_ids(Condition(state="unsuperseded", spans=tuple(spans)))
            allowed = dated if allowed is None else np.intersect1d(dated, allowed)
        return self._search(queries, k, allowed, exact=exact, budget_ms=budget_ms, explain=explain)

    def score(self, query: FloatArray, ids: Iterable[int]) -> dict[int, float]:
        """Return the cosines of a query, shape (dimension,), with the given entries that are indexed, by id."""
        wanted = np.array(sorted(ids), np.int64)
        if not len(wanted):
            return {}
        found, scores = self._ask(lambda view: view.score(query, wanted))
        return dict(zip(found.tolist(), scores.tolist(), strict=True))

    def select_long(self, ids: Sequence[int]) -> list[int]:
        """Return those of some entries that have rows of passages in the index, in order."""
        wanted = np.array(ids, np.int64)
        return list(map(int, self._ask(lambda view: view.select_long(wanted)))) if len(wanted) else []

    def list_former(self) -> list[int]:
        """Return the entries that satisfy the condition but have left the index."""
        return [int(entry_id) for entry_id in self._tx.entries.select_ids(self._condition.former())]

    def score_former(self, query: FloatArray, former: Sequence[int]) -> dict[int, float]:
        """Return the cosines of a query with entries of ``list_former``, by id; those without a vector are left out."""
        generation = self._tx.generations.live()
        if generation is None:
            return {}
        ids, vectors = self._tx.vectors.read(generation, former, former=True)
        scores = dict(zip(ids.tolist(), (vectors.astype(np.float32) @ query).tolist(), strict=True))
        for passages in self._tx.passages.read(generation, former, former=True):
            best = float((evolve_passages(passages) @ query).max())
            luck = float(measure_luck(np.array([len(passages.spans)]))[0])
            scores[passages.entry_id] = max(best, scores.get(passages.entry_id, best)) - luck
        return scores

    def _search(
        self,
        queries: FloatArray,
        k: int,
        allowed: IdArray | None,
        *,
        exact: bool,
        budget_ms: float | None,
        explain: bool,
    ) -> SearchResult:
        return self._ask(
            lambda view: view.search(queries, k, allowed=allowed, exact=exact, budget_ms=budget_ms, explain=explain)
        )

    def _ask(self, ask: Callable[[RowView], _Answer]) -> _Answer:
        """Return what the index answers; it is built from the store first if its files are damaged."""
        if self._view is None:
            raise StorageError("a recall by words alone has no index to search")
        try:
            return ask(self._view)
        except CorruptSnapshotError as error:
            # Rows are verified when they are first read, which may be long after the snapshot was opened.
            _log.warning("rebuilding the index from the store: %s", error)
            self._view = self._live_index.start_over(self._tx, self._accept) or self._view
            return ask(self._view)

    # --- by words ----------------------------------------------------------------------------------------

    def parse_words(self, text: str) -> LexicalQuery:
        """Return the rarest words of a query."""
        if self._words is None:
            self._words = (self._live_words.view(self._tx, in_haste=self._in_haste),)
        return self._tx.lexical.parse(text, counts=self._words[0], absent=self._condition.state == "as_of")

    def search_words(self, query: LexicalQuery, limit: int) -> dict[int, float]:
        """Return the scores of the best entries by words, from 0 to 1, best first, hidden ones included."""
        tier = None if self._words is None else self._words[0]
        if tier is None or query.terms is None:
            condition = None if self._allowed is None else self._condition
            return self._tx.lexical.search(query, limit=limit, condition=condition)
        ids, scores = tier.search(query.terms, limit=limit, allowed=self._allowed)
        return dict(zip(ids.tolist(), np.minimum(1.0, scores / (query.best or 1.0)).tolist(), strict=True))


def slice_result(found: SearchResult, at: int) -> SearchResult:
    """Return the result of one query from a search of several."""
    mine = slice(at, at + 1)
    return replace(found, scores=found.scores[mine], ids=found.ids[mine], traces=found.traces[mine])
