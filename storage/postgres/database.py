"""The PostgreSQL back end: one schema of a database, used by any number of machines at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path

from typing_extensions import override

from agent_memory.storage.base import Transaction
from agent_memory.storage.connected import ConnectedDatabase
from agent_memory.storage.postgres import receiving, upkeep
from agent_memory.storage.postgres.address import parse_address
from agent_memory.storage.postgres.connections import Connections, get_raw
from agent_memory.storage.postgres.driver import check_names, check_nul
from agent_memory.storage.postgres.groups import (
    PostgresDrafts,
    PostgresEntries,
    PostgresErasures,
    PostgresGenerations,
    PostgresQueries,
    PostgresSessions,
    PostgresVectors,
)
from agent_memory.storage.postgres.lexical import PostgresLexical
from agent_memory.storage.postgres.migrate import REVISIONS, ensure_schema, read_revision
from agent_memory.storage.postgres.near_index import build_index
from agent_memory.storage.postgres.nearest import PostgresNearest
from agent_memory.storage.postgres.ranges import PostgresRanges, claim
from agent_memory.storage.postgres.replica import STANDBY_PATIENCE_S, Replica
from agent_memory.storage.ranges import Claim
from agent_memory.storage.records import DatabaseState, Generation
from agent_memory.storage.sqlite import upkeep as shared
from agent_memory.storage.sqlite.database import SqliteTransaction
from agent_memory.storage.sqlite.slots import Link
from agent_memory.types import Namespace, Progress


class PostgresTransaction(SqliteTransaction):
    """``Transaction`` in PostgreSQL.

    Args:
        place: The store.
        connection: What runs the transaction's statements.
        history: As of ``Transaction``; that of the connections if left out.
    """

    def __init__(self, place: Connections, connection: Link, history: int | None = None) -> None:
        self._place = place
        self.connection = connection
        self.history = place.history if history is None else history

    @cached_property
    @override
    def entries(self) -> PostgresEntries:
        return PostgresEntries(self.connection)

    @cached_property
    @override
    def drafts(self) -> PostgresDrafts:
        return PostgresDrafts(self.connection)

    @cached_property
    @override
    def sessions(self) -> PostgresSessions:
        return PostgresSessions(self.connection)

    @cached_property
    @override
    def vectors(self) -> PostgresVectors:
        return PostgresVectors(self.connection)

    @cached_property
    @override
    def nearest(self) -> PostgresNearest:
        return PostgresNearest(self._place, self.connection)

    @cached_property
    @override
    def ranges(self) -> PostgresRanges:
        return PostgresRanges(self.connection)

    @cached_property
    @override
    def generations(self) -> PostgresGenerations:
        return PostgresGenerations(self.connection)

    @cached_property
    @override
    def lexical(self) -> PostgresLexical:
        return PostgresLexical(self.connection)

    @cached_property
    @override
    def queries(self) -> PostgresQueries:
        return PostgresQueries(self.connection)

    @cached_property
    @override
    def erasures(self) -> PostgresErasures:
        return PostgresErasures(self.connection)

    @override
    def measure(self, now: datetime) -> DatabaseState:
        return upkeep.measure(self._place, self.connection, now)

    @override
    def find_faults(self) -> list[str]:
        return upkeep.find_faults(self._place, self.connection)


class PostgresDatabase(ConnectedDatabase):
    """``Database`` in one schema of a PostgreSQL database.

    Args:
        url: ``postgresql://user@host/database``, with libpq's parameters, ``schema=NAME`` and, for a
            standby that may be read from, ``read_from=HOST:PORT``.
        lock_timeout_s: Seconds a writer waits for another before LockTimeoutError.
    """

    erased = (
        "the tables that held them were written again from their rows; "
        "the server's write-ahead log, its archive, standbys and backups are out of reach, and may hold them still"
    )

    def __init__(self, url: str, *, lock_timeout_s: float) -> None:
        self._url = url
        self.connections: Connections = Connections(parse_address(url), lock_timeout_s=lock_timeout_s)
        standby = self.connections.address.standby
        self._standby = (
            None
            if standby is None
            else Connections(standby, lock_timeout_s=lock_timeout_s, patience_s=STANDBY_PATIENCE_S)
        )
        self._replica = None if self._standby is None else Replica(self.connections, self._standby)
        self.path, self.lock_timeout_s = self.connections.path, lock_timeout_s
        self.name = self.connections.address.name

    @property
    def index(self) -> str | None:
        """Where the address says that vectors are searched; None if it does not."""
        return self.connections.address.index

    @property
    def exists(self) -> bool:
        """Whether there is a store."""
        return self.find_revision() is not None

    @override
    def prepare(self, progress: Progress | None = None) -> None:
        ensure_schema(self.connections, progress)

    @override
    @contextmanager
    def read(self) -> Iterator[Transaction]:
        if self._replica is None:
            with super().read() as tx:
                yield tx
        else:
            with self._replica.read() as (connections, link):
                yield PostgresTransaction(connections, link, self.connections.history)

    @override
    def close(self) -> None:
        try:
            super().close()
        finally:
            if self._standby is not None:
                self._standby.close()

    @override
    def abandon(self) -> None:
        super().abandon()
        if self._standby is not None:
            self._standby.abandon()

    @override
    def _begin(self, link: Link) -> PostgresTransaction:
        return PostgresTransaction(self.connections, link)

    @override
    def now(self) -> datetime:
        return self.connections.now()

    @property
    @override
    def revision(self) -> str:
        return REVISIONS[-1]

    @override
    def find_revision(self) -> str | None:
        with self.connections.read() as link:
            return read_revision(get_raw(link), self.connections)

    @override
    def read_whole(self) -> AbstractContextManager[Link]:
        return self.connections.read_whole()

    @override
    def set_numbers(self, link: Link, numbers: Mapping[str, int]) -> None:
        receiving.set_numbers(get_raw(link), numbers)

    @override
    def check_storable(self, source: Link) -> None:
        receiving.check_storable(source)

    @property
    @override
    def address(self) -> str:
        return self._url

    @property
    @override
    def is_shared(self) -> bool:
        return True

    @override
    def claim(self, generation_id: int) -> AbstractContextManager[Claim | None]:
        return claim(self.connections, generation_id)

    @override
    def check_texts(
        self, namespace: Namespace, key: str, session: str | None, *others: str | None, metadata: str
    ) -> None:
        check_names(namespace, key, session)
        check_nul(key, session, *others, *namespace, json=metadata)

    @override
    def build_nearest(self, generation: Generation) -> bool:
        return build_index(self.connections, generation)

    @override
    def describe(self) -> str:
        facts = self.connections.ask_facts()
        return f"PostgreSQL {facts.version}" + (f", commits wait for {facts.waits_for}" if facts.waits_for else "")

    @override
    def size_bytes(self) -> int:
        return upkeep.size_bytes(self.connections)

    @override
    def merge_lexical(self) -> int:
        self.assert_open()
        return 1  # the index has no parts: it is written without a list of pending words

    @override
    def prune_changes(self, up_to: int) -> int:
        return shared.prune_changes(self.connections, up_to)  # type: ignore[arg-type]  # it only writes

    @override
    def truncate_log(self) -> bool:
        self.assert_open()
        return True  # the log is the server's, which keeps it short

    @override
    def erase_traces(self, finish: Callable[[Transaction], None], *, wait_s: float) -> str | None:
        return upkeep.erase_traces(
            self.connections, lambda link: finish(PostgresTransaction(self.connections, link)), wait_s=wait_s
        )

    @override
    def vacuum(self) -> bool:
        return upkeep.vacuum(self.connections)

    @override
    def count_in_copy(self, path: Path, store_id: str, ids: Sequence[int]) -> int:
        from agent_memory.storage.sqlite import copying

        return copying.count_held(path, store_id, ids)

    @override
    def copy_to(self, target: Path, progress: Progress | None) -> int:
        from agent_memory.storage.postgres import copying

        return copying.copy_to_file(self.connections, target, progress)
