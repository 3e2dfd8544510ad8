"""What databases with connections of their own have in common, whatever their engine."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from typing_extensions import override

from agent_memory.storage.base import Database, Transaction

if TYPE_CHECKING:
    from agent_memory.storage.sqlite.slots import Link


class Connections(Protocol):
    """The connections of this process to one store."""

    path: Path
    lock_timeout_s: float

    @property
    def read_only(self) -> bool:
        """True if nothing can be written."""

    def read(self) -> AbstractContextManager[Link]:
        """Open a transaction in which every statement sees the same state of the store."""

    def write(self, *, wait_s: float | None = None) -> AbstractContextManager[Link]:
        """Open the store's only write transaction."""

    def assert_open(self) -> None:
        """Raise ClosedError if the database was closed."""

    def close(self) -> None:
        """Refuse new transactions, wait for running ones, and close."""

    def abandon(self) -> None:
        """Refuse new transactions and close what none uses."""


class ConnectedDatabase(Database):
    """A database whose transactions run on ``connections``, and whose rows can be copied from and to as they are.

    Attributes:
        name: What it is called in messages.
    """

    connections: Connections
    name: str

    @property
    @override
    def read_only(self) -> bool:
        return self.connections.read_only

    @abstractmethod
    def _begin(self, link: Link) -> Transaction:
        """Return the operations on a connection that is in a transaction."""

    @override
    @contextmanager
    def read(self) -> Iterator[Transaction]:
        with self.connections.read() as link:
            yield self._begin(link)

    @override
    @contextmanager
    def write(self, *, wait_s: float | None = None) -> Iterator[Transaction]:
        with self.connections.write(wait_s=wait_s) as link:
            yield self._begin(link)

    @override
    def assert_open(self) -> None:
        self.connections.assert_open()

    @override
    def close(self) -> None:
        self.connections.close()

    @override
    def abandon(self) -> None:
        self.connections.abandon()

    # --- rows as they are --------------------------------------------------------------------------------

    def read_whole(self) -> AbstractContextManager[Link]:
        """Open a transaction in which all rows are read, however long that takes."""
        return self.connections.read()

    @property
    @abstractmethod
    def revision(self) -> str:
        """The newest revision of the schema that this version knows."""

    @abstractmethod
    def find_revision(self) -> str | None:
        """Return the revision of the schema, ``rows.MARK`` before it in an unfinished copy; None if there is no store.

        Raises:
            SchemaTooNewError: A newer version of this package wrote it.
            StorageError: It is something else than a store.
        """

    @abstractmethod
    def set_numbers(self, link: Link, numbers: Mapping[str, int]) -> None:
        """Make row numbers go on behind those given by table, and in other tables behind the rows that they have."""

    @abstractmethod
    def check_storable(self, source: Link) -> None:
        """Raise InvalidInputError if some row of another database cannot be stored in this one; it says which."""
