"""Rows of the index: one for each entry, and one for each passage of a long entry; together they are one hit.

The row of an entry has the entry's id. Rows of passages have ids of a range of their own, from which the entry can be
computed; they ascend with it. What a session adds to an entry's vector it adds to those of its passages, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from agent_memory.storage.base import Transaction
from agent_memory.storage.codec import encode_vectors
from agent_memory.storage.records import Generation, ReadPassages
from agent_memory.types import FloatArray, IdArray

if TYPE_CHECKING:
    from agent_memory.index import SearchResult, TierTrace

Rows: TypeAlias = tuple[IdArray, npt.NDArray[Any]]
"""Ids of rows, int64 (n,), and their vectors in the generation's dtype, (n, dimension)."""

_FIRST = 1 << 62
_BITS = 20
_MOST = 1 << _BITS
_PARALLEL = 1e-6
_GROWTH = 2
_CHANCE = 0.02
"""How much the cosines of a text's passages with a question differ by chance."""


# --- ids ---------------------------------------------------------------------------------------------------


def entries_of(rows: IdArray) -> IdArray:
    """Return the entries of rows, int64 of the same shape; -1 stays -1."""
    return np.where(rows >= _FIRST, (rows - _FIRST) >> _BITS, rows)


def _number_passages(entry_id: int, count: int) -> IdArray:
    return _FIRST + (np.int64(entry_id) << _BITS) + np.arange(count, dtype=np.int64)


def first_extra() -> int:
    """Return the lowest id of a row that is of a passage."""
    return _FIRST


def select_extras(rows: IdArray) -> IdArray:
    """Return those of some rows that are of passages, ascending."""
    return np.sort(rows[rows >= _FIRST])


def find_extras(extras: IdArray, entry_ids: IdArray) -> IdArray:
    """Return the rows of the passages of entries.

    Args:
        extras: The rows of passages that there are, ascending.
        entry_ids: The entries, int64 (m,), each once.
    """
    if not len(extras) or not len(entry_ids):
        return np.empty(0, np.int64)
    if len(entry_ids) > len(extras):
        ordered, owners = np.sort(entry_ids), entries_of(extras)
        places = np.minimum(np.searchsorted(ordered, owners), len(ordered) - 1)
        mine: IdArray = extras[ordered[places] == owners]
        return mine
    first = _FIRST + (entry_ids.astype(np.int64) << _BITS)
    low, high = np.searchsorted(extras, first), np.searchsorted(extras, first + _MOST)
    counts = high - low
    steps = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found: IdArray = extras[np.repeat(low, counts) + steps]
    return found


def replace_extras(extras: IdArray, gone: IdArray, added: Sequence[IdArray]) -> IdArray:
    """Return rows of passages, ascending, without some and with those among others; the same array if none changes."""
    new = select_extras(np.concatenate([np.empty(0, np.int64), *added]))
    if not len(gone) and not len(new):
        return extras
    return np.union1d(np.setdiff1d(extras, gone, assume_unique=True), new)


# --- what is stored, as rows ---------------------------------------------------------------------------------


def read_rows(tx: Transaction, generation: Generation, ids: IdArray) -> list[Rows]:
    """Return the rows to search of the given entries that are not superseded."""
    found = [tx.vectors.read(generation, ids)]
    passages = tx.passages.read(generation, ids)
    return [*found, _to_rows(passages, generation)] if passages else found


def iter_rows(tx: Transaction, generation: Generation) -> Iterator[Rows]:
    """Yield the rows to search of all entries that are not superseded, in steps."""
    yield from tx.vectors.read_all(generation)
    for passages in tx.passages.read_all(generation):
        yield _to_rows(passages, generation)


def _to_rows(passages: Sequence[ReadPassages], generation: Generation) -> Rows:
    ids = np.concatenate([_number_passages(one.entry_id, len(one.spans)) for one in passages])
    matrix = np.concatenate([evolve_passages(one) for one in passages])
    return ids, encode_vectors(matrix, generation.dtype)


def evolve_passages(passages: ReadPassages) -> FloatArray:
    """Return the vectors of passages to search, float32 (n, dimension), each of unit length.

    A session encoder sees the whole entry as one segment. What it adds to the entry's static vector is the part of the
    evolved vector that is at right angles to that; each passage takes the place of the other part.
    """
    vectors = passages.vectors
    if passages.evolved is not None:
        kept = float(passages.evolved @ passages.static)
        added = passages.evolved - kept * passages.static
        if kept > 0 and float(np.linalg.norm(added)) > _PARALLEL:
            vectors = kept * vectors + added
    unit: FloatArray = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), _PARALLEL)
    return unit


def measure_luck(counts: IdArray) -> FloatArray:
    """Return by how much the best of so many passages is likely to be too good, float32 of the shape of ``counts``.

    The largest of n values that differ by chance grows with the square root of log n; without this, the longest text
    would be found for most questions.
    """
    luck: FloatArray = (_CHANCE * np.sqrt(2 * np.log(np.maximum(counts, 1)))).astype(np.float32)
    return luck


# --- searching -------------------------------------------------------------------------------------------------


class Searched(Protocol):
    """An index as it was at one moment, wherever it is; its methods are those of ``IndexView``."""

    def __len__(self) -> int:
        """Return how many rows there are."""
        ...

    def ids(self) -> IdArray:
        """Return their ids."""
        ...

    def vectors_of(self, ids: npt.ArrayLike) -> FloatArray:
        """Return the vectors of some."""
        ...

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
        """Return the nearest rows of each query."""
        ...

    def score(self, query: npt.ArrayLike, ids: npt.ArrayLike) -> tuple[IdArray, FloatArray]:
        """Return what ``search`` gives some."""
        ...


class RowView:
    """A fixed view of the index that is asked for entries and answers with entries.

    Args:
        view: The index.
        extras: Its rows of passages, ascending.
    """

    def __init__(self, view: Searched, extras: IdArray) -> None:
        self.rows, self._extras = view, extras

    def search(
        self,
        queries: FloatArray,
        k: int,
        *,
        allowed: IdArray | None = None,
        exact: bool = False,
        budget_ms: float | None = None,
        explain: bool = False,
    ) -> SearchResult:
        """Return the nearest entries of each query, each by its nearest row; see ``IndexView.search``.

        As many rows are searched as are needed for k different entries, if there are so many.
        """
        extras = self._extras
        if not len(extras):
            return self.rows.search(queries, k, allowed=allowed, exact=exact, budget_ms=budget_ms, explain=explain)
        total = len(self.rows)
        if allowed is not None:
            theirs = find_extras(extras, allowed)
            total = len(allowed) + len(theirs)
            allowed = np.concatenate([allowed, theirs])
        started, width = time.perf_counter(), total if exact and allowed is not None else k
        while True:
            width = min(max(width * _GROWTH, k), max(total, k))
            left = None if budget_ms is None else max(0.0, budget_ms - (time.perf_counter() - started) * 1e3)
            found = self.rows.search(queries, width, allowed=allowed, exact=exact, budget_ms=left, explain=explain)
            merged = self._merge(found, k)
            # What was not found is no better than the last row; it cannot be among the best k.
            if width >= total or (merged.scores[:, -1] >= found.scores[:, -1]).all():
                return merged

    def score(self, query: FloatArray, ids: IdArray) -> tuple[IdArray, FloatArray]:
        """Return those of some entries that have rows, int64 (m,), and the scores that ``search`` gives them, (m,).

        Args:
            query: float32 (dimension,).
            ids: The entries, int64 (n,), each once.
        """
        theirs = find_extras(self._extras, ids)
        rows, scores = self.rows.score(query, np.concatenate([ids, theirs]) if len(theirs) else ids)
        if not len(theirs):
            return rows, scores
        order = np.lexsort((-scores, entries_of(rows)))
        entries, first = np.unique(entries_of(rows)[order], return_index=True)
        return entries, scores[order][first] - measure_luck(self._count_passages(entries))

    def select_long(self, entry_ids: IdArray) -> IdArray:
        """Return those of some entries that have passages, int64."""
        return entry_ids[self._count_passages(entry_ids) > 0] if len(self._extras) else entry_ids[:0]

    def _merge(self, found: SearchResult, k: int) -> SearchResult:
        """Return the nearest k entries of a result over rows."""
        entries = entries_of(found.ids)
        ids = np.full((len(entries), k), -1, np.int64)
        scores = np.full((len(entries), k), -np.inf, np.float32)
        for number, row in enumerate(entries):
            places = _find_first(row)
            places = places[row[places] >= 0]
            mine = found.scores[number][places] - measure_luck(self._count_passages(row[places]))
            order = np.argsort(-mine, kind="stable")[:k]
            ids[number, : len(order)], scores[number, : len(order)] = row[places][order], mine[order]
        traces = tuple(tuple(_merge_trace(tier) for tier in tiers) for tiers in found.traces)
        return replace(found, ids=ids, scores=scores, traces=traces)

    def _count_passages(self, entry_ids: IdArray) -> IdArray:
        """Return how many passages each of some entries has, 0 for a short one."""
        first = _FIRST + (entry_ids << _BITS)
        return np.searchsorted(self._extras, first + _MOST) - np.searchsorted(self._extras, first)


def _find_first(entries: IdArray) -> IdArray:
    """Return the places at which entries stand for the first time, ascending."""
    return np.sort(np.unique(entries, return_index=True)[1])


def _merge_trace(tier: TierTrace) -> TierTrace:
    entries = entries_of(tier.ids)
    places = _find_first(entries)
    return replace(tier, ids=entries[places], scores=tier.scores[places], kept=int((places < tier.kept).sum()))
