"""The SQLite back end: one file, opened by any number of threads and processes at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path

from sqlalchemy import Connection, select
from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.files import failpoint
from agent_memory.storage.base import Database, Transaction
from agent_memory.storage.records import AlteredRow, DatabaseState
from agent_memory.storage.sqlite import copying, traces, upkeep
from agent_memory.storage.sqlite.changes import SqliteChanges
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.drafts import SqliteDrafts
from agent_memory.storage.sqlite.driver import describe, warn_if_unsafe
from agent_memory.storage.sqlite.entries import SqliteEntries
from agent_memory.storage.sqlite.erasures import SqliteErasures
from agent_memory.storage.sqlite.generations import SqliteGenerations
from agent_memory.storage.sqlite.jobs import SqliteJobs
from agent_memory.storage.sqlite.leases import SqliteLeases
from agent_memory.storage.sqlite.lexical import SqliteLexical
from agent_memory.storage.sqlite.mentions import SqliteMentions
from agent_memory.storage.sqlite.migrate import ensure_schema
from agent_memory.storage.sqlite.passages import SqlitePassages
from agent_memory.storage.sqlite.queries import SqliteQueries
from agent_memory.storage.sqlite.schedules import SqliteSchedules
from agent_memory.storage.sqlite.schema import meta
from agent_memory.storage.sqlite.sessions import SqliteSessions
from agent_memory.storage.sqlite.vectors import SqliteVectors
from agent_memory.types import Progress


class SqliteTransaction(Transaction):
    """``Transaction`` in SQLite.

    Args:
        connections: The database.
        connection: What runs the transaction's statements.
    """

    def __init__(self, connections: Connections, connection: Connection) -> None:
        self._connections = connections
        self.connection = connection

    @cached_property
    @override
    def entries(self) -> SqliteEntries:
        return SqliteEntries(self.connection)

    @cached_property
    @override
    def drafts(self) -> SqliteDrafts:
        return SqliteDrafts(self.connection)

    @cached_property
    @override
    def changes(self) -> SqliteChanges:
        return SqliteChanges(self.connection)

    @cached_property
    @override
    def generations(self) -> SqliteGenerations:
        return SqliteGenerations(self.connection)

    @cached_property
    @override
    def vectors(self) -> SqliteVectors:
        return SqliteVectors(self.connection)

    @cached_property
    @override
    def passages(self) -> SqlitePassages:
        return SqlitePassages(self.connection)

    @cached_property
    @override
    def sessions(self) -> SqliteSessions:
        return SqliteSessions(self.connection)

    @cached_property
    @override
    def lexical(self) -> SqliteLexical:
        return SqliteLexical(self.connection)

    @cached_property
    @override
    def mentions(self) -> SqliteMentions:
        return SqliteMentions(self.connection)

    @cached_property
    @override
    def queries(self) -> SqliteQueries:
        return SqliteQueries(self.connection)

    @cached_property
    @override
    def jobs(self) -> SqliteJobs:
        return SqliteJobs(self.connection)

    @cached_property
    @override
    def leases(self) -> SqliteLeases:
        return SqliteLeases(self.connection)

    @cached_property
    @override
    def schedules(self) -> SqliteSchedules:
        return SqliteSchedules(self.connection)

    @cached_property
    @override
    def erasures(self) -> SqliteErasures:
        return SqliteErasures(self.connection)

    @override
    def read_store_id(self) -> str:
        found = self.connection.execute(select(meta.c.value).where(meta.c.name == "store_id")).scalar()
        if found is None:
            raise StorageError("the store is damaged: it has lost its id")
        return str(found)

    @override
    def measure(self, now: datetime) -> DatabaseState:
        return upkeep.measure(self._connections, self.connection, now)

    @override
    def find_faults(self) -> list[str]:
        return upkeep.find_faults(self.connection)

    @override
    def find_altered(self) -> list[AlteredRow]:
        return upkeep.find_altered(self.connection)


class SqliteDatabase(Database):
    """``Database`` in one SQLite file.

    Args:
        path: The database file; its folder must exist.
        lock_timeout_s: Seconds a writer waits for another process before LockTimeoutError.
    """

    def __init__(self, path: Path, *, lock_timeout_s: float) -> None:
        self.connections = Connections(path, lock_timeout_s=lock_timeout_s)
        self.path, self.lock_timeout_s = path, lock_timeout_s

    @property
    @override
    def read_only(self) -> bool:
        return self.connections.read_only

    @override
    def prepare(self, progress: Progress | None = None) -> None:
        warn_if_unsafe()
        ensure_schema(self.connections, progress)

    @override
    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with self.connections.read() as connection:
            yield SqliteTransaction(self.connections, connection)

    @override
    @contextmanager
    def write(self, *, wait_s: float | None = None) -> Iterator[Transaction]:
        with self.connections.write(wait_s=wait_s) as connection:
            yield SqliteTransaction(self.connections, connection)

    @override
    def assert_open(self) -> None:
        self.connections.assert_open()

    @override
    def close(self) -> None:
        self.connections.close()

    @override
    def abandon(self) -> None:
        self.connections.abandon()

    @override
    def describe(self) -> str:
        return describe()

    @override
    def size_bytes(self) -> int:
        return upkeep.size_bytes(self.path)

    @override
    def merge_lexical(self) -> int:
        return upkeep.merge_lexical(self.connections)

    @override
    def prune_changes(self, up_to: int) -> int:
        return upkeep.prune_changes(self.connections, up_to)

    @override
    def truncate_log(self) -> bool:
        return upkeep.truncate_log(self.connections)

    @override
    def erase_traces(self, finish: Callable[[Transaction], None], *, wait_s: float) -> str | None:
        return traces.erase_traces(
            self.connections, lambda connection: finish(SqliteTransaction(self.connections, connection)), wait_s=wait_s
        )

    @override
    def vacuum(self) -> bool:
        return upkeep.vacuum(self.connections)

    @override
    def count_in_copy(self, path: Path, store_id: str, ids: Sequence[int]) -> int:
        return copying.count_held(path, store_id, ids)

    @override
    def copy_to(self, target: Path, progress: Progress | None) -> int:
        try:
            expected = copying.copy_online(self.connections, target, progress)
        except OSError as error:
            raise StorageError(f"cannot write the copy {target}: {error}") from error
        failpoint("backup-copied")
        return copying.verify_copy(target, expected)
