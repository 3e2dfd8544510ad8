"""Copies of a database: taken online, verified, put in the place of another."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from agent_memory.errors import StorageError
from agent_memory.files import failpoint, put_in_place, write_beside
from agent_memory.storage.erasures import StoredCopy, StoredErasure
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.driver import ERRORS, connect_guarded, sqlite3
from agent_memory.storage.sqlite.erasures import parse_copy, parse_erasure
from agent_memory.storage.sqlite.ground import FolderLock, create_private, refuse_links
from agent_memory.storage.sqlite.known import find_difference, read_objects
from agent_memory.storage.sqlite.migrate import REVISIONS, check_revision
from agent_memory.types import Progress

_PAGES = 256
_PLANS = {"schedules", "jobs", "leases", "copies"}
_ID = re.compile("[0-9a-f]{32}")
_COUNTED = ("entries", "vectors", "sessions", "generations")

Counts = dict[str, int]


@dataclass(frozen=True, slots=True)
class Restored:
    """What ``restore_copy`` did.

    Attributes:
        entries: Number of entries that the copy holds.
        origin: Id of the store that the copy was made of; None if it was too old to have one.
        receipts: The erasures of the store that was replaced, oldest first.
        copies: The copies that it knew, if it is the same store.
    """

    entries: int
    origin: str | None
    receipts: list[StoredErasure]
    copies: list[StoredCopy]


def _counts(connection: sqlite3.Connection) -> Counts:
    return {name: int(connection.execute(f"SELECT count(*) FROM {name}").fetchone()[0]) for name in _COUNTED}


def copy_online(connections: Connections, target: Path, progress: Progress | None) -> Counts:
    """Copy a database that others may be writing to (SQLite's backup API); returns the rows that it held.

    The copy is one state of the store: the source stays in one read transaction all the while.
    """

    def report(_status: int, remaining: int, total: int) -> None:
        if progress is not None:
            progress(total - remaining, total)

    try:
        with connections.raw() as source:
            source.execute("BEGIN")
            expected = _counts(source)
            create_private(target)
            copy = connect_guarded(target)
            try:
                source.backup(copy, pages=_PAGES, progress=report)
                # One file that can be carried anywhere; a store goes back to its log when it is opened.
                copy.execute("PRAGMA journal_mode = DELETE")
            finally:
                copy.close()
    except ERRORS as error:
        raise StorageError(f"cannot back up {connections.path}: {error}") from error
    return expected


def verify_copy(path: Path, expected: Counts | None) -> int:
    """Return how many entries a copy holds, after every page of it was looked at.

    Raises:
        StorageError: It is damaged, or holds other numbers of rows than expected.
    """
    try:
        connection = connect_guarded(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            faults = [row[0] for row in connection.execute("PRAGMA integrity_check") if row[0] != "ok"]
            faults += [f"broken reference in {row[0]}" for row in connection.execute("PRAGMA foreign_key_check")]
            found = _counts(connection)
        finally:
            connection.close()
    except ERRORS as error:
        raise StorageError(f"{path} is no sound copy of a store: {error}") from error
    if faults:
        raise StorageError(f"{path} is damaged: {'; '.join(str(fault) for fault in faults[:3])}")
    if expected is not None and found != expected:
        raise StorageError(f"{path} holds {found} instead of {expected}")
    return found["entries"]


def _empty_log(path: Path) -> None:
    """Move a database's log into it, alone; raises StorageError if some other program has it open."""
    try:
        connection = connect_guarded(path, timeout=1, isolation_level=None)
        try:
            # Leaving WAL mode needs the only connection; that is the question.
            mode = connection.execute("PRAGMA journal_mode = DELETE").fetchone()[0]
        finally:
            connection.close()
    except ERRORS as error:
        if "locked" in str(error) or "busy" in str(error):
            raise StorageError(f"{path} is in use; close every memory that has it open") from error
        return  # damaged: that is what a backup is restored for
    if mode != "delete":
        raise StorageError(f"{path} is in use; close every memory that has it open")


def restore_copy(source: Path, target: Path, drop_caches: Callable[[], None], *, same_id: bool = False) -> Restored:
    """Put a copy in the place of a database that nobody has open.

    Args:
        source: What ``copy_online`` wrote.
        target: The database file; a former one is lost.
        drop_caches: Deletes what was derived from the former database; called right before it is replaced.
        same_id: Whether it keeps its id, since it is only a step on the way to another place.

    Raises:
        StorageError: The copy is damaged, or the database is in use; nothing was changed.
    """
    lock = FolderLock(target.parent, 0.0)
    former: tuple[list[StoredErasure], list[StoredCopy]] = [], []
    try:
        with write_beside(target) as part:
            shutil.copyfile(source, part)
            try:
                check_revision(part, source)
                entries = verify_copy(part, None)
            except StorageError as error:
                if str(part) not in str(error):
                    raise
                raise StorageError(str(error).replace(str(part), str(source))) from error
            failpoint("restore-copied")
            # Held until the new file is in place: nobody can open the store between the check and the rename.
            lock.hold_alone()
            refuse_links(target)
            if target.exists():
                _empty_log(target)
                former = _read_receipts(target)
            origin = read_store_id(part)
            same = origin is not None and origin == read_store_id(target)
            _adopt(part, origin if same_id else read_store_id(target))
            # The former write-ahead log belongs to the former database and must not be replayed into this one. What
            # it held was moved into the former database just now.
            for tail in ("-wal", "-shm", "-journal"):
                target.with_name(target.name + tail).unlink(missing_ok=True)
            drop_caches()
            failpoint("restore-before-rename")
            install_copy(part, target)
    finally:
        lock.release()
    return Restored(entries, origin, former[0], former[1] if same else [])


def _read_receipts(path: Path) -> tuple[list[StoredErasure], list[StoredCopy]]:
    """Return the receipts and copies of a store that nobody has open; none if it has none or is damaged."""
    try:
        with _look_into(path) as connection:
            connection.row_factory = sqlite3.Row
            receipts = [parse_erasure(dict(row)) for row in connection.execute("SELECT * FROM erasures ORDER BY id")]
            return receipts, [parse_copy(dict(row)) for row in connection.execute("SELECT * FROM copies")]
    except (OSError, *ERRORS, StorageError):
        return [], []


def _adopt(path: Path, replaced: str | None) -> None:
    """Take out of a copy what another store planned, and give it an id of its own unless it replaces the same store."""
    connection = connect_guarded(path, isolation_level=None)
    try:
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("BEGIN IMMEDIATE")
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        for table in _PLANS & tables:
            connection.execute(f"DELETE FROM {table}")
        if "meta" in tables:
            row = connection.execute("SELECT value FROM meta WHERE name = 'store_id'").fetchone()
            if row is None or row[0] != replaced:
                put = "REPLACE INTO meta (name, value) VALUES ('store_id', ?)"
                connection.execute(put, (secrets.token_hex(16),))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = DELETE")
    except ERRORS as error:
        raise StorageError(f"{path} is no sound copy of a store: {error}") from error
    finally:
        connection.close()


def read_store_id(path: Path) -> str | None:
    """Return the id of the store that a database file holds; None if it is not exactly such a file."""
    try:
        with _look_into(path) as connection:
            return _read_id(connection)
    except (OSError, *ERRORS):
        return None


def count_held(path: Path, store_id: str, ids: Sequence[int]) -> int:
    """Return how many of a store's rows a copy of it holds; 0 if the file is no copy of that store."""
    try:
        with _look_into(path) as connection:
            if _read_id(connection) != store_id:
                return 0
            among = "SELECT count(*) FROM entries WHERE id IN (SELECT value FROM json_each(?))"
            return int(connection.execute(among, (json.dumps(list(ids)),)).fetchone()[0])
    except (OSError, *ERRORS):
        return 0


@contextmanager
def _look_into(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a file that may be a stranger's to read from it; nothing is created or locked beside it."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise FileNotFoundError(path)
    connection = connect_guarded(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        yield connection
    finally:
        connection.close()


def _read_id(connection: sqlite3.Connection) -> str | None:
    objects = read_objects(connection)
    if all(find_difference(objects, revision) is not None for revision in REVISIONS):
        return None
    row = connection.execute("SELECT value FROM meta WHERE name = 'store_id'").fetchone()
    return row[0] if row is not None and isinstance(row[0], str) and _ID.fullmatch(row[0]) else None


def install_copy(part: Path, target: Path) -> None:
    """Flush a copy to disk and give it its final name."""
    with open(part, "rb") as file:
        os.fsync(file.fileno())
    failpoint("backup-before-rename")
    put_in_place(part, target)
