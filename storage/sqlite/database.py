"""The SQLite back end: one file, opened by any number of threads and processes at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.files import failpoint
from agent_memory.storage.base import Transaction
from agent_memory.storage.connected import ConnectedDatabase
from agent_memory.storage.records import AlteredRow, DatabaseState
from agent_memory.storage.sqlite.changes import SqliteChanges
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.drafts import SqliteDrafts
from agent_memory.storage.sqlite.driver import describe, warn_if_unsafe
from agent_memory.storage.sqlite.entries import SqliteEntries
from agent_memory.storage.sqlite.erasures import SqliteErasures
from agent_memory.storage.sqlite.generations import SqliteGenerations
from agent_memory.storage.sqlite.lexical import SqliteLexical
from agent_memory.storage.sqlite.mentions import SqliteMentions
from agent_memory.storage.sqlite.migrate import REVISIONS, ensure_schema, find_revision
from agent_memory.storage.sqlite.passages import SqlitePassages
from agent_memory.storage.sqlite.sessions import SqliteSessions
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.storage.sqlite.values import read_text
from agent_memory.storage.sqlite.vectors import SqliteVectors
from agent_memory.types import Progress

if TYPE_CHECKING:
    from agent_memory.storage.sqlite.jobs import SqliteJobs
    from agent_memory.storage.sqlite.leases import SqliteLeases
    from agent_memory.storage.sqlite.queries import SqliteQueries
    from agent_memory.storage.sqlite.schedules import SqliteSchedules


class SqliteTransaction(Transaction):
    """``Transaction`` in SQLite.

    Args:
        connections: The database.
        connection: What runs the transaction's statements.
    """

    def __init__(self, connections: Connections, connection: Link) -> None:
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
        from agent_memory.storage.sqlite.queries import SqliteQueries

        return SqliteQueries(self.connection)

    @cached_property
    @override
    def jobs(self) -> SqliteJobs:
        from agent_memory.storage.sqlite.jobs import SqliteJobs

        return SqliteJobs(self.connection)

    @cached_property
    @override
    def leases(self) -> SqliteLeases:
        from agent_memory.storage.sqlite.leases import SqliteLeases

        return SqliteLeases(self.connection)

    @cached_property
    @override
    def schedules(self) -> SqliteSchedules:
        from agent_memory.storage.sqlite.schedules import SqliteSchedules

        return SqliteSchedules(self.connection)

    @cached_property
    @override
    def erasures(self) -> SqliteErasures:
        return SqliteErasures(self.connection)

    @override
    def read_store_id(self) -> str:
        found = driver(self.connection).execute("SELECT value FROM meta WHERE name = 'store_id'").fetchone()
        if found is None:
            raise StorageError("the store is damaged: it has lost its id")
        return str(read_text(found[0]))

    @override
    def measure(self, now: datetime) -> DatabaseState:
        from agent_memory.storage.sqlite import upkeep

        return upkeep.measure(self._connections, self.connection, now)

    @override
    def find_faults(self) -> list[str]:
        from agent_memory.storage.sqlite import upkeep

        return upkeep.find_faults(self.connection)

    @override
    def find_altered(self) -> list[AlteredRow]:
        from agent_memory.storage.sqlite import upkeep

        return upkeep.find_altered(self.connection)


class SqliteDatabase(ConnectedDatabase):
    """``Database`` in one SQLite file.

    Args:
        path: The database file; its folder must exist.
        lock_timeout_s: Seconds a writer waits for another process before LockTimeoutError.
    """

    erased = "the write-ahead log was empty, and the unused space of all pages zero"

    def __init__(self, path: Path, *, lock_timeout_s: float) -> None:
        self.connections: Connections = Connections(path, lock_timeout_s=lock_timeout_s)
        self.path, self.lock_timeout_s, self.name = path, lock_timeout_s, str(path)

    @override
    def prepare(self, progress: Progress | None = None) -> None:
        warn_if_unsafe()
        ensure_schema(self.connections, progress)

    @override
    def _begin(self, link: Link) -> SqliteTransaction:
        return SqliteTransaction(self.connections, link)

    @property
    @override
    def revision(self) -> str:
        return REVISIONS[-1]

    @override
    def find_revision(self) -> str | None:
        return find_revision(self.connections)

    @override
    def set_numbers(self, link: Link, numbers: Mapping[str, int]) -> None:
        from agent_memory.storage.sqlite import receiving

        receiving.set_numbers(link, numbers)

    @override
    def check_storable(self, source: Link) -> None:
        """Do nothing: SQLite stores every value in every column."""

    @override
    def describe(self) -> str:
        return describe()

    @override
    def size_bytes(self) -> int:
        from agent_memory.storage.sqlite import upkeep

        return upkeep.size_bytes(self.path)

    @override
    def merge_lexical(self) -> int:
        from agent_memory.storage.sqlite import upkeep

        return upkeep.merge_lexical(self.connections)

    @override
    def prune_changes(self, up_to: int) -> int:
        from agent_memory.storage.sqlite import upkeep

        return upkeep.prune_changes(self.connections, up_to)

    @override
    def truncate_log(self) -> bool:
        from agent_memory.storage.sqlite import upkeep

        return upkeep.truncate_log(self.connections)

    @override
    def erase_traces(self, finish: Callable[[Transaction], None], *, wait_s: float) -> str | None:
        from agent_memory.storage.sqlite import traces

        return traces.erase_traces(
            self.connections, lambda connection: finish(SqliteTransaction(self.connections, connection)), wait_s=wait_s
        )

    @override
    def vacuum(self) -> bool:
        from agent_memory.storage.sqlite import upkeep

        return upkeep.vacuum(self.connections)

    @override
    def count_in_copy(self, path: Path, store_id: str, ids: Sequence[int]) -> int:
        from agent_memory.storage.sqlite import copying

        return copying.count_held(path, store_id, ids)

    @override
    def copy_to(self, target: Path, progress: Progress | None) -> int:
        from agent_memory.storage.sqlite import copying

        try:
            expected = copying.copy_online(self.connections, target, progress)
        except OSError as error:
            raise StorageError(f"cannot write the copy {target}: {error}") from error
        failpoint("backup-copied")
        return copying.verify_copy(target, expected)
