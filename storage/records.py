"""Records that back ends take and return: conditions, drafts, generations, segments. No SQL."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from agent_memory.errors import InvalidInputError, StorageError
from agent_memory.records import Entry
from agent_memory.storage.codec import DTYPES, decode_vector
from agent_memory.storage.filters import EVERYTHING, Filter
from agent_memory.types import FloatArray, IdArray, Namespace

Span: TypeAlias = tuple[datetime, datetime]
"""An interval of time: its start, included, and its end, excluded."""

LONGEST_MENTION = timedelta(days=366)
"""Longest span that is kept of those that a text mentions; longer ones hold most of a memory."""

MENTION_RATIO = 8
"""How many times longer than the span that is asked for a time may be that a text mentions: a week for a day."""

NO_VECTOR = b""
"""Stored in the place of the static vector of an entry that is found by its words and filters alone."""

LATER = b"\0"
"""Stored in the place of a static vector that is still to be encoded."""

State: TypeAlias = Literal["current", "as_of", "expired", "past", "unsuperseded", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Selects entries; all given parts must hold.

    Attributes:
        namespace: In this namespace or below it; with ``key``, in exactly this one.
        state: ``current``: neither superseded nor expired by ``moment``. ``as_of``: current at ``moment``, if that
            version is kept. ``expired``: expired by ``moment``, and not superseded. ``past``: expired by then,
            superseded or not. ``unsuperseded``: in the index, expired or not. ``any``: every row.
        moment: The time that ``state`` refers to; required by all but the last two. What ends then is not current.
        where: Metadata filter.
        key: Only this key.
        session: Only entries of sessions with this name.
        speaker: Only entries of this speaker.
        since: Earliest event time, included.
        until: Latest event time, included.
        spans: Only entries with an event time in one of these, or whose text mentions a time that overlaps one and is
            not much longer; None for any time.
        superseded: True for only the rows among them that are superseded now; see ``former``.
        internal: False to leave out what lies in internal namespaces; with ``key`` the namespace says it.

    Raises:
        InvalidInputError: The state requires a moment, but none is given.
    """

    namespace: Namespace = ()
    state: State = "current"
    moment: datetime | None = None
    where: Filter = EVERYTHING
    key: str | None = None
    session: str | None = None
    speaker: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    spans: tuple[Span, ...] | None = None
    superseded: bool = False
    internal: bool = True

    def __post_init__(self) -> None:
        if self.moment is None and self.state not in ("unsuperseded", "any"):
            raise InvalidInputError(f"the state {self.state!r} of a condition requires a moment")

    @property
    def is_open(self) -> bool:
        """Whether every current entry of the store satisfies it, those of internal namespaces perhaps left out."""
        return self.moment is not None and self == Condition(moment=self.moment, internal=self.internal)

    def former(self) -> Condition:
        """Return the condition for those of its rows that are superseded now, and have left the indexes."""
        return replace(self, superseded=True)


UNSUPERSEDED = Condition(state="unsuperseded")
ANY = Condition(state="any")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One embedding space of a store.

    Attributes:
        id: Row number; that of a dropped generation may come back, its ``identity`` does not.
        fingerprint: Fingerprint of the encoder.
        encoder: Facts about the encoder, for messages.
        dimension: Native dimension of the vectors.
        tiers: Ascending prefix dimensions; the last is ``dimension``.
        dtype: Stored number format, ``float16`` or ``float32``.
        session_encoder: Facts about the session encoder; None if vectors are not evolved.
        identity: Unique among all generations of all stores; part of the names of index files.
    """

    id: int
    fingerprint: str
    encoder: Mapping[str, Any]
    dimension: int
    tiers: tuple[int, ...]
    dtype: Literal["float16", "float32"]
    session_encoder: Mapping[str, Any] | None
    identity: str

    @property
    def vector_bytes(self) -> int:
        """Stored size of one vector."""
        return self.dimension * DTYPES[self.dtype].itemsize

    def to_bytes(self, matrix: FloatArray) -> list[bytes]:
        """Return the stored form of vectors, shape (n, dimension)."""
        return [row.tobytes() for row in matrix.astype(DTYPES[self.dtype])]

    def from_bytes(self, blob: bytes) -> FloatArray:
        """Return the vector of a stored form, float32 of shape (dimension,).

        Raises:
            StorageError: It does not have the length of the generation's vectors.
        """
        if len(blob) != self.vector_bytes:
            raise StorageError(f"a stored vector is damaged (not {self.vector_bytes} bytes)")
        return decode_vector(blob, self.dtype)


class AlteredKind(StrEnum):
    """What a row whose checksum does not fit is part of."""

    ENTRY = "entry"
    STATIC = "static"
    EVOLVED = "evolved"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class AlteredRow:
    """A row that is not what was written.

    Attributes:
        kind: An entry, its static vector, what a session encoder made of it, or none of these.
        name: What it is called in a message.
        entry_id: The entry that it belongs to; of no meaning for ``other``.
    """

    kind: AlteredKind
    name: str
    entry_id: int


@dataclass(frozen=True, slots=True)
class StoredPassages:
    """What stands for the passages of a long text.

    Attributes:
        spans: Where each begins and ends, in characters of the text, ascending.
        vectors: Their static vectors one after the other: little-endian bytes in the generation's dtype.
    """

    spans: tuple[tuple[int, int], ...]
    vectors: bytes


@dataclass(frozen=True, slots=True)
class StoredVectors:
    """What stands for a text.

    Attributes:
        static: The static vector of the whole: little-endian bytes in the generation's dtype, or ``NO_VECTOR``.
        passages: Those of its passages; None for a short text.
    """

    static: bytes
    passages: StoredPassages | None = None


@dataclass(frozen=True, slots=True)
class ReadPassages:
    """The passages of an entry as they were read.

    Attributes:
        entry_id: The entry.
        spans: Where each begins and ends, in characters of the text.
        vectors: Their static vectors, float32 of shape (n, dimension).
        static: The static vector of the whole text, float32 of shape (dimension,).
        evolved: What a session encoder made of that, likewise; None if there is nothing.
    """

    entry_id: int
    spans: tuple[tuple[int, int], ...]
    vectors: FloatArray
    static: FloatArray
    evolved: FloatArray | None


@dataclass(slots=True, kw_only=True)
class Draft:
    """A validated entry to write, with its encoded vector.

    Attributes:
        metadata: Canonical JSON.
        event_time: None for the time of writing.
        vector: The static vector: little-endian bytes in the generation's dtype, ``NO_VECTOR`` or ``LATER``; None to
            keep the stored one.
        passages: What stands for the passages of a long text; it goes with ``vector``.
        evolved: The evolved vector, likewise; None to let a replay of the session compute it.
        latents: The latents that the entry adds to its session's latent memory.
        generated: Whether the key was generated for this entry, so that no other entry has it.
        mentions: The spans of time that its text mentions.
    """

    key: str
    text: str
    namespace: Namespace
    session: str | None
    speaker: str | None
    metadata: str
    event_time: datetime | None
    expires_at: datetime | None
    importance: float | None
    vector: bytes | None = None
    passages: StoredPassages | None = None
    evolved: bytes | None = None
    latents: bytes | None = None
    generated: bool = False
    mentions: Sequence[Span] = ()

    @property
    def has_vector(self) -> bool:
        """Whether it brings a static vector."""
        return self.vector not in (None, NO_VECTOR, LATER)

    def make_entry(self, now: datetime, created_at: datetime | None = None, twin: str | None = None) -> Entry:
        """Return the entry that writing the draft at a time makes of it; ``twin`` is what it is a duplicate of."""
        return Entry(
            key=self.key,
            text=self.text,
            namespace=self.namespace,
            session=self.session,
            speaker=self.speaker,
            metadata={} if self.metadata == "{}" else json.loads(self.metadata),
            event_time=self.event_time or now,
            created_at=created_at or now,
            updated_at=now,
            expires_at=self.expires_at,
            importance=self.importance,
            duplicate_of=twin,
        )


@dataclass(frozen=True, slots=True)
class Written:
    """The result of writing drafts.

    Attributes:
        entries: (id, entry) of each draft, in the order given, after all were written; ``duplicate_of`` names the
            oldest entry of the same namespace with the same text.
        dirty: The first entry whose evolved vector is outdated, by session id; the caller must evolve the session
            again from there.
        dirty_past: As for ``Removed``, of the versions that are beyond ``keep_versions`` now.
    """

    entries: list[tuple[int, Entry]]
    dirty: dict[int, int]
    dirty_past: dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Removed:
    """The result of deleting entries.

    Attributes:
        keys: Number of keys deleted; not those of entries that lost former versions only.
        rows: Number of rows deleted, former versions included.
        vectors: Number of vectors deleted with them, in all generations; not what stood in the place of one.
        latents: Number of those that had latents.
        dirty: As for ``Written``; the entry itself is deleted, and its session may be.
        dirty_past: By session id, a place in it from which on former versions and superseded entries were evolved with
            something that is deleted now.
        scopes: The namespaces of the rows.
        since: When the oldest of them was added; None if there were none.
    """

    keys: int = 0
    rows: int = 0
    vectors: int = 0
    latents: int = 0
    dirty: dict[int, int] = field(default_factory=dict)
    dirty_past: dict[int, int] = field(default_factory=dict)
    scopes: frozenset[Namespace] = frozenset()
    since: datetime | None = None


@dataclass(frozen=True, slots=True)
class StoredText:
    """The text of an entry as it was read.

    Attributes:
        seq: The change that wrote it; a vector of the text is stored only if the entry has not changed since.
    """

    id: int
    text: str
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredSegment:
    """An entry as a step of its session.

    Attributes:
        id: Row number; segments are ordered by it.
        text: What was said.
        speaker: Who said it.
        time: When it happened.
        static: Stored static vector.
    """

    id: int
    text: str
    speaker: str | None
    time: datetime
    static: bytes


@dataclass(frozen=True, slots=True)
class PastSegment:
    """A segment that was superseded.

    Attributes:
        segment: The segment.
        place: The id that tells where in its session it was.
        superseded_at: When it was superseded.
    """

    segment: StoredSegment
    place: int
    superseded_at: datetime


@dataclass(frozen=True, slots=True)
class Head:
    """The latest change of a session: every entry that joins, leaves or changes increases ``seq``."""

    id: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedQuery:
    """One recall in the query log.

    Attributes:
        namespace: The namespace searched.
        asked_at: Time of the recall (UTC).
        k: Maximum number of hits.
        fingerprint: Embedding space of the vector.
        dtype: Stored number format of the vector.
        vector: The static vector, little-endian.
        digest: SHA-256 of the text, if the log keeps it.
        text: The text, if the log keeps it.
    """

    namespace: Namespace
    asked_at: datetime
    k: int
    fingerprint: str
    dtype: str
    vector: bytes
    digest: bytes | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class LexicalQuery:
    """The words of a query to search for.

    Attributes:
        phrases: Words and phrases in the back end's spelling, the rarest first.
        weights: Inverse document frequency of each.
        best: The largest score that a document can have.
        words: What each is in the query's own spelling, and its place if it is of a script without spaces.
        terms: What the index holds for them, one after the other; None if some is a phrase of several terms, or if
            this was not asked for.
    """

    phrases: tuple[str, ...]
    weights: tuple[float, ...]
    best: float
    words: tuple[tuple[str, int | None], ...] = ()
    terms: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class EntryTerms:
    """The terms that the full-text index holds of some entries.

    Attributes:
        ids: The entries, int64 (n,), ascending.
        lengths: Number of terms of each, int64 (n,).
        numbers: The terms of one entry after the other, int64 (sum of ``lengths``,), as numbers in ``vocabulary``.
        vocabulary: The distinct terms.
    """

    ids: IdArray
    lengths: IdArray
    numbers: IdArray
    vocabulary: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseState:
    """Statistics of a database.

    Attributes:
        rows: Number of entries, superseded ones included.
        former: Number of superseded entries.
        expired: Number of unsuperseded entries that have expired and are not purged yet, in the whole store.
        page_bytes: Size of a page in bytes.
        pages: Number of pages in the file.
        free_pages: Number of unused pages.
        wal_bytes: Size of the write-ahead log in bytes.
        lexical_segments: Number of segments of the full-text index; fewer are faster.
        changes: Number of rows in the change log.
        unread: Number of entries from before texts were read for times.
    """

    rows: int
    former: int
    expired: int
    page_bytes: int
    pages: int
    free_pages: int
    wal_bytes: int
    lexical_segments: int
    changes: int
    unread: int


Accept: TypeAlias = Callable[[Generation], None]
"""Raises EncoderMismatchError unless the caller's vectors belong to a generation."""
