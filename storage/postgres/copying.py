"""Backups of a store on PostgreSQL: a store on SQLite, in one file, of one state of the database."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from agent_memory.errors import StorageError
from agent_memory.files import PRIVATE, remove_folder
from agent_memory.storage import rows
from agent_memory.storage.postgres.connections import Connections
from agent_memory.storage.sqlite.copying import verify_copy
from agent_memory.storage.sqlite.database import SqliteDatabase
from agent_memory.storage.sqlite.driver import connect_guarded
from agent_memory.storage.sqlite.lexical import SqliteLexical
from agent_memory.storage.sqlite.receiving import set_numbers
from agent_memory.storage.sqlite.slots import Link
from agent_memory.types import Progress


def copy_to_file(connections: Connections, target: Path, progress: Progress | None) -> int:
    """Copy a store that others may be writing to into one verified file; see ``Database.copy_to``.

    The file is what the SQLite back end writes: it can be opened as a store, restored, and looked into.
    """
    connections.assert_open()
    try:
        folder = Path(tempfile.mkdtemp(prefix=".copy-", dir=target.absolute().parent))
    except OSError as error:
        raise StorageError(f"cannot write the copy {target}: {error}") from error
    try:
        part = folder / "memory.db"
        with connections.read_whole() as link:
            expected = rows.count_rows(link, [*rows.TABLES, *rows.PLANS])
            database = SqliteDatabase(part, lock_timeout_s=connections.lock_timeout_s)
            try:
                database.prepare()
                with database.connections.write() as copy:
                    _fill(link, copy, expected, progress)
                    SqliteLexical(copy).rebuild()
            finally:
                database.close()
        _settle(part)
        counted = {name: expected[name] for name in ("entries", "vectors", "sessions", "generations")}
        entries = verify_copy(part, counted)
        # Into the file that is there, which its maker holds a lock on: a new one would be taken for a killed process's.
        with part.open("rb") as made, open(os.open(target, os.O_RDWR | os.O_CREAT, PRIVATE), "r+b") as copy:
            shutil.copyfileobj(made, copy, 1 << 20)
            copy.truncate()
            copy.flush()
            os.fsync(copy.fileno())
        return entries
    except OSError as error:
        raise StorageError(f"cannot write the copy {target}: {error}") from error
    finally:
        remove_folder(folder)


def _fill(source: Link, target: Link, expected: dict[str, int], progress: Progress | None) -> None:
    done, total = 0, sum(expected.values())
    for table, columns in {**rows.TABLES, **rows.PLANS}.items():
        for page in rows.read_pages(source, table, columns):
            rows.insert_page(target, table, columns, page)
            done += len(page)
            if progress is not None:
                progress(done, total)
    rows.link_versions(source, lambda page: target.raw.executemany(rows.LINK, page))
    rows.write_notes(target, rows.read_notes(source))
    set_numbers(target, rows.read_numbers(source))


def _settle(path: Path) -> None:
    """Make the file one that can be carried anywhere, without a log beside it."""
    copy = connect_guarded(path)
    try:
        copy.execute("PRAGMA journal_mode = DELETE")
    finally:
        copy.close()
