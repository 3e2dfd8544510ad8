"""Opens SQLite files of other systems read-only; nothing of them acts, and only ordinary tables are read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent_memory.errors import InvalidInputError, StorageError
from agent_memory.storage.sqlite.driver import ERRORS, connect_guarded, sqlite3

Connection = sqlite3.Connection
Row = sqlite3.Row


@contextmanager
def open_store(file: Path) -> Iterator[Connection]:
    """Open a store for reading, in one transaction.

    Raises:
        StorageError: It is no SQLite file, or damaged.
    """
    try:
        connection = connect_guarded(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()
    except ERRORS as error:
        raise StorageError(f"cannot read {file}: {error}") from error


def list_tables(connection: Connection) -> set[str]:
    """Return the names of ordinary tables without computed columns: nothing else of a stranger's file is queried."""
    rows = connection.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    names = [str(row[0]) for row in rows]
    computed = "SELECT 1 FROM pragma_table_xinfo(?) WHERE hidden != 0"
    return {name for name in names if connection.execute(computed, (name,)).fetchone() is None}


def list_columns(connection: Connection, table: str) -> set[str]:
    """Return the names of a table's columns."""
    return {str(row[0]) for row in connection.execute("SELECT name FROM pragma_table_info(?)", (table,))}


def check_tables(file: Path, held: set[str], needed: set[str], kind: str) -> None:
    """Raise InvalidInputError unless a store has the tables of its kind."""
    if not needed <= held:
        raise InvalidInputError(f"{file} is not a {kind} store: it lacks the tables {sorted(needed - held)}")
