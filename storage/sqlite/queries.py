"""The latest queries of a store, as vectors: a ring that its owner may ask for, and nothing reads but a dry run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, and_, delete, func, insert, select, true

from agent_memory.storage.sqlite.entries import Condition, encode_namespace, namespace_range
from agent_memory.storage.sqlite.schema import queries
from agent_memory.types import Namespace


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedQuery:
    """One recall, as it is kept.

    Attributes:
        namespace: Where was looked.
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


def append(connection: Connection, given: Sequence[LoggedQuery], *, keep: int) -> None:
    """Add queries to the ring; only the latest ``keep`` of the store stay."""
    rows = [
        {
            "namespace": encode_namespace(one.namespace),
            "asked_at": one.asked_at,
            "k": one.k,
            "fingerprint": one.fingerprint,
            "dtype": one.dtype,
            "vector": one.vector,
            "digest": one.digest,
            "text": one.text,
        }
        for one in given[-keep:]
    ]
    if rows:
        connection.execute(insert(queries), rows)
    oldest = select(queries.c.id).order_by(queries.c.id.desc()).limit(1).offset(keep - 1).scalar_subquery()
    connection.execute(delete(queries).where(queries.c.id < oldest))


def vectors_of(connection: Connection, fingerprint: str, dtype: str, size_bytes: int, limit: int) -> list[bytes]:
    """Return the vectors of the latest queries of an embedding space, once each, the newest first."""
    here = and_(queries.c.fingerprint == fingerprint, queries.c.dtype == dtype)
    newest = select(queries.c.vector).where(here, func.length(queries.c.vector) == size_bytes)
    newest = newest.group_by(queries.c.vector).order_by(func.max(queries.c.id).desc())
    return list(connection.execute(newest.limit(limit)).scalars())


def texts(connection: Connection, limit: int) -> list[str]:
    """Return the texts of the latest queries that were kept with theirs, once each, the newest first."""
    newest = select(queries.c.text).where(queries.c.text.is_not(None))
    newest = newest.group_by(queries.c.text).order_by(func.max(queries.c.id).desc())
    return list(connection.execute(newest.limit(limit)).scalars())


def count(connection: Connection, namespace: Namespace) -> int:
    """Return how many queries were asked in or below a namespace and are kept."""
    query = select(func.count()).select_from(queries).where(_within(namespace))
    return int(connection.execute(query).scalar_one())


def clear(connection: Connection, namespace: Namespace) -> int:
    """Delete the queries that were asked in or below a namespace; returns how many."""
    return int(connection.execute(delete(queries).where(_within(namespace))).rowcount)


def _within(namespace: Namespace) -> Condition:
    bounds = namespace_range(namespace)
    if bounds is None:
        return true()
    return and_(queries.c.namespace >= bounds[0], queries.c.namespace < bounds[1])
