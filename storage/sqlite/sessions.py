"""Data of session encoders in SQLite: the segments of a session, their evolved vectors and latents."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, bindparam, func, or_, select, update
from typing_extensions import override

from agent_memory.storage.records import Condition, Generation, Head, PastSegment, StoredSegment
from agent_memory.storage.spaces import Sessions
from agent_memory.storage.sqlite.checksums import checksum_evolved
from agent_memory.storage.sqlite.conditions import compile_condition, encode_namespace, in_namespace
from agent_memory.storage.sqlite.schema import HAS_VECTOR, entries, sessions, vectors
from agent_memory.storage.sqlite.slots import Group, driver
from agent_memory.types import Namespace

_PAGE = 500


_COLUMNS = (
    entries.c.id,
    entries.c.text,
    entries.c.speaker,
    entries.c.event_time,
    vectors.c.static,
)


def _select_segments(generation: Generation, session_id: int) -> Select[Any]:
    query = select(*_COLUMNS).join(vectors, vectors.c.entry_id == entries.c.id)
    return query.where(entries.c.session_id == session_id, vectors.c.generation_id == generation.id, HAS_VECTOR)


def _parse_segment(row: Row[Any]) -> StoredSegment:
    return StoredSegment(id=row.id, text=row.text, speaker=row.speaker, time=row.event_time, static=row.static)


_LATENTS = (
    select(vectors.c.latents)
    .join(entries, vectors.c.entry_id == entries.c.id)
    .where(entries.c.session_id == bindparam("session"), vectors.c.generation_id == bindparam("generation"))
    .where(HAS_VECTOR, entries.c.superseded_at.is_(None), entries.c.id < bindparam("before"))
    .order_by(entries.c.id.desc())
    .limit(bindparam("count"))
)


_STORE = "UPDATE vectors SET evolved = ?, latents = ?, evolved_checksum = ? WHERE entry_id = ? AND generation_id = ?"


_EVOLVED = (
    "SELECT entry_id, generation_id, evolved, latents, evolved_checksum FROM vectors "
    "WHERE entry_id IN (SELECT value FROM json_each(?))"
)
_CLEAR = (
    "UPDATE vectors SET evolved = NULL, latents = NULL, evolved_checksum = NULL "
    "WHERE entry_id = ? AND generation_id = ?"
)


_CLEAR_FROM = (
    "UPDATE vectors SET evolved = NULL, latents = NULL, evolved_checksum = NULL WHERE entry_id IN "
    "(SELECT id FROM entries WHERE session_id = ? AND id >= ? AND superseded_at IS NULL)"
)
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
    .values(evolved=None, latents=None, evolved_checksum=None)
)


def _compile_place() -> ColumnElement[int]:
    """Return what orders the segments of a session: the id, or for a former version that of the entry that kept it."""
    successor = entries.alias()
    own_key = and_(successor.c.id == entries.c.superseded_by, successor.c.key == entries.c.key)
    own_key = and_(own_key, successor.c.namespace == entries.c.namespace)
    return func.coalesce(select(successor.c.id).where(own_key).scalar_subquery(), entries.c.id)


_PLACE = _compile_place()


class SqliteSessions(Group, Sessions):
    """``Sessions`` in SQLite."""

    @override
    def find_head(self, namespace: Namespace, name: str) -> Head | None:
        here = and_(sessions.c.namespace == encode_namespace(namespace), sessions.c.name == name)
        row = self._connection.execute(select(sessions.c.id, sessions.c.head_seq).where(here)).first()
        return None if row is None else Head(row.id, row.head_seq)

    @override
    def find_only(self, scope: Namespace, name: str) -> int | None:
        exact = self.find_head(scope, name)
        if exact is not None:
            return exact.id
        below = (
            select(entries.c.session_id)
            .join(sessions)
            .where(in_namespace(entries.c.namespace, scope), sessions.c.name == name)
            .distinct()
        )
        found = self._connection.execute(below.limit(2)).scalars().all()
        return found[0] if len(found) == 1 else None

    @override
    def move_head(self, session_id: int, seq: int) -> None:
        self._connection.execute(update(sessions).where(sessions.c.id == session_id).values(head_seq=seq))

    @override
    def select_last_segments(
        self,
        generation: Generation,
        session_id: int,
        count: int | None,
        condition: Condition,
    ) -> list[StoredSegment]:
        query = (
            _select_segments(generation, session_id)
            .where(compile_condition(condition))
            .order_by(_PLACE.desc(), entries.c.id.desc())
        )
        rows = self._connection.execute(query.limit(-1 if count is None else count))
        return [_parse_segment(row) for row in reversed(rows.all())]

    @override
    def select_past(self, generation: Generation, session_id: int, first: int) -> list[PastSegment]:
        query = (
            _select_segments(generation, session_id)
            .add_columns(_PLACE.label("place"), entries.c.superseded_at)
            .where(entries.c.superseded_at.is_not(None), vectors.c.evolved.is_not(None), first <= _PLACE)
            .order_by(entries.c.id)
        )
        rows = self._connection.execute(query).all()
        return [PastSegment(_parse_segment(row), row.place, row.superseded_at) for row in rows]

    @override
    def select_segments_before(
        self, generation: Generation, past: PastSegment, session_id: int, count: int | None
    ) -> list[StoredSegment]:
        until = past.superseded_at
        # Expired ones, too: they are evolved with as long as they are not purged.
        there = and_(
            entries.c.updated_at < until, or_(entries.c.superseded_at.is_(None), entries.c.superseded_at >= until)
        )
        query = _select_segments(generation, session_id).where(there, past.place > _PLACE)
        rows = self._connection.execute(query.order_by(_PLACE.desc()).limit(-1 if count is None else count))
        return [_parse_segment(row) for row in reversed(rows.all())]

    @override
    def read_last_latents(
        self, generation: Generation, session_id: int, count: int, *, before: int | None = None
    ) -> list[bytes | None]:
        last = sys.maxsize if before is None else before
        given = {"session": session_id, "generation": generation.id, "before": last, "count": count}
        return list(reversed(self._connection.execute(_LATENTS, given).scalars().all()))

    @override
    def find_unchanged_until(self, session_id: int, moment: datetime) -> int | None:
        current = and_(entries.c.session_id == session_id, entries.c.superseded_at.is_(None))
        newer = select(func.min(entries.c.id)).where(current, entries.c.updated_at > moment)
        end: int = self._connection.execute(newer).scalar() or sys.maxsize
        old = and_(entries.c.session_id == session_id, entries.c.updated_at <= moment)
        other = or_(
            entries.c.superseded_at > moment,
            and_(entries.c.superseded_at.is_(None), or_(entries.c.id > end, entries.c.expires_at <= moment)),
        )
        changed = self._connection.execute(select(entries.c.id).where(old, other).limit(1)).first()
        return end if changed is None else None

    @override
    def select_segments_from(self, generation: Generation, session_id: int, first: int) -> Iterator[StoredSegment]:
        query = _select_segments(generation, session_id).where(entries.c.superseded_at.is_(None))
        after = first - 1
        while True:
            page = self._connection.execute(query.where(entries.c.id > after).order_by(entries.c.id).limit(_PAGE)).all()
            yield from map(_parse_segment, page)
            if len(page) < _PAGE:
                return
            after = page[-1][0]

    @override
    def select_seen_from(self, session_id: int, first: int) -> tuple[set[str | None], set[datetime]]:
        query = select(entries.c.speaker, entries.c.event_time).distinct()
        here = and_(entries.c.session_id == session_id, entries.c.id >= first, entries.c.superseded_at.is_(None))
        rows = self._connection.execute(query.where(here)).all()
        return {row.speaker for row in rows}, {row.event_time for row in rows}

    @override
    def store(self, generation: Generation, rows: Sequence[tuple[int, bytes, bytes | None]]) -> None:
        values = [
            (evolved, latents, checksum_evolved(entry_id, generation.id, evolved, latents), entry_id, generation.id)
            for entry_id, evolved, latents in rows
        ]
        driver(self._connection).executemany(_STORE, values)

    @override
    def clear_altered(self, entry_ids: Sequence[int]) -> None:
        raw = driver(self._connection)
        ids = json.dumps([int(entry_id) for entry_id in entry_ids])
        rows = raw.execute(_EVOLVED, (ids,)).fetchall()
        wrong = [row[:2] for row in rows if row[4] != checksum_evolved(*row[:4])]
        raw.executemany(_CLEAR, wrong)

    @override
    def clear_others(self, generation: Generation, session_id: int, first: int) -> None:
        given = {"b_generation": generation.id, "b_session": session_id, "b_first": first}
        self._connection.execute(_CLEAR_OTHERS, given)

    @override
    def clear(self, session_id: int, first: int) -> None:
        driver(self._connection).execute(_CLEAR_FROM, (session_id, first))

    @override
    def find_unevolved(
        self, generation: Generation, latents_bytes: int, session_id: int | None = None
    ) -> dict[int, int]:
        size = generation.vector_bytes
        sound = and_(func.length(vectors.c.evolved) == size, func.length(vectors.c.latents) == latents_bytes)
        query = (
            select(entries.c.session_id, func.min(entries.c.id))
            .join(vectors, vectors.c.entry_id == entries.c.id)
            .where(vectors.c.generation_id == generation.id, entries.c.superseded_at.is_(None), HAS_VECTOR)
            .where(entries.c.session_id.is_not(None), func.coalesce(sound, False).is_(False))
            .group_by(entries.c.session_id)
        )
        if session_id is not None:
            query = query.where(entries.c.session_id == session_id)
        return {row[0]: row[1] for row in self._connection.execute(query)}

    @override
    def find_sessions(self, entry_ids: Sequence[int]) -> list[tuple[int, int]]:
        here = (entries.c.session_id.is_not(None), entries.c.superseded_at.is_(None))
        found: list[tuple[int, int]] = []
        for start in range(0, len(entry_ids), _PAGE):
            chosen = entries.c.id.in_(list(entry_ids[start : start + _PAGE]))
            rows = self._connection.execute(select(entries.c.session_id, entries.c.id).where(chosen, *here))
            found += [(row[0], row[1]) for row in rows]
        return found
