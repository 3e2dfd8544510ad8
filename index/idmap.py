"""From the caller's ids to row numbers and back, as of any point in time."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Slots = npt.NDArray[np.int32]

_GOLDEN = 0x9E3779B97F4A7C15
_SMALLEST = 1024
_DENSE = 8


class IdMap:
    """Ids by row, and a table from id to newest row, in NumPy: 16 to 40 bytes a row.

    While ids are dense, as row ids of a database are, the table is indexed by the id itself; else it is an
    open-addressing hash table. A removed id keeps its row, the caller knows which rows are alive. An id that
    moves to a new row leaves a link from the new row to the old one, so that a view that ends before the
    new row still finds the old one. One thread writes; reading needs no lock, because ids and links are in
    place before the slot that leads to them.
    """

    def __init__(self, ids: Ints | None = None) -> None:
        """Start empty, or with ``ids`` of rows from 0 that ``index_rows`` has still to enter."""
        self._ids = np.empty(256, np.int64) if ids is None else ids
        self._count = 0 if ids is None else len(ids)
        self._table: tuple[Slots, bool] = (np.full(_SMALLEST, -1, np.int32), True)
        self._used = 0
        self._older: dict[int, int] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self._table[0].nbytes + self._ids.nbytes + 100 * len(self._older)

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
        if len(ids) != 1 or not self._enter_one(first, int(ids[0])):
            self.index_rows(np.arange(first, stop))

    def _enter_one(self, row: int, name: int) -> bool:
        """Enter one row without the overhead of arrays; False if the table must change for it."""
        slots, direct = self._table
        if not direct or name >= len(slots):
            return False
        before = int(slots[name])
        if before >= 0:
            self._older[row] = before
        slots[name] = row
        return True

    def index_rows(self, rows: Ints) -> None:
        """Enter ``rows`` (m,), whose ids are unique among them, into the table."""
        if not rows.size:
            return
        slots, direct = self._table
        highest = int(self._ids[rows].max()) if rows.size > 1 else int(self._ids[rows[0]])
        full = highest >= len(slots) if direct else 2 * (self._used + len(rows)) > len(slots)
        if full:
            slots, direct = self._grow(len(rows), highest)
        if direct:
            self._place_direct(slots, rows)
        else:
            self._used += self._place(slots, rows, links=True)

    def _grow(self, extra: int, highest: int) -> tuple[Slots, bool]:
        slots, direct = self._table
        kept = slots[slots >= 0].astype(np.int64)
        direct = direct and highest < max(_SMALLEST, _DENSE * (len(kept) + extra))
        bits = int(2 * highest + 1 if direct else 4 * (len(kept) + extra) - 1).bit_length()
        table = np.full(1 << bits, -1, np.int32)
        if direct:
            table[: len(slots)] = slots
        else:
            self._used = self._place(table, kept, links=False)
        self._table = (table, direct)
        return self._table

    def _place_direct(self, slots: Slots, rows: Ints) -> None:
        at = self._ids[rows]
        there = slots[at]
        for place in np.flatnonzero(there >= 0).tolist():
            self._older[int(rows[place])] = int(there[place])
        slots[at] = rows

    def _place(self, slots: Slots, rows: Ints, *, links: bool) -> int:
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

    def row_of(self, name: int, count: int) -> int:
        """Return the newest row below ``count`` of one id, -1 if there is none."""
        slots, direct = self._table
        if not direct:
            return int(self.rows_of(np.array([name]), count)[0])
        row = int(slots[name]) if name < len(slots) else -1
        while row >= count:
            row = self._older.get(row, -1)
        return row

    def rows_of(self, ids: Ints, count: int) -> Ints:
        """Return for each id (m,), none negative, its newest row below ``count``, -1 where there is none."""
        slots, direct = self._table
        if not ids.size:
            return np.empty(0, np.int64)
        if direct:
            rows = slots.take(ids, mode="clip").astype(np.int64)
            if ids.max() >= len(slots):
                rows[ids >= len(slots)] = -1
        else:
            rows = self._hashed_rows(slots, ids)
        if rows.max() < count:
            return rows
        for place in np.flatnonzero(rows >= count).tolist():
            row = int(rows[place])
            while row >= count:
                row = self._older.get(row, -1)
            rows[place] = row
        return rows

    def _hashed_rows(self, slots: Slots, ids: Ints) -> Ints:
        at = _hash(ids, len(slots))
        rows = slots[at].astype(np.int64)
        pending = np.flatnonzero((self._ids.take(rows, mode="clip") != ids) & (rows >= 0))
        at = at[pending]
        while pending.size:
            at = (at + 1) & (len(slots) - 1)
            there = slots[at]
            rows[pending] = there
            go_on = (self._ids.take(there, mode="clip") != ids[pending]) & (there >= 0)
            pending, at = pending[go_on], at[go_on]
        return rows


def _hash(ids: Ints, slots: int) -> Ints:
    shift = np.uint64(65 - slots.bit_length())
    mixed = np.ascontiguousarray(ids).view(np.uint64) * np.uint64(_GOLDEN)
    spread: Ints = (mixed >> shift).view(np.int64)
    return spread
