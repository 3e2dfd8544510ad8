"""Creates or migrates the schema of a store on PostgreSQL, or refuses it without touching it."""

from __future__ import annotations

import logging
from typing import Any

import psycopg
from psycopg import sql

from agent_memory.errors import MigrationError, SchemaTooNewError, StorageError
from agent_memory.storage import rows
from agent_memory.storage.migrating import upgrade
from agent_memory.storage.postgres.connections import Connections, get_raw
from agent_memory.storage.postgres.driver import describe
from agent_memory.storage.postgres.facts import lift_limits
from agent_memory.storage.postgres.upkeep import note_shape
from agent_memory.storage.sqlite.rewriting import rewrite_words
from agent_memory.types import Progress

REVISIONS = ("0001", "0002", "0003", "0004", "0005", "0006")
"""Every revision that this version knows, oldest first; a test compares it with the migrations folder."""

_log = logging.getLogger("agent_memory")


def ensure_schema(connections: Connections, progress: Progress | None = None) -> None:
    """Create, migrate or accept the schema of a store, and bring its full-text index up to date.

    Args:
        connections: The store.
        progress: Called with (entries done, entries in all) if the full-text index must be written again.

    Raises:
        SchemaTooNewError: A newer version of this package wrote the store; nothing was changed.
        MigrationError: A migration failed; its transaction was rolled back.
        StorageError: It is not a store of this package, or is read-only and outdated.
    """
    if not connections.ask_facts().keeps:
        _log.warning(
            "%s has fsync = off: what it has acknowledged may be lost when its machine fails", connections.address.name
        )
    if connections.address.standby is not None and not connections.ask_facts().waits_for:
        _log.warning(
            "%s acknowledges commits before its standbys have them (synchronous_standby_names is empty): "
            "the last ones are lost if it fails and a standby is promoted",
            connections.address.name,
        )
    with connections.read() as link:
        revision = read_revision(get_raw(link), connections)
    rows.refuse_unfinished(revision, connections.address.name)
    if revision != REVISIONS[-1]:
        if connections.read_only:
            raise StorageError(f"{connections.address.name} is read-only and needs a migration from {revision}")
        _migrate(connections)
    rewrite_words(connections, progress)  # type: ignore[arg-type]  # it asks for what all connections have


def read_revision(raw: psycopg.Connection[Any], connections: Connections) -> str | None:
    """Return a store's revision, ``rows.MARK`` before it in an unfinished copy; None if there is no store.

    Raises:
        SchemaTooNewError: A newer version of this package wrote it.
        StorageError: Something else is in the schema.
    """
    tables = "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm') AND relnamespace = to_regnamespace(%s)"
    names = {row[0] for row in raw.execute(tables, (connections.schema,))}
    if not names:
        return None
    if not names.issuperset({"alembic_version", "meta", "entries"}):  # other programs have tables of versions too
        raise StorageError(f"{connections.address.name}: the schema is not a store of agent-memory")
    version = sql.Identifier(connections.schema, "alembic_version")
    found = raw.execute(sql.SQL("SELECT version_num FROM {} LIMIT 2").format(version)).fetchall()
    stored = found[0][0] if len(found) == 1 else None
    if str(stored).removeprefix(rows.MARK) not in REVISIONS:
        raise SchemaTooNewError(
            f"{connections.address.name} has schema {stored!r}; this version of agent-memory knows up to "
            f"{REVISIONS[-1]!r}. Upgrade agent-memory. The store was not touched."
        )
    return str(stored)


def _migrate(connections: Connections) -> None:
    with connections.write() as link:
        raw = get_raw(link)
        before = read_revision(raw, connections)
        if before == REVISIONS[-1]:
            return
        try:
            lift_limits(raw, local=True)
            raw.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(connections.schema)))
            upgrade(link.full, "agent_memory.storage.postgres:migrations")
            note_shape(get_raw(link), connections.schema)
        except Exception as error:
            what = "the tables could not be made" if before is None else f"migration from {before} failed"
            raise MigrationError(f"{connections.address.name}: {what}: {describe(error)}") from error
    if before is not None:
        _log.info("migrated %s from schema %s to %s", connections.path, before, REVISIONS[-1])
