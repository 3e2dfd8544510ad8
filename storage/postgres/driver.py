"""psycopg's side of a connection, with the few methods of SQLite's module that the groups use."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import psycopg

from agent_memory.errors import ClosedError, InvalidInputError, LockTimeoutError, StorageError
from agent_memory.storage.postgres.dialect import translate

ERRORS = (psycopg.Error,)
NO_NUL = "PostgreSQL stores no text that holds the character NUL (U+0000); take it out, or use a store on SQLite"

Handler = Callable[["Driver", Sequence[Sequence[Any]]], None]

_ESCAPED_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


class Driver:
    """A connection that runs SQLite's statements in PostgreSQL's words.

    Args:
        raw: psycopg's connection, in autocommit mode: transactions begin and end by statements.
        handlers: What is done in the place of statements that PostgreSQL has no form of, by their text.
    """

    text_factory: Any = None  # what SQLite's module has to read damaged text; this server checks what it stores

    def __init__(self, raw: psycopg.Connection[Any], handlers: dict[str, Handler]) -> None:
        self.raw, self._handlers = raw, handlers

    def execute(self, sql: str, given: Sequence[Any] = ()) -> psycopg.Cursor[Any]:
        """Run a statement; returns its rows."""
        if sql in self._handlers:
            self._handlers[sql](self, [given])
            return self.raw.cursor()
        statement = translate(sql)
        if statement.before is not None:
            self.raw.execute(statement.before, tuple(given[: statement.taken]))
        return self.raw.execute(statement.sql, tuple(given))

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each row of values, in one round trip."""
        found = [tuple(row) for row in rows]
        if not found:
            return
        if sql in self._handlers:
            self._handlers[sql](self, found)
            return
        statement = translate(sql)
        with self.raw.cursor() as cursor:
            if statement.before is not None:
                cursor.executemany(statement.before, [row[: statement.taken] for row in found])
            cursor.executemany(statement.sql, found)


def list_errors() -> tuple[type[Exception], ...]:
    """Return what statements raise; to be called where something was raised."""
    import sys

    theirs = sys.modules.get("sqlalchemy.exc")
    return ERRORS if theirs is None else (theirs.SQLAlchemyError, *ERRORS)


def wrap_error(error: Exception, name: str, timeout_s: float, *, closed: bool = False) -> Exception:
    """Return what a caller gets for an error of psycopg, or of SQLAlchemy about one.

    Args:
        error: The error.
        name: The address of the store, for messages.
        timeout_s: How long locks were waited for.
        closed: Whether the store was closed meanwhile.
    """
    original = getattr(error, "orig", None) or error
    if closed and isinstance(original, psycopg.OperationalError | psycopg.InterfaceError):
        return ClosedError("this memory was closed while in use")
    if isinstance(original, psycopg.errors.LockNotAvailable):
        return LockTimeoutError(timeout_s)
    if isinstance(original, psycopg.DataError) and "NUL" in str(original):
        return InvalidInputError(NO_NUL)
    if isinstance(original, psycopg.errors.UntranslatableCharacter):
        return InvalidInputError(NO_NUL)
    return StorageError(f"{name}: {str(original).strip()}")


def check_nul(*values: str | None) -> None:
    """Raise InvalidInputError if a text, or JSON text, holds the character that PostgreSQL cannot store."""
    for value in values:
        if value is not None and ("\0" in value or ("\\u0000" in value and _ESCAPED_NUL.search(value))):
            raise InvalidInputError(NO_NUL)
