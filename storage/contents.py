"""The storage contract, contents: entries, drafts, the change log and the full-text index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime

from agent_memory.records import Entry, Session
from agent_memory.storage.records import Condition, Draft, LexicalQuery, Removed, Written
from agent_memory.types import IdArray, Namespace


class Entries(ABC):
    """Reads entries."""

    @abstractmethod
    def fetch(self, ids: Sequence[int]) -> dict[int, Entry]:
        """Return the entries of the given ids, by id, including expired ones; unknown ids are left out."""

    @abstractmethod
    def select(
        self, condition: Condition, *, after_id: int = 0, limit: int | None = None, offset: int = 0
    ) -> list[tuple[int, Entry]]:
        """Return (id, entry) of the entries that satisfy a condition, in the order they were added."""

    @abstractmethod
    def select_texts(self, *, after_id: int, limit: int) -> list[tuple[int, str, str, bytes]]:
        """Return (id, key, text, content hash) of the next rows, by ascending id."""

    @abstractmethod
    def select_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, Entry]:
        """Return the current entries with the given keys in exactly one namespace, by key."""

    @abstractmethod
    def select_ids_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, int]:
        """Return the ids of the current entries with the given keys in exactly one namespace, by key."""

    @abstractmethod
    def select_ids(self, condition: Condition) -> IdArray:
        """Return the ids of the entries that satisfy a condition, shape (n,)."""

    @abstractmethod
    def select_expired_ids(self, now: datetime) -> list[int]:
        """Return the ids of expired entries, in all namespaces."""

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
        """Return every version of a key's entry and of the entries it superseded, oldest first."""

    @abstractmethod
    def matches(self, entry_id: int, condition: Condition) -> bool:
        """Return whether an entry satisfies a condition."""

    @abstractmethod
    def find_neighbours(self, ids: Sequence[int]) -> dict[int, list[int]]:
        """Return the current entries right before and right after each entry in its session, by entry id."""

    @abstractmethod
    def select_circumstances(self, ids: Sequence[int]) -> list[tuple[int, datetime, float | None]]:
        """Return (id, event time, importance) of the given entries."""

    @abstractmethod
    def count(self, condition: Condition) -> int:
        """Return the number of entries that satisfy a condition."""

    @abstractmethod
    def count_distinct(self, condition: Condition) -> tuple[int, int]:
        """Return the numbers of distinct namespaces, and of distinct texts per namespace, that satisfy a condition."""

    @abstractmethod
    def list_namespaces(self, condition: Condition) -> list[Namespace]:
        """Return the distinct namespaces of the entries that satisfy a condition, sorted."""

    @abstractmethod
    def list_sessions(self, condition: Condition) -> list[Session]:
        """Return the sessions with entries that satisfy a condition, in the order they began."""


class Drafts(ABC):
    """Writes entries, in a write transaction."""

    @abstractmethod
    def put(self, drafts: Sequence[Draft], generation_id: int, now: datetime, *, keep_versions: int) -> Written:
        """Insert drafts, or replace the entries with the same keys.

        If several drafts share a key, the last one wins. A replaced version is archived under a new id; the current
        entry keeps its id, and with it its place in its session.
        """

    @abstractmethod
    def remove(self, ids: Sequence[int]) -> Removed:
        """Delete entries with all their versions, vectors and words, and the sessions they leave empty."""

    @abstractmethod
    def supersede(self, old_id: int, new_id: int, now: datetime) -> int | None:
        """Replace one entry by another; the old one remains readable as of earlier times.

        Returns:
            The session of the old entry, or None.
        """

    @abstractmethod
    def mend(self, texts: Mapping[int, tuple[str, bytes]], generation_id: int) -> None:
        """Store the checksum and vector of entries again, given as (text, vector) by id."""


class Changes(ABC):
    """The change log that indexes follow."""

    @abstractmethod
    def last_seq(self) -> int:
        """Return the number of the latest change; 0 if there was none."""

    @abstractmethod
    def first_seq(self) -> int | None:
        """Return the number of the oldest change in the log; None if it is empty."""

    @abstractmethod
    def reach_back_to(self, seq: int) -> bool:
        """Return whether the log still holds every change after a number; maintenance deletes old ones."""

    @abstractmethod
    def ids_since(self, seq: int) -> IdArray:
        """Return the ids of the entries written or forgotten after a change number, shape (n,)."""

    @abstractmethod
    def log(self, ids: Sequence[int], op: str) -> list[int]:
        """Append one change per entry id; returns the numbers of the changes."""


class Lexical(ABC):
    """The full-text index, scored by BM25."""

    @abstractmethod
    def parse(self, query: str) -> LexicalQuery:
        """Return the rarest words of a query, and the score of a perfect match."""

    @abstractmethod
    def search(self, query: LexicalQuery, *, limit: int, condition: Condition | None = None) -> dict[int, float]:
        """Return the scores of the entries that best match a query's words, best first.

        Args:
            query: From ``parse``.
            limit: Maximum number of entries.
            condition: Which entries; None for all indexed ones, including expired ones.

        Returns:
            BM25 score as a share of the largest possible one, from 0 to 1, by entry id.
        """

    @abstractmethod
    def find_matched(self, query: LexicalQuery, entry_id: int) -> list[str]:
        """Return the words of a query that an entry holds."""

    @abstractmethod
    def score_texts(self, query: LexicalQuery, entries: Mapping[int, Entry]) -> dict[int, float]:
        """Return the scores of entries that are not in the index, such as former versions, by id.

        Words have the weights they have in the index; repetitions in a text do not count.
        """

    @abstractmethod
    def find_faults(self) -> list[str]:
        """Return the differences between index and entries, one sentence each; reads all of it, takes no lock."""

    @abstractmethod
    def rebuild(self, *, unreadable: bool = False) -> None:
        """Index all current entries again, in a write transaction.

        Args:
            unreadable: True if the index is too damaged to open and must be replaced by an empty one first.
        """
