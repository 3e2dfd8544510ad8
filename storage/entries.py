"""The storage contract, entries: reading, writing, the change log and the full-text index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Protocol

from agent_memory.errors import StorageError
from agent_memory.records import Entry, Session
from agent_memory.storage.columns import EntryFacts
from agent_memory.storage.filters import Path
from agent_memory.storage.numbered import Field
from agent_memory.storage.records import (
    Condition,
    Draft,
    EntryTerms,
    LexicalQuery,
    Removed,
    Span,
    StoredVectors,
    Written,
)
from agent_memory.types import Address, IdArray, Namespace


class Entries(ABC):
    """Reads entries."""

    @abstractmethod
    def fetch(self, ids: Sequence[int]) -> dict[int, Entry]:
        """Return the entries with the given ids, by id, including expired ones; unknown ids are left out."""

    @abstractmethod
    def select(
        self,
        condition: Condition,
        *,
        after_id: int = 0,
        limit: int | None = None,
        offset: int = 0,
        newest_first: bool = False,
    ) -> list[tuple[int, Entry]]:
        """Return (id, entry) of the entries that satisfy a condition, in the order they were added.

        Args:
            condition: Which entries.
            after_id: Only entries with larger ids.
            limit: Maximum number of entries; None for all.
            offset: Number of matching entries to skip first.
            newest_first: True for the reverse order; with a limit, only the end of a session is read.
        """

    @abstractmethod
    def select_texts(self, *, after_id: int, limit: int) -> list[tuple[int, str, str, bytes]]:
        """Return (id, key, text, content hash) of the next rows by id, former versions and expired ones included."""

    @abstractmethod
    def select_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, Entry]:
        """Return the current entries with the given keys in exactly one namespace, by key."""

    @abstractmethod
    def select_ids_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, int]:
        """Return the ids of the current entries with the given keys in exactly one namespace, by key."""

    @abstractmethod
    def select_at(self, places: Sequence[Address], now: datetime) -> dict[Address, tuple[int, Entry]]:
        """Return (id, entry) of the current entries at (namespace, key), by place, all at once."""

    @abstractmethod
    def select_ids_at(self, places: Sequence[Address], now: datetime) -> list[int]:
        """Return the ids of the entries that ``select_at`` returns."""

    @abstractmethod
    def select_ids(self, condition: Condition) -> IdArray:
        """Return the ids of all entries that satisfy a condition, shape (n,), in no order."""

    @property
    def has_columns(self) -> bool:
        """Whether ``read_facts`` and ``read_members`` are offered."""
        return False

    def read_facts(self, ids: IdArray | None = None) -> Iterator[EntryFacts]:
        """Yield what is told of the unsuperseded entries, or of those among some, by id, some thousand at once."""
        raise StorageError("this back end has no columns to read")

    def read_members(self, path: Path, ids: IdArray | None = None) -> Iterator[tuple[IdArray, Sequence[Field]]]:
        """Yield (ids, a member of the metadata of each) of what ``read_facts`` yields.

        Args:
            path: The member, of plain names.
            ids: As for ``read_facts``.
        """
        raise StorageError("this back end has no columns to read")

    @abstractmethod
    def select_surplus(self, namespace: Namespace, *, before: datetime | None, newest: int | None) -> IdArray:
        """Return rows in or below a namespace that are too old or too many, shape (n,), in no order.

        Args:
            namespace: The namespace.
            before: Rows last changed before this, superseded or not; None for none.
            newest: Unsuperseded entries but for this many, the last changed; None for none. Internal namespaces are
                left out, unless the given one is internal.
        """

    @abstractmethod
    def select_lineage(self, ids: Sequence[int] | IdArray, *, later: bool) -> IdArray:
        """Return rows with all that they have replaced, directly or indirectly: former versions, superseded entries.

        Args:
            ids: Rows.
            later: True to include what has replaced them, too, and all that this has replaced.

        Returns:
            Ids, shape (n,), ascending.
        """

    @abstractmethod
    def select_expired_ids(self, now: datetime) -> list[int]:
        """Return the ids of the unsuperseded entries that have expired by a given time, in all namespaces."""

    @abstractmethod
    def select_internal_ids(self, ids: Sequence[int] | None = None) -> list[int]:
        """Return the ids of the unsuperseded entries in internal namespaces, or of those among some, in no order."""

    @abstractmethod
    def find(self, namespace: Namespace, key: str, now: datetime) -> tuple[int, Entry]:
        """Return (id, entry) of a key in exactly one namespace.

        Raises:
            NotFoundError: No current entry has the key there.
        """

    @abstractmethod
    def find_newest(self, namespace: Namespace, key: str) -> tuple[int, Entry] | None:
        """Return (id, entry) of a key in exactly one namespace, or None if there is none.

        The unsuperseded entry, expired or not; if there is none, the one that was superseded last.
        """

    @abstractmethod
    def select_newest(self, places: Sequence[Address]) -> dict[Address, tuple[int, Entry]]:
        """Return what ``find_newest`` does at each (namespace, key), by place, all at once."""

    @abstractmethod
    def list_versions(self, namespace: Namespace, key: str) -> list[Entry]:
        """Return all versions of a key and all entries they superseded, directly or indirectly, oldest first.

        If none of the versions is current, what took their place follows, up to the current one.
        """

    @abstractmethod
    def matches(self, entry_id: int, condition: Condition) -> bool:
        """Return whether an entry satisfies a condition."""

    @abstractmethod
    def find_neighbours(self, ids: Sequence[int]) -> dict[int, list[int]]:
        """Return the unsuperseded entries right before and right after each entry in its session, by entry id.

        A former version has the place of the entry that now has its key. Entries without a session are left out.
        """

    @abstractmethod
    def select_circumstances(
        self, ids: Sequence[int], *, important: bool = False, speakers: Collection[str] = ()
    ) -> list[tuple[int, datetime, float | None, str | None]]:
        """Return (id, event time, importance, speaker) of the given entries.

        Args:
            ids: The entries.
            important: True to leave out those without an importance or one of the speakers.
            speakers: In lower case.
        """

    @abstractmethod
    def count(self, condition: Condition) -> int:
        """Return the number of entries that satisfy a condition."""

    @abstractmethod
    def count_distinct(self, condition: Condition) -> tuple[int, int]:
        """Return the numbers of namespaces and of distinct texts among the entries that satisfy a condition.

        A text in two namespaces counts twice.
        """

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
        """Insert drafts, or replace the unsuperseded entries with the same keys; logs one change per key.

        If several drafts share a key, the last one wins. A replaced version is archived with its vectors under a new
        id. The new version keeps the id, and with it the place in its session, and the time of creation unless the
        replaced one had expired. A draft's vector replaces those of all generations. A draft without a vector keeps
        the stored ones, without their evolved form if the draft is in no session.

        Args:
            drafts: The entries to write.
            generation_id: The generation of the drafts' vectors.
            now: The time of writing.
            keep_versions: Number of former versions to keep of each key; 0 for none.
        """

    @abstractmethod
    def remove(self, ids: Sequence[int]) -> Removed:
        """Delete rows with their vectors and words, and the sessions they leave empty; logs one change per row.

        What such rows have superseded stays superseded: include it (``Entries.select_lineage``).
        """

    @abstractmethod
    def set_expiry(self, expiries: Mapping[int, datetime | None]) -> None:
        """Set when entries expire, by id, without a new version: what they say has not changed."""

    @abstractmethod
    def supersede(self, old_id: int, new_id: int, now: datetime) -> int | None:
        """Replace one entry by another; the old one remains readable as of earlier times. Logs one change.

        Returns:
            The session of the old entry, or None; its segments from that entry on must be evolved again.

        Raises:
            NotFoundError: The old entry does not exist or is already superseded.
        """

    @abstractmethod
    def mend(self, texts: Mapping[int, tuple[str, StoredVectors]], generation_id: int) -> None:
        """Store checksums and static vectors again; logs one change per entry.

        Args:
            texts: (text, what stands for it) by entry id; of the text only the checksum is written.
            generation_id: The generation of the vectors; those of other generations are deleted.
        """


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
        """Return the ids of the entries changed after a change number, shape (n,), once each, in no order."""

    @abstractmethod
    def list_since(self, seq: int, limit: int) -> list[tuple[int, int, str]]:
        """Return (number, entry id, what was done) of the first changes after a number, in their order."""

    @abstractmethod
    def log(self, ids: Sequence[int], op: str) -> list[int]:
        """Append one change per entry id; returns the numbers of the changes.

        Args:
            ids: Entries.
            op: ``put``, ``supersede`` or ``forget``, for people who read the log.
        """


MOST_WORDS = 12
"""Words of a query that are searched for, the rarest."""


class TermCounts(Protocol):
    """An index beside the full-text index that holds the same terms, in the same state of the store."""

    def __len__(self) -> int:
        """Return the number of entries in it."""

    def count(self, terms: Sequence[str]) -> int:
        """Return the number of entries that hold any of some terms, as ``Lexical.read_terms`` gives them."""


class Lexical(ABC):
    """The full-text index, scored by BM25: speakers and texts of all unsuperseded entries.

    ``storage/words`` chooses the words to index and to search for, by the same rules for every back end. Case, accents,
    points, invisible characters and forms of a character are ignored, and the endings of English and of many other
    languages; in scripts that do not separate words, any stretch of a text is found.
    """

    @abstractmethod
    def parse(
        self,
        query: str,
        *,
        counts: TermCounts | None = None,
        most: int = MOST_WORDS,
        rough: bool = False,
        absent: bool = False,
    ) -> LexicalQuery:
        """Return the rarest words of a query, and the score of a perfect match.

        Args:
            query: The query.
            counts: Counts entries faster than the full-text index. The result is the same, with ``terms``.
            most: Maximum number of words to return.
            rough: Whether the number of entries that hold a common word may be that of a while ago.
            absent: Whether words that no entry of the index holds are returned too: former versions may hold them.
        """

    @property
    @abstractmethod
    def rules(self) -> str:
        """What decides the terms of a text; an index of terms that others have made is of no use."""

    @abstractmethod
    def read_terms(self, ids: IdArray) -> EntryTerms:
        """Return the terms that are indexed of the unsuperseded entries among some."""

    @abstractmethod
    def read_all_terms(self) -> Iterator[EntryTerms]:
        """Yield the terms that are indexed of all unsuperseded entries, some thousand at once."""

    @abstractmethod
    def search(self, query: LexicalQuery, *, limit: int, condition: Condition | None = None) -> dict[int, float]:
        """Return the scores of the entries that best match a query's words, best first, equal scores by id.

        If n entries satisfy the condition and hold a word of the query, min(n, limit) are returned. The condition does
        not affect scores.

        Args:
            query: From ``parse``.
            limit: Maximum number of entries, at least 1.
            condition: Which entries; None for all indexed ones, including expired ones.

        Returns:
            BM25 score as a share of the largest possible one, from 0 to 1, by entry id.
        """

    @abstractmethod
    def find_matched(self, query: LexicalQuery, entry_id: int) -> list[str]:
        """Return the words and phrases of a query that an entry in the index holds, in the query's own spelling.

        The rarest come first, then the stretches of scripts that do not separate words, as long as they are shared.
        """

    @abstractmethod
    def score_texts(self, query: LexicalQuery, entries: Mapping[int, Entry]) -> dict[int, float]:
        """Return the scores of entries that are not in the index, such as former versions, from 0 to 1, by id.

        Words have the weights they have in the index; repetitions in a text do not count. Entries without a word of
        the query are left out.
        """

    @abstractmethod
    def measure_average(self) -> float:
        """Return how many terms an entry of the index has on average; 0 if it has none."""

    @abstractmethod
    def find_faults(self) -> list[str]:
        """Return the differences between index and entries, one sentence each; reads all of it, takes no lock."""

    @abstractmethod
    def rebuild(self, *, unreadable: bool = False) -> None:
        """Index all unsuperseded entries again, in a write transaction.

        Args:
            unreadable: True if the index is too damaged to open and must be replaced by an empty one first.
        """


class Mentions(ABC):
    """The times that texts mention, told from their entries' event times; see ``timewords.list_mentions``.

    Those of new entries come with their drafts. Entries from before there were any are read by maintenance.
    """

    @abstractmethod
    def select(self, ids: Sequence[int]) -> dict[int, list[Span]]:
        """Return the spans that the given entries mention, by id; entries that mention none are left out."""

    @abstractmethod
    def count_unread(self) -> int:
        """Return the number of entries whose texts were never read for times."""

    @abstractmethod
    def select_unread(self, limit: int) -> list[tuple[int, str, datetime]]:
        """Return (id, text, event time) of the newest entries whose texts were never read for times."""

    @abstractmethod
    def put(self, spans: Mapping[int, Sequence[Span]]) -> None:
        """Write what entries mention, by id; they and all newer ones count as read.

        Args:
            spans: Of each entry that ``select_unread`` gave, possibly none.
        """
