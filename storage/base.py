"""The storage contract: what a back end offers to everything above it.

A ``Database`` opens transactions. A ``Transaction`` sees one state of the store and groups what can be done in it:
``tx.entries`` reads, ``tx.drafts`` writes, ``tx.generations`` and ``tx.vectors`` hold embedding spaces, ``tx.sessions``
what session encoders need, ``tx.lexical`` the full-text index, and so on. Which entries are meant is said by a
``Condition``, which knows no SQL: each back end compiles it.

What holds everywhere:

* An entry is *unsuperseded* until a new version or another entry takes its place; only such entries are in the indexes.
  It is *current* at a moment if it is unsuperseded and has not expired by then.
* Ids of entries and numbers of changes are positive, grow, and never come back, whatever is deleted.
* Lists of ids may be of any length, and may name entries that are not there: those are left out.
* Moments are aware datetimes, kept to the microsecond and returned in UTC. Strings compare by code point.
* Vectors and latents are little-endian bytes in the generation's number format.
* A thread has one transaction of a database open at a time; each may last as long as it likes.

Every method may raise StorageError, or ClosedError once the database was closed. ``tests/conformance`` holds every
back end to this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from agent_memory.storage.entries import Changes, Drafts, Entries, Lexical
from agent_memory.storage.operations import Jobs, Leases, Queries, Schedules
from agent_memory.storage.records import DatabaseState
from agent_memory.storage.spaces import Generations, Sessions, Vectors
from agent_memory.types import Progress


class Transaction(ABC):
    """One state of the store, and what can be done in it."""

    @property
    @abstractmethod
    def entries(self) -> Entries:
        """Reading entries."""

    @property
    @abstractmethod
    def drafts(self) -> Drafts:
        """Writing entries."""

    @property
    @abstractmethod
    def changes(self) -> Changes:
        """The change log."""

    @property
    @abstractmethod
    def generations(self) -> Generations:
        """Embedding spaces."""

    @property
    @abstractmethod
    def vectors(self) -> Vectors:
        """Stored vectors."""

    @property
    @abstractmethod
    def sessions(self) -> Sessions:
        """What session encoders read and write."""

    @property
    @abstractmethod
    def lexical(self) -> Lexical:
        """The full-text index."""

    @property
    @abstractmethod
    def queries(self) -> Queries:
        """The query log."""

    @property
    @abstractmethod
    def jobs(self) -> Jobs:
        """Jobs under way and finished."""

    @property
    @abstractmethod
    def leases(self) -> Leases:
        """Who may do a piece of work."""

    @property
    @abstractmethod
    def schedules(self) -> Schedules:
        """Which jobs a worker does again and again."""

    @abstractmethod
    def measure(self, now: datetime) -> DatabaseState:
        """Return figures of the database; costs a few scans of indexes."""

    @abstractmethod
    def find_faults(self) -> list[str]:
        """Return what is damaged in the database itself, one sentence each; reads all of it."""


class Database(ABC):
    """A store's database, opened by any number of threads and processes at once.

    Attributes:
        path: Where it is, for messages.
        lock_timeout_s: Seconds a writer waits for another before LockTimeoutError.
    """

    path: Path
    lock_timeout_s: float

    @property
    @abstractmethod
    def read_only(self) -> bool:
        """True if it cannot be written; reads work, writes raise StorageError."""

    @abstractmethod
    def prepare(self) -> None:
        """Create or migrate the schema; does nothing if it is up to date.

        Raises:
            SchemaTooNewError: A newer version of this package wrote the store; nothing was changed.
            MigrationError: A migration failed; nothing was changed.
            StorageError: It is not a store of this package, or is read-only and outdated.
        """

    @abstractmethod
    def read(self) -> AbstractContextManager[Transaction]:
        """Open a transaction in which every statement sees the same state of the store, whatever others write.

        Which state that is, is settled by the first statement at the latest. Nothing may be written in it.
        """

    @abstractmethod
    def write(self, *, wait_s: float | None = None) -> AbstractContextManager[Transaction]:
        """Open the store's only write transaction; committed and on disk when the block ends.

        It sees what it wrote. If the block raises, whatever it is, nothing of it was written.

        Args:
            wait_s: Seconds to wait for another writer; ``lock_timeout_s`` if left out.

        Raises:
            LockTimeoutError: Another thread or process held the write lock for longer than that.
            StorageError: The store is read-only, the disk is full, or the file is damaged; rolled back.
        """

    @abstractmethod
    def assert_open(self) -> None:
        """Raise ClosedError if the database was closed, StorageError if it cannot be opened."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections of all threads; later use raises ClosedError. May be called twice."""

    # --- upkeep ------------------------------------------------------------------------------------------

    @abstractmethod
    def size_bytes(self) -> int:
        """Return the size of the database on disk in bytes, its log included."""

    @abstractmethod
    def merge_lexical(self) -> int:
        """Merge the segments of the full-text index into one, a little a transaction; returns how many steps."""

    @abstractmethod
    def prune_changes(self, up_to: int) -> int:
        """Delete the change log up to and with a number, never its last row; returns how many rows are gone."""

    @abstractmethod
    def truncate_log(self) -> bool:
        """Move the write-ahead log into the database and cut it; False if readers or writers are in the way."""

    @abstractmethod
    def vacuum(self) -> bool:
        """Rewrite the database without its free pages; False if readers or writers are in the way."""

    @abstractmethod
    def copy_to(self, target: Path, progress: Progress | None) -> int:
        """Copy the database, as it is now, to one verified file while it is in use.

        Args:
            target: The file to write.
            progress: Called with (pages copied, pages in all).

        Returns:
            How many rows of entries the copy holds.

        Raises:
            StorageError: It cannot be copied, or the copy is not sound.
        """
