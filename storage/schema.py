"""Tables of the store. Migrations create them; this module is what queries are written against."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)

from agent_memory.errors import StorageError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class UtcTime(TypeDecorator[datetime]):
    """A moment as integer microseconds since 1970-01-01T00:00:00Z: exact, ordered, free of time zones."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        """Return the column value of an aware datetime."""
        return None if value is None else (value - EPOCH) // MICROSECOND

    def process_result_value(self, value: int | None, dialect: Dialect) -> datetime | None:
        """Return the aware datetime of a column value; a store from a stranger may hold anything there."""
        if value is None:
            return None
        if not isinstance(value, int):
            raise StorageError(f"a stored time is damaged: {str(value)[:40]!r}")
        try:
            return EPOCH + value * MICROSECOND
        except OverflowError as error:
            raise StorageError(f"a stored time is damaged: {value}") from error


metadata = MetaData()

sessions = Table(
    "sessions",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("head_seq", Integer, nullable=False),
    UniqueConstraint("namespace", "name"),
    Index("ix_sessions_name", "name"),
)

entries = Table(
    "entries",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("session_id", ForeignKey("sessions.id")),
    Column("speaker", Text),
    Column("text", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("event_time", UtcTime, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("expires_at", UtcTime),
    Column("importance", Float),
    Column("content_hash", LargeBinary, nullable=False),
    Column("seq", Integer, nullable=False),
    Column("superseded_at", UtcTime),
    Column("superseded_by", ForeignKey("entries.id", ondelete="SET NULL")),
    Index("ix_entries_key", "namespace", "key"),
    Index("ux_entries_current", "namespace", "key", unique=True, sqlite_where=text("superseded_at IS NULL")),
    Index("ix_entries_superseded", "superseded_by", sqlite_where=text("superseded_by IS NOT NULL")),
    Index("ix_entries_content", "content_hash", "namespace"),
    Index("ix_entries_session", "session_id"),
    Index("ix_entries_event_time", "event_time"),
    Index("ix_entries_expires_at", "expires_at", sqlite_where=text("expires_at IS NOT NULL")),
    sqlite_autoincrement=True,
)

generations = Table(
    "generations",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("encoder", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("tiers", Text, nullable=False),
    Column("dtype", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("session_encoder", Text),
    Column("retired_at", UtcTime),
    Index("ux_generations_live", "state", unique=True, sqlite_where=text("state = 'live'")),
)

assets = Table(
    "assets",
    metadata,
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    Column("content", LargeBinary, nullable=False),
)

vectors = Table(
    "vectors",
    metadata,
    Column("entry_id", ForeignKey("entries.id", ondelete="CASCADE"), primary_key=True),
    Column("generation_id", ForeignKey("generations.id", ondelete="CASCADE"), primary_key=True),
    Column("static", LargeBinary, nullable=False),
    Column("evolved", LargeBinary),
    Column("latents", LargeBinary),
)

changes = Table(
    "changes",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("entry_id", Integer, nullable=False),
    Column("op", Text, nullable=False),
    sqlite_autoincrement=True,
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("progress", Text, nullable=False),
    Column("error", Text),
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    Column("finished_at", UtcTime),
    Index("ix_jobs_kind", "kind", "state"),
    sqlite_autoincrement=True,
)

schedules = Table(
    "schedules",
    metadata,
    Column("name", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("trigger", Text, nullable=False),
    Column("options", Text, nullable=False),
    Column("paused", Integer, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Column("last_run_at", UtcTime),
)

leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", UtcTime, nullable=False),
)
