"""Data of session encoders in SQLite: the segments of a session, their evolved vectors and latents."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from agent_memory.storage.records import LATER, Condition, Generation, Head, PastSegment, StoredSegment
from agent_memory.storage.spaces import Sessions
from agent_memory.storage.sqlite.checksums import checksum_evolved
from agent_memory.storage.sqlite.lazy import conditions, sa, tables
from agent_memory.storage.sqlite.slots import Group, driver
from agent_memory.storage.sqlite.values import encode_namespace, read_bytes, read_integer
from agent_memory.types import Namespace

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, Row, Select

_PAGE = 500


def _select_segments(generation: Generation, session_id: int) -> Select[Any]:
    columns = (
        tables.entries.c.id,
        tables.entries.c.text,
        tables.entries.c.speaker,
        tables.entries.c.event_time,
        tables.vectors.c.static,
    )
    query = sa.select(*columns).join(tables.vectors, tables.vectors.c.entry_id == tables.entries.c.id)
    return query.where(
        tables.entries.c.session_id == session_id, tables.vectors.c.generation_id == generation.id, tables.HAS_VECTOR
    )


def _parse_segment(row: Row[Any]) -> StoredSegment:
    return StoredSegment(id=row.id, text=row.text, speaker=row.speaker, time=row.event_time, static=row.static)


_HEAD = "SELECT id, head_seq FROM sessions WHERE namespace = ? AND name = ?"
_IN_SESSIONS = (
    "SELECT session_id, id FROM entries WHERE id IN (SELECT value FROM json_each(?)) "
    "AND session_id IS NOT NULL AND superseded_at IS NULL"
)
_LATENTS = (
    "SELECT latents FROM vectors JOIN entries ON entry_id = id WHERE session_id = ? AND generation_id = ? "
    f"AND length(static) > {len(LATER)} AND superseded_at IS NULL AND id < ? ORDER BY id DESC LIMIT ?"
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
    "UPDATE vectors SET evolved = NULL, latents = NULL, evolved_checksum = NULL WHERE generation_id != ? "
    "AND entry_id IN (SELECT id FROM entries WHERE session_id = ? AND id >= ?)"
)


@cache
def _compile_place() -> ColumnElement[int]:
    """Return what orders the segments of a session: the id, or for a former version that of the entry that kept it."""
    successor = tables.entries.alias()
    own_key = sa.and_(successor.c.id == tables.entries.c.superseded_by, successor.c.key == tables.entries.c.key)
    own_key = sa.and_(own_key, successor.c.namespace == tables.entries.c.namespace)
    return sa.func.coalesce(sa.select(successor.c.id).where(own_key).scalar_subquery(), tables.entries.c.id)


class SqliteSessions(Group, Sessions):
    """``Sessions`` in SQLite."""

    @override
    def find_head(self, namespace: Namespace, name: str) -> Head | None:
        row = driver(self._connection).execute(_HEAD, (encode_namespace(namespace), name)).fetchone()
        return None if row is None else Head(read_integer(row[0]), read_integer(row[1]))

    @override
    def find_only(self, scope: Namespace, name: str) -> int | None:
        exact = self.find_head(scope, name)
        if exact is not None:
            return exact.id
        below = (
            sa.select(tables.entries.c.session_id)
            .join(tables.sessions)
            .where(conditions.in_namespace(tables.entries.c.namespace, scope), tables.sessions.c.name == name)
            .distinct()
        )
        found = self._connection.execute(below.limit(2)).scalars().all()
        return found[0] if len(found) == 1 else None

    @override
    def count_named(self, scope: Namespace, name: str) -> int:
        here = conditions.in_namespace(tables.sessions.c.namespace, scope)
        query = sa.select(sa.func.count()).where(here, tables.sessions.c.name == name)
        return int(self._connection.execute(query).scalar_one())

    @override
    def move_head(self, session_id: int, seq: int) -> None:
        self._connection.execute(
            sa.update(tables.sessions).where(tables.sessions.c.id == session_id).values(head_seq=seq)
        )

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
            .where(self._compile(condition))
            .order_by(_compile_place().desc(), tables.entries.c.id.desc())
        )
        rows = self._connection.execute(query.limit(count))
        return [_parse_segment(row) for row in reversed(rows.all())]

    @override
    def select_past(self, generation: Generation, session_id: int, first: int) -> list[PastSegment]:
        query = (
            _select_segments(generation, session_id)
            .add_columns(_compile_place().label("place"), tables.entries.c.superseded_at)
            .where(
                tables.entries.c.superseded_at.is_not(None),
                tables.vectors.c.evolved.is_not(None),
                first <= _compile_place(),
            )
            .order_by(tables.entries.c.id)
        )
        rows = self._connection.execute(query).all()
        return [PastSegment(_parse_segment(row), row.place, row.superseded_at) for row in rows]

    @override
    def select_segments_before(
        self, generation: Generation, past: PastSegment, session_id: int, count: int | None
    ) -> list[StoredSegment]:
        until = past.superseded_at
        # Expired ones, too: they are evolved with as long as they are not purged.
        there = sa.and_(
            tables.entries.c.updated_at < until,
            sa.or_(tables.entries.c.superseded_at.is_(None), tables.entries.c.superseded_at >= until),
        )
        query = _select_segments(generation, session_id).where(there, past.place > _compile_place())
        rows = self._connection.execute(query.order_by(_compile_place().desc()).limit(count))
        return [_parse_segment(row) for row in reversed(rows.all())]

    @override
    def read_last_latents(
        self, generation: Generation, session_id: int, count: int, *, before: int | None = None
    ) -> list[bytes | None]:
        last = sys.maxsize if before is None else before
        rows = driver(self._connection).execute(_LATENTS, (session_id, generation.id, last, count)).fetchall()
        return [read_bytes(row[0]) for row in reversed(rows)]

    @override
    def find_unchanged_until(self, session_id: int, moment: datetime) -> int | None:
        current = sa.and_(tables.entries.c.session_id == session_id, tables.entries.c.superseded_at.is_(None))
        newer = sa.select(sa.func.min(tables.entries.c.id)).where(current, tables.entries.c.updated_at > moment)
        end: int = self._connection.execute(newer).scalar() or sys.maxsize
        old = sa.and_(tables.entries.c.session_id == session_id, tables.entries.c.updated_at <= moment)
        other = sa.or_(
            tables.entries.c.superseded_at > moment,
            sa.and_(
                tables.entries.c.superseded_at.is_(None),
                sa.or_(tables.entries.c.id > end, tables.entries.c.expires_at <= moment),
            ),
        )
        changed = self._connection.execute(sa.select(tables.entries.c.id).where(old, other).limit(1)).first()
        return end if changed is None else None

    @override
    def select_segments_from(self, generation: Generation, session_id: int, first: int) -> Iterator[StoredSegment]:
        query = _select_segments(generation, session_id).where(tables.entries.c.superseded_at.is_(None))
        after = first - 1
        while True:
            page = self._connection.execute(
                query.where(tables.entries.c.id > after).order_by(tables.entries.c.id).limit(_PAGE)
            ).all()
            yield from map(_parse_segment, page)
            if len(page) < _PAGE:
                return
            after = page[-1][0]

    @override
    def select_seen_from(self, session_id: int, first: int) -> tuple[set[str | None], set[datetime]]:
        query = sa.select(tables.entries.c.speaker, tables.entries.c.event_time).distinct()
        here = sa.and_(
            tables.entries.c.session_id == session_id,
            tables.entries.c.id >= first,
            tables.entries.c.superseded_at.is_(None),
        )
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
        driver(self._connection).execute(_CLEAR_OTHERS, (generation.id, session_id, first))

    @override
    def clear(self, session_id: int, first: int) -> None:
        driver(self._connection).execute(_CLEAR_FROM, (session_id, first))

    @override
    def find_unevolved(
        self, generation: Generation, latents_bytes: int, session_id: int | None = None
    ) -> dict[int, int]:
        size = generation.vector_bytes
        sound = sa.and_(
            sa.func.length(tables.vectors.c.evolved) == size, sa.func.length(tables.vectors.c.latents) == latents_bytes
        )
        query = (
            sa.select(tables.entries.c.session_id, sa.func.min(tables.entries.c.id))
            .join(tables.vectors, tables.vectors.c.entry_id == tables.entries.c.id)
            .where(
                tables.vectors.c.generation_id == generation.id,
                tables.entries.c.superseded_at.is_(None),
                tables.HAS_VECTOR,
            )
            .where(tables.entries.c.session_id.is_not(None), sa.func.coalesce(sound, False).is_(False))
            .group_by(tables.entries.c.session_id)
        )
        if session_id is not None:
            query = query.where(tables.entries.c.session_id == session_id)
        return {row[0]: row[1] for row in self._connection.execute(query)}

    @override
    def find_sessions(self, entry_ids: Sequence[int]) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        for start in range(0, len(entry_ids), _PAGE):
            chosen = json.dumps([int(entry_id) for entry_id in entry_ids[start : start + _PAGE]])
            rows = driver(self._connection).execute(_IN_SESSIONS, (chosen,)).fetchall()
            found += [(read_integer(session_id), read_integer(entry_id)) for session_id, entry_id in rows]
        return found
