"""Connections of SQLite: write-ahead log, full durability, one connection per thread and process."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection as Connection
from sqlalchemy import create_engine, event
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from agent_memory.errors import ClosedError, LockTimeoutError, StorageError
from agent_memory.files import failpoint

_BUSY = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
_PAUSE_S = 0.005

LOG_BYTES = 16 << 20
"""What is left of a write-ahead log that grew beyond it, behind a long reader or a VACUUM, when it is begun anew.

A log without such events has about 8 MiB: a thousand pages, then SQLite moves it into the database.
"""


class Connections:
    """One SQLite file, opened by any number of threads and processes at once.

    Args:
        path: The database file; its folder must exist.
        lock_timeout_s: Seconds a writer waits for another process before LockTimeoutError.

    Attributes:
        read_only: True if the folder cannot be written; reads work, writes raise StorageError.
    """

    def __init__(self, path: Path, *, lock_timeout_s: float) -> None:
        self.path = path
        self.lock_timeout_s = lock_timeout_s
        writable = os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
        self.read_only = not writable
        self._closed = False
        self._local = threading.local()
        self._open: weakref.WeakSet[Connection] = weakref.WeakSet()
        self._inherited: list[Connection] = []
        self._engine = create_engine("sqlite://", creator=self._connect, poolclass=NullPool)
        event.listen(self._engine, "begin", _begin)

    def _uri(self) -> str:
        uri = self.path.absolute().as_uri()
        if not self.read_only:
            return uri
        wal = self.path.with_name(self.path.name + "-wal")
        settled = not wal.exists() or wal.stat().st_size == 0
        # Without a WAL to read there is nothing to share, and SQLite need not create files beside the store.
        return uri + ("?immutable=1" if settled else "?mode=ro")

    def log_bytes(self) -> int:
        """Return the size of the write-ahead log."""
        log = self.path.with_name(self.path.name + "-wal")
        return log.stat().st_size if log.exists() else 0

    def open_raw(self) -> sqlite3.Connection:
        """Return a connection of its own, for what SQLite's own interface alone can do; the caller closes it."""
        if self._closed:
            raise ClosedError("this memory is closed")
        return self._connect()

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._uri(),
            uri=True,
            timeout=self.lock_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    def connection(self) -> Connection:
        """Return this thread's connection, opening it on first use and again after a fork.

        Raises:
            ClosedError: The database was closed.
            StorageError: The file cannot be opened.
        """
        if self._closed:
            raise ClosedError("this memory is closed")
        held = getattr(self._local, "held", None)
        if held is not None and held[0] == os.getpid() and not held[1].closed:
            return held[1]  # type: ignore[no-any-return]
        if held is not None and held[0] != os.getpid():
            # SQLite forbids even closing a connection inherited through fork: keep it, unused.
            self._inherited.append(held[1])
            self._open = weakref.WeakSet()
        try:
            connection = self._engine.connect()
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self._wrapped(error) from error
        self._local.held = (os.getpid(), connection)
        self._open.add(connection)
        return connection

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Open a transaction in which every statement sees the same state of the store."""
        with self._transaction("DEFERRED") as connection:
            yield connection

    @contextmanager
    def write(self, *, wait_s: float | None = None) -> Iterator[Connection]:
        """Open the store's only write transaction; committed and synced to disk when the block ends.

        Args:
            wait_s: Seconds to wait for another writer; ``lock_timeout_s`` if left out.

        Raises:
            LockTimeoutError: Another process held the write lock for longer than that.
            StorageError: The folder is read-only, the disk is full, or the file is damaged; rolled back.
        """
        if self.read_only:
            raise StorageError(f"{self.path} is read-only: it can be recalled from, not written to")
        with self._transaction("IMMEDIATE", wait_s) as connection:
            yield connection

    @contextmanager
    def _transaction(self, mode: str, wait_s: float | None = None) -> Iterator[Connection]:
        connection = self.connection()
        connection.info["begin"] = mode
        try:
            self._begin(connection, self.lock_timeout_s if wait_s is None else wait_s)
            try:
                yield connection
                if mode == "IMMEDIATE":
                    failpoint("before-commit")
                connection.commit()
                if mode == "IMMEDIATE":
                    failpoint("after-commit")
            except BaseException:
                self._roll_back(connection)
                raise
        except (SQLAlchemyError, sqlite3.Error) as error:
            raise self._wrapped(error) from error

    def _begin(self, connection: Connection, wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        while True:
            try:
                with self._waiting(connection, wait_s):
                    connection.begin()
                return
            except (SQLAlchemyError, sqlite3.Error) as error:
                # SQLite skips its own wait where waiting could deadlock, and while a WAL is being recovered.
                self._roll_back(connection)
                if _code(error) not in _BUSY or time.monotonic() >= deadline:
                    raise
            time.sleep(_PAUSE_S)

    @contextmanager
    def _waiting(self, connection: Connection, wait_s: float) -> Iterator[None]:
        """Let SQLite itself wait for a lock no longer than that."""
        raw = connection.connection.driver_connection
        if raw is None or wait_s >= self.lock_timeout_s:
            yield
            return
        raw.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
        try:
            yield
        finally:
            raw.execute(f"PRAGMA busy_timeout = {int(self.lock_timeout_s * 1000)}")

    def _roll_back(self, connection: Connection) -> None:
        try:
            connection.rollback()
        except (SQLAlchemyError, sqlite3.Error):
            connection.invalidate()
            connection.close()
            self._local.held = None

    def _wrapped(self, error: Exception) -> StorageError | ClosedError:
        if self._closed:
            return ClosedError("this memory was closed while in use")
        if _code(error) in _BUSY:
            return LockTimeoutError(self.lock_timeout_s)
        return StorageError(f"{self.path}: {getattr(error, 'orig', None) or error}")

    def close(self) -> None:
        """Close the connections of all threads; later use raises ClosedError."""
        self._closed = True
        for connection in list(self._open):
            connection.close()
        self._engine.dispose()


def driver(connection: Connection) -> sqlite3.Connection:
    """Return SQLite's own side of a connection, for statements that would cost more to prepare than to run."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, sqlite3.Connection):
        raise StorageError("the connection to the database is gone")
    return raw


def _begin(connection: Connection) -> None:
    driver(connection).execute(f"BEGIN {connection.info.get('begin', 'DEFERRED')}")


def _code(error: Exception) -> int | None:
    original = getattr(error, "orig", None) or error
    code = getattr(original, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


class Group:
    """What can be done in a transaction, by subject; see ``Transaction``.

    Args:
        connection: The transaction's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
