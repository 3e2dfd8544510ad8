"""From the caller's ids to row numbers and back, as of any point in time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class IdMap:
    """Ids by row, and an open-addressing hash table from id to newest row, in NumPy: 16 to 24 bytes a row.

    A removed id keeps its row, the caller knows which rows are alive. An id that moves to a new row leaves
    a link from the new row to the old one, so that a view that ends before the new row still finds the old
    one. One thread writes; reading needs no lock, because ids and links are in place before the slot that
    leads to them.
    """

    def __init__(self, ids: Ints | None = None) -> None:
        """Start empty, or with ``ids`` of rows from 0 that ``index_rows`` has still to enter."""
        self._ids = np.empty(256, np.int64) if ids is None else ids
        self._count = 0 if ids is None else len(ids)
        self._slots = np.full(1024, -1, np.int32)
        self._used = 0
        self._older: dict[int, int] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self._slots.nbytes + self._ids.nbytes + 100 * len(self._older)

    def ids(self, count: int) -> Ints:
        """Return the ids of the first ``count`` rows, int64 (count,), not to be written to."""
        return self._ids[:count]

    def append(self, ids: Ints) -> None:
        """Give unique ``ids`` (m,) the next rows."""
        first, stop = self._count, self._count + len(ids)
        if stop > len(self._ids):
            grown = np.empty(max(2 * len(self._ids), stop), np.int64)
            grown[:first] = self._ids[:first]
            self._ids = grown
        self._ids[first:stop] = ids
        self._count = stop
        if len(ids) == 1 and 2 * self._used < len(self._slots):
            self._append_one(int(ids[0]), first)
            return
        self.index_rows(np.arange(first, stop))

    def index_rows(self, rows: Ints) -> None:
        """Enter ``rows`` (m,), whose ids are unique among them, into the table."""
        if 2 * (self._used + len(rows)) > len(self._slots):
            self._grow(len(rows))
        self._used += self._place(self._slots, rows, links=True)

    def _grow(self, extra: int) -> None:
        bits = int(4 * (self._used + extra) - 1).bit_length()
        slots = np.full(1 << bits, -1, np.int32)
        self._place(slots, self._slots[self._slots >= 0].astype(np.int64), links=False)
        self._slots = slots

    def _place(self, slots: npt.NDArray[np.int32], rows: Ints, *, links: bool) -> int:
        """Put rows into their slots; return how many free slots were taken."""
        taken, names = 0, self._ids
        at = _hash(names[rows], len(slots))
        while rows.size:
            there = slots[at]
            same = np.flatnonzero(there >= 0)
            same = same[names[there[same]] == names[rows[same]]]
            if links:
                self._older.update(zip(rows[same].tolist(), there[same].tolist(), strict=True))
            slots[at[same]] = rows[same]
            free = np.flatnonzero(there < 0)
            slots[at[free]] = rows[free]
            won = free[slots[at[free]] == rows[free]]
            taken += len(won)
            rest = np.ones(len(rows), bool)
            rest[same] = rest[won] = False
            rows, at = rows[rest], (at[rest] + 1) & (len(slots) - 1)
        return taken

    def _append_one(self, name: int, row: int) -> None:
        """Enter one row without the cost of array operations."""
        slots, names = self._slots, self._ids
        at = _hash_one(name, len(slots))
        while (there := int(slots[at])) >= 0 and int(names[there]) != name:
            at = (at + 1) & (len(slots) - 1)
        if there >= 0:
            self._older[row] = there
        else:
            self._used += 1
        slots[at] = row

    def rows_of(self, ids: Ints, count: int) -> Ints:
        """Return for each id (m,) its newest row below ``count``, -1 where there is none."""
        if len(ids) == 1:
            return np.array([self._row_of_one(int(ids[0]), count)], np.int64)
        slots = self._slots
        rows = np.full(len(ids), -1, np.int64)
        pending = np.arange(len(ids))
        at = _hash(ids, len(slots))
        while pending.size:
            there = slots[at]
            taken = there >= 0
            hit = taken.copy()
            hit[taken] = self._ids[there[taken]] == ids[pending[taken]]
            rows[pending[hit]] = there[hit]
            go_on = taken & ~hit
            pending, at = pending[go_on], (at[go_on] + 1) & (len(slots) - 1)
        for place in np.flatnonzero(rows >= count).tolist():
            rows[place] = self._as_of(int(rows[place]), count)
        return rows

    def _row_of_one(self, name: int, count: int) -> int:
        slots = self._slots
        at = _hash_one(name, len(slots))
        while (there := int(slots[at])) >= 0 and int(self._ids[there]) != name:
            at = (at + 1) & (len(slots) - 1)
        return self._as_of(there, count)

    def _as_of(self, row: int, count: int) -> int:
        while row >= count:
            row = self._older.get(row, -1)
        return row


def _hash_one(name: int, slots: int) -> int:
    return ((name * int(_GOLDEN)) & 0xFFFFFFFFFFFFFFFF) >> (65 - slots.bit_length())


def _hash(ids: Ints, slots: int) -> Ints:
    shift = np.uint64(65 - slots.bit_length())
    spread: Ints = ((np.ascontiguousarray(ids).view(np.uint64) * _GOLDEN) >> shift).view(np.int64)
    return spread
