"""Brings a store's schema to this version, or refuses it untouched."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from sqlalchemy import Connection

from agent_memory.errors import LockTimeoutError, MigrationError, SchemaTooNewError, StorageError
from agent_memory.files import failpoint
from agent_memory.storage.sqlite.database import Database

REVISIONS = ("0001", "0002", "0003", "0004", "0005")
"""Every revision this version knows, oldest first; a test holds it equal to the migrations folder."""

PAGE_SIZE_BYTES = 8192  # five 768-d half-precision vectors a page; the default of 4096 would waste a quarter

_log = logging.getLogger("agent_memory")


def ensure_schema(database: Database) -> None:
    """Create, migrate or accept the schema of a database.

    Raises:
        SchemaTooNewError: A newer version of this package wrote the store; nothing was changed.
        MigrationError: A migration failed; its transaction was rolled back.
        StorageError: The file is not a store of this package, or is read-only and outdated.
    """
    with database.read() as connection:
        revision = _revision(connection, database)
    if revision is not None and not database.read_only:
        _use_log(database)
    if revision == REVISIONS[-1]:
        return
    if database.read_only:
        raise StorageError(f"{database.path} is read-only and needs a migration from {revision}")
    if revision is None:
        _prepare_new_file(database)
    _migrate(database)


def check_revision(path: Path) -> None:
    """Raise if a file is not a store that this version can open; the file is not changed."""
    database = Database(path, lock_timeout_s=1)
    try:
        with database.read() as connection:
            if _revision(connection, database) is None:
                raise StorageError(f"{path} is an empty database, not a store of agent-memory")
    finally:
        database.close()


def _revision(connection: Connection, database: Database) -> str | None:
    tables = set(connection.exec_driver_sql("SELECT name FROM sqlite_master WHERE type = 'table'").scalars())
    if not tables:
        return None
    if "alembic_version" not in tables:
        raise StorageError(f"{database.path} is a SQLite file, but not a store of agent-memory")
    revision = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()
    if revision not in REVISIONS:
        raise SchemaTooNewError(
            f"{database.path} has schema {revision!r}; this version of agent-memory knows up to "
            f"{REVISIONS[-1]!r}. Upgrade agent-memory. The store was not touched."
        )
    return str(revision)


def _prepare_new_file(database: Database) -> None:
    with database.read() as connection:
        raw = connection.connection.driver_connection
    if raw is not None:
        raw.execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")
    _use_log(database)


def _use_log(database: Database) -> None:
    """Turn on the write-ahead log unless it is on: a backup is a file without one."""
    connection = database.connection()
    deadline = time.monotonic() + database.lock_timeout_s
    raw = connection.connection.driver_connection
    if raw is None:
        raise StorageError(f"{database.path}: the connection is gone")
    while True:
        try:
            raw.execute("PRAGMA journal_mode = WAL")
            return
        except Exception as error:
            # Several processes may create the store at once, and SQLite does not wait for this one lock.
            if "locked" not in str(error):
                raise StorageError(f"{database.path}: {error}") from error
            if time.monotonic() >= deadline:
                raise LockTimeoutError(database.lock_timeout_s) from error
        finally:
            connection.rollback()
        time.sleep(0.01)


def _migrate(database: Database) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "agent_memory.storage.sqlite:migrations")
    with database.write() as connection:
        before = _revision(connection, database)
        if before == REVISIONS[-1]:
            return
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except Exception as error:
            raise MigrationError(f"{database.path}: migration from {before} failed: {error}") from error
        failpoint("migration-before-commit")
    failpoint("migration-after-commit")
    if before is not None:
        _log.info("migrated %s from schema %s to %s", database.path, before, REVISIONS[-1])
