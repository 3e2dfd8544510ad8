"""What a thread holds of a database: its connections."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agent_memory.errors import StorageError
from agent_memory.files import call_whole
from agent_memory.storage.calls import Call
from agent_memory.storage.sqlite.driver import ERRORS, sqlite3
from agent_memory.storage.sqlite.ground import Ground

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Connection, Engine, Table

    from agent_memory.storage.records import Condition

_CLOSING = threading.RLock()
os.register_at_fork(after_in_child=_CLOSING._at_fork_reinit)  # type: ignore[attr-defined]


class Raw(sqlite3.Connection):
    """SQLite's own side of a connection, which several threads may close at once.

    A thread that ends drops its connections while ``close`` closes them; SQLite's module crashes on that.

    Attributes:
        is_over: Whether it is closed, or is about to be, by whomever: SQLAlchemy closes one that was interrupted.
    """

    is_over = False

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        self.is_over = True
        with _CLOSING:
            super().close()

    def stream(self, sql: str) -> sqlite3.Cursor:
        """Return the rows of a statement, which are read as they are needed."""
        return self.execute(sql)


class Engines:
    """SQLAlchemy's side of a database, made when a statement is first built with it."""

    def __init__(self) -> None:
        self._given = threading.local()

    @cached_property
    def _engine(self) -> Engine:
        return call_whole(self._make)

    def _make(self) -> Engine:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        engine = create_engine(
            "sqlite://", module=sqlite3, creator=self._hand_over, poolclass=NullPool, pool_reset_on_return=None
        )
        # The first connection of an engine is looked at and rolled back, which may not happen to one in a transaction.
        self._given.raw = sqlite3.connect(":memory:")
        engine.connect().close()
        return engine

    def _hand_over(self) -> sqlite3.Connection:
        raw: sqlite3.Connection = self._given.raw
        return raw

    def connect(self, raw: sqlite3.Connection) -> Connection:
        """Return SQLAlchemy's side of a connection."""
        engine = self._engine
        self._given.raw = raw
        try:
            connection = engine.connect()
        finally:
            del self._given.raw
        # To SQLAlchemy all is one transaction: where it begins and ends is said to SQLite directly, in statements that
        # an interrupt cannot take apart.
        connection.begin()
        return connection


class Link:
    """A connection, as SQLite's module has it and, once that is asked for anything, as SQLAlchemy has it.

    Attributes:
        raw: SQLite's own side.
    """

    def __init__(self, raw: Raw, connect: Callable[[sqlite3.Connection], Connection]) -> None:
        self.raw, self._connect = raw, connect

    @cached_property
    def full(self) -> Connection:
        """SQLAlchemy's side."""
        return self._connect(self.raw)

    if TYPE_CHECKING:

        def execute(self, statement: Any, parameters: Any = None) -> Any:  # noqa: ANN401 - SQLAlchemy's
            """Run a statement of SQLAlchemy."""

        def exec_driver_sql(self, statement: str, parameters: Any = None) -> Any:  # noqa: ANN401 - SQLAlchemy's
            """Run a statement that is written out."""

    else:

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - SQLAlchemy's
            if name.startswith("_"):
                raise AttributeError(name)
            return getattr(self.full, name)


class Slot:
    """A connection of one thread.

    Attributes:
        call: The transaction that uses it; dead or None when it is free.
        is_clean: Whether no transaction began on it that has not ended in an orderly way.
        version: What file it reads, where the store cannot be written; see ``Connections._locate``.
    """

    def __init__(self, connection: Link, ground: Ground, version: object) -> None:
        self.connection, self.ground, self.version = connection, ground, version
        self.raw = connection.raw
        self.is_clean = True
        self.call: weakref.ref[Call] | None = None

    @property
    def is_open(self) -> bool:
        """Whether it was not closed yet."""
        return not self.raw.is_over

    @property
    def is_free(self) -> bool:
        """Whether no transaction is using it."""
        return self.call is None or self.call() is None

    def close(self) -> None:
        """Close the connection, which rolls back what was not committed."""
        with contextlib.suppress(sqlite3.Error):
            self.raw.close()

    def roll_back(self) -> None:
        """End a transaction without its changes."""
        try:
            if self.raw.in_transaction:
                self.raw.execute("ROLLBACK")
            self.is_clean = True
        except ERRORS:
            self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.raw.close()


class Group:
    """What can be done in a transaction, by subject; see ``Transaction``.

    Args:
        connection: The transaction's.
    """

    def __init__(self, connection: Link) -> None:
        self._connection = connection

    def _compile(self, condition: Condition) -> ColumnElement[bool]:
        """Return a condition as SQL over ``entries``; other engines have other functions for JSON."""
        from agent_memory.storage.sqlite.conditions import compile_condition

        return compile_condition(condition)

    def _put_row(self, table: Table, name: str, value: str, changed: dict[str, Any], **fresh: object) -> None:
        """Change the row of a primary key, or insert it; nobody else writes meanwhile.

        Args:
            table: The table.
            name: Its primary key.
            value: Which row.
            changed: What it gets.
            fresh: What it gets too if it is new.
        """
        from sqlalchemy import insert, update

        found = self._connection.execute(update(table).where(table.c[name] == value).values(**changed))
        if not found.rowcount:
            self._connection.execute(insert(table).values(**{name: value}, **changed, **fresh))


def driver(connection: Link | Connection) -> sqlite3.Connection:
    """Return SQLite's own side of a connection, for statements that would cost more to prepare than to run."""
    raw = connection.raw if isinstance(connection, Link) else connection.connection.driver_connection
    if raw is None:
        raise StorageError("the connection to the database is gone")
    return raw


def list_errors() -> tuple[type[Exception], ...]:
    """Return what statements raise; to be called where something was raised: SQLAlchemy may not be there before."""
    theirs = sys.modules.get("sqlalchemy.exc")
    return ERRORS if theirs is None else (theirs.SQLAlchemyError, *ERRORS)
