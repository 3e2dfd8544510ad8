"""The frozen records that the public surface takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Namespace = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One stored memory.

    Attributes:
        key: Unique within its namespace.
        text: Exactly what was added.
        namespace: The scope it lives in.
        session: The conversation it belongs to, if any.
        speaker: Who said it, if known.
        metadata: JSON object of the caller's own.
        event_time: When it happened (UTC); the moment of adding unless given.
        created_at: When the key was first added (UTC).
        updated_at: When the entry last changed (UTC).
        expires_at: When it stops being returned (UTC), if ever.
        importance: From 0 to 1, if given.
        duplicate_of: Key of an older entry in the same namespace with the same text; set by ``add`` and
            ``add_many`` only.
    """

    key: str
    text: str
    namespace: Namespace = ()
    session: str | None = None
    speaker: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    event_time: datetime
    created_at: datetime
    updated_at: datetime
    expires_at: datetime | None = None
    importance: float | None = None
    duplicate_of: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """One answer of ``recall``.

    Attributes:
        entry: The entry found.
        score: Cosine similarity at the native dimension, from -1 to 1; higher is better.
        rank: 1 for the best hit.
        trace: Where each tier ranked the entry, when ``explain=True``.
    """

    entry: Entry
    score: float
    rank: int
    trace: Mapping[str, Any] | None = None

    @property
    def text(self) -> str:
        """The entry's text."""
        return self.entry.text


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A conversation of the store.

    Attributes:
        name: Unique within its namespace.
        namespace: The scope it lives in.
        entries: Number of its entries.
        first_event: Earliest event time (UTC).
        last_event: Latest event time (UTC).
    """

    name: str
    namespace: Namespace
    entries: int
    first_event: datetime
    last_event: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What ``check`` found.

    Attributes:
        entries: Entries looked at.
        problems: One sentence per fault.
        repaired: The faults among them that ``repair=True`` has mended.
    """

    entries: int
    problems: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """True if nothing is wrong now."""
        return set(self.problems) <= set(self.repaired)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """Facts about a store; counts are those of the memory's namespace, sizes those of the whole folder.

    Attributes:
        entries: Entries that recall can return.
        expired: Expired entries that wait to be purged.
        duplicates: Entries whose text an older entry of the same namespace also has.
        sessions: Conversations.
        namespaces: Distinct namespaces that hold entries.
        seq: Number of the store's latest change.
        encoder: Name of the encoder, or None while the store is empty.
        fingerprint: Fingerprint of its embedding space.
        tiers: Dimensions searched one after the other.
        database_bytes: Size of the database with its write-ahead log.
        snapshot_bytes: Size of the index snapshots on disk.
        index: Facts about the index in memory; empty until the first recall.
    """

    entries: int
    expired: int
    duplicates: int
    sessions: int
    namespaces: int
    seq: int
    encoder: str | None
    fingerprint: str | None
    tiers: tuple[int, ...]
    database_bytes: int
    snapshot_bytes: int
    index: Mapping[str, Any] = field(default_factory=dict)
