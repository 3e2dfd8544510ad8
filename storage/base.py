"""The storage contract: what a back end offers to everything above it.

A ``Database`` opens transactions. A ``Transaction`` sees one state of the store and groups its operations:
``tx.entries`` reads, ``tx.drafts`` writes, ``tx.generations`` and ``tx.vectors`` hold embedding spaces, ``tx.sessions``
what session encoders need, ``tx.lexical`` the full-text index, and so on. A ``Condition`` selects entries without
SQL; each back end compiles it.

Rules for all methods:

* An entry is *unsuperseded* until a new version or another entry replaces it; only such entries are in the indexes.
  It is *current* at a time if it is unsuperseded and has not expired by then.
* Ids of entries and numbers of changes are positive, grow, and are never used again, even after deletions.
* Lists of ids may have any length, and may name entries that do not exist: those are left out.
* Times are aware datetimes, stored to the microsecond and returned in UTC. Strings compare by code point.
* Vectors and latents are little-endian bytes in the generation's number format.
* A transaction may last for any time. One that a thread opens inside another is its own: neither sees what the other
  has not committed, and a write cannot begin inside a write.

Every method may raise StorageError, or ClosedError after the database was closed. ``tests/conformance`` holds every
back end to this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from agent_memory.errors import StorageError
from agent_memory.storage.entries import Changes, Drafts, Entries, Lexical, Mentions
from agent_memory.storage.erasures import Erasures
from agent_memory.storage.nearest import Nearest
from agent_memory.storage.operations import Jobs, Leases, Queries, Schedules
from agent_memory.storage.ranges import Claim, Ranges
from agent_memory.storage.records import AlteredRow, DatabaseState, Generation
from agent_memory.storage.spaces import Generations, Passages, Sessions, Vectors
from agent_memory.types import Namespace, Progress


class Transaction(ABC):
    """One state of the store, and the operations on it.

    Attributes:
        history: Changes where what was committed may be lost, and numbers be given again: what is known of an earlier
            one is worth nothing.
    """

    history: int = 0

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
    def nearest(self) -> Nearest | None:
        """The index of vectors that the database keeps; None if it cannot keep one."""
        return None

    @property
    def ranges(self) -> Ranges | None:
        """How the work on a generation is divided; None if only one process can work on it."""
        return None

    @property
    @abstractmethod
    def passages(self) -> Passages:
        """Stored vectors of passages."""

    @property
    @abstractmethod
    def sessions(self) -> Sessions:
        """Data that session encoders read and write."""

    @property
    @abstractmethod
    def lexical(self) -> Lexical:
        """The full-text index."""

    @property
    @abstractmethod
    def mentions(self) -> Mentions:
        """The times that texts mention."""

    @property
    @abstractmethod
    def queries(self) -> Queries:
        """The query log."""

    @property
    @abstractmethod
    def jobs(self) -> Jobs:
        """Running and finished jobs."""

    @property
    @abstractmethod
    def leases(self) -> Leases:
        """Leases on exclusive work."""

    @property
    @abstractmethod
    def schedules(self) -> Schedules:
        """Schedules of periodic jobs."""

    @property
    @abstractmethod
    def erasures(self) -> Erasures:
        """Receipts of what was forgotten, and known copies of the store."""

    @abstractmethod
    def read_store_id(self) -> str:
        """Return the id of the store, 32 hexadecimal digits: no other has it, and copies by ``restore`` get another."""

    @abstractmethod
    def measure(self, now: datetime) -> DatabaseState:
        """Return statistics of the database; scans a few indexes."""

    @abstractmethod
    def find_faults(self) -> list[str]:
        """Return the faults of the database itself, one sentence each; reads all of it."""

    @abstractmethod
    def find_altered(self) -> list[AlteredRow]:
        """Return the rows whose columns are not what was written, told by their checksums; reads all of them."""


class Database(ABC):
    """A store's database, shared by any number of threads and processes.

    Attributes:
        path: Where it is, for messages.
        lock_timeout_s: Seconds a writer waits for another before LockTimeoutError.
        erased: What holds once ``erase_traces`` has returned None, and how far that reaches: a sentence for receipts.
    """

    path: Path
    lock_timeout_s: float
    erased: ClassVar[str]

    @property
    def address(self) -> str:
        """What ``Memory`` opens it by."""
        return str(self.path.parent)

    @property
    def is_shared(self) -> bool:
        """Whether several machines may use it; see ``claim``."""
        return False

    def now(self) -> datetime:
        """Return the present time, by which entries are dated and leases held: one clock for all that share a store."""
        return datetime.now(UTC)

    @property
    @abstractmethod
    def read_only(self) -> bool:
        """True if it cannot be written; reads work, writes raise StorageError."""

    @abstractmethod
    def prepare(self, progress: Progress | None = None) -> None:
        """Create or migrate the schema, and write the full-text index again if its rules have changed.

        It does nothing if all is up to date. If it is interrupted, the next call goes on where it stopped.

        Args:
            progress: Called with (entries done, entries in all) while the full-text index is written.

        Raises:
            SchemaTooNewError: A newer version of this package wrote the store; nothing was changed.
            MigrationError: A migration failed; nothing was changed.
            StorageError: It is not a store of this package, or is read-only and outdated.
        """

    @abstractmethod
    def read(self) -> AbstractContextManager[Transaction]:
        """Open a read-only transaction in which every statement sees the same state of the store.

        Its first statement fixes that state at the latest; writes by others do not change it.
        """

    @abstractmethod
    def write(self, *, wait_s: float | None = None) -> AbstractContextManager[Transaction]:
        """Open the store's only write transaction; it is committed and on disk when the block ends.

        The transaction sees its own writes. If the block raises anything, nothing is written.

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

    @abstractmethod
    def abandon(self) -> None:
        """Close what no thread is using, without waiting: nobody will use the database any more."""

    # --- upkeep ------------------------------------------------------------------------------------------

    def claim(self, generation_id: int) -> AbstractContextManager[Claim | None]:
        """Claim the next of ``Transaction.ranges`` that nobody works on, until the block ends; None if there is none.

        It is done if ``Claim.encoded`` was set in the block; if the process is killed, others may claim it.
        """
        raise StorageError(
            f"{self.describe()} is for one machine: the work on generation {generation_id} is not shared"
        )

    def check_texts(  # noqa: B027 - most hold all that is valid
        self, namespace: Namespace, key: str, session: str | None, *others: str | None, metadata: str
    ) -> None:
        """Raise InvalidInputError if this database cannot store the texts of an entry, though they are valid.

        Args:
            namespace: Where it is to be.
            key: Its key.
            session: Its session.
            others: Its text and speaker.
            metadata: Its metadata as JSON.
        """

    def build_nearest(self, generation: Generation) -> bool:
        """Make the approximate index of ``Transaction.nearest``, outside of any transaction; False if others do."""
        raise StorageError(f"{self.describe()} keeps no index of vectors, so that none of {generation.id} can be built")

    @abstractmethod
    def describe(self) -> str:
        """Return the name and version of the database engine."""

    @abstractmethod
    def size_bytes(self) -> int:
        """Return the size of the database on disk in bytes, its log included."""

    @abstractmethod
    def merge_lexical(self) -> int:
        """Merge the segments of the full-text index in short transactions; returns the number of transactions."""

    @abstractmethod
    def prune_changes(self, up_to: int) -> int:
        """Delete the change log up to and including a number, but never its last row; returns the number of rows."""

    @abstractmethod
    def truncate_log(self) -> bool:
        """Move the write-ahead log into the database and truncate it; False if readers or writers prevent it."""

    @abstractmethod
    def erase_traces(self, finish: Callable[[Transaction], None], *, wait_s: float) -> str | None:
        """Overwrite what deleted rows have left in the files of the database, its log included.

        Args:
            finish: Called in the write transaction in which no file holds anything of them any more.
            wait_s: Seconds to wait for readers of an older state, and for writers.

        Returns:
            None if it was done; else what prevented it.
        """

    @abstractmethod
    def vacuum(self) -> bool:
        """Rewrite the database without its free pages; False if readers or writers prevent it."""

    @abstractmethod
    def count_in_copy(self, path: Path, store_id: str, ids: Sequence[int]) -> int:
        """Return how many rows of a store a file holds that ``copy_to`` wrote; 0 if it is no copy of that store."""

    @abstractmethod
    def copy_to(self, target: Path, progress: Progress | None) -> int:
        """Copy the database to one verified file while it is in use.

        Args:
            target: The file to write.
            progress: Called with (pages copied, pages in all).

        Returns:
            Number of entry rows in the copy.

        Raises:
            StorageError: It cannot be copied, or the copy is damaged.
        """
