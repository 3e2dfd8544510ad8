"""Copies of a database: taken online, verified, put in the place of another."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from agent_memory.errors import StorageError
from agent_memory.storage.sqlite.database import Database

_PAGES = 256
_COUNTED = ("entries", "vectors", "sessions", "generations")

Counts = dict[str, int]


def _counts(connection: sqlite3.Connection) -> Counts:
    return {name: int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in _COUNTED}


def copy_online(database: Database, target: Path, progress: Callable[[int, int], None] | None) -> Counts:
    """Copy a database that others may be writing to (SQLite's backup API); returns the rows that it held.

    The copy is one state of the store: the source stays in one read transaction all the while.
    """

    def report(_status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    try:
        source = database.open_raw()
        try:
            source.execute("BEGIN")
            expected = _counts(source)
            copy = sqlite3.connect(target)
            try:
                source.backup(copy, pages=_PAGES, progress=report)
                # One file that can be carried anywhere; a store goes back to its log when it is opened.
                copy.execute("PRAGMA journal_mode = DELETE")
            finally:
                copy.close()
        finally:
            source.close()
    except sqlite3.Error as error:
        raise StorageError(f"cannot back up {database.path}: {error}") from error
    return expected


def verified(path: Path, expected: Counts | None) -> int:
    """Return how many entries a copy holds, after every page of it was looked at.

    Raises:
        StorageError: It is damaged, or holds other numbers of rows than expected.
    """
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            faults = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
            faults += [f"broken reference in {row[0]}" for row in connection.execute("PRAGMA foreign_key_check")]
            found = _counts(connection)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(f"{path} is no sound copy of a store: {error}") from error
    if faults:
        raise StorageError(f"{path} is damaged: {'; '.join(str(fault) for fault in faults[:3])}")
    if expected is not None and found != expected:
        raise StorageError(f"{path} holds {found} instead of {expected}")
    return found["entries"]


def assert_unused(path: Path) -> None:
    """Move a database's log into it, alone; raises StorageError if somebody else has it open or it is damaged."""
    try:
        connection = sqlite3.connect(path, timeout=1, isolation_level=None)
        try:
            # Leaving WAL mode needs the only connection; that is the question.
            mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        finally:
            connection.close()
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "busy" in str(error):
            raise StorageError(f"{path} is in use; close every memory that has it open") from error
        return  # damaged: that is what a backup is restored for
    if mode != "delete":
        raise StorageError(f"{path} is in use; close every memory that has it open")
