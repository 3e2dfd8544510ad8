"""Migrates a store's schema to this version, or refuses the store without touching it."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from agent_memory.errors import LockTimeoutError, MigrationError, SchemaTooNewError, StorageError
from agent_memory.files import failpoint
from agent_memory.storage import rows
from agent_memory.storage.migrating import upgrade
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.known import find_difference, read_objects
from agent_memory.storage.sqlite.rewriting import rewrite_words
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.types import Progress

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006", "0007", "0008", "0009", "0010")
"""Every revision that this version knows, oldest first; a test compares it with the migrations folder."""

PAGE_SIZE_BYTES = 8192  # five 768-dimensional half-precision vectors per page; the default of 4096 wastes a quarter

_log = logging.getLogger("agent_memory")


def ensure_schema(connections: Connections, progress: Progress | None = None) -> None:
    """Create, migrate or accept the schema of a database, and bring its full-text index up to date.

    Args:
        connections: The database.
        progress: Called with (entries done, entries in all) if the full-text index must be written again.

    Raises:
        SchemaTooNewError: A newer version of this package wrote the store; nothing was changed.
        MigrationError: A migration failed; its transaction was rolled back.
        StorageError: The file is not a store of this package, or is read-only and outdated.
    """
    revision = find_revision(connections)
    rows.refuse_unfinished(revision, connections.path)
    if revision is not None and not connections.read_only:
        enable_log(connections)
    if revision != REVISIONS[-1]:
        if connections.read_only:
            raise StorageError(f"{connections.path} is read-only and needs a migration from {revision}")
        if revision is None:
            _prepare_new_file(connections)
        _migrate(connections)
    rewrite_words(connections, progress)


def check_revision(path: Path, source: Path) -> None:
    """Raise if a copy of a file is not a store that this version can open; it is not changed.

    Args:
        path: The copy.
        source: What it was copied from, for messages.
    """
    connections = Connections(path, lock_timeout_s=1)
    try:
        with connections.read() as connection:
            revision = _read_revision(connection, source)
            rows.refuse_unfinished(revision, source)
            if revision is None:
                raise StorageError(f"{source} is an empty database, not a store of agent-memory")
    finally:
        connections.close()


def find_revision(connections: Connections) -> str | None:
    """Return a database's revision, ``rows.MARK`` before it in an unfinished copy; None if it is empty.

    Raises:
        SchemaTooNewError: A newer version of this package wrote it.
        StorageError: It is no store, or its schema is not exactly that revision's.
    """
    with connections.read() as connection:
        return _read_revision(connection, connections.path)


def _read_revision(connection: Link, path: Path) -> str | None:
    """Return a database's revision, None if it is empty; raise if its schema is not exactly that revision's."""
    raw = driver(connection)
    objects = read_objects(raw)
    if not objects:
        return None
    if "alembic_version" not in {name for kind, name, *_ in objects if kind == "table"}:
        raise StorageError(f"{path} is a SQLite file, but not a store of agent-memory")
    found = raw.execute("SELECT version_num FROM alembic_version LIMIT 2").fetchall()
    stored = found[0][0] if len(found) == 1 else None
    revision = str(stored).removeprefix(rows.MARK)
    if revision not in REVISIONS:
        raise SchemaTooNewError(
            f"{path} has schema {stored!r}; this version of agent-memory knows up to "
            f"{REVISIONS[-1]!r}. Upgrade agent-memory. The store was not touched."
        )
    difference = find_difference(objects, revision)
    if difference is not None:
        raise StorageError(f"{path} is not opened, since a stranger may have changed it: {difference}")
    return str(stored)


def _prepare_new_file(connections: Connections) -> None:
    with connections.outside() as raw:
        raw.execute(f"PRAGMA page_size = {PAGE_SIZE_BYTES}")
    enable_log(connections)


def enable_log(connections: Connections) -> None:
    """Turn on the write-ahead log, which a new or restored file does not have."""
    deadline = time.monotonic() + connections.lock_timeout_s
    while True:
        try:
            with connections.outside() as raw:
                raw.execute("PRAGMA journal_mode = WAL")
            return
        except LockTimeoutError:
            # Several processes may create the store at once, and SQLite does not wait for this lock.
            if time.monotonic() >= deadline:
                raise
        time.sleep(0.01)


def _migrate(connections: Connections) -> None:
    with connections.write() as connection:
        before = _read_revision(connection, connections.path)
        if before == REVISIONS[-1]:
            return
        try:
            upgrade(connection.full, "agent_memory.storage.sqlite:migrations")
        except Exception as error:
            raise MigrationError(f"{connections.path}: migration from {before} failed: {error}") from error
        failpoint("migration-before-commit")
    failpoint("migration-after-commit")
    if before is not None:
        _log.info("migrated %s from schema %s to %s", connections.path, before, REVISIONS[-1])
