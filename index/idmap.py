"""From the caller's ids to row numbers and back, as of any number of rows."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from agent_memory.types import IdArray, RowArray

_Slots: TypeAlias = npt.NDArray[np.int32]

_GOLDEN = 0x9E3779B97F4A7C15
_SMALLEST = 1024
_DENSE = 8


class IdMap:
    """The id of each row, and a table from each id to its newest row, in NumPy: 16 to 40 bytes per row.

    While ids are dense, as the row ids of a database are, the table is indexed by the id itself; otherwise it is an
    open-addressing hash table. A removed id keeps its row: the caller knows which rows are alive. When an id moves
    to a new row, the new row keeps a link to the old one, so that a view that ends before the new row still finds
    the old one. One thread writes. Readers need no lock, because ids and links are in place before the slot that
    leads to them.

    Args:
        ids: Ids of the rows from 0 on, still to be entered by ``index_rows``; None to start empty.
    """

    def __init__(self, ids: IdArray | None = None) -> None:
        self._ids = np.empty(256, np.int64) if ids is None else ids
        self._count = 0 if ids is None else len(ids)
        self._table: tuple[_Slots, bool] = (np.full(_SMALLEST, -1, np.int32), True)
        self._used = 0
        self._older: dict[int, int] = {}

    def __len__(self) -> int:
        return self._count

    @property
    def nbytes(self) -> int:
        """Resident bytes."""
        return self._table[0].nbytes + self._ids.nbytes + 100 * len(self._older)

    def read_ids(self, count: int) -> IdArray:
        """Return the ids of the first ``count`` rows, int64 (count,): a view that must not be written to."""
        return self._ids[:count]

    def append(self, ids: IdArray) -> None:
        """Assign the next rows to ``ids`` (m,), which must be unique."""
        first, stop = self._count, self._count + len(ids)
        if stop > len(self._ids):
            grown = np.empty(max(2 * len(self._ids), stop), np.int64)
            grown[:first] = self._ids[:first]
            self._ids = grown
        self._ids[first:stop] = ids
        self._count = stop
        if len(ids) != 1 or not self._enter_one(first, int(ids[0])):
            self.index_rows(np.arange(first, stop))

    def _enter_one(self, row: int, key: int) -> bool:
        """Enter one row without the overhead of arrays; return False if the table must change for it."""
        slots, direct = self._table
        if not direct or key >= len(slots):
            return False
        before = int(slots[key])
        if before >= 0:
            self._older[row] = before
        slots[key] = row
        return True

    def index_rows(self, rows: RowArray) -> None:
        """Enter ``rows`` (m,) into the table; their ids must be unique."""
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

    def _grow(self, extra: int, highest: int) -> tuple[_Slots, bool]:
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

    def _place_direct(self, slots: _Slots, rows: RowArray) -> None:
        at = self._ids[rows]
        there = slots[at]
        for place in np.flatnonzero(there >= 0).tolist():
            self._older[int(rows[place])] = int(there[place])
        slots[at] = rows

    def _place(self, slots: _Slots, rows: RowArray, *, links: bool) -> int:
        """Put rows into their slots and return how many free slots were taken."""
        taken, ids = 0, self._ids
        at = _hash(ids[rows], len(slots))
        while rows.size:
            there = slots[at]
            same = np.flatnonzero(there >= 0)
            same = same[ids[there[same]] == ids[rows[same]]]
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

    def find_row(self, key: int, count: int) -> int:
        """Return the newest row below ``count`` of one id, or -1 if there is none."""
        slots, direct = self._table
        if not direct:
            return int(self.find_rows(np.array([key]), count)[0])
        row = int(slots[key]) if key < len(slots) else -1
        while row >= count:
            row = self._older.get(row, -1)
        return row

    def find_rows(self, ids: IdArray, count: int) -> RowArray:
        """Return the newest row below ``count`` of each id (m,), or -1 where there is none; no id may be negative."""
        slots, direct = self._table
        if not ids.size:
            return np.empty(0, np.int64)
        if direct:
            rows = slots.take(ids, mode="clip").astype(np.int64)
            if ids.max() >= len(slots):
                rows[ids >= len(slots)] = -1
        else:
            rows = self._find_hashed(slots, ids)
        if rows.max() < count:
            return rows
        for place in np.flatnonzero(rows >= count).tolist():
            row = int(rows[place])
            while row >= count:
                row = self._older.get(row, -1)
            rows[place] = row
        return rows

    def _find_hashed(self, slots: _Slots, ids: IdArray) -> RowArray:
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


def _hash(ids: IdArray, slots: int) -> npt.NDArray[np.int64]:
    shift = np.uint64(65 - slots.bit_length())
    mixed = np.ascontiguousarray(ids).view(np.uint64) * np.uint64(_GOLDEN)
    spread: npt.NDArray[np.int64] = (mixed >> shift).view(np.int64)
    return spread
