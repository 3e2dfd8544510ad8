"""The times that entries' texts mention, as spans beside the entries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from sqlalchemy import Connection, select
from typing_extensions import override

from agent_memory.storage.entries import Mentions
from agent_memory.storage.records import Span
from agent_memory.storage.sqlite.schema import EPOCH, MICROSECOND, entries, microseconds
from agent_memory.storage.sqlite.slots import Group, driver

_PUT = "INSERT INTO mentions (entry_id, start, stop) VALUES (?, ?, ?)"
_UNREAD = "SELECT value FROM meta WHERE name = 'mentions'"
"""Selects the id up to which entries are from before texts were read for times; none if all are read."""
_AMONG = "SELECT entry_id, start, stop FROM mentions WHERE entry_id IN (SELECT value FROM json_each(?))"


def put_mentions(connection: Connection, rows: Iterable[tuple[int, Sequence[Span]]], replaced: Sequence[int]) -> None:
    """Write what entries mention, given as (entry id, spans), those of replaced entries in place of their former."""
    raw = driver(connection)
    raw.executemany("DELETE FROM mentions WHERE entry_id = ?", [(number,) for number in replaced])
    raw.executemany(
        _PUT,
        [(number, microseconds(start), microseconds(stop)) for number, spans in rows for start, stop in set(spans)],
    )


def copy_mentions(connection: Connection, entry_id: int, copy_id: int) -> None:
    """Give a copy of an entry what the entry mentions."""
    copied = "INSERT INTO mentions (entry_id, start, stop) SELECT ?, start, stop FROM mentions WHERE entry_id = ?"
    driver(connection).execute(copied, (copy_id, entry_id))


class SqliteMentions(Group, Mentions):
    """``Mentions`` in SQLite."""

    @override
    def select(self, ids: Sequence[int]) -> dict[int, list[Span]]:
        found: dict[int, list[Span]] = {}
        for entry_id, start, stop in driver(self._connection).execute(_AMONG, (json.dumps(list(ids)),)):
            found.setdefault(entry_id, []).append((EPOCH + start * MICROSECOND, EPOCH + stop * MICROSECOND))
        return found

    @override
    def count_unread(self) -> int:
        last = self._last_unread()
        count = "SELECT count(*) FROM entries WHERE id <= ?"
        return 0 if last is None else int(driver(self._connection).execute(count, (last,)).fetchone()[0])

    @override
    def select_unread(self, limit: int) -> list[tuple[int, str, datetime]]:
        older = entries.c.id <= (self._last_unread() or 0)
        page = select(entries.c.id, entries.c.text, entries.c.event_time).where(older)
        rows = self._connection.execute(page.order_by(entries.c.id.desc()).limit(limit))
        return [(row.id, row.text, row.event_time) for row in rows]

    @override
    def put(self, spans: Mapping[int, Sequence[Span]]) -> None:
        put_mentions(self._connection, spans.items(), list(spans))
        raw = driver(self._connection)
        left = raw.execute("SELECT max(id) FROM entries WHERE id < ?", (min(spans, default=0),)).fetchone()[0]
        if left is None:
            raw.execute("DELETE FROM meta WHERE name = 'mentions'")
        else:
            raw.execute("UPDATE meta SET value = ? WHERE name = 'mentions'", (str(left),))

    def _last_unread(self) -> int | None:
        row = driver(self._connection).execute(_UNREAD).fetchone()
        return None if row is None or not str(row[0]).isdecimal() else int(row[0])
