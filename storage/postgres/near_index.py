"""Making the approximate index of vectors on the server, and taking what was deleted out of its table's file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from agent_memory.storage.postgres.connections import Connections
from agent_memory.storage.postgres.nearest import Words, find_extension
from agent_memory.storage.records import Generation

_TABLES = (
    "SELECT relname, EXISTS (SELECT 1 FROM pg_index JOIN pg_class i ON i.oid = indexrelid "
    "WHERE indrelid = c.oid AND i.relname = c.relname || '_near') FROM pg_class c "
    r"WHERE relkind = 'r' AND relnamespace = to_regnamespace(%s) AND relname ~ '^nearest_\d+$' ORDER BY relname"
)
_HAS_INDEX = (
    "SELECT indisvalid FROM pg_index JOIN pg_class ON pg_class.oid = indexrelid "
    "WHERE relname = %s AND relnamespace = to_regnamespace(%s)"
)
LASTING = "the server"
"""How reasons begin that waiting does not end."""
SEEN = "a transaction somewhere in the database"
"""How reasons begin that end with somebody's transaction."""

_WARNING = "WARNING: "
_KEPT = re.compile(r"(\d+) are dead but not yet removable")
_HEADER_BYTES, _ROW_HEADER, _POINTER, _ALIGNED = 24, 24, 4, 8
_SMALLEST_MEMORY, _MOST_MEMORY = 64 << 20, 2 << 30
_NODE_BYTES = 800
"""What a row takes in memory beside its vector while the approximate index is built."""


def list_tables(raw: psycopg.Connection[Any], schema: str) -> dict[str, bool]:
    """Return the tables of vectors in a schema, and whether each has an approximate index."""
    return dict(raw.execute(_TABLES, (schema,)).fetchall())


def build_index(connections: Connections, generation: Generation) -> bool:
    """Make the approximate index of a generation if there is none; returns False if another process is doing it.

    Others read and write entries meanwhile. What deletes entries, or takes them into the table, waits.
    """
    with connections.outside() as raw:
        words = Words(generation, find_extension(connections, raw))
        (free,) = raw.execute(
            "SELECT pg_try_advisory_lock(%s)", (connections.lock_key ^ generation.id,)
        ).fetchone() or (False,)
        if not free:
            return False
        name = f"{words.table}_near"
        if raw.execute(_HAS_INDEX, (name, connections.schema)).fetchone():
            return True
        raw.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(connections.schema)))
        row = raw.execute(f"SELECT count(*) FROM {words.table}").fetchone()
        needed = (int(row[0]) if row else 0) * (2 * words.coarse + _NODE_BYTES)
        raw.execute(f"SET maintenance_work_mem TO '{min(max(needed, _SMALLEST_MEMORY), _MOST_MEMORY) >> 10}kB'")
        # By the store's owner's settings alone; several workers need as much shared memory, which containers lack.
        raw.execute("SET max_parallel_maintenance_workers TO 0")
        raw.execute(f"CREATE INDEX IF NOT EXISTS {words.table}_flat ON {words.table} (row_id) WHERE {words.flat}")
        raw.execute(f"CREATE INDEX {name} ON {words.table} USING hnsw ({words.prefix} {words.operators})")
        raw.execute(f"ANALYZE {words.table}")
        return True


def collect_notices(raw: psycopg.Connection[Any]) -> list[str]:
    """Return a list that what the server says by the way is added to, warnings with a mark before them."""
    notices: list[str] = []

    def note(notice: psycopg.errors.Diagnostic) -> None:
        mark = _WARNING if notice.severity_nonlocalized == "WARNING" else ""
        notices.append(f"{mark}{notice.message_primary} {notice.message_detail}")

    raw.add_notice_handler(note)
    return notices


def find_left(notices: Sequence[str], pattern: re.Pattern[str], table: str) -> str | None:
    """Return why a table may still hold former rows, by what the server has said while it was vacuumed; None if none.

    Args:
        notices: What it has said.
        pattern: Finds how many rows are left.
        table: The table.
    """
    kept = [int(found[1]) for notice in notices if (found := pattern.search(notice))]
    warned = [notice.removeprefix(_WARNING).removesuffix(" None") for notice in notices if notice.startswith(_WARNING)]
    if warned and not kept:
        return f"{LASTING} says: {warned[0]}"
    if not kept:
        return f"{LASTING} does not say what it has left in the table {table}; its lc_messages is not English"
    if any(kept):
        return f"{SEEN} still sees former rows of the table {table}"
    return None


def overwrite(raw: psycopg.Connection[Any], schema: str, table: str) -> str | None:
    """Take what was deleted out of the file of a table with an approximate index; returns what prevented it, or None.

    To write the table again would mean to build that index again, which takes a minute for 100,000 rows. But all rows
    have the same size: after VACUUM, which erases them from the index, what a page still holds of a deleted row lies
    where another row fits. So rows of zeros are put into every such place, all pages are seen to be full, and the rows
    of zeros are deleted. If they do not fit, the approximate index is deleted, and the table written again.
    """
    notices = collect_notices(raw)
    raw.execute(sql.SQL("VACUUM (VERBOSE, INDEX_CLEANUP ON) {}").format(sql.Identifier(schema, table)))
    if (reason := find_left(notices, _KEPT, table)) is not None:
        return reason
    raw.execute(sql.SQL("SET search_path TO {}").format(sql.Identifier(schema)))
    with raw.transaction():
        raw.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE")
        is_full = _fill(raw, table)
    if not is_full:
        # Rows of this size leave room that is not used, or somebody has deleted others meanwhile.
        with raw.transaction():
            raw.execute(f"DROP INDEX IF EXISTS {table}_near")
            number = int(table.rpartition("_")[2])
            raw.execute("UPDATE nearest SET candidates = 0 WHERE generation_id = %s", (number,))
        raw.execute(f"VACUUM (FULL, ANALYZE) {table}")
    return None


def _fill(raw: psycopg.Connection[Any], table: str) -> bool:
    """Put rows of zeros wherever a page has room, and delete them; returns whether all pages were full."""
    asked = f"SELECT entry_id, vector::text, pg_column_size(vector), pg_typeof(vector)::text FROM {table} LIMIT 1"
    example = raw.execute(asked).fetchone()
    if example is None:
        raw.execute(f"TRUNCATE {table}")
        return True
    entry_id, vector, size, kind = example
    zeros = f"[{','.join('0' for _ in vector.split(','))}]"
    (page,) = raw.execute("SELECT current_setting('block_size')::int").fetchone() or (8192,)
    row = -(-(_ROW_HEADER + 16 + size) // _ALIGNED) * _ALIGNED
    pages, live = _count(raw, table, page)
    room = pages * ((page - _HEADER_BYTES) // (row + _POINTER)) - live
    raw.execute(
        f"INSERT INTO {table} SELECT -n, %s, %s::{kind} FROM generate_series(1, %s) AS n", (entry_id, zeros, room)
    )
    is_full = _count(raw, table, page) == (pages, live + room)
    raw.execute(f"DELETE FROM {table} WHERE row_id < 0")
    return is_full


def _count(raw: psycopg.Connection[Any], table: str, page: int) -> tuple[int, int]:
    """Return how many pages and rows a table has."""
    asked = f"SELECT pg_relation_size(%s::regclass) / %s, (SELECT count(*) FROM {table})"
    found = raw.execute(asked, (table, page)).fetchone()
    return (int(found[0]), int(found[1])) if found else (0, 0)
