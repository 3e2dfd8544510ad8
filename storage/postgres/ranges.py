"""Sharing the work on a generation: ranges that are locked as long as somebody works on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import sql
from typing_extensions import override

from agent_memory.storage.postgres.connections import Connections, get_driver, get_raw
from agent_memory.storage.ranges import Claim, RangeCount, Ranges
from agent_memory.storage.sqlite.slots import Link

_DIVIDE = """
INSERT INTO ranges (generation_id, first, last, entries)
SELECT %s, min(id), max(id), count(*) FROM (
    SELECT id, (row_number() OVER (ORDER BY id) - 1) / %s AS number FROM entries WHERE NOT EXISTS (
        SELECT 1 FROM vectors WHERE entry_id = entries.id AND generation_id = %s
    )
) numbered GROUP BY number
"""
_COUNT = (
    "SELECT count(*), count(*) FILTER (WHERE encoded IS NULL), "
    "coalesce(sum(entries) FILTER (WHERE encoded IS NOT NULL), 0), "
    "coalesce(sum(encoded), 0) FROM ranges WHERE generation_id = %s"
)
_OPEN = (
    "SELECT first, last FROM ranges WHERE generation_id = %s AND first > %s AND encoded IS NULL ORDER BY first LIMIT 64"
)
_DONE = "UPDATE ranges SET encoded = %s WHERE generation_id = %s AND first = %s"
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended(%s, 0))"
_STILL = "SELECT 1 FROM ranges WHERE generation_id = %s AND first = %s AND encoded IS NULL"


class PostgresRanges(Ranges):
    """``Ranges`` in PostgreSQL.

    Args:
        link: What runs the transaction's statements.
    """

    def __init__(self, link: Link) -> None:
        self._link = link

    @override
    def divide(self, generation_id: int, size: int) -> None:
        raw = get_raw(self._link)
        if raw.execute("SELECT 1 FROM ranges WHERE generation_id = %s LIMIT 1", (generation_id,)).fetchone() is None:
            raw.execute(_DIVIDE, (generation_id, size, generation_id))

    @override
    def count(self, generation_id: int) -> RangeCount:
        total, left, entries, encoded = get_driver(self._link).run(_COUNT, (generation_id,)).fetchone()
        return RangeCount(total=total, left=int(left), entries=int(entries), encoded=int(encoded))


@contextmanager
def claim(connections: Connections, generation_id: int) -> Iterator[Claim | None]:
    """See ``Database.claim``.

    What is locked is a number, not the row, and no transaction stays open: one would keep forgotten rows in the tables,
    and a locked row would stop whoever deletes the generation while its holder waits for the write lock.
    """
    with connections.outside() as raw:
        raw.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(connections.schema)))
        found = _find(raw, connections.schema, generation_id)
        yield found
        if found is not None and found.encoded is not None:
            raw.execute(_DONE, (found.encoded, generation_id, found.first))


def _find(raw: psycopg.Connection[Any], schema: str, generation_id: int) -> Claim | None:
    """Return the first range that is not done and that nobody holds; it is held until the connection ends."""
    first = 0
    while rows := raw.execute(_OPEN, (generation_id, first)).fetchall():
        for first, last in rows:
            name = (f"agent-memory range {schema} {generation_id} {first}",)
            if raw.execute(_LOCK, name).fetchall() == [(True,)]:
                if raw.execute(_STILL, (generation_id, first)).fetchone():
                    return Claim(first=first, last=last)
                raw.execute(_UNLOCK, name)
    return None
