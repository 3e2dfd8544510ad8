"""What session encoding reads and writes: the segments of a session, their evolved vectors and latents."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, Select, and_, bindparam, func, or_, select, update

from agent_memory.storage.sqlite.entries import Condition, encode_namespace, in_namespace
from agent_memory.storage.sqlite.schema import entries, sessions, vectors
from agent_memory.storage.sqlite.vectors import Generation
from agent_memory.types import Namespace

_PAGE = 500


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


def head(connection: Connection, namespace: Namespace, name: str) -> Head | None:
    """Return the head of a session of exactly this namespace, or None if it has not begun."""
    here = and_(sessions.c.namespace == encode_namespace(namespace), sessions.c.name == name)
    row = connection.execute(select(sessions.c.id, sessions.c.head_seq).where(here)).first()
    return None if row is None else Head(row.id, row.head_seq)


def only_session(connection: Connection, scope: Namespace, name: str) -> int | None:
    """Return the id of the session of a name in exactly a namespace; else of the only one below it, if it is one."""
    exact = head(connection, scope, name)
    if exact is not None:
        return exact.id
    below = select(entries.c.session_id).join(sessions).where(in_namespace(scope), sessions.c.name == name).distinct()
    found = connection.execute(below.limit(2)).scalars().all()
    return found[0] if len(found) == 1 else None


def move_head(connection: Connection, session_id: int, seq: int) -> None:
    """Note the latest change of a session."""
    connection.execute(update(sessions).where(sessions.c.id == session_id).values(head_seq=seq))


_COLUMNS = (
    entries.c.id,
    entries.c.text,
    entries.c.speaker,
    entries.c.event_time,
    vectors.c.static,
)


def _segments(generation: Generation, session_id: int) -> Select[Any]:
    query = select(*_COLUMNS).join(vectors, vectors.c.entry_id == entries.c.id)
    return query.where(entries.c.session_id == session_id, vectors.c.generation_id == generation.id)


def _segment(row: Row[Any]) -> StoredSegment:
    return StoredSegment(id=row.id, text=row.text, speaker=row.speaker, time=row.event_time, static=row.static)


def last_segments(
    connection: Connection,
    generation: Generation,
    session_id: int,
    count: int | None,
    condition: Condition,
) -> list[StoredSegment]:
    """Return the last segments of a session, oldest first.

    Args:
        connection: A transaction.
        generation: The embedding space.
        session_id: The session.
        count: How many at most; None for all.
        condition: Which rows are its segments.
    """
    successor = entries.alias()
    own_key = and_(successor.c.id == entries.c.superseded_by, successor.c.key == entries.c.key)
    own_key = and_(own_key, successor.c.namespace == entries.c.namespace)
    # A former version was copied to a new row; its place in the session is that of the entry that kept the key.
    place = func.coalesce(select(successor.c.id).where(own_key).scalar_subquery(), entries.c.id)
    query = _segments(generation, session_id).where(condition).order_by(place.desc(), entries.c.id.desc())
    rows = connection.execute(query.limit(-1 if count is None else count))
    return [_segment(row) for row in reversed(rows.all())]


def last_latents(
    connection: Connection, generation: Generation, session_id: int, count: int, *, before: int | None = None
) -> list[bytes]:
    """Return the stored latents of the last segments of a session, oldest first; None where they are missing."""
    last = sys.maxsize if before is None else before
    given = {"session": session_id, "generation": generation.id, "before": last, "count": count}
    return list(reversed(connection.execute(_LATENTS, given).scalars().all()))


_LATENTS = (
    select(vectors.c.latents)
    .join(entries, vectors.c.entry_id == entries.c.id)
    .where(entries.c.session_id == bindparam("session"), vectors.c.generation_id == bindparam("generation"))
    .where(entries.c.superseded_at.is_(None), entries.c.id < bindparam("before"))
    .order_by(entries.c.id.desc())
    .limit(bindparam("count"))
)


def kept_since(connection: Connection, session_id: int, moment: datetime) -> int | None:
    """Return the entry up to which a session now is the session as it was at a moment; None if it has changed."""
    current = and_(entries.c.session_id == session_id, entries.c.superseded_at.is_(None))
    newer = select(func.min(entries.c.id)).where(current, entries.c.updated_at > moment)
    end: int = connection.execute(newer).scalar() or sys.maxsize
    old = and_(entries.c.session_id == session_id, entries.c.updated_at <= moment)
    other = or_(
        entries.c.superseded_at > moment,
        and_(entries.c.superseded_at.is_(None), or_(entries.c.id > end, entries.c.expires_at <= moment)),
    )
    changed = connection.execute(select(entries.c.id).where(old, other).limit(1)).first()
    return end if changed is None else None


def segments_from(
    connection: Connection, generation: Generation, session_id: int, first: int
) -> Iterator[StoredSegment]:
    """Yield the current segments of a session from an entry on, in their order."""
    query = _segments(generation, session_id).where(entries.c.superseded_at.is_(None))
    after = first - 1
    while True:
        page = connection.execute(query.where(entries.c.id > after).order_by(entries.c.id).limit(_PAGE)).all()
        yield from map(_segment, page)
        if len(page) < _PAGE:
            return
        after = page[-1][0]


def seen_from(connection: Connection, session_id: int, first: int) -> tuple[set[str | None], set[datetime]]:
    """Return the speakers and event times of the current segments of a session from an entry on."""
    query = select(entries.c.speaker, entries.c.event_time).distinct()
    here = and_(entries.c.session_id == session_id, entries.c.id >= first, entries.c.superseded_at.is_(None))
    rows = connection.execute(query.where(here)).all()
    return {row.speaker for row in rows}, {row.event_time for row in rows}


_STORE = update(vectors).where(
    vectors.c.entry_id == bindparam("b_entry"), vectors.c.generation_id == bindparam("b_generation")
)


def store(connection: Connection, generation: Generation, rows: Sequence[tuple[int, bytes, bytes]]) -> None:
    """Keep (entry id, evolved vector, latents)."""
    values = [
        {"b_entry": entry_id, "b_generation": generation.id, "evolved": evolved, "latents": latents}
        for entry_id, evolved, latents in rows
    ]
    if values:
        connection.execute(_STORE.values(evolved=bindparam("evolved"), latents=bindparam("latents")), values)


def clear(connection: Connection, entry_ids: Sequence[int]) -> None:
    """Drop what a session made of entries that are in none any more."""
    for start in range(0, len(entry_ids), _PAGE):
        chosen = vectors.c.entry_id.in_(list(entry_ids[start : start + _PAGE]))
        connection.execute(update(vectors).where(chosen).values(evolved=None, latents=None))


_CLEAR_OTHERS = (
    update(vectors)
    .where(
        vectors.c.generation_id != bindparam("b_generation"),
        vectors.c.entry_id.in_(
            select(entries.c.id).where(
                entries.c.session_id == bindparam("b_session"), entries.c.id >= bindparam("b_first")
            )
        ),
    )
    .values(evolved=None, latents=None)
)


def clear_others(connection: Connection, generation: Generation, session_id: int, first: int) -> None:
    """Drop what other generations made of a session, from an entry on: it no longer holds there either."""
    given = {"b_generation": generation.id, "b_session": session_id, "b_first": first}
    connection.execute(_CLEAR_OTHERS, given)


def unevolved(
    connection: Connection, generation: Generation, latents_bytes: int, session_id: int | None = None
) -> dict[int, int]:
    """Return the first current entry whose evolved vector or latents are missing or of a wrong length, by session.

    Args:
        connection: A transaction.
        generation: The embedding space.
        latents_bytes: Right length of latents.
        session_id: Look at this session only.
    """
    size = generation.dimension * generation.itemsize
    sound = and_(func.length(vectors.c.evolved) == size, func.length(vectors.c.latents) == latents_bytes)
    query = (
        select(entries.c.session_id, func.min(entries.c.id))
        .join(vectors, vectors.c.entry_id == entries.c.id)
        .where(vectors.c.generation_id == generation.id, entries.c.superseded_at.is_(None))
        .where(entries.c.session_id.is_not(None), func.coalesce(sound, False).is_(False))
        .group_by(entries.c.session_id)
    )
    if session_id is not None:
        query = query.where(entries.c.session_id == session_id)
    return {row[0]: row[1] for row in connection.execute(query)}


def sessions_of(connection: Connection, entry_ids: Sequence[int]) -> list[tuple[int, int]]:
    """Return (session, entry) of the given current entries that are in one."""
    here = (entries.c.session_id.is_not(None), entries.c.superseded_at.is_(None))
    found: list[tuple[int, int]] = []
    for start in range(0, len(entry_ids), _PAGE):
        chosen = entries.c.id.in_(list(entry_ids[start : start + _PAGE]))
        rows = connection.execute(select(entries.c.session_id, entries.c.id).where(chosen, *here))
        found += [(row[0], row[1]) for row in rows]
    return found
