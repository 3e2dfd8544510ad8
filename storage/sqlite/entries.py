"""Reading entries in SQLite."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import cache, lru_cache
from operator import itemgetter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from agent_memory.errors import NotFoundError, StorageError
from agent_memory.records import Entry, Session
from agent_memory.storage.columns import EntryFacts
from agent_memory.storage.entries import Entries
from agent_memory.storage.filters import Path
from agent_memory.storage.numbered import Field
from agent_memory.storage.records import Condition
from agent_memory.storage.sqlite import columns, internal
from agent_memory.storage.sqlite.checksums import COVERED, checksum
from agent_memory.storage.sqlite.kin import BOTH_WAYS, EARLIER, NEIGHBOURS
from agent_memory.storage.sqlite.lazy import conditions, sa, tables
from agent_memory.storage.sqlite.scopes import write_condition
from agent_memory.storage.sqlite.slots import Group, driver
from agent_memory.storage.sqlite.values import (
    ENTRIES,
    EPOCH,
    NOT_INTERNAL,
    decode_namespace,
    encode_namespace,
    microseconds,
    read_bytes,
    read_integer,
    read_number,
    read_row,
    read_text,
    read_time,
)
from agent_memory.types import Address, IdArray, Namespace, is_internal

if TYPE_CHECKING:
    from sqlalchemy import Row, Select

_log = logging.getLogger("agent_memory")

IN_LIST = 500  # bound parameters of one IN list

_COLUMNS = {**ENTRIES, "session": read_text}
_covered = itemgetter(*(list(_COLUMNS).index(name) for name in COVERED["entries", "checksum"]))
_FROM = "FROM entries LEFT JOIN sessions ON sessions.id = entries.session_id"
_SELECT = f"SELECT {', '.join(f'entries.{name}' for name in ENTRIES)}, sessions.name {_FROM}"
_CURRENT = "entries.superseded_at IS NULL AND (entries.expires_at IS NULL OR entries.expires_at > ?)"
_WITH_KEYS = f"entries.namespace = ? AND entries.key IN (SELECT value FROM json_each(?)) AND {_CURRENT}"
_BY_KEYS = f"{_SELECT} WHERE {_WITH_KEYS}"
_IDS_BY_KEYS = f"SELECT key, id FROM entries WHERE {_WITH_KEYS}"
_NEWEST_FIRST = (  # former versions have larger ids than what took their place
    "ORDER BY entries.superseded_at IS NOT NULL, entries.superseded_at DESC, entries.updated_at DESC, entries.id DESC"
)
_BY_IDS = f"{_SELECT} WHERE entries.id IN (SELECT value FROM json_each(?))"


@lru_cache(maxsize=IN_LIST)
def list_places(count: int) -> str:
    """Return a common table of so many values for (scope, title): the namespaces and keys that are asked for."""
    return f"WITH places(scope, title) AS (VALUES {', '.join(['(?, ?)'] * count)})"


AT_PLACES = "entries.namespace = scope AND entries.key = title"
_IDS_AT_PLACES = f"SELECT entries.id FROM places CROSS JOIN entries WHERE {AT_PLACES} AND {_CURRENT}"
_AT_PLACES = f"{_SELECT.replace('FROM', 'FROM places CROSS JOIN')} WHERE {AT_PLACES}"


@cache
def select_rows() -> Select[Any]:
    """Return ``_SELECT`` for conditions to be added to."""
    columns = (*tables.entries.c, tables.sessions.c.name.label("session"))
    return sa.select(*columns).select_from(tables.entries.outerjoin(tables.sessions))


def parse_entry(row: Row[Any] | SimpleNamespace) -> Entry:
    """Return the entry of a row of ``select_rows``."""
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


def _parse_rows(found: Sequence[Sequence[object]]) -> list[tuple[int, Entry]]:
    rows = (read_row(_COLUMNS, values) for values in found)
    return [(row.id, parse_entry(row)) for row in rows]


def _parse_metadata(row: Row[Any] | SimpleNamespace) -> dict[str, Any]:
    try:
        return dict(json.loads(row.metadata))
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"the metadata of entry {row.key!r} is damaged: {str(error)[:100]}") from error


_TEXTS = "SELECT id, key, text, content_hash FROM entries WHERE id > ? ORDER BY id LIMIT ?"
_CIRCUMSTANCES = "SELECT id, event_time, importance, speaker FROM entries WHERE id IN (SELECT value FROM json_each(?))"
_EXPIRED = "SELECT id FROM entries WHERE superseded_at IS NULL AND expires_at <= ?"


_FEW_SESSIONS = 100
_SESSIONS = f"SELECT id, namespace FROM sessions WHERE name = ? LIMIT {_FEW_SESSIONS + 1}"


@cache
def _name_moment() -> Any:  # noqa: ANN401 - in the place of a datetime
    """Return what stands for the moment of a condition, which differs from call to call."""
    return sa.bindparam("moment", EPOCH, type_=tables.entries.c.expires_at.type)


def _read_moment(value: object) -> datetime:
    moment = read_time(value)
    if moment is None:
        raise StorageError("a stored time is damaged: it is missing")
    return moment


@lru_cache(maxsize=512)
def _compile_select(
    condition: Condition, in_session: bool, newest_first: bool, inside: bool
) -> tuple[str, tuple[str, ...], Mapping[str, object]]:
    """Return a query for whole rows: its SQL, the names of its parameters in order, and the values of some of them.

    Building and compiling it takes longer than running it, and most callers ask for the same again and again.
    """
    from sqlalchemy.dialects.sqlite.base import SQLiteDialect

    query = select_rows().where(conditions.compile_condition(condition), tables.entries.c.id > sa.bindparam("after", 0))
    if in_session:
        query = query.where(tables.entries.c.session_id == sa.bindparam("session", 0))
    if inside:
        place = tables.entries.c.namespace
        query = query.where(place >= sa.bindparam("low", ""), place < sa.bindparam("high", ""))
    query = query.order_by(tables.entries.c.id.desc() if newest_first else tables.entries.c.id)
    query = query.limit(sa.bindparam("most", 0)).offset(sa.bindparam("skip", 0))
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
            row = read_row(_COLUMNS, values)
            if row.checksum != checksum(_covered(values)):
                _log.warning("entry %r is not what was written: its checksum differs; run check", row.key)
            entries_by_id[row.id] = parse_entry(row)
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
        page = -1 if limit is None else limit, offset  # SQLite requires a LIMIT before an OFFSET; -1 means no limit
        if (plain := write_condition(condition)) is not None:
            sql, bound = plain
            here, mine = ("", ()) if session_id is None else (" AND entries.session_id = ?", (session_id,))
            order = "entries.id DESC" if newest_first else "entries.id"
            statement = f"{_SELECT} WHERE {sql} AND entries.id > ?{here} ORDER BY {order} LIMIT ? OFFSET ?"
            return self._read(statement, (*bound, after_id, *mine, *page))
        return self._select_filtered(condition, session_id, after_id, page, newest_first=newest_first)

    def _select_filtered(
        self, condition: Condition, session_id: int | None, after_id: int, page: tuple[int, int], *, newest_first: bool
    ) -> list[tuple[int, Entry]]:
        """Return what ``select`` does, of a condition with a metadata filter."""
        shape = condition if condition.moment is None else replace(condition, moment=_name_moment())
        bounds = conditions.namespace_bounds(condition.namespace) if condition.key is None else None
        shape = shape if bounds is None else replace(shape, namespace=())  # one statement for all namespaces
        statement, names, fixed = _compile_select(shape, session_id is not None, newest_first, bounds is not None)
        given = {**fixed, "after": after_id, "most": page[0], "skip": page[1]}
        given["low"], given["high"] = bounds or ("", "")
        given["session"] = session_id
        given["moment"] = None if condition.moment is None else microseconds(condition.moment)
        return self._read(statement, [given[name] for name in names])

    def _read(self, statement: str, given: Sequence[object]) -> list[tuple[int, Entry]]:
        return _parse_rows(driver(self._connection).execute(statement, given).fetchall())

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
        rows = driver(self._connection).execute(_TEXTS, (after_id, limit)).fetchall()
        kinds = (read_integer, read_text, read_text, read_bytes)
        return [tuple(read(value) for read, value in zip(kinds, row, strict=True)) for row in rows]

    @override
    def select_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, Entry]:
        given = (encode_namespace(namespace), json.dumps(list(keys)), microseconds(now))
        found = driver(self._connection).execute(_BY_KEYS, given).fetchall()
        rows = (read_row(_COLUMNS, values) for values in found)
        return {row.key: parse_entry(row) for row in rows}

    @override
    def find(self, namespace: Namespace, key: str, now: datetime) -> tuple[int, Entry]:
        rows = self._read(_BY_KEYS, (encode_namespace(namespace), json.dumps([key]), microseconds(now)))
        if not rows:
            place = f" in namespace {'/'.join(namespace)}" if namespace else ""
            raise NotFoundError(f"no entry with key {key!r}{place}")
        return rows[0]

    @override
    def select_circumstances(
        self, ids: Sequence[int], *, important: bool = False, speakers: Collection[str] = ()
    ) -> list[tuple[int, datetime, float | None, str | None]]:
        statement, bound = _CIRCUMSTANCES, [json.dumps(list(ids))]
        if important:
            spoken = f" OR lower(speaker) IN ({', '.join('?' * len(speakers))})" if speakers else ""
            statement += f" AND (importance IS NOT NULL{spoken})"
            bound += speakers
        rows = driver(self._connection).execute(statement, bound).fetchall()
        return [
            (read_integer(one), _read_moment(moment), read_number(importance), read_text(speaker))
            for one, moment, importance, speaker in rows
        ]

    @override
    def matches(self, entry_id: int, condition: Condition) -> bool:
        return bool(self._list_ids(condition, entry_id))

    def _list_ids(self, condition: Condition, entry_id: int | None = None) -> list[int]:
        """Return the ids of the rows, or of one row, of which a condition holds."""
        if (plain := write_condition(condition)) is not None:
            sql, bound = plain
            here, mine = ("", ()) if entry_id is None else (" AND entries.id = ?", (entry_id,))
            rows = driver(self._connection).execute(f"SELECT id FROM entries WHERE {sql}{here}", (*bound, *mine))
            return [read_integer(row[0]) for row in rows.fetchall()]
        query = sa.select(tables.entries.c.id).where(self._compile(condition))
        query = query if entry_id is None else query.where(tables.entries.c.id == entry_id)
        return list(self._connection.execute(query).scalars())

    @override
    def find_newest(self, namespace: Namespace, key: str) -> tuple[int, Entry] | None:
        return self.select_newest([(namespace, key)]).get((namespace, key))

    @override
    def select_newest(self, places: Sequence[Address]) -> dict[Address, tuple[int, Entry]]:
        found: dict[Address, tuple[int, Entry]] = {}
        for entry_id, entry in _parse_rows(self._ask_at(f"{_AT_PLACES} {_NEWEST_FIRST}", places)):
            found.setdefault((entry.namespace, entry.key), (entry_id, entry))
        return found

    @override
    def select_ids_at(self, places: Sequence[Address], now: datetime) -> list[int]:
        return [read_integer(row[0]) for row in self._ask_at(_IDS_AT_PLACES, places, microseconds(now))]

    @override
    def select_at(self, places: Sequence[Address], now: datetime) -> dict[Address, tuple[int, Entry]]:
        found = _parse_rows(self._ask_at(f"{_AT_PLACES} AND {_CURRENT}", places, microseconds(now)))
        return {(entry.namespace, entry.key): (entry_id, entry) for entry_id, entry in found}

    def _ask_at(self, statement: str, places: Sequence[Address], *given: object) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for start in range(0, len(places), IN_LIST):
            part = places[start : start + IN_LIST]
            values = [value for namespace, key in part for value in (encode_namespace(namespace), key)]
            query = f"{list_places(len(part))} {statement}"
            found += driver(self._connection).execute(query, (*values, *given)).fetchall()
        return found

    @override
    def list_versions(self, namespace: Namespace, key: str) -> list[Entry]:
        here = sa.and_(tables.entries.c.namespace == encode_namespace(namespace), tables.entries.c.key == key)
        own = list(self._connection.execute(sa.select(tables.entries.c.id).where(here)).scalars())
        found = self.select_lineage(own, later=False).tolist()
        order = (tables.entries.c.updated_at, tables.entries.c.superseded_at.is_(None), tables.entries.c.superseded_at)
        rows = self._connection.execute(select_rows().where(tables.entries.c.id.in_(found)).order_by(*order)).all()
        later = self._iter_successors([row for row in rows if row.id in own])
        return [parse_entry(row) for row in (*rows, *later)]

    def _iter_successors(self, versions: Sequence[Row[Any]]) -> Iterator[Row[Any]]:
        """Yield what took the place of a key, up to what is current; nothing if one of its versions is."""
        last = versions[-1] if versions and all(row.superseded_at is not None for row in versions) else None
        seen: set[int | None] = {None}  # a damaged store may go round in a circle
        while last is not None and last.superseded_by not in seen:
            seen.add(last.superseded_by)
            place = select_rows().where(tables.entries.c.id == last.superseded_by)
            last = self._connection.execute(place).one_or_none()
            if last is not None:
                yield last

    @override
    def find_neighbours(self, ids: Sequence[int]) -> dict[int, list[int]]:
        rows = driver(self._connection).execute(NEIGHBOURS, (json.dumps(list(ids)),))
        return {row[0]: [entry_id for entry_id in row[1:] if entry_id is not None] for row in rows}

    @override
    def select_ids(self, condition: Condition) -> npt.NDArray[np.int64]:
        ids = self._list_ids(condition)
        return np.fromiter(ids, dtype=np.int64, count=len(ids))

    @property
    @override
    def has_columns(self) -> bool:
        return True

    @override
    def read_facts(self, ids: IdArray | None = None) -> Iterator[EntryFacts]:
        return columns.read_facts(self._connection, ids)

    @override
    def read_members(self, path: Path, ids: IdArray | None = None) -> Iterator[tuple[IdArray, Sequence[Field]]]:
        return columns.read_members(self._connection, path, ids)

    @override
    def select_surplus(self, namespace: Namespace, *, before: datetime | None, newest: int | None) -> IdArray:
        here = sa.select(tables.entries.c.id).where(conditions.in_namespace(tables.entries.c.namespace, namespace))
        found: set[int] = set()
        if before is not None:
            found |= set(self._connection.execute(here.where(tables.entries.c.updated_at < before)).scalars())
        if newest is not None:
            latest = here.where(tables.entries.c.superseded_at.is_(None))
            if not is_internal(namespace):
                latest = latest.where(sa.text(NOT_INTERNAL))
            latest = latest.order_by(tables.entries.c.updated_at.desc(), tables.entries.c.id.desc())
            found |= set(self._connection.execute(latest.offset(newest)).scalars())
        return np.fromiter(found, dtype=np.int64, count=len(found))

    @override
    def select_lineage(self, ids: Sequence[int] | IdArray, *, later: bool) -> IdArray:
        given = json.dumps([int(entry_id) for entry_id in ids])
        rows = driver(self._connection).execute(BOTH_WAYS if later else EARLIER, (given,)).fetchall()
        return np.fromiter((row[0] for row in rows), dtype=np.int64, count=len(rows))

    @override
    def select_expired_ids(self, now: datetime) -> list[int]:
        rows = driver(self._connection).execute(_EXPIRED, (microseconds(now),))
        return [row[0] for row in rows]

    @override
    def select_internal_ids(self, ids: Sequence[int] | None = None) -> list[int]:
        return internal.select_internal_ids(self._connection, ids)

    @override
    def count(self, condition: Condition) -> int:
        return int(
            self._connection.execute(
                sa.select(sa.func.count()).select_from(tables.entries).where(self._compile(condition))
            ).scalar_one()
        )

    @override
    def count_distinct(self, condition: Condition) -> tuple[int, int]:
        texts = (
            sa.select(tables.entries.c.namespace, tables.entries.c.content_hash)
            .where(self._compile(condition))
            .distinct()
            .subquery()
        )
        query = sa.select(sa.func.count(sa.distinct(texts.c.namespace)), sa.func.count())
        namespaces, different = self._connection.execute(query.select_from(texts)).one()
        return int(namespaces), int(different)

    @override
    def list_namespaces(self, condition: Condition) -> list[Namespace]:
        found = self._connection.execute(
            sa.select(tables.entries.c.namespace).where(self._compile(condition)).distinct()
        ).scalars()
        return sorted(decode_namespace(value) for value in found)

    @override
    def select_ids_by_key(self, namespace: Namespace, keys: Sequence[str], now: datetime) -> dict[str, int]:
        given = (encode_namespace(namespace), json.dumps(list(keys)), microseconds(now))
        rows = driver(self._connection).execute(_IDS_BY_KEYS, given).fetchall()
        return {read_text(key): read_integer(entry_id) for key, entry_id in rows}

    @override
    def list_sessions(self, condition: Condition) -> list[Session]:
        query = (
            sa.select(
                tables.sessions.c.name,
                tables.sessions.c.namespace,
                sa.func.count().label("entries"),
                sa.func.min(tables.entries.c.event_time, type_=tables.entries.c.event_time.type).label("first_event"),
                sa.func.max(tables.entries.c.event_time, type_=tables.entries.c.event_time.type).label("last_event"),
            )
            .select_from(tables.entries.join(tables.sessions))
            .where(self._compile(condition))
            .group_by(tables.sessions.c.id)
            .order_by(sa.func.min(tables.entries.c.id))  # not of their own ids, which tell of what was forgotten
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
