"""What a database file says of its own state, and how it is brought into a better one."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, delete, func, select, text

from agent_memory.errors import StorageError
from agent_memory.storage.sqlite.database import Database
from agent_memory.storage.sqlite.entries import count, in_namespace
from agent_memory.storage.sqlite.schema import changes, entries

_MERGED_PAGES = 200
_MOST_MERGES = 10_000
_PRUNED = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseState:
    """Figures of a database.

    Attributes:
        rows: Entries with their former versions.
        former: Former versions among them.
        expired: Expired entries that wait to be purged, in the whole store.
        page_bytes: Size of a page.
        pages: Pages of the file.
        free_pages: Pages that hold nothing.
        wal_bytes: Size of the write-ahead log.
        lexical_segments: Segments of the full-text index; few are fast.
        changes: Length of the change log.
    """

    rows: int
    former: int
    expired: int
    page_bytes: int
    pages: int
    free_pages: int
    wal_bytes: int
    lexical_segments: int
    changes: int


def state(database: Database, connection: Connection, now: datetime) -> DatabaseState:
    """Look at a database; costs a few scans of indexes."""

    def pragma(name: str) -> int:
        return int(connection.exec_driver_sql(f"PRAGMA {name}").scalar_one())

    wal = database.path.with_name(database.path.name + "-wal")
    segments = connection.execute(text("SELECT count(DISTINCT segid) FROM lexical_idx")).scalar_one()
    return DatabaseState(
        rows=count(connection, in_namespace(())),
        former=count(connection, entries.c.superseded_at.is_not(None)),
        expired=count(connection, entries.c.superseded_at.is_(None) & (entries.c.expires_at <= now)),
        page_bytes=pragma("page_size"),
        pages=pragma("page_count"),
        free_pages=pragma("freelist_count"),
        wal_bytes=wal.stat().st_size if wal.exists() else 0,
        lexical_segments=int(segments),
        changes=int(connection.execute(select(func.count()).select_from(changes)).scalar_one()),
    )


def merge_lexical(database: Database) -> int:
    """Merge the segments of the full-text index into one, a little a transaction; returns how many steps it took.

    Words of forgotten entries leave the file with it.
    """
    pages = -_MERGED_PAGES  # negative: begin with all segments, whatever their sizes
    for step in range(1, _MOST_MERGES + 1):
        with database.write() as connection:
            before = connection.exec_driver_sql("SELECT total_changes()").scalar_one()
            merge = text("INSERT INTO lexical(lexical, rank) VALUES ('merge', :pages)")
            connection.execute(merge, {"pages": pages})
            after = connection.exec_driver_sql("SELECT total_changes()").scalar_one()
        if after - before < 2:
            return step
        pages = _MERGED_PAGES
    return _MOST_MERGES


def prune_changes(database: Database, up_to: int) -> int:
    """Delete the change log up to a number, never its last row; returns how many rows are gone.

    The log is without gaps, so that an index which is behind its beginning notices, and is built anew.
    """
    gone = 0
    while True:
        with database.write() as connection:
            first, last = connection.execute(select(func.min(changes.c.seq), func.max(changes.c.seq))).one()
            if first is None or first > min(up_to, last - 1):
                return gone
            stop = min(up_to, last - 1, first + _PRUNED - 1)
            gone += int(connection.execute(delete(changes).where(changes.c.seq <= stop)).rowcount)


def truncate_log(database: Database) -> bool:
    """Move the write-ahead log into the database and cut it; False if readers or writers are in the way."""
    return _alone(database, "PRAGMA wal_checkpoint(TRUNCATE)")


def vacuum(database: Database) -> bool:
    """Rewrite the file without its free pages; False if readers or writers are in the way.

    The whole database goes through the write-ahead log, which is then cut if nobody is in the way of that.
    """
    if not _alone(database, "VACUUM"):
        return False
    truncate_log(database)
    return True


def _alone(database: Database, statement: str) -> bool:
    connection = database.open_raw()
    try:
        row = connection.execute(statement).fetchone()
        return row is None or row[0] == 0
    except sqlite3.OperationalError as error:
        if "locked" in str(error) or "busy" in str(error):
            return False
        raise StorageError(f"{database.path}: {error}") from error
    except sqlite3.Error as error:
        raise StorageError(f"{database.path}: {error}") from error
    finally:
        connection.close()
