"""Reading entries in SQLite."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Row, and_, bindparam, distinct, func, select, text
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from typing_extensions import override

from agent_memory.errors import NotFoundError, StorageError
from agent_memory.records import Entry, Session
from agent_memory.storage.entries import Entries
from agent_memory.storage.records import Condition
from agent_memory.storage.sqlite.checksums import COVERED, checksum
from agent_memory.storage.sqlite.conditions import (
    compile_condition,
    decode_namespace,
    encode_namespace,
    in_namespace,
    namespace_bounds,
)
from agent_memory.storage.sqlite.schema import EPOCH, checked_row, entries, microseconds, sessions
from agent_memory.storage.sqlite.slots import Group, driver
from agent_memory.types import IdArray, Namespace

_log = logging.getLogger("agent_memory")

IN_LIST = 500  # bound parameters of one IN list

_COLUMNS = (
    *entries.c,
    sessions.c.name.label("session"),
)
_covered = itemgetter(*([column.name for column in _COLUMNS].index(name) for name in COVERED["entries", "checksum"]))
_SELECT = select(*_COLUMNS).select_from(entries.outerjoin(sessions))
_HAS_KEYS = (
    " WHERE entries.namespace = ? AND entries.key IN (SELECT value FROM json_each(?))"
    " AND entries.superseded_at IS NULL AND (entries.expires_at IS NULL OR entries.expires_at > ?)"
)
_BY_KEYS = str(_SELECT.compile(dialect=SQLiteDialect())) + _HAS_KEYS
_IDS_BY_KEYS = "SELECT key, id FROM entries" + _HAS_KEYS
_BY_IDS = str(_SELECT.where(text("entries.id IN (SELECT value FROM json_each(?))")).compile(dialect=SQLiteDialect()))


def _parse_entry(row: Row[Any] | SimpleNamespace) -> Entry:
    return Entry(
        key=row.key,
        text=row.text,
        namespace=decode_namespace(row.namespace),
        session=row.session,
        speaker=row.speaker,
        metadata=_parse_metadata(row),
        event_time=row.event_time,
        created_at=row.created_at,
        updated_at=row.updated_at,
        expires_at=row.expires_at,
        importance=row.importance,
        superseded_at=row.superseded_at,
    )


def _parse_metadata(row: Row[Any] | SimpleNamespace) -> dict[str, Any]:
    try:
        return dict(json.loads(row.metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"the metadata of entry {row.key!r} is damaged: {str(error)[:100]}") from error


_AMONG = text("entries.id IN (SELECT value FROM json_each(:ids))")
_CIRCUMSTANCES = select(entries.c.id, entries.c.event_time, entries.c.importance).where(_AMONG)


_BESIDE = "FROM entries other WHERE other.session_id = mine.session_id AND other.superseded_at IS NULL AND other.id"
# A former version was copied to a new row; its place in the session is that of the entry that kept the key.
_PLACED = """
SELECT one.id, one.session_id, coalesce(
    (SELECT kept.id FROM entries kept
     WHERE kept.id = one.superseded_by AND kept.key = one.key AND kept.namespace = one.namespace), one.id) AS place
FROM entries one WHERE one.id IN (SELECT value FROM json_each(?)) AND one.session_id IS NOT NULL
"""
_NEIGHBOURS = f"""
SELECT mine.id, (SELECT max(other.id) {_BESIDE} < mine.place), (SELECT min(other.id) {_BESIDE} > mine.place)
FROM ({_PLACED}) mine
"""


_LINEAGE = """
WITH RECURSIVE line(id) AS (
    SELECT id FROM entries WHERE id IN (SELECT value FROM json_each(?))
    UNION SELECT former.id FROM line JOIN entries former ON former.superseded_by = line.id
    {later}
) SELECT id FROM line ORDER BY id
"""
_EARLIER = _LINEAGE.format(later="")
_BOTH_WAYS = _LINEAGE.format(
    later="UNION SELECT one.superseded_by FROM line JOIN entries one ON one.id = line.id "
    "WHERE one.superseded_by IS NOT NULL"
)

_EXPIRED = "SELECT id FROM entries WHERE superseded_at IS NULL AND expires_at <= ?"


_FEW_SESSIONS = 100
_SESSIONS = f"SELECT id, namespace FROM sessions WHERE name = ? LIMIT {_FEW_SESSIONS + 1}"
# Stands for the moment of a condition, which differs from call to call.
_MOMENT: Any = bindparam("moment", EPOCH, type_=entries.c.expires_at.type)


@lru_cache(maxsize=512)
def _compile_select(
    condition: Condition, in_session: bool, newest_first: bool, inside: bool
) -> tuple[str, tuple[str, ...], Mapping[str, object]]:
    """Return a query for whole rows: its SQL, the names of its parameters in order, and the values of some of them.

    Building and compiling it takes longer than running it, and most callers ask for the same again and again.
    """
    query = _SELECT.where(compile_condition(condition), entries.c.id > bindparam("after", 0))
    if in_session:
        query = query.where(entries.c.session_id == bindparam("session", 0))
    if inside:
        place = entries.c.namespace
        query = query.where(place >= bindparam("low", ""), place < bindparam("high", ""))
    query = query.order_by(entries.c.id.desc() if newest_first else entries.c.id)
    query = query.limit(bindparam("most", 0)).offset(bindparam("skip", 0))
    compiled = query.compile(dialect=SQLiteDialect(), compile_kwargs={"render_postcompile": True})
    fixed = {
        name: microseconds(value) if isinstance(value, datetime) else value for name, value in compiled.params.items()
    }
    return str(compiled), tuple(compiled.positiontup or ()), fixed


class SqliteEntries(Group, Entries):
    """``Entries`` in SQLite."""

    @override
    def fetch(self, ids: Sequence[int]) -> dict[int, Entry]:
        found = driver(self._connection).execute(_BY_IDS, (json.dumps(list(ids)),))
        entries_by_id = {}
        for values in found:
            row = checked_row(_COLUMNS, values)
            if row.checksum != checksum(_covered(values)):
                _log.warning("entry %r is not what was written: its checksum differs; run check", row.key)
            entries_by_id[row.id] = _parse_entry(row)
        return entries_by_id

    @override
    def select(
        self,
        condition: Condition,
        *,
        after_id: int = 0,
        limit: int | None = None,
        offset: int = 0,
        newest_first: bool = False,
    ) -> list[tuple[int, Entry]]:
        session_id, condition = self._narrow(condition)
        shape = condition if condition.moment is None else replace(condition, moment=_MOMENT)
        bounds = namespace_bounds(condition.namespace) if condition.key is None else None
        shape = shape if bounds is None else replace(shape, namespace=())  # one statement for all namespaces
        statement, names, fixed = _compile_select(shape, session_id is not None, newest_first, bounds is not None)
        # SQLite requires a LIMIT before an OFFSET; -1 means no limit.
        given = {**fixed, "after": after_id, "most": -1 if limit is None else limit, "skip": offset}
        given["low"], given["high"] = bounds or ("", "")
        given["session"] = session_id
        given["moment"] = None if condition.moment is None else microseconds(condition.moment)
        found = driver(self._connection).execute(statement, [given[name] for name in names])
        rows = (checked_row(_COLUMNS, values) for values in found.fetchall())
        return [(row.id, _parse_entry(row)) for row in rows]

    def _narrow(self, condition: Condition) -> tuple[int | None, Condition]:
        """Return a condition with its session by id, if there is one of that name: its index is in the order of ids."""
        if condition.session is None or condition.key is not None:
            return None, condition
        found = driver(self._connection).execute(_SESSIONS, (condition.session,)).fetchall()
        scope = encode_namespace(condition.namespace)
        inside = [number for number, namespace in found if str(namespace).startswith(scope)]
        if len(inside) != 1 or len(found) > _FEW_SESSIONS:
            return None, condition
        # Entries of a session are in its namespace, which needs no second look.
        return inside[0], replace(condition, session=None, namespace=())

    @override
    def select_texts(self, *, after_id: int, limit: int) -> list[tuple[int, str, str, bytes]]:
        columns = (entries.c.id, entries.c.key, entries.c.text, entries.c.content_hash)
        query = select(*columns).where(entries.c.id > after_id).order_by(entries.c.id).limit(limit)
        return [tuple(row) for row in self._connection.execute(query)]

    @override
    def select_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, Entry]:
        given = (encode_namespace(namespace), json.dumps(list(keys)), microseconds(now))
        found = driver(self._connection).execute(_BY_KEYS, given).fetchall()
        rows = (checked_row(_COLUMNS, values) for values in found)
        return {row.key: _parse_entry(row) for row in rows}

    @override
    def find(self, namespace: Namespace, key: str, now: datetime) -> tuple[int, Entry]:
        row = self._connection.execute(
            _SELECT.where(compile_condition(Condition(namespace=namespace, key=key, moment=now)))
        ).first()
        if row is None:
            place = f" in namespace {'/'.join(namespace)}" if namespace else ""
            raise NotFoundError(f"no entry with key {key!r}{place}")
        return row.id, _parse_entry(row)

    @override
    def select_circumstances(self, ids: Sequence[int]) -> list[tuple[int, datetime, float | None]]:
        rows = self._connection.execute(_CIRCUMSTANCES, {"ids": json.dumps(list(ids))})
        return [(row[0], row[1], row[2]) for row in rows]

    @override
    def matches(self, entry_id: int, condition: Condition) -> bool:
        return (
            self._connection.execute(
                select(entries.c.id).where(entries.c.id == entry_id, compile_condition(condition))
            ).first()
            is not None
        )

    @override
    def find_newest(self, namespace: Namespace, key: str) -> tuple[int, Entry] | None:
        here = and_(entries.c.namespace == encode_namespace(namespace), entries.c.key == key)
        # Former versions have larger ids than what took their place.
        latest = (entries.c.superseded_at.desc(), entries.c.updated_at.desc(), entries.c.id.desc())
        order = (entries.c.superseded_at.is_not(None), *latest)
        row = self._connection.execute(_SELECT.where(here).order_by(*order)).first()
        return None if row is None else (row.id, _parse_entry(row))

    @override
    def list_versions(self, namespace: Namespace, key: str) -> list[Entry]:
        here = and_(entries.c.namespace == encode_namespace(namespace), entries.c.key == key)
        found = set(self._connection.execute(select(entries.c.id).where(here)).scalars())
        fresh = found
        while fresh:
            older = select(entries.c.id).where(entries.c.superseded_by.in_(list(fresh)))
            fresh = set(self._connection.execute(older).scalars()) - found
            found |= fresh
        order = (entries.c.updated_at, entries.c.superseded_at.is_(None), entries.c.superseded_at)
        rows = self._connection.execute(_SELECT.where(entries.c.id.in_(list(found))).order_by(*order))
        return [_parse_entry(row) for row in rows]

    @override
    def find_neighbours(self, ids: Sequence[int]) -> dict[int, list[int]]:
        rows = driver(self._connection).execute(_NEIGHBOURS, (json.dumps(list(ids)),))
        return {row[0]: [entry_id for entry_id in row[1:] if entry_id is not None] for row in rows}

    @override
    def select_ids(self, condition: Condition) -> npt.NDArray[np.int64]:
        rows = self._connection.execute(select(entries.c.id).where(compile_condition(condition))).scalars().all()
        return np.fromiter(rows, dtype=np.int64, count=len(rows))

    @override
    def select_surplus(self, namespace: Namespace, *, before: datetime | None, newest: int | None) -> IdArray:
        here = select(entries.c.id).where(in_namespace(entries.c.namespace, namespace))
        found: set[int] = set()
        if before is not None:
            found |= set(self._connection.execute(here.where(entries.c.updated_at < before)).scalars())
        if newest is not None:
            latest = here.where(entries.c.superseded_at.is_(None))
            latest = latest.order_by(entries.c.updated_at.desc(), entries.c.id.desc())
            found |= set(self._connection.execute(latest.limit(-1).offset(newest)).scalars())
        return np.fromiter(found, dtype=np.int64, count=len(found))

    @override
    def select_lineage(self, ids: Sequence[int] | IdArray, *, later: bool) -> IdArray:
        given = json.dumps([int(entry_id) for entry_id in ids])
        rows = driver(self._connection).execute(_BOTH_WAYS if later else _EARLIER, (given,)).fetchall()
        return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))

    @override
    def select_expired_ids(self, now: datetime) -> list[int]:
        rows = driver(self._connection).execute(_EXPIRED, (microseconds(now),))
        return [row[0] for row in rows]

    @override
    def count(self, condition: Condition) -> int:
        return int(
            self._connection.execute(
                select(func.count()).select_from(entries).where(compile_condition(condition))
            ).scalar_one()
        )

    @override
    def count_distinct(self, condition: Condition) -> tuple[int, int]:
        texts = (
            select(entries.c.namespace, entries.c.content_hash)
            .where(compile_condition(condition))
            .distinct()
            .subquery()
        )
        query = select(func.count(distinct(texts.c.namespace)), func.count())
        namespaces, different = self._connection.execute(query.select_from(texts)).one()
        return int(namespaces), int(different)

    @override
    def list_namespaces(self, condition: Condition) -> list[Namespace]:
        found = self._connection.execute(
            select(entries.c.namespace).where(compile_condition(condition)).distinct()
        ).scalars()
        return sorted(decode_namespace(value) for value in found)

    @override
    def select_ids_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, int]:
        given = (encode_namespace(namespace), json.dumps(list(keys)), microseconds(now))
        return dict(driver(self._connection).execute(_IDS_BY_KEYS, given).fetchall())

    @override
    def list_sessions(self, condition: Condition) -> list[Session]:
        query = (
            select(
                sessions.c.name,
                sessions.c.namespace,
                func.count().label("entries"),
                func.min(entries.c.event_time, type_=entries.c.event_time.type).label("first_event"),
                func.max(entries.c.event_time, type_=entries.c.event_time.type).label("last_event"),
            )
            .select_from(entries.join(sessions))
            .where(compile_condition(condition))
            .group_by(sessions.c.id)
            .order_by(func.min(entries.c.id))  # not of their own ids, which tell of what was forgotten
        )
        return [
            Session(
                name=row.name,
                namespace=decode_namespace(row.namespace),
                entries=row.entries,
                first_event=row.first_event,
                last_event=row.last_event,
            )
            for row in self._connection.execute(query)
        ]
