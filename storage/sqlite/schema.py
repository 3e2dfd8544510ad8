"""Tables of the store, for queries. Migrations create them."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.types import TypeEngine

from agent_memory.storage.records import LATER
from agent_memory.storage.sqlite.values import microseconds, read_kind, read_time


def _choose_integer(dialect: Dialect) -> TypeEngine[Any]:
    return dialect.type_descriptor(BigInteger() if dialect.name == "postgresql" else Integer())


class UtcTime(TypeDecorator[datetime]):
    """A time as integer microseconds since 1970-01-01T00:00:00Z: exact, ordered, without time zone."""

    impl = Integer
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of the column: SQLite's integers have 64 bits, others' do not."""
        return _choose_integer(dialect)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Return the column value of an aware datetime."""
        return None if value is None else microseconds(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Return the aware datetime of a column value; a store from a stranger may hold anything there."""
        return read_time(value)


class _Typed(TypeDecorator[Any]):
    """A column whose values are checked when read, because SQLite stores values of any type in any column."""

    impl: Any = Text
    cache_ok = True
    kinds: tuple[type, ...] = ()

    def process_result_value(self, value: object, dialect: Dialect) -> Any:  # noqa: ANN401 - of the column's kind
        """Return a value of the right type, or raise StorageError."""
        return read_kind(value, self.kinds)


class StoredText(_Typed):
    """Text."""

    cache_ok = True
    kinds = (str,)


class StoredInteger(_Typed):
    """An integer."""

    impl = Integer
    cache_ok = True
    kinds = (int,)

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the type of the column, as ``UtcTime``."""
        return _choose_integer(dialect)


class StoredFloat(_Typed):
    """A number."""

    impl = Float
    cache_ok = True
    kinds = (float, int)


class StoredBytes(_Typed):
    """Bytes."""

    impl = LargeBinary
    cache_ok = True
    kinds = (bytes,)


metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("id", StoredInteger, primary_key=True),
    Column("namespace", StoredText, nullable=False),
    Column("name", StoredText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("head_seq", StoredInteger, nullable=False),
    UniqueConstraint("namespace", "name"),
    Index("ix_sessions_name", "name"),
)

_VERSION = "CASE WHEN superseded_at IS NULL THEN 0 ELSE id END"
"""Distinguishes former versions of a key; current ones share a value, so that there is at most one."""

entries = Table(
    "entries",
    metadata,
    Column("id", StoredInteger, primary_key=True),
    Column("namespace", StoredText, nullable=False),
    Column("key", StoredText, nullable=False),
    Column("session_id", ForeignKey("sessions.id")),
    Column("speaker", StoredText),
    Column("text", StoredText, nullable=False),
    Column("metadata", StoredText, nullable=False),
    Column("event_time", UtcTime, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("importance", StoredFloat),
    Column("content_hash", StoredBytes, nullable=False),
    Column("seq", StoredInteger, nullable=False),
    Column("superseded_at", UtcTime),
    Column("superseded_by", ForeignKey("entries.id", ondelete="SET NULL")),
    Column("checksum", StoredInteger),
    Index("ux_entries_key", "namespace", "key", text(_VERSION), unique=True),
    Index("ix_entries_superseded", "superseded_by", sqlite_where=text("superseded_by IS NOT NULL")),
    Index("ix_entries_content", "content_hash", "namespace"),
    Index("ix_entries_session", "session_id", sqlite_where=text("session_id IS NOT NULL")),
    Index("ix_entries_event_time", "event_time"),
    Index("ix_entries_expires_at", "expires_at", sqlite_where=text("expires_at IS NOT NULL")),
    sqlite_autoincrement=True,
)

mentions = Table(
    "mentions",
    metadata,
    Column("entry_id", ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True),
    Column("start", StoredInteger, primary_key=True),
    Column("stop", StoredInteger, primary_key=True),
    Index("ix_mentions_start", "start"),
    sqlite_with_rowid=False,
)

generations = Table(
    "generations",
    metadata,
    Column("id", StoredInteger, primary_key=True),
    Column("fingerprint", StoredText, nullable=False),
    Column("encoder", StoredText, nullable=False),
    Column("dimension", StoredInteger, nullable=False),
    Column("tiers", StoredText, nullable=False),
    Column("dtype", StoredText, nullable=False),
    Column("state", StoredText, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("session_encoder", StoredText),
    Column("retired_at", UtcTime),
    Column("checksum", StoredInteger),
    Index("ux_generations_live", "state", unique=True, sqlite_where=text("state = 'live'")),
)

assets = Table(
    "assets",
    metadata,
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("name", StoredText, primary_key=True),
    Column("content", StoredBytes, nullable=False),
    Column("checksum", StoredInteger),
)

vectors = Table(
    "vectors",
    metadata,
    Column("entry_id", ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True),
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("static", StoredBytes, nullable=False),
    Column("evolved", StoredBytes),
    Column("latents", StoredBytes),
    Column("checksum", StoredInteger),
    Column("evolved_checksum", StoredInteger),
)

passages = Table(
    "passages",
    metadata,
    Column("entry_id", StoredInteger, primary_key=True),
    Column("generation_id", StoredInteger, primary_key=True),
    Column("spans", StoredBytes, nullable=False),
    Column("vectors", StoredBytes, nullable=False),
    Column("checksum", StoredInteger),
    ForeignKeyConstraint(
        ["entry_id", "generation_id"], ["vectors.entry_id", "vectors.generation_id"], ondelete="CASCADE"
    ),
)
"""They go with the vector that stands for the whole text: whatever deletes or replaces it deletes them."""

HAS_VECTOR = func.length(vectors.c.static) > len(LATER)
"""False for what is stored in the place of a vector: see ``NO_VECTOR`` and ``LATER``."""

changes = Table(
    "changes",
    metadata,
    Column("seq", StoredInteger, primary_key=True),
    Column("entry_id", StoredInteger, nullable=False),
    Column("op", StoredText, nullable=False),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", StoredInteger, primary_key=True),
    Column("kind", StoredText, nullable=False),
    Column("state", StoredText, nullable=False),
    Column("progress", StoredText, nullable=False),
    Column("error", StoredText),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    Index("ix_jobs_kind", "kind", "state"),
    sqlite_autoincrement=True,
)

queries = Table(
    "queries",
    metadata,
    Column("id", StoredInteger, primary_key=True),
    Column("namespace", StoredText, nullable=False),
    Column("asked_at", UtcTime, nullable=False),
    Column("k", StoredInteger, nullable=False),
    Column("fingerprint", StoredText, nullable=False),
    Column("dtype", StoredText, nullable=False),
    Column("vector", StoredBytes, nullable=False),
    Column("digest", StoredBytes),
    Column("text", StoredText),
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", StoredText, primary_key=True),
    Column("kind", StoredText, nullable=False),
    Column("trigger", StoredText, nullable=False),
    Column("options", StoredText, nullable=False),
    Column("paused", StoredInteger, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("last_run_at", UtcTime),
    Column("seal", StoredText),
    Column("checksum", StoredInteger),
)

erasures = Table(
    "erasures",
    metadata,
    Column("id", StoredInteger, primary_key=True),
    Column("token", StoredText, nullable=False),
    Column("store_id", StoredText, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("selection", StoredText, nullable=False),
    Column("digest", StoredText, nullable=False),
    Column("ids", StoredText, nullable=False),
    Column("facts", StoredText, nullable=False),
    Column("deferred", StoredInteger, nullable=False),
    Column("finished_at", UtcTime),
    Index("ix_erasures_unfinished", "id", sqlite_where=text("finished_at IS NULL")),
    sqlite_autoincrement=True,
)

copies = Table(
    "copies",
    metadata,
    Column("path", StoredText, primary_key=True),
    Column("kind", StoredText, nullable=False),
    Column("made_at", UtcTime, nullable=False),
    Column("last_id", StoredInteger, nullable=False),
)

leases = Table(
    "leases",
    metadata,
    Column("name", StoredText, primary_key=True),
    Column("holder", StoredText, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
)

meta = Table(
    "meta",
    metadata,
    Column("name", StoredText, primary_key=True),
    Column("value", StoredText, nullable=False),
)
