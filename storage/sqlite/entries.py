"""Reading entries. Every function works inside a transaction that the caller holds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import ColumnElement, Connection, Row, and_, distinct, func, or_, select, text, true
from sqlalchemy.dialects.sqlite.base import SQLiteDialect

from agent_memory.errors import NotFoundError, StorageError
from agent_memory.records import Entry, Session
from agent_memory.storage.sqlite.database import driver
from agent_memory.storage.sqlite.schema import checked_row, entries, microseconds, sessions
from agent_memory.storage.sqlite.where import compile_where
from agent_memory.types import Namespace

_SEPARATOR = "\x1f"
_AFTER_SEPARATOR = "\x20"
IN_LIST = 500  # bound parameters of one IN list

Condition = ColumnElement[bool]


def encode_namespace(namespace: Namespace) -> str:
    """Return the column value of a namespace: its parts, each closed by a separator; the root is empty."""
    return "".join(part + _SEPARATOR for part in namespace)


def decode_namespace(value: str) -> Namespace:
    """Return the namespace of a column value."""
    return tuple(value.split(_SEPARATOR)[:-1])


def in_namespace(namespace: Namespace) -> Condition:
    """Return the condition that an entry lives in a namespace or below it; an index range, never a scan."""
    bounds = namespace_range(namespace)
    if bounds is None:
        return true()
    return and_(entries.c.namespace >= bounds[0], entries.c.namespace < bounds[1])


def namespace_range(namespace: Namespace) -> tuple[str, str] | None:
    """Return the column values from which on, and below which, a namespace and those below it lie; None for all."""
    value = encode_namespace(namespace)
    return (value, value[:-1] + _AFTER_SEPARATOR) if value else None


_COLUMNS = (
    *(column for column in entries.c if column.name != "content_hash"),
    sessions.c.name.label("session"),
)
_SELECT = select(*_COLUMNS).select_from(entries.outerjoin(sessions))
_BY_IDS = str(_SELECT.where(text("entries.id IN (SELECT value FROM json_each(?))")).compile(dialect=SQLiteDialect()))


unsuperseded: Condition = entries.c.superseded_at.is_(None)
"""The condition that a row is no former version; such entries are in the index, expired or not."""


def current(now: datetime) -> Condition:
    """Return the condition that an entry is neither superseded nor expired."""
    return and_(entries.c.superseded_at.is_(None), or_(entries.c.expires_at.is_(None), entries.c.expires_at > now))


def as_of(moment: datetime) -> Condition:
    """Return the condition that a row held what the store said at a moment."""
    return and_(
        entries.c.updated_at <= moment,
        or_(entries.c.superseded_at.is_(None), entries.c.superseded_at > moment),
        or_(entries.c.expires_at.is_(None), entries.c.expires_at > moment),
    )


def expired(namespace: Namespace, now: datetime) -> Condition:
    """Return the condition that an entry in or below a namespace has expired."""
    return and_(in_namespace(namespace), entries.c.superseded_at.is_(None), entries.c.expires_at <= now)


def matching(
    namespace: Namespace,
    now: datetime,
    *,
    where: Mapping[str, Any] | None = None,
    key: str | None = None,
    session: str | None = None,
    speaker: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    then: datetime | None = None,
) -> Condition:
    """Return the condition that an entry in or below a namespace matches all that is given.

    Args:
        namespace: The scope.
        now: The moment that decides what has expired.
        where: Metadata filter; see ``where.py``.
        key: Only this key, and only in exactly the namespace.
        session: Only entries of the sessions of that name.
        speaker: Only entries of this speaker.
        since: Earliest event time.
        until: Latest event time.
        then: A past moment: the rows that were current then, instead of now.
    """
    columns = entries.c
    parts = [in_namespace(namespace), current(now) if then is None else as_of(then), compile_where(where)]
    if key is not None:
        parts += [columns.namespace == encode_namespace(namespace), columns.key == key]
    if session is not None:
        parts.append(columns.session_id.in_(select(sessions.c.id).where(sessions.c.name == session)))
    if speaker is not None:
        parts.append(columns.speaker == speaker)
    if since is not None:
        parts.append(columns.event_time >= since)
    if until is not None:
        parts.append(columns.event_time <= until)
    return and_(*parts)


def _entry(row: Row[Any] | SimpleNamespace) -> Entry:
    return Entry(
        key=row.key,
        text=row.text,
        namespace=decode_namespace(row.namespace),
        session=row.session,
        speaker=row.speaker,
        metadata=_metadata(row),
        event_time=row.event_time,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
        importance=row.importance,
        superseded_at=row.superseded_at,
    )


def _metadata(row: Row[Any] | SimpleNamespace) -> dict[str, Any]:
    try:
        return dict(json.loads(row.metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"the metadata of entry {row.key!r} is damaged: {str(error)[:100]}") from error


def fetch(connection: Connection, ids: Sequence[int]) -> dict[int, Entry]:
    """Return the entries of the given ids, expired ones included, unknown ones left out."""
    found = driver(connection).execute(_BY_IDS, (json.dumps(list(ids)),))
    rows = (checked_row(_COLUMNS, values) for values in found)
    return {row.id: _entry(row) for row in rows}


def select_entries(
    connection: Connection,
    condition: Condition,
    *,
    after_id: int = 0,
    limit: int | None = None,
    offset: int = 0,
) -> list[tuple[int, Entry]]:
    """Return (id, entry) of all entries that satisfy a condition, in the order they were added."""
    query = _SELECT.where(condition, entries.c.id > after_id).order_by(entries.c.id)
    # SQLite knows OFFSET only behind a LIMIT; -1 is none.
    query = query.limit(-1 if limit is None else limit).offset(offset)
    return [(row.id, _entry(row)) for row in connection.execute(query)]


def select_texts(connection: Connection, *, after_id: int, limit: int) -> list[tuple[int, str, str, bytes]]:
    """Return (id, key, text, content hash) of the next entries by id."""
    columns = (entries.c.id, entries.c.key, entries.c.text, entries.c.content_hash)
    query = select(*columns).where(entries.c.id > after_id).order_by(entries.c.id).limit(limit)
    return [tuple(row) for row in connection.execute(query)]


def by_key(connection: Connection, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, Entry]:
    """Return the live entries of the given keys in exactly one namespace."""
    scope = and_(entries.c.namespace == encode_namespace(namespace), current(now))
    return {
        row.key: _entry(row)
        for start in range(0, len(keys), IN_LIST)
        for row in connection.execute(_SELECT.where(scope, entries.c.key.in_(keys[start : start + IN_LIST])))
    }


def find(connection: Connection, namespace: Namespace, key: str, now: datetime) -> tuple[int, Entry]:
    """Return (id, entry) of a key in exactly one namespace.

    Raises:
        NotFoundError: No live entry has the key there.
    """
    row = connection.execute(_SELECT.where(matching(namespace, now, key=key))).first()
    if row is None:
        place = f" in namespace {'/'.join(namespace)}" if namespace else ""
        raise NotFoundError(f"no entry with key {key!r}{place}")
    return row.id, _entry(row)


def within(spans: Sequence[tuple[datetime, datetime]]) -> Condition:
    """Return the condition that a current entry happened in one of the given stretches of time."""
    columns = entries.c
    inside = [and_(columns.event_time >= start, columns.event_time < end) for start, end in spans]
    return and_(columns.superseded_at.is_(None), or_(*inside))


def former(condition: Condition) -> Condition:
    """Return the condition that a row satisfies another one, and is no longer current."""
    return and_(condition, entries.c.superseded_at.is_not(None))


def circumstances(connection: Connection, ids: Sequence[int]) -> list[tuple[int, datetime, float | None]]:
    """Return (id, event time, importance) of the given entries."""
    rows = connection.execute(_CIRCUMSTANCES, {"ids": json.dumps(list(ids))})
    return [(row[0], row[1], row[2]) for row in rows]


_AMONG = text("entries.id IN (SELECT value FROM json_each(:ids))")
_CIRCUMSTANCES = select(entries.c.id, entries.c.event_time, entries.c.importance).where(_AMONG)


def matches(connection: Connection, entry_id: int, condition: Condition) -> bool:
    """Return whether an entry satisfies a condition."""
    return connection.execute(select(entries.c.id).where(entries.c.id == entry_id, condition)).first() is not None


def newest(connection: Connection, namespace: Namespace, key: str) -> tuple[int, Entry] | None:
    """Return (id, entry) of a key in exactly one namespace, current or not, or None."""
    here = and_(entries.c.namespace == encode_namespace(namespace), entries.c.key == key)
    order = (entries.c.superseded_at.is_not(None), entries.c.id.desc())
    row = connection.execute(_SELECT.where(here).order_by(*order)).first()
    return None if row is None else (row.id, _entry(row))


def versions(connection: Connection, namespace: Namespace, key: str) -> list[Entry]:
    """Return all that was ever current under a key, or was superseded by that, oldest first."""
    here = and_(entries.c.namespace == encode_namespace(namespace), entries.c.key == key)
    found = set(connection.execute(select(entries.c.id).where(here)).scalars())
    fresh = found
    while fresh:
        older = select(entries.c.id).where(entries.c.superseded_by.in_(list(fresh)))
        fresh = set(connection.execute(older).scalars()) - found
        found |= fresh
    order = (entries.c.updated_at, entries.c.superseded_at.is_(None), entries.c.superseded_at)
    rows = connection.execute(_SELECT.where(entries.c.id.in_(list(found))).order_by(*order))
    return [_entry(row) for row in rows]


def neighbours(connection: Connection, ids: Sequence[int]) -> dict[int, list[int]]:
    """Return the current entries said right before and right after each entry in its session, by entry id."""
    rows = driver(connection).execute(_NEIGHBOURS, (json.dumps(list(ids)),))
    return {row[0]: [entry_id for entry_id in row[1:] if entry_id is not None] for row in rows}


_BESIDE = "FROM entries other WHERE other.session_id = mine.session_id AND other.superseded_at IS NULL AND other.id"
_NEIGHBOURS = f"""
SELECT mine.id, (SELECT max(other.id) {_BESIDE} < mine.id), (SELECT min(other.id) {_BESIDE} > mine.id)
FROM entries mine WHERE mine.id IN (SELECT value FROM json_each(?)) AND mine.session_id IS NOT NULL
"""


def matching_ids(connection: Connection, condition: Condition) -> npt.NDArray[np.int64]:
    """Return the ids of all entries that satisfy a condition, shape (n,)."""
    rows = connection.execute(select(entries.c.id).where(condition)).scalars().all()
    return np.fromiter(rows, dtype=np.int64, count=len(rows))


def expired_ids(connection: Connection, now: datetime) -> list[int]:
    """Return the ids of all entries that have expired, in every namespace."""
    rows = driver(connection).execute(_EXPIRED, (microseconds(now),))
    return [row[0] for row in rows]


_EXPIRED = "SELECT id FROM entries WHERE superseded_at IS NULL AND expires_at <= ?"


def count(connection: Connection, condition: Condition) -> int:
    """Return how many entries satisfy a condition."""
    return int(connection.execute(select(func.count()).select_from(entries).where(condition)).scalar_one())


def count_distinct(connection: Connection, condition: Condition) -> tuple[int, int]:
    """Return how many namespaces, and how many texts within their namespaces, satisfy a condition."""
    texts = select(entries.c.namespace, entries.c.content_hash).where(condition).distinct().subquery()
    query = select(func.count(distinct(texts.c.namespace)), func.count())
    namespaces, different = connection.execute(query.select_from(texts)).one()
    return int(namespaces), int(different)


def list_namespaces(connection: Connection, condition: Condition) -> list[Namespace]:
    """Return the distinct namespaces of the entries that satisfy a condition, sorted."""
    found = connection.execute(select(entries.c.namespace).where(condition).distinct()).scalars()
    return sorted(decode_namespace(value) for value in found)


def ids_by_key(connection: Connection, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, int]:
    """Return the ids of the live entries of the given keys in exactly one namespace."""
    scope = and_(entries.c.namespace == encode_namespace(namespace), current(now))
    query = select(entries.c.key, entries.c.id)
    return {
        row.key: row.id
        for start in range(0, len(keys), IN_LIST)
        for row in connection.execute(query.where(scope, entries.c.key.in_(keys[start : start + IN_LIST])))
    }


def list_sessions(connection: Connection, condition: Condition) -> list[Session]:
    """Return the sessions that hold entries satisfying a condition, in the order they were begun."""
    query = (
        select(
            sessions.c.name,
            sessions.c.namespace,
            func.count().label("entries"),
            func.min(entries.c.event_time, type_=entries.c.event_time.type).label("first_event"),
            func.max(entries.c.event_time, type_=entries.c.event_time.type).label("last_event"),
        )
        .select_from(entries.join(sessions))
        .where(condition)
        .group_by(sessions.c.id)
        .order_by(sessions.c.id)
    )
    return [
        Session(
            name=row.name,
            namespace=decode_namespace(row.namespace),
            entries=row.entries,
            first_event=row.first_event,
            last_event=row.last_event,
        )
        for row in connection.execute(query)
    ]
