"""Searching the words tier: BM25 as SQLite's FTS5 computes it, to the last bit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from agent_memory.index.words.segment import Mask, Numbers, Positions, Segment
from agent_memory.types import BM25_B, BM25_K1, IdArray

_LEAST_WEIGHT = 1e-6
_SLACK = 1 - 1e-9  # sums in another order differ by less
_MOST_KNOWN = 50_000  # terms whose places a view remembers
_WORTH = 4_096  # postings that pruning must save to be tried
_SAMPLE = 4_096
_SPARSE = 16

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment, and which of its rows are still current.

    Attributes:
        segment: The segment.
        alive: Its rows that are current, bool (n,), never written to; None if all are.
        count: How many are current.
        terms: How many terms they have in all.
    """

    segment: Segment
    alive: Mask | None
    count: int
    terms: int


@dataclass(slots=True)
class Scratch:
    """Arrays of zeros that searches use one after the other, so that none has to make its own."""

    _free: list[Scores] = field(default_factory=list)

    def take(self, count: int) -> Scores:
        """Return at least this many zeros; whoever took them makes them zeros again before ``give``."""
        try:
            found = self._free.pop()
        except IndexError:
            found = np.zeros(0)
        return found if len(found) >= count else np.zeros(count)

    def give(self, array: Scores) -> None:
        """Take an array of zeros back."""
        self._free.append(array)


class WordsView:
    """One state of the words tier; any number of threads may search it.

    Args:
        pieces: Its segments.
        scratch: The tier's.
    """

    def __init__(self, pieces: Sequence[Piece], scratch: Scratch) -> None:
        self._pieces = sorted(pieces, key=lambda piece: -piece.count)
        self._scratch = scratch
        self.rows = sum(piece.count for piece in pieces)
        self._terms = sum(piece.terms for piece in pieces)
        self._found: dict[str, list[slice]] = {}
        self._counts: dict[tuple[str, ...], int] = {}
        self._tables: dict[int, Scores] = {}

    def __len__(self) -> int:
        return self.rows

    def count(self, terms: Sequence[str]) -> int:
        """Return the number of entries that hold any of some terms."""
        name = tuple(terms)
        found = self._counts.get(name)
        if found is None:
            found = self._count(name)
            if len(self._counts) < _MOST_KNOWN:
                self._counts[name] = found
        return found

    def _count(self, terms: tuple[str, ...]) -> int:
        total = 0
        found = [self._find(term) for term in terms]
        for at, piece in enumerate(self._pieces):
            lists = [piece.segment.rows[places[at]] for places in found if places[at].start < places[at].stop]
            rows = lists[0] if len(lists) == 1 else np.unique(np.concatenate(lists)) if lists else ()
            total += len(rows) if piece.alive is None or not len(rows) else int(np.count_nonzero(piece.alive[rows]))
        return total

    def _find(self, term: str) -> list[slice]:
        """Return where the postings of a term are, in each piece."""
        found = self._found.get(term)
        if found is None:
            name = term.encode()
            found = [piece.segment.find_postings(name) for piece in self._pieces]
            if len(self._found) < _MOST_KNOWN:
                self._found[term] = found
        return found

    def search(self, terms: Sequence[str], *, limit: int, allowed: IdArray | None = None) -> tuple[IdArray, Scores]:
        """Return the entries that best match some terms, best first, equal scores by id.

        If n allowed entries hold a term, min(n, limit) are returned.

        Args:
            terms: The terms; one that comes twice counts twice.
            limit: Maximum number of entries, at least 1.
            allowed: Ids of the entries that may be returned; None for all. It does not affect scores.

        Returns:
            Ids, and their BM25 scores (k1 = 1.2, b = 0.75).
        """
        weights = [self._weigh(self.count([term])) for term in terms]
        found = [self._find(term) for term in terms]
        ids, scores, floor = [np.empty(0, np.int64)], [np.empty(0)], 0.0
        among = None if allowed is None else _Among(allowed, self.rows)
        for at, piece in enumerate(self._pieces):
            mask = piece.alive if among is None else among.make_mask(piece)
            if mask is not None and not mask.any():
                continue
            search = _PieceSearch(piece.segment, mask, self._get_table(at), limit, floor)
            lists = [(weight, places[at]) for weight, places in zip(weights, found, strict=True)]
            rows, theirs = search.run(lists, self._scratch)
            ids.append(piece.segment.ids[rows])
            scores.append(theirs)
            if sum(map(len, scores)) >= limit and at + 1 < len(self._pieces):
                floor = _find_limit(np.concatenate(scores), limit)
        return _choose(np.concatenate(ids), np.concatenate(scores), limit)

    def _weigh(self, count: int) -> float:
        """Return the inverse document frequency of a term that so many entries hold."""
        return max(_LEAST_WEIGHT, math.log((self.rows - count + 0.5) / (count + 0.5)))

    def _get_table(self, at: int) -> Scores:
        """Return BM25 without the weight of the term for each pair of a piece, float64 (m,)."""
        if at not in self._tables:
            self._tables[at] = self._compute_table(self._pieces[at].segment)
        return self._tables[at]

    def _compute_table(self, segment: Segment) -> Scores:
        often, lengths = segment.counts[:, 0].astype(np.float64), segment.counts[:, 1].astype(np.float64)
        average = max(1, self._terms) / max(1, self.rows)
        table: Scores = (often * (BM25_K1 + 1.0)) / (often + BM25_K1 * (1 - BM25_B + BM25_B * lengths / average))
        return table


class _Among:
    """The rows of some entries.

    Args:
        ids: The entries, int64 (n,).
        rows: Number of entries that are searched.
    """

    def __init__(self, ids: IdArray, rows: int) -> None:
        self._ids = ids
        highest = int(ids.max(initial=0))
        self._listed: Mask | None = None
        if rows < _SPARSE * len(ids) and highest < _SPARSE * rows:
            # Most are close to each other: looking up is faster than searching.
            self._listed = np.zeros(highest + 2, np.bool_)
            self._listed[ids] = True

    def make_mask(self, piece: Piece) -> Mask:
        """Return which rows of a piece are current and of the entries, bool (n,)."""
        if self._listed is not None:
            mask: Mask = self._listed[np.minimum(piece.segment.ids, len(self._listed) - 1)]
        else:
            mask = np.zeros(len(piece.segment), np.bool_)
            mask[piece.segment.find_rows(self._ids)] = True
        if piece.alive is not None:
            mask &= piece.alive
        return mask


def _choose(ids: IdArray, scores: Scores, limit: int) -> tuple[IdArray, Scores]:
    if len(scores) > limit:
        keep = scores >= _find_limit(scores, limit)
        ids, scores = ids[keep], scores[keep]
    order = np.lexsort((ids, -scores))[:limit]
    return ids[order], scores[order]


class _PieceSearch:
    """The search of one piece.

    Args:
        segment: Its segment.
        mask: The rows that may be returned; None for all.
        table: BM25 of each pair.
        limit: Maximum number of rows to return.
        floor: Rows that score less are not wanted.
    """

    def __init__(self, segment: Segment, mask: Mask | None, table: Scores, limit: int, floor: float) -> None:
        self._segment, self._mask, self._table = segment, mask, table
        self._limit, self._floor = limit, floor

    def run(self, lists: Sequence[tuple[float, slice]], scratch: Scratch) -> tuple[Positions, Scores]:
        """Return rows and their scores, all that are wanted and a few more.

        Source of leaving out rows that cannot be among the best: MaxScore (Turtle and Flood 1995).

        Args:
            lists: (weight, where its postings are) of each term, the rarest first.
            scratch: Where to take arrays from.
        """
        sums = scratch.take(len(self._segment))
        touched: list[Numbers] = []
        most = float(self._table.max(initial=0.0))
        ahead = [weight * most for weight, places in lists if places.stop > places.start]
        left = sum(ahead)
        postings = sum(places.stop - places.start for _, places in lists)
        rest: list[tuple[float, slice]] = []
        wanted: Numbers | None = None
        for at, (weight, places) in enumerate(lists):
            size = places.stop - places.start
            if not size:
                continue
            touched.append(self._add(sums, weight, places))
            left -= weight * most
            postings -= size
            if postings > _WORTH and (wanted := self._prune(sums, touched, left)) is not None:
                rest = list(lists[at + 1 :])
                break
        everything = np.concatenate(touched) if touched else np.empty(0, np.uint32)
        if wanted is not None:
            for weight, places in rest:
                self._add_to(sums, wanted, weight, places)
        rows = everything if wanted is None else wanted
        rows, scores = self._select(rows, sums[rows])
        sums[everything] = 0.0
        scratch.give(sums)
        return rows.astype(np.int64), scores

    def _add(self, sums: Scores, weight: float, places: slice) -> Numbers:
        """Add what a term adds; returns the rows that had nothing before."""
        rows, pairs = self._segment.rows[places], self._segment.pairs[places]
        if self._mask is not None:
            keep = self._mask[rows]
            rows, pairs = rows[keep], pairs[keep]
        former = sums[rows]
        sums[rows] = former + weight * self._table[pairs]
        new: Numbers = rows[former == 0.0]
        return new

    def _prune(self, sums: Scores, touched: list[Numbers], left: float) -> Numbers | None:
        """Return the rows that can still be among the best, ascending, or None if others can, too.

        Args:
            sums: Scores so far.
            touched: The rows that have one.
            left: The most that the terms to come can add.
        """
        if sum(map(len, touched)) < self._limit and not left < self._floor * _SLACK:
            return None
        rows = np.concatenate(touched)
        scores = sums[rows]
        bar = self._floor
        if len(scores) >= self._limit:
            if not left < float(scores.max(initial=0.0)):
                return None
            bar = max(bar, _find_limit(scores, self._limit))
        if not left < bar * _SLACK:
            return None
        return np.sort(rows[scores + left >= bar * _SLACK])

    def _add_to(self, sums: Scores, wanted: Numbers, weight: float, places: slice) -> None:
        """Add what a term adds to some rows, given in ascending order."""
        rows = self._segment.rows[places]
        if not len(rows) or not len(wanted):
            return
        at = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
        there = rows[at] == wanted
        sums[wanted[there]] += weight * self._table[self._segment.pairs[places][at[there]]]

    def _select(self, rows: Numbers, scores: Scores) -> tuple[Numbers, Scores]:
        """Return the best rows, with all that score as much as the last of them."""
        if len(rows) <= self._limit:
            return rows, scores
        keep = scores >= max(self._floor, _find_limit(scores, self._limit))
        return rows[keep], scores[keep]


def _find_limit(scores: Scores, limit: int) -> float:
    """Return the score of the last of the best, if they are so many; at least ``limit`` scores are given."""
    if len(scores) > 4 * max(limit, _SAMPLE):
        # Most are far from the best: a sample tells a score that about twice as many as needed exceed.
        sample = np.sort(scores[:: len(scores) // _SAMPLE])
        place = len(sample) - 1 - int(2 * limit * len(sample) / len(scores) + 16)
        best = scores[scores >= sample[max(0, place)]]
        if len(best) >= limit:
            scores = best
    return float(np.partition(scores, len(scores) - limit)[len(scores) - limit])
