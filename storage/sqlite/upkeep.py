"""Statistics, faults and maintenance of a database file."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import cast

from sqlalchemy import ColumnElement, delete, func, select, text, true

from agent_memory.errors import StorageError
from agent_memory.storage.records import AlteredKind, AlteredRow, DatabaseState
from agent_memory.storage.sqlite import lexical
from agent_memory.storage.sqlite.checksums import COVERED
from agent_memory.storage.sqlite.checksums import find_altered as find_rows
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.driver import ERRORS, sqlite3
from agent_memory.storage.sqlite.mentions import SqliteMentions
from agent_memory.storage.sqlite.schema import changes, entries
from agent_memory.storage.sqlite.slots import Link, Raw, driver

_NAMES = {
    "entries": "entry",
    "vectors": "vector of entry",
    "passages": "passages of entry",
    "generations": "generation",
    "assets": "file of a generation",
    "schedules": "schedule",
}
_ALTERED = {
    ("entries", "checksum"): AlteredKind.ENTRY,
    ("vectors", "checksum"): AlteredKind.STATIC,
    ("vectors", "evolved_checksum"): AlteredKind.EVOLVED,
    ("passages", "checksum"): AlteredKind.STATIC,
}

_MERGED_PAGES = 200  # in one transaction
_MOST_MERGES = 10_000
_PRUNED = 5_000  # changes deleted in one transaction


def measure(connections: Connections, connection: Link, now: datetime) -> DatabaseState:
    """Return statistics of a database; scans a few indexes."""

    def pragma(name: str) -> int:
        return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())

    def count(rows: ColumnElement[bool]) -> int:
        return int(connection.execute(select(func.count()).select_from(entries).where(rows)).scalar_one())

    segments = connection.execute(text("SELECT count(DISTINCT segid) FROM lexical_idx")).scalar_one()
    return DatabaseState(
        rows=count(true()),
        former=count(entries.c.superseded_at.is_not(None)),
        expired=count(entries.c.superseded_at.is_(None) & (entries.c.expires_at <= now)),
        page_bytes=pragma("page_size"),
        pages=pragma("page_count"),
        free_pages=pragma("freelist_count"),
        wal_bytes=connections.log_bytes(),
        lexical_segments=int(segments),
        changes=int(connection.execute(select(func.count()).select_from(changes)).scalar_one()),
        unread=SqliteMentions(connection).count_unread(),
    )


def find_faults(connection: Link) -> list[str]:
    """Return the faults that SQLite finds, one sentence each; reads every page."""
    lexical.forget_segments(connection)
    lines = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return [f"database: {line}" for line in lines if line != "ok"] + [
        f"database: row {row[1]} of {row[0]} refers to a missing row of {row[2]}" for row in broken
    ]


def find_altered(connection: Link) -> list[AlteredRow]:
    """Return the rows whose checksums do not fit; reads all that have one."""
    raw = driver(connection)
    found = []
    for table, column in COVERED:
        for values in find_rows(cast("Raw", raw), table, column):
            row = dict(zip(COVERED[table, column], values, strict=True))
            kind = _ALTERED.get((table, column), AlteredKind.OTHER)
            number = row.get("entry_id", row.get("id"))
            kept = str(row.get("key", row.get("name", number)))
            name = f"{_NAMES[table]} {kept.encode('utf-8', 'backslashreplace').decode()[:200]!r}"
            found.append(AlteredRow(kind, name, number if isinstance(number, int) else 0))
    return found


def size_bytes(path: Path) -> int:
    """Return the size of a database on disk with its log and shared memory."""
    total = 0
    for tail in ("", "-wal", "-shm"):
        try:
            total += path.with_name(path.name + tail).stat().st_size
        except FileNotFoundError:  # the last process to close a store removes its log
            continue
    return total


def merge_lexical(connections: Connections) -> int:
    """Merge the segments of the full-text index in short transactions; returns the number of transactions.

    This also removes the words of forgotten entries from the file.
    """
    pages = -_MERGED_PAGES  # negative: start with all segments, of any size
    for step in range(1, _MOST_MERGES + 1):
        with connections.write() as connection:
            before = connection.exec_driver_sql("SELECT total_changes()").scalar_one()
            merge = text("INSERT INTO lexical(lexical, rank) VALUES ('merge', :pages)")
            connection.execute(merge, {"pages": pages})
            after = connection.exec_driver_sql("SELECT total_changes()").scalar_one()
        if after - before < 2:
            return step
        pages = _MERGED_PAGES
    return _MOST_MERGES


def prune_changes(connections: Connections, up_to: int) -> int:
    """Delete the change log up to a number, but never its last row; returns the number of rows deleted.

    The log has no gaps, so an index that is older than its first row notices and is rebuilt.
    """
    deleted = 0
    while True:
        with connections.write() as connection:
            first, last = connection.execute(select(func.min(changes.c.seq), func.max(changes.c.seq))).one()
            if first is None or first > min(up_to, last - 1):
                return deleted
            stop = min(up_to, last - 1, first + _PRUNED - 1)
            deleted += int(connection.execute(delete(changes).where(changes.c.seq <= stop)).rowcount)


def truncate_log(connections: Connections, *, wait_s: float | None = None) -> bool:
    """Move the write-ahead log into the database and truncate it; False if readers or writers prevent it.

    Args:
        connections: The database.
        wait_s: Seconds to wait for them; as long as for locks if left out.
    """
    return _run_alone(connections, "PRAGMA wal_checkpoint(TRUNCATE)", wait_s)


def vacuum(connections: Connections) -> bool:
    """Rewrite the file without its free pages; False if readers or writers prevent it.

    The whole database passes through the write-ahead log, which is then truncated if possible.
    """
    if not _run_alone(connections, "VACUUM"):
        return False
    truncate_log(connections)
    return True


def _run_alone(connections: Connections, statement: str, wait_s: float | None = None) -> bool:
    try:
        with connections.raw() as raw:
            if wait_s is not None:
                raw.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
            row = raw.execute(statement).fetchone()
        return row is None or row[0] == 0
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            return False
        raise StorageError(f"{connections.path}: {error}") from error
    except ERRORS as error:
        raise StorageError(f"{connections.path}: {error}") from error
