"""The storage contract: what a back end offers to everything above it.

A ``Database`` opens transactions. A ``Transaction`` sees one state of the store and groups what can be done in it:
``tx.entries`` reads, ``tx.drafts`` writes, ``tx.generations`` and ``tx.vectors`` hold embedding spaces, ``tx.sessions``
what session encoders need, ``tx.lexical`` the full-text index, and so on. Which entries are meant is said by a
``Condition``, which knows no SQL: each back end compiles it.

``tests/conformance`` holds every back end to this contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path

from agent_memory.records import Entry, Session
from agent_memory.storage.operations import Jobs, Leases, Queries, Schedules
from agent_memory.storage.records import (
    AlteredRow,
    Condition,
    DatabaseState,
    Draft,
    LexicalQuery,
    Removed,
    Written,
)
from agent_memory.storage.spaces import Generations, Sessions, Vectors
from agent_memory.types import IdArray, Namespace, Progress


class Entries(ABC):
    """Reading entries."""

    @abstractmethod
    def fetch(self, ids: Sequence[int]) -> dict[int, Entry]:
        """Return the entries of the given ids, expired ones included, unknown ones left out."""

    @abstractmethod
    def select(
        self, condition: Condition, *, after_id: int = 0, limit: int | None = None, offset: int = 0
    ) -> list[tuple[int, Entry]]:
        """Return (id, entry) of all entries that satisfy a condition, in the order they were added."""

    @abstractmethod
    def select_texts(self, *, after_id: int, limit: int) -> list[tuple[int, str, str, bytes]]:
        """Return (id, key, text, content hash) of the next rows by id."""

    @abstractmethod
    def select_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, Entry]:
        """Return the current entries of the given keys in exactly one namespace."""

    @abstractmethod
    def select_ids_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, int]:
        """Return the ids of the current entries of the given keys in exactly one namespace."""

    @abstractmethod
    def select_ids(self, condition: Condition) -> IdArray:
        """Return the ids of all entries that satisfy a condition, shape (n,)."""

    @abstractmethod
    def select_expired_ids(self, now: datetime) -> list[int]:
        """Return the ids of all entries that have expired, in every namespace."""

    @abstractmethod
    def find(self, namespace: Namespace, key: str, now: datetime) -> tuple[int, Entry]:
        """Return (id, entry) of a key in exactly one namespace.

        Raises:
            NotFoundError: No current entry has the key there.
        """

    @abstractmethod
    def find_newest(self, namespace: Namespace, key: str) -> tuple[int, Entry] | None:
        """Return (id, entry) of a key in exactly one namespace, current or not, or None."""

    @abstractmethod
    def list_versions(self, namespace: Namespace, key: str) -> list[Entry]:
        """Return all that was ever current under a key, or was superseded by that, oldest first."""

    @abstractmethod
    def matches(self, entry_id: int, condition: Condition) -> bool:
        """Return whether an entry satisfies a condition."""

    @abstractmethod
    def find_neighbours(self, ids: Sequence[int]) -> dict[int, list[int]]:
        """Return the current entries said right before and right after each entry in its session, by entry id."""

    @abstractmethod
    def select_circumstances(self, ids: Sequence[int]) -> list[tuple[int, datetime, float | None]]:
        """Return (id, event time, importance) of the given entries."""

    @abstractmethod
    def count(self, condition: Condition) -> int:
        """Return how many entries satisfy a condition."""

    @abstractmethod
    def count_distinct(self, condition: Condition) -> tuple[int, int]:
        """Return how many namespaces, and how many texts within their namespaces, satisfy a condition."""

    @abstractmethod
    def list_namespaces(self, condition: Condition) -> list[Namespace]:
        """Return the distinct namespaces of the entries that satisfy a condition, sorted."""

    @abstractmethod
    def list_sessions(self, condition: Condition) -> list[Session]:
        """Return the sessions that hold entries satisfying a condition, in the order they began."""


class Drafts(ABC):
    """Writing entries, in a write transaction."""

    @abstractmethod
    def put(self, drafts: Sequence[Draft], generation_id: int, now: datetime, *, keep_versions: int) -> Written:
        """Insert drafts, or replace the entries that have their keys.

        A key that several drafts share ends as the last of them. What is replaced is archived under a new id; the
        current entry keeps its own, and with it its place in its session.
        """

    @abstractmethod
    def remove(self, ids: Sequence[int]) -> Removed:
        """Delete entries with all their versions, vectors and words, and sessions that become empty."""

    @abstractmethod
    def supersede(self, old_id: int, new_id: int, now: datetime) -> int | None:
        """Let one entry take the place of another, which stays readable as of moments before now.

        Returns:
            The session that the old entry leaves, if any.
        """

    @abstractmethod
    def mend(self, texts: Mapping[int, tuple[str, bytes]], generation_id: int) -> None:
        """Store checksum and vector again for entries whose text is given by id."""


class Changes(ABC):
    """The change log that indexes follow."""

    @abstractmethod
    def last_seq(self) -> int:
        """Return the number of the store's latest change; 0 if there was none."""

    @abstractmethod
    def first_seq(self) -> int | None:
        """Return the number of the oldest change in the log; None if there is none."""

    @abstractmethod
    def reach_back_to(self, seq: int) -> bool:
        """Return whether the log still holds every change after a number; maintenance drops the oldest."""

    @abstractmethod
    def ids_since(self, seq: int) -> IdArray:
        """Return the ids of the entries put or forgotten after a change number, shape (n,)."""

    @abstractmethod
    def log(self, ids: Sequence[int], op: str) -> list[int]:
        """Append one change per entry id; returns their numbers."""


class Lexical(ABC):
    """The full-text index, scored by BM25."""

    @abstractmethod
    def parse(self, query: str) -> LexicalQuery:
        """Choose the rarest words of a query and work out the score of a perfect match."""

    @abstractmethod
    def search(self, query: LexicalQuery, *, limit: int, condition: Condition | None = None) -> dict[int, float]:
        """Return the scores of the best entries by words, best first.

        Args:
            query: From ``parse``.
            limit: Maximum number of entries.
            condition: Which entries; None for all in the index, expired ones included.

        Returns:
            Share of the largest possible BM25 score, from 0 to 1, by entry id.
        """

    @abstractmethod
    def find_matched(self, query: LexicalQuery, entry_id: int) -> list[str]:
        """Return the words of a query that an entry holds."""

    @abstractmethod
    def score_texts(self, query: LexicalQuery, entries: Mapping[int, Entry]) -> dict[int, float]:
        """Return the scores of entries that are not in the index, such as former versions, by id.

        The words weigh what they weigh in the index; how often a text repeats them is not counted.
        """

    @abstractmethod
    def find_faults(self) -> list[str]:
        """Return in what the index differs from the entries, one sentence each; reads all of it, takes no lock."""

    @abstractmethod
    def rebuild(self, *, unreadable: bool = False) -> None:
        """Index all current entries again, in a write transaction.

        Args:
            unreadable: True if the index is too damaged to be opened, and must be replaced by an empty one first.
        """


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
    def read_store_id(self) -> str:
        """Return the id of the store, 32 hexadecimal digits: no other has it, and copies by ``restore`` get another."""

    @abstractmethod
    def measure(self, now: datetime) -> DatabaseState:
        """Return figures of the database; costs a few scans of indexes."""

    @abstractmethod
    def find_faults(self) -> list[str]:
        """Return what is damaged in the database itself, one sentence each; reads all of it."""

    @abstractmethod
    def find_altered(self) -> list[AlteredRow]:
        """Return the rows whose columns are not what was written, told by their checksums; reads all of them."""


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
        """Create or migrate the schema, or raise; see ``SchemaTooNewError`` and ``MigrationError``."""

    @abstractmethod
    def read(self) -> AbstractContextManager[Transaction]:
        """Open a transaction in which every statement sees the same state of the store."""

    @abstractmethod
    def write(self, *, wait_s: float | None = None) -> AbstractContextManager[Transaction]:
        """Open the store's only write transaction; committed and on disk when the block ends.

        Args:
            wait_s: Seconds to wait for another writer; ``lock_timeout_s`` if left out.

        Raises:
            LockTimeoutError: Another process held the write lock for longer than that.
            StorageError: The store is read-only, the disk is full, or the file is damaged; rolled back.
        """

    @abstractmethod
    def assert_open(self) -> None:
        """Raise ClosedError if the database was closed, StorageError if it cannot be opened."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections of all threads; later use raises ClosedError."""

    @abstractmethod
    def abandon(self) -> None:
        """Close what no thread is using, without waiting: nobody will use the database any more."""

    # --- upkeep ------------------------------------------------------------------------------------------

    @abstractmethod
    def size_bytes(self) -> int:
        """Return the size of the database on disk, its log included."""

    @abstractmethod
    def merge_lexical(self) -> int:
        """Merge the segments of the full-text index into one, a little a transaction; returns how many steps."""

    @abstractmethod
    def prune_changes(self, up_to: int) -> int:
        """Delete the change log up to a number, never its last row; returns how many rows are gone."""

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
