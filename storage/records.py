"""What goes into a back end and comes out of it: conditions, drafts, generations, segments. No SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, TypeAlias

from agent_memory.errors import StorageError
from agent_memory.records import Entry
from agent_memory.storage.codec import DTYPES, decode_vector
from agent_memory.storage.filters import EVERYTHING, Filter
from agent_memory.types import FloatArray, Namespace

Span: TypeAlias = tuple[datetime, datetime]
"""A stretch of time: from a moment on, up to but not at another."""

State: TypeAlias = Literal["current", "as_of", "expired", "unsuperseded", "former", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Which entries are meant; all that is given must hold.

    Attributes:
        namespace: In this namespace or below it; with ``key``, in exactly this one.
        state: ``current``: neither superseded nor expired at ``moment``. ``as_of``: what the store said at ``moment``.
            ``expired``: expired at ``moment``, and not superseded. ``unsuperseded``: in the index, expired or not.
            ``former``: no longer current. ``any``: every row.
        moment: When; for the states that depend on it.
        where: Metadata filter.
        key: Only this key.
        session: Only entries of the sessions of that name.
        speaker: Only entries of this speaker.
        since: Earliest event time.
        until: Latest event time.
        spans: Only entries that happened in one of these; None for any time.
        superseded: Among these, only rows that are no longer current.
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

    @property
    def is_open(self) -> bool:
        """Whether every current entry of the store satisfies it."""
        return self == replace(OPEN, moment=self.moment)

    def former(self) -> Condition:
        """Return the condition for the rows among these that are no longer current."""
        return replace(self, superseded=True)


OPEN = Condition()
UNSUPERSEDED = Condition(state="unsuperseded")
ANY = Condition(state="any")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One embedding space of a store.

    Attributes:
        id: Row number.
        fingerprint: The encoder's.
        encoder: Facts about the encoder, for messages.
        dimension: Native dimension of the vectors.
        tiers: Ascending prefix dimensions; the last is ``dimension``.
        dtype: Stored number format, ``float16`` or ``float32``.
        session_encoder: Facts about the session encoder; None if vectors are not evolved.
        identity: Tells this generation of this store from every other, in names of index files.
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
        """Return the vector of a stored form, shape (dimension,).

        Raises:
            StorageError: It has another length than the generation says.
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


@dataclass(slots=True, kw_only=True)
class Draft:
    """A validated entry that is about to be written, with its encoded vector.

    Attributes:
        metadata: Canonical JSON.
        event_time: None for the moment of writing.
        vector: Little-endian bytes in the generation's dtype, or None to keep the stored vector.
        evolved: The vector after the session encoder, likewise; None to leave it to a replay of the session.
        latents: What the entry adds to its session's latent memory.
        generated: Whether the key was made up for this entry, so that no other can have it.
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
    evolved: bytes | None = None
    latents: bytes | None = None
    generated: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """What was put.

    Attributes:
        entries: (id, entry), in the order given.
        dirty: The first entry whose evolved vector no longer holds, by session.
    """

    entries: list[tuple[int, Entry]]
    dirty: dict[int, int]


@dataclass(frozen=True, slots=True)
class Removed:
    """What was deleted.

    Attributes:
        keys: How many keys are gone.
        dirty: As for ``Written``.
    """

    keys: int
    dirty: dict[int, int]


@dataclass(frozen=True, slots=True)
class StoredText:
    """The text of an entry as it was read.

    Attributes:
        seq: The change that wrote it; a vector of the text is stored only if it is still the last one.
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
class Head:
    """Where a session stands: any write to it changes ``seq``."""

    id: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedQuery:
    """One recall, as the query log keeps it.

    Attributes:
        namespace: Where it searched.
        asked_at: When (UTC).
        k: How many hits were wanted.
        fingerprint: Embedding space of the vector.
        dtype: Its number format.
        vector: The static vector, little-endian.
        digest: SHA-256 of the text, if the owner keeps that.
        text: The text, if the owner keeps that.
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
    """The words of a query that are looked for.

    Attributes:
        phrases: Words and phrases in the back end's spelling, the rarest first.
        weights: Inverse document frequency of each.
        best: The largest score that a document can have.
    """

    phrases: tuple[str, ...]
    weights: tuple[float, ...]
    best: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseState:
    """Figures of a database.

    Attributes:
        rows: Entries with their former versions.
        former: Former versions among them.
        expired: Expired entries that wait to be purged, in the whole store.
        page_bytes: Size of a page.
        pages: Pages of the file.
        free_pages: Pages that hold nothing.
        wal_bytes: Size of the write-ahead log.
        lexical_segments: Segments of the full-text index; few are fast.
        changes: Length of the change log.
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


Accept: TypeAlias = Callable[[Generation], None]
"""Raises EncoderMismatchError unless the caller's vectors belong to a generation."""
