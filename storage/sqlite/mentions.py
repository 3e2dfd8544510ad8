"""The times that entries' texts mention, as spans beside the entries."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.storage.entries import Mentions
from agent_memory.storage.records import Span
from agent_memory.storage.sqlite.slots import Group, Link, driver
from agent_memory.storage.sqlite.values import microseconds, read_integer, read_text, read_time

_PUT = "INSERT INTO mentions (entry_id, start, stop) VALUES (?, ?, ?)"
_UNREAD = "SELECT value FROM meta WHERE name = 'mentions'"
"""Selects the id up to which entries are from before texts were read for times; none if all are read."""
_PAGE = "SELECT id, text, event_time FROM entries WHERE id <= ? ORDER BY id DESC LIMIT ?"
_AMONG = (
    "SELECT entry_id, start, stop FROM mentions WHERE entry_id IN (SELECT value FROM json_each(?)) AND stop > start"
)


def _read_bound(value: object) -> datetime:
    moment = read_time(value)
    if moment is None:
        raise StorageError("the store is damaged: a time is missing")
    return moment


def put_mentions(connection: Link, rows: Iterable[tuple[int, Sequence[Span]]], replaced: Sequence[int]) -> None:
    """Write what entries mention, given as (entry id, spans), those of replaced entries in place of their former."""
    raw = driver(connection)
    raw.executemany("DELETE FROM mentions WHERE entry_id = ?", [(number,) for number in replaced])
    raw.executemany(
        _PUT,
        [(number, microseconds(start), microseconds(stop)) for number, spans in rows for start, stop in set(spans)],
    )


def copy_mentions(connection: Link, copy_ids: Mapping[int, int]) -> None:
    """Give copies of entries, by the entries' ids, what the entries mention."""
    copied = "INSERT INTO mentions (entry_id, start, stop) SELECT ?, start, stop FROM mentions WHERE entry_id = ?"
    driver(connection).executemany(copied, [(copy_id, entry_id) for entry_id, copy_id in copy_ids.items()])


class SqliteMentions(Group, Mentions):
    """``Mentions`` in SQLite."""

    @override
    def select(self, ids: Sequence[int]) -> dict[int, list[Span]]:
        found: dict[int, list[Span]] = {}
        for entry_id, start, stop in driver(self._connection).execute(_AMONG, (json.dumps(list(ids)),)):
            found.setdefault(entry_id, []).append((_read_bound(start), _read_bound(stop)))
        return found

    @override
    def count_unread(self) -> int:
        last = self._last_unread()
        count = "SELECT count(*) FROM entries WHERE id <= ?"
        return 0 if last is None else int(driver(self._connection).execute(count, (last,)).fetchone()[0])

    @override
    def select_unread(self, limit: int) -> list[tuple[int, str, datetime]]:
        rows = driver(self._connection).execute(_PAGE, (self._last_unread() or 0, limit))
        return [(read_integer(number), read_text(text), _read_bound(moment)) for number, text, moment in rows]

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
