"""Segments of the words tier: which entry holds which term how often, in arrays that never change.

A posting is a row of the segment and the number of a pair (how often the term stands there, how many terms the entry
has). There are few different pairs, so BM25 is computed once for each of them, and a posting costs four bytes and two.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from agent_memory.types import IdArray

Mask: TypeAlias = npt.NDArray[np.bool_]
Positions: TypeAlias = npt.NDArray[np.int64]
Numbers: TypeAlias = npt.NDArray[Any]

MAX_ROWS = 1 << 20
"""Rows of the largest segment."""
_SMALL_TABLE = 1 << 22
_GUIDE_STEP = 64


@dataclass(frozen=True, slots=True)
class Page:
    """Entries as the terms that stand for them.

    Attributes:
        ids: Their ids, int64 (n,), each once.
        lengths: Number of terms of each, int64 (n,).
        numbers: The terms of one entry after the other, int64 (sum of ``lengths``,), as numbers in ``vocabulary``.
        vocabulary: The terms, each once.
    """

    ids: IdArray
    lengths: Positions
    numbers: Positions
    vocabulary: Sequence[str]


class Vocabulary:
    """Distinct terms in the order of their UTF-8 bytes, numbered from 0.

    Args:
        blob: Their bytes, one after the other.
        ends: Where each ends, int64 (n,).
    """

    def __init__(self, blob: bytes | memoryview, ends: Positions) -> None:
        self.blob, self.ends = memoryview(blob), ends

    @classmethod
    def build(cls, terms: Sequence[bytes]) -> Vocabulary:
        """Return the vocabulary of some terms, which are distinct and in order."""
        return cls(b"".join(terms), np.cumsum(np.fromiter(map(len, terms), np.int64, len(terms))))

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, number: int) -> bytes:
        """Return a term."""
        start = int(self.ends[number - 1]) if number else 0
        return bytes(self.blob[start : int(self.ends[number])])

    def list_terms(self) -> list[bytes]:
        """Return all terms."""
        whole, stops = bytes(self.blob), self.ends.tolist()
        return [whole[start:stop] for start, stop in zip([0, *stops], stops, strict=False)]

    @cached_property
    def _guides(self) -> list[bytes]:
        """Every 64th term: Python compares those of a list much faster than it reads others."""
        return [self.read(number) for number in range(0, len(self), _GUIDE_STEP)]

    def find(self, term: bytes) -> int:
        """Return the number of a term, -1 if it is not among them."""
        first = max(0, bisect_right(self._guides, term) - 1) * _GUIDE_STEP
        stop = min(first + _GUIDE_STEP, len(self))
        at = bisect_left(range(stop), term, lo=min(first, stop), key=self.read)
        return at if at < stop and self.read(at) == term else -1


@dataclass(frozen=True, slots=True)
class Stored:
    """The file that holds a segment.

    Attributes:
        path: Where it is, as far as is known.
        checksum: CRC-32 of its bytes.
        size: Its size in bytes.
    """

    path: Path
    checksum: int
    size: int


@dataclass(frozen=True)
class Segment:
    """Postings of some entries.

    Attributes:
        ids: The entries, int64 (n,); a row is a place in this array.
        lengths: How many terms each has, uint32 (n,).
        vocabulary: The terms.
        starts: Where the postings of each term begin, and the last ones end, int64 (len(vocabulary) + 1,).
        rows: The rows of the postings, ascending for each term, uint32 (p,).
        pairs: The pair of each posting, a place in ``counts``, uint16 or uint32 (p,).
        counts: (how often, among how many terms), uint32 (m, 2).
        stored: The file that it was read from; None if there is none.
    """

    ids: IdArray
    lengths: Numbers
    vocabulary: Vocabulary
    starts: Positions
    rows: Numbers
    pairs: Numbers
    counts: Numbers
    stored: Stored | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        arrays = (self.ids, self.lengths, self.starts, self.rows, self.pairs, self.counts, self.vocabulary.ends)
        return sum(array.nbytes for array in arrays) + len(self.vocabulary.blob)

    @cached_property
    def _order(self) -> Positions | None:
        """The rows in the order of their ids; None if they are in it."""
        return None if (self.ids[1:] > self.ids[:-1]).all() else np.argsort(self.ids, kind="stable")

    @cached_property
    def _sorted_ids(self) -> IdArray:
        return self.ids if self._order is None else self.ids[self._order]

    def find_rows(self, ids: IdArray) -> Positions:
        """Return the rows of those of some ids that are here, in no order."""
        if not len(self.ids):
            return np.empty(0, np.int64)
        places = np.minimum(np.searchsorted(self._sorted_ids, ids), len(self.ids) - 1)
        places = places[self._sorted_ids[places] == ids]
        rows: Positions = places if self._order is None else self._order[places]
        return rows

    def find_postings(self, term: bytes) -> slice:
        """Return where the postings of a term are; an empty slice if no entry holds it."""
        number = self.vocabulary.find(term)
        return slice(0, 0) if number < 0 else slice(int(self.starts[number]), int(self.starts[number + 1]))


def build_segment(page: Page) -> Segment:
    """Return the segment of some entries."""
    terms = [term.encode() for term in page.vocabulary]
    order = sorted(range(len(terms)), key=terms.__getitem__)
    rank = np.empty(len(terms), np.int64)
    rank[order] = np.arange(len(terms))
    count = max(1, len(page.ids))
    keys = rank[page.numbers] * count + np.repeat(np.arange(len(page.ids)), page.lengths)
    keys.sort()
    firsts = np.flatnonzero(np.diff(keys, prepend=-1))
    often = np.diff(firsts, append=len(keys))
    keys = keys[firsts]
    rows = keys % count
    pairs, counts = _number_pairs(often, page.lengths[rows])
    return Segment(
        ids=page.ids.astype(np.int64),
        lengths=page.lengths.astype(np.uint32),
        vocabulary=Vocabulary.build([terms[number] for number in order]),
        starts=np.searchsorted(keys, np.arange(len(terms) + 1) * count).astype(np.int64),
        rows=rows.astype(np.uint32),
        pairs=pairs,
        counts=counts,
    )


def merge_segments(parts: Sequence[tuple[Segment, Mask | None]]) -> Segment:
    """Return one segment of the entries of several; nothing is left of others, of their terms neither.

    Args:
        parts: (segment, which of its rows to keep, None for all).
    """
    kept = [_keep_postings(segment, alive) for segment, alive in parts]
    merged = sorted(set().union(*(terms for terms, _, _, _ in kept)))
    number_of = {term: number for number, term in enumerate(merged)}
    maps = [np.fromiter((number_of[term] for term in terms), np.int64, len(terms)) for terms, _, _, _ in kept]
    totals = np.zeros(len(merged), np.int64)
    for numbers, (_, sizes, _, _) in zip(maps, kept, strict=True):
        totals[numbers] += sizes
    starts = np.concatenate([[0], np.cumsum(totals)]).astype(np.int64)
    rows, pairs = np.empty(int(starts[-1]), np.uint32), np.empty(int(starts[-1]), np.int64)
    keys = np.unique(np.concatenate([_join_counts(segment.counts) for segment, _ in parts]))
    fill, offset = starts[:-1].copy(), 0
    for (segment, alive), numbers, (_, sizes, theirs, places) in zip(parts, maps, kept, strict=True):
        there = np.repeat(fill[numbers] - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(theirs))
        rows[there] = (theirs if alive is None else (np.cumsum(alive) - 1)[theirs]) + offset
        pairs[there] = np.searchsorted(keys, _join_counts(segment.counts))[places]
        fill[numbers] += sizes
        offset += len(segment) if alive is None else int(alive.sum())
    own, counts = _shrink_pairs(pairs, keys)
    ids = [segment.ids if alive is None else segment.ids[alive] for segment, alive in parts]
    lengths = [segment.lengths if alive is None else segment.lengths[alive] for segment, alive in parts]
    return Segment(
        ids=np.concatenate(ids),
        lengths=np.concatenate(lengths),
        vocabulary=Vocabulary.build(merged),
        starts=starts,
        rows=rows,
        pairs=own,
        counts=counts,
    )


def _keep_postings(segment: Segment, alive: Mask | None) -> tuple[list[bytes], Positions, Numbers, Numbers]:
    """Return (terms, number of postings of each, their rows, their pairs) of the rows that are kept."""
    terms, sizes, rows, pairs = segment.vocabulary.list_terms(), np.diff(segment.starts), segment.rows, segment.pairs
    if alive is None:
        return terms, sizes, rows, pairs
    keep = alive[rows]
    sizes = np.diff(np.concatenate([[0], np.cumsum(keep)])[segment.starts])
    used = np.flatnonzero(sizes)
    return [terms[at] for at in used.tolist()], sizes[used], rows[keep], pairs[keep]


def _number_pairs(often: Numbers, lengths: Numbers) -> tuple[Numbers, Numbers]:
    """Return the pair of each posting, and the distinct pairs."""
    wide = int(lengths.max(initial=0)) + 1
    keys = often * wide + lengths
    largest = int(keys.max(initial=0))
    if largest < _SMALL_TABLE:
        seen = np.zeros(largest + 1, np.bool_)
        seen[keys] = True
        distinct = np.flatnonzero(seen)
        places = np.cumsum(seen)[keys] - 1
    else:
        distinct, places = np.unique(keys, return_inverse=True)
    counts = np.stack([distinct // wide, distinct % wide], axis=1).astype(np.uint32)
    return _narrow(places, len(counts)), counts if len(keys) else np.empty((0, 2), np.uint32)


def _join_counts(counts: Numbers) -> Numbers:
    joined: Numbers = counts[:, 0].astype(np.uint64) << np.uint64(32) | counts[:, 1]
    return joined


def _shrink_pairs(pairs: Positions, keys: Numbers) -> tuple[Numbers, Numbers]:
    """Return pairs and what they are without those that no posting has."""
    seen = np.zeros(len(keys), np.bool_)
    seen[pairs] = True
    keys, places = keys[seen], np.cumsum(seen) - 1
    counts = np.stack([keys >> np.uint64(32), keys & np.uint64(0xFFFFFFFF)], axis=1).astype(np.uint32)
    return _narrow(places[pairs], len(counts)), counts


def _narrow(pairs: Positions, count: int) -> Numbers:
    return pairs.astype(np.uint16 if count <= 1 << 16 else np.uint32)
