"""The change log in SQLite: every write of an entry has a number, which indexes follow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.storage.entries import Changes
from agent_memory.storage.sqlite.slots import Group, Link, driver
from agent_memory.storage.sqlite.values import read_integer, read_text
from agent_memory.types import IdArray

LAST_NUMBER = "SELECT seq FROM sqlite_sequence WHERE name = ?"
_SINCE = "SELECT DISTINCT entry_id FROM changes WHERE seq > ?"
_LIST = "SELECT seq, entry_id, op FROM changes WHERE seq > ? ORDER BY seq LIMIT ?"


def log_changes(connection: Link, ids: Sequence[int], op: str) -> list[int]:
    """Append one change per entry id; returns the numbers of the changes."""
    first = last_number(connection, "changes") + 1
    seqs = list(range(first, first + len(ids)))
    rows = ((seq, entry_id, op) for seq, entry_id in zip(seqs, ids, strict=True))
    driver(connection).executemany("INSERT INTO changes (seq, entry_id, op) VALUES (?, ?, ?)", rows)
    return seqs


def last_number(connection: Link, table: str) -> int:
    """Return the highest row number that a table has ever used."""
    # AUTOINCREMENT stores it here, so that the number of a deleted row is never used again.
    row = driver(connection).execute(LAST_NUMBER, (table,)).fetchone()
    number = 0 if row is None else row[0] or 0
    if not isinstance(number, int) or not 0 <= number < _LAST_NUMBER:
        raise StorageError(f"the store is damaged: the last row number of {table} is {str(number)[:40]!r}")
    return number


_LAST_NUMBER = 2**62


class SqliteChanges(Group, Changes):
    """``Changes`` in SQLite."""

    @override
    def last_seq(self) -> int:
        return int(driver(self._connection).execute("SELECT coalesce(max(seq), 0) FROM changes").fetchone()[0])

    @override
    def first_seq(self) -> int | None:
        first = driver(self._connection).execute("SELECT min(seq) FROM changes").fetchone()[0]
        return None if first is None else int(first)

    @override
    def reach_back_to(self, seq: int) -> bool:
        first = self.first_seq()
        return first is None or first <= seq + 1

    @override
    def ids_since(self, seq: int) -> IdArray:
        rows = driver(self._connection).execute(_SINCE, (seq,)).fetchall()
        return np.array([read_integer(row[0]) for row in rows], dtype=np.int64)

    @override
    def list_since(self, seq: int, limit: int) -> list[tuple[int, int, str]]:
        rows = driver(self._connection).execute(_LIST, (seq, limit)).fetchall()
        return [(read_integer(row[0]), read_integer(row[1]), str(read_text(row[2]))) for row in rows]

    @override
    def log(self, ids: Sequence[int], op: str) -> list[int]:
        return log_changes(self._connection, ids, op)
