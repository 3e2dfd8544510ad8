"""The storage contract, entries: reading and writing them, their change log, and their full-text index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import datetime

from agent_memory.records import Entry, Session
from agent_memory.storage.records import Condition, Draft, LexicalQuery, Removed, Written
from agent_memory.types import IdArray, Namespace


class Entries(ABC):
    """Reading entries."""

    @abstractmethod
    def fetch(self, ids: Sequence[int]) -> dict[int, Entry]:
        """Return the entries of the given ids, expired ones included, unknown ones left out."""

    @abstractmethod
    def select(
        self, condition: Condition, *, after_id: int = 0, limit: int | None = None, offset: int = 0
    ) -> list[tuple[int, Entry]]:
        """Return (id, entry) of the entries that satisfy a condition, in the order they were added.

        Args:
            condition: Which entries.
            after_id: Only entries with larger ids.
            limit: Maximum number of entries; None for all.
            offset: How many of the first to skip.
        """

    @abstractmethod
    def select_texts(self, *, after_id: int, limit: int) -> list[tuple[int, str, str, bytes]]:
        """Return (id, key, text, content hash) of the next rows by id, former versions and expired ones included."""

    @abstractmethod
    def select_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, Entry]:
        """Return the current entries of the given keys in exactly one namespace."""

    @abstractmethod
    def select_ids_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, int]:
        """Return the ids of the current entries of the given keys in exactly one namespace."""

    @abstractmethod
    def select_ids(self, condition: Condition) -> IdArray:
        """Return the ids of all entries that satisfy a condition, shape (n,), in no order."""

    @abstractmethod
    def select_expired_ids(self, now: datetime) -> list[int]:
        """Return the ids of the unsuperseded entries that have expired by a moment, in every namespace."""

    @abstractmethod
    def find(self, namespace: Namespace, key: str, now: datetime) -> tuple[int, Entry]:
        """Return (id, entry) of a key in exactly one namespace.

        Raises:
            NotFoundError: No current entry has the key there.
        """

    @abstractmethod
    def find_newest(self, namespace: Namespace, key: str) -> tuple[int, Entry] | None:
        """Return (id, entry) of a key in exactly one namespace, or None if it was never used or is forgotten.

        The unsuperseded entry, expired or not; if there is none, the one that was superseded last.
        """

    @abstractmethod
    def list_versions(self, namespace: Namespace, key: str) -> list[Entry]:
        """Return all that was ever stored under a key, or was superseded by that, however indirectly, oldest first."""

    @abstractmethod
    def matches(self, entry_id: int, condition: Condition) -> bool:
        """Return whether an entry satisfies a condition."""

    @abstractmethod
    def find_neighbours(self, ids: Sequence[int]) -> dict[int, list[int]]:
        """Return the unsuperseded entries said right before and right after each entry in its session, by entry id.

        A former version has the place of the entry that kept its key. Entries without a session are left out.
        """

    @abstractmethod
    def select_circumstances(self, ids: Sequence[int]) -> list[tuple[int, datetime, float | None]]:
        """Return (id, event time, importance) of the given entries."""

    @abstractmethod
    def count(self, condition: Condition) -> int:
        """Return how many entries satisfy a condition."""

    @abstractmethod
    def count_distinct(self, condition: Condition) -> tuple[int, int]:
        """Return how many namespaces hold entries that satisfy a condition, and how many different texts these have.

        A text that two namespaces hold counts twice.
        """

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
        """Insert drafts, or replace the unsuperseded entries that have their keys; logs one change for each key.

        A key that several drafts share ends as the last of them. What is replaced is archived under a new id, with its
        vectors; the entry that takes its place keeps the former id, and with it the place in its session, and the time
        of creation unless the replaced one had expired. A vector that a draft brings replaces those of all
        generations; a draft without one keeps them, but leaves behind what a session made of them if it is in none.

        Args:
            drafts: What to write.
            generation_id: The generation of the drafts' vectors.
            now: The moment of writing.
            keep_versions: How many former versions to keep of each key; 0 for none.
        """

    @abstractmethod
    def remove(self, ids: Sequence[int]) -> Removed:
        """Delete entries with all versions of their keys, their vectors and words, and sessions that become empty.

        Logs a change for each row that is gone. What they had superseded stays superseded.
        """

    @abstractmethod
    def supersede(self, old_id: int, new_id: int, now: datetime) -> int | None:
        """Let one entry take the place of another, which stays readable as of moments before now; logs a change.

        Returns:
            The session that the old entry leaves, if any: what it holds from that entry on must be evolved again.

        Raises:
            NotFoundError: The old entry is not there, or was superseded already.
        """

    @abstractmethod
    def mend(self, texts: Mapping[int, tuple[str, bytes]], generation_id: int) -> None:
        """Store checksums and static vectors again; logs a change for each entry.

        Args:
            texts: (text, vector) by entry id; the text is what is stored already, only its checksum is written.
            generation_id: The generation of the vectors; the others lose theirs.
        """


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
        """Return the ids of the entries changed after a change number, shape (n,), once each, in no order."""

    @abstractmethod
    def log(self, ids: Sequence[int], op: str) -> list[int]:
        """Append one change per entry id; returns their numbers.

        Args:
            ids: Entries.
            op: What was done: ``put``, ``supersede`` or ``forget``; nothing but people reads it.
        """


class Lexical(ABC):
    """The full-text index, scored by BM25: speakers and texts of all unsuperseded entries.

    ``storage/words.py`` says which words are indexed and looked for. They are compared without regard to case, accents
    and English endings (by stem); runs of Chinese, Japanese and Korean characters by overlapping pairs.
    """

    @abstractmethod
    def parse(self, query: str) -> LexicalQuery:
        """Choose the rarest words of a query and work out the score of a perfect match."""

    @abstractmethod
    def search(self, query: LexicalQuery, *, limit: int, condition: Condition | None = None) -> dict[int, float]:
        """Return the scores of the best entries by words, best first; those of equal scores by id.

        If n entries satisfy the condition and hold a word of the query, min(n, limit) come back. The condition leaves
        scores as they are.

        Args:
            query: From ``parse``.
            limit: Maximum number of entries, from 1 on.
            condition: Which entries; None for all in the index, expired ones included.

        Returns:
            Share of the largest possible BM25 score, from 0 to 1, by entry id.
        """

    @abstractmethod
    def find_matched(self, query: LexicalQuery, entry_id: int) -> list[str]:
        """Return the words and phrases of a query that an entry in the index holds, the rarest first."""

    @abstractmethod
    def score_texts(self, query: LexicalQuery, entries: Mapping[int, Entry]) -> dict[int, float]:
        """Return the scores of entries that are not in the index, such as former versions, from 0 to 1, by id.

        The words weigh what they weigh in the index; how often a text repeats them is not counted. Entries that hold
        no word of the query are left out.
        """

    @abstractmethod
    def find_faults(self) -> list[str]:
        """Return in what the index differs from the entries, one sentence each; reads all of it, takes no lock."""

    @abstractmethod
    def rebuild(self, *, unreadable: bool = False) -> None:
        """Index all unsuperseded entries again, in a write transaction.

        Args:
            unreadable: True if the index is too damaged to be opened, and must be replaced by an empty one first.
        """
