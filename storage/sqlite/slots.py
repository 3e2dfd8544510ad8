"""What a thread holds of a database: its connections."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from agent_memory.errors import StorageError
from agent_memory.storage.calls import Call
from agent_memory.storage.sqlite.driver import ERRORS, sqlite3
from agent_memory.storage.sqlite.ground import Ground

_CLOSING = threading.RLock()
os.register_at_fork(after_in_child=_CLOSING._at_fork_reinit)  # type: ignore[attr-defined]


class Raw(sqlite3.Connection):
    """SQLite's own side of a connection, which several threads may close at once.

    A thread that ends drops its connections while ``close`` closes them; SQLite's module crashes on that.
    """

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        with _CLOSING:
            super().close()


class Slot:
    """A connection of one thread.

    Attributes:
        call: The transaction that uses it; dead or None when it is free.
        is_open: Whether it was not closed yet.
        is_clean: Whether no transaction began on it that has not ended in an orderly way.
        version: What file it reads, where the store cannot be written; see ``Connections._locate``.
    """

    def __init__(self, connection: Connection, ground: Ground, version: object) -> None:
        self.connection, self.ground, self.version = connection, ground, version
        self.raw = driver(connection)
        self.is_open, self.is_clean = True, True
        self.call: weakref.ref[Call] | None = None

    @property
    def is_free(self) -> bool:
        """Whether no transaction is using it."""
        return self.call is None or self.call() is None

    def close(self) -> None:
        """Close the connection, which rolls back what was not committed."""
        self.is_open = False
        with contextlib.suppress(sqlite3.Error, SQLAlchemyError):
            self.raw.close()

    def roll_back(self) -> None:
        """End a transaction without its changes."""
        try:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
            self.is_clean = True
        except (SQLAlchemyError, *ERRORS):
            self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.raw.close()


class Group:
    """What can be done in a transaction, by subject; see ``Transaction``.

    Args:
        connection: The transaction's.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection


def driver(connection: Connection) -> sqlite3.Connection:
    """Return SQLite's own side of a connection, for statements that would cost more to prepare than to run."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, sqlite3.Connection):
        raise StorageError("the connection to the database is gone")
    return raw
