"""Statistics, faults and maintenance of a store on PostgreSQL."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import psycopg
from psycopg import sql

from agent_memory.storage.postgres import near_index
from agent_memory.storage.postgres.connections import Connections, get_raw
from agent_memory.storage.records import DatabaseState
from agent_memory.storage.sqlite.mentions import SqliteMentions
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.storage.sqlite.values import microseconds

MOST_REWRITTEN = 1 << 30
"""Size in bytes of the tables up to which ``forget`` writes them again; larger ones wait for maintenance."""

HELD = ("passages", "lexical", "mentions", "vectors", "entries", "sessions", "queries", "jobs", "changes")
"""Tables that hold what was said, or was derived from it."""

_COUNTS = (
    "SELECT count(*), count(superseded_at), count(*) FILTER (WHERE superseded_at IS NULL AND expires_at <= ?), "
    "(SELECT count(*) FROM changes) FROM entries"
)
_SIZE = (
    "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class "
    "WHERE relkind = 'r' AND relnamespace = to_regnamespace(%s) AND relname <> ALL(%s)"
)
_INVALID = (
    "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
    "WHERE NOT indisvalid AND relnamespace = to_regnamespace(%s)"
)
_SHAPE = r"""
WITH mine AS (SELECT oid, relname, relkind FROM pg_class
    WHERE relnamespace = to_regnamespace(%s) AND relname !~ '^nearest_\d')
SELECT 'table ' || relname FROM mine WHERE relkind = 'r'
UNION ALL SELECT 'index ' || relname FROM mine JOIN pg_index ON indexrelid = oid
UNION ALL SELECT 'column ' || relname || '.' || attname || CASE WHEN attnotnull THEN ' not null' ELSE '' END
    FROM mine JOIN pg_attribute ON attrelid = oid WHERE relkind = 'r' AND attnum > 0 AND NOT attisdropped
UNION ALL SELECT 'constraint ' || conname FROM mine JOIN pg_constraint ON conrelid = mine.oid
    WHERE contype <> 'n' AND convalidated
UNION ALL SELECT 'trigger ' || tgname || ' on ' || relname FROM mine JOIN pg_trigger ON tgrelid = mine.oid
    WHERE NOT tgisinternal
UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = to_regnamespace(%s)
"""
_DISABLED = (
    "SELECT DISTINCT relname FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
    "WHERE tgenabled NOT IN ('O', 'A') AND relnamespace = to_regnamespace(%s)"
)
_NOTE = "shape"
_KEPT = re.compile(r"(\d+) dead row versions cannot be removed yet")
_PAUSE_S, _PATIENCE_S = 0.05, 3.0


def measure(connections: Connections, link: Link, now: datetime) -> DatabaseState:
    """Return statistics of a store; scans a few indexes. Of the server's own log and free pages it tells nothing."""
    raw = driver(link)
    rows, former, expired, changes = raw.execute(_COUNTS, (microseconds(now),)).fetchone()
    page = int(raw.execute("SELECT current_setting('block_size')").fetchone()[0])
    return DatabaseState(
        rows=rows,
        former=former,
        expired=expired,
        page_bytes=page,
        pages=-(-_read_size(get_raw(link), connections) // page),
        free_pages=0,
        wal_bytes=0,
        lexical_segments=1,
        changes=changes,
        unread=SqliteMentions(link).count_unread(),
    )


def note_shape(raw: psycopg.Connection[Any], schema: str) -> None:
    """Keep what the tables of a store consist of, after they were made or migrated."""
    raw.execute("DELETE FROM meta WHERE name = %s", (_NOTE,))
    raw.execute("INSERT INTO meta VALUES (%s, %s)", (_NOTE, json.dumps(sorted(_list_parts(raw, schema)))))


def _list_parts(raw: psycopg.Connection[Any], schema: str) -> set[str]:
    return {row[0] for row in raw.execute(_SHAPE, (schema, schema))}


def find_faults(connections: Connections, link: Link) -> list[str]:
    """Return what is gone of a store's tables, or does not work, one sentence each."""
    raw, schema = get_raw(link), connections.schema
    rows = raw.execute(_INVALID, (schema,)).fetchall()
    faults = [f"database: the index {row[0]} is invalid; REINDEX it" for row in rows]
    noted = raw.execute("SELECT value FROM meta WHERE name = %s", (_NOTE,)).fetchone()
    gone = set(json.loads(noted[0])) - _list_parts(raw, schema) if noted else set()
    faults += [f"database: the {part} is gone; make it again, or restore a backup" for part in sorted(gone)]
    rows = raw.execute(_DISABLED, (schema,)).fetchall()
    return faults + [f"database: triggers of the table {row[0]} are disabled; enable them" for row in rows]


def size_bytes(connections: Connections) -> int:
    """Return the size of a store's tables and indexes on the server's disk."""
    with connections.read() as link:
        return _read_size(get_raw(link), connections)


def _read_size(raw: psycopg.Connection[Any], connections: Connections, *, written_again: bool = False) -> int:
    """Return the size of a store's tables, or of those that are written again as a whole."""
    kept = [table for table, has_index in near_index.list_tables(raw, connections.schema).items() if has_index]
    row = raw.execute(_SIZE, (connections.schema, kept if written_again else [])).fetchone()
    return int(row[0]) if row else 0


def vacuum(connections: Connections, *, wait_s: float | None = None) -> bool:
    """Write a store's tables again without what was deleted; False if readers or writers prevent it.

    Args:
        connections: The store.
        wait_s: Seconds to wait for each table; as long as for locks, but no longer than a second, if left out.
    """
    return rewrite(connections, min(1.0, connections.lock_timeout_s) if wait_s is None else wait_s) is None


def rewrite(connections: Connections, wait_s: float) -> str | None:
    """Write the tables that hold what was said again, each from its rows alone; returns what prevented it, or None."""
    if connections.is_reading():
        return "this thread is reading the store"
    with connections.outside() as raw:
        notices = near_index.collect_notices(raw)
        raw.execute(sql.SQL("SET lock_timeout TO {}").format(sql.Literal(max(1, int(wait_s * 1000)))))
        tables = dict.fromkeys(HELD, False) | near_index.list_tables(raw, connections.schema)
        for table, has_index in tables.items():
            notices.clear()
            name = sql.Identifier(connections.schema, table)
            try:
                if has_index:
                    if (reason := near_index.overwrite(raw, connections.schema, table)) is not None:
                        return reason
                    continue
                raw.execute(sql.SQL("VACUUM (FULL, VERBOSE, ANALYZE) {}").format(name))
            except psycopg.errors.LockNotAvailable:
                return f"somebody reads or writes the table {table}"
            if (reason := near_index.find_left(notices, _KEPT, table)) is not None:
                return reason
    return None


def erase_traces(connections: Connections, finish: Callable[[Link], None], *, wait_s: float) -> str | None:
    """See ``Database.erase_traces``; the server's log, standbys and backups of it are out of reach."""
    began = time.monotonic()
    deadline, pause_s = began + wait_s, _PAUSE_S
    with connections.read() as link:
        size = _read_size(get_raw(link), connections, written_again=True)
    if size > MOST_REWRITTEN:
        return f"the tables have {size} bytes, too many to be written again at once; maintenance does it"
    while True:
        reason = rewrite(connections, max(0.05, min(1.0, deadline - time.monotonic())))
        if reason is None:
            with connections.write() as link:
                finish(link)
            return None
        now = time.monotonic()
        # A snapshot that lasts, as that of a dump, is not waited for; each time writes the tables again.
        lasting = reason.startswith(near_index.SEEN) and now - began > _PATIENCE_S
        if now >= deadline or lasting or connections.is_reading() or reason.startswith(near_index.LASTING):
            return reason
        time.sleep(pause_s)
        pause_s *= 2
