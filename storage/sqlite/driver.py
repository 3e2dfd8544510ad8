"""Which SQLite is used: one without the fault that corrupts databases with several writers, wherever it can be had.

SQLite before 3.51.3 can corrupt a database in WAL mode when one connection resets the log while another writes or
checkpoints (the "WAL-reset bug"; https://sqlite.org/wal.html#walreset). The module of the standard library is used if
its SQLite is new enough, else the package ``pysqlite3``, which brings its own. With neither, stores open with a
warning, and checkpoints are serialised with writes (``SERIALISE``).

All of this package uses one copy of SQLite. Two copies in one process do not see each other's locks, so that a program
must not open a store's file with another one while a ``Memory`` has it open.
"""

from __future__ import annotations

import logging
import sqlite3 as stock
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from agent_memory.storage.calls import hold_interrupt
from agent_memory.storage.moments import read_micros

if TYPE_CHECKING:
    import sqlite3 as sqlite3
else:
    sqlite3: ModuleType

_log = logging.getLogger("agent_memory")

SAFE = (3, 51, 3)
"""The first version without the WAL-reset bug."""


def _choose() -> Any:  # noqa: ANN401 - a DB-API module
    if stock.sqlite_version_info >= SAFE:
        return stock
    try:
        packaged = import_module("pysqlite3.dbapi2")
    except ImportError:
        return stock
    return packaged if packaged.sqlite_version_info > stock.sqlite_version_info else stock


if not TYPE_CHECKING:
    sqlite3 = _choose()

SERIALISE: bool = sqlite3.sqlite_version_info < SAFE
"""Whether checkpoints must never run beside a write, because this SQLite has the WAL-reset bug."""


READ_MICROS = "agent_memory_micros"
"""SQL function of every connection to a store: the moment that a text names, or NULL; see ``read_micros``."""


def add_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the functions that filters are compiled to."""
    connection.create_function(READ_MICROS, 1, _read_micros, deterministic=True)


def _read_micros(text: object) -> int | None:
    try:
        return read_micros(text)
    except Exception:
        raise
    except BaseException as interrupt:  # SQLite drops it
        hold_interrupt(interrupt)
        raise


ERRORS = (sqlite3.Error, UnicodeDecodeError)
"""What statements raise: of a damaged file, SQLite's message may cite bytes that are no text."""


def describe() -> str:
    """Return the version of SQLite in use, and where it comes from."""
    return f"SQLite {sqlite3.sqlite_version} ({sqlite3.__name__.partition('.')[0]})"


def connect_guarded(place: str | Path, **options: Any) -> sqlite3.Connection:  # noqa: ANN401 - as sqlite3.connect
    """Open a database that may be a stranger's: functions that could act are refused to its schema.

    Args:
        place: A file, or with ``uri=True`` a URI.
        options: As of ``sqlite3.connect``.
    """
    connection: sqlite3.Connection = sqlite3.connect(place, **options)
    try:
        guard(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def guard(connection: sqlite3.Connection) -> None:
    """Let nothing in a database's schema act on a connection, as far as this SQLite can be told so."""
    connection.execute("PRAGMA trusted_schema = OFF")
    if hasattr(connection, "setconfig"):
        connection.setconfig(sqlite3.SQLITE_DBCONFIG_DEFENSIVE)  # type: ignore[attr-defined]


def warn_if_unsafe() -> None:
    """Warn if this SQLite has the WAL-reset bug."""
    if SERIALISE:
        _log.warning(
            "%s can corrupt a store that several processes write to (its WAL-reset bug is mended in %s): "
            "pip install pysqlite3, or use a Python with a newer SQLite. Checkpoints are serialised meanwhile.",
            describe(),
            ".".join(map(str, SAFE)),
        )


def set_patience(raw: sqlite3.Connection, seconds: float) -> None:
    """Let SQLite itself wait for a lock no longer than that."""
    raw.execute(f"PRAGMA busy_timeout = {int(seconds * 1000)}")


def error_code(error: Exception) -> int | None:
    """Return SQLite's primary code of an error, also of one that SQLAlchemy wraps; None if it has none."""
    code = getattr(getattr(error, "orig", None) or error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF
