"""Compiles conditions and filters to SQL with bound parameters only."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from datetime import datetime
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    String,
    TableValuedAlias,
    and_,
    case,
    func,
    literal,
    literal_column,
    not_,
    or_,
    select,
)
from sqlalchemy.sql import false, true

from agent_memory.errors import InvalidInputError
from agent_memory.storage.filters import (
    AllOf,
    Among,
    AnyItem,
    AnyOf,
    Compare,
    CompareTime,
    Filter,
    Not,
    Path,
    SameJson,
    SizeIs,
    TypeIs,
    is_plain,
)
from agent_memory.storage.records import LONGEST_MENTION, MENTION_RATIO, Condition
from agent_memory.storage.sqlite.driver import READ_MICROS
from agent_memory.storage.sqlite.schema import entries, mentions, sessions
from agent_memory.storage.sqlite.values import (
    MICROSECOND,
    NOT_INTERNAL,
    encode_namespace,
    end_of_namespace,
    microseconds,
)
from agent_memory.types import Namespace

Sql = ColumnElement[bool]
_Comparison = Compare | CompareTime | Among


def in_namespace(column: ColumnElement[str], namespace: Namespace) -> Sql:
    """Return the SQL that a column is a namespace or below it: a range of its index, never a scan."""
    bounds = namespace_bounds(namespace)
    return true() if bounds is None else and_(column >= bounds[0], column < bounds[1])


def namespace_bounds(namespace: Namespace) -> tuple[str, str] | None:
    """Return the first value of a column that is a namespace or below it, and the first behind; None for all."""
    value = encode_namespace(namespace)
    return (value, end_of_namespace(value)) if value else None


def compile_condition(condition: Condition, compile_where: Callable[[Filter], Sql] | None = None) -> Sql:
    """Return a condition as SQL over ``entries`` (and ``sessions``, in a subquery).

    Args:
        condition: The condition.
        compile_where: Compiles its metadata filter, where that is not left to SQLite's functions for JSON.
    """
    columns = entries.c
    parts = [_compile_state(condition), (compile_where or compile_filter)(condition.where)]
    if condition.key is None:
        parts.append(in_namespace(columns.namespace, condition.namespace))
        parts += [] if condition.internal else [literal_column(NOT_INTERNAL, Boolean)]
    else:
        parts += [columns.namespace == encode_namespace(condition.namespace), columns.key == condition.key]
    if condition.session is not None:
        parts.append(columns.session_id.in_(select(sessions.c.id).where(sessions.c.name == condition.session)))
    if condition.speaker is not None:
        parts.append(columns.speaker == condition.speaker)
    if condition.since is not None:
        parts.append(columns.event_time >= condition.since)
    if condition.until is not None:
        parts.append(columns.event_time <= condition.until)
    if condition.spans is not None:
        parts.append(or_(false(), *(_compile_span(start, end) for start, end in condition.spans)))
    if condition.superseded:
        parts.append(columns.superseded_at.is_not(None))
    return and_(*parts)


def _compile_span(start: datetime, end: datetime) -> Sql:
    """Return the SQL that an entry happened in a span, or mentions a time that overlaps it and is not much longer."""
    first, last = microseconds(start), microseconds(end)
    length = mentions.c.stop - mentions.c.start
    mentioned = select(mentions.c.entry_id).where(
        mentions.c.start.between(first - LONGEST_MENTION // MICROSECOND, last - 1),
        mentions.c.stop > first,
        length <= MENTION_RATIO * (last - first),
    )
    return or_(and_(entries.c.event_time >= start, entries.c.event_time < end), entries.c.id.in_(mentioned))


def _compile_state(condition: Condition) -> Sql:
    columns, moment = entries.c, condition.moment
    unsuperseded = columns.superseded_at.is_(None)
    match condition.state:
        case "any":
            return true()
        case "unsuperseded":
            return unsuperseded
        case "expired":
            return and_(unsuperseded, columns.expires_at <= moment)
        case "past":
            return and_(true(), columns.expires_at <= moment)
        case "as_of":
            return and_(
                columns.updated_at <= moment,
                or_(unsuperseded, columns.superseded_at > moment),
                or_(columns.expires_at.is_(None), columns.expires_at > moment),
            )
        case _:
            return and_(unsuperseded, or_(columns.expires_at.is_(None), columns.expires_at > moment))


_COMPARE: dict[str, Callable[[Any, Any], Sql]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class _Document:
    """The metadata of an entry, in which a filter's paths begin.

    Args:
        json: Its JSON text, as SQL.
    """

    def __init__(self, json: ColumnElement[Any]) -> None:
        self._json = json

    def value(self, path: Path) -> ColumnElement[Any]:
        """Return the value as SQL: text or number; JSON text for arrays and objects; NULL for null and absent."""
        return self._extract(path, "value", func.json_extract)

    def type(self, path: Path) -> ColumnElement[Any]:
        """Return the type as SQL: null, true, false, integer, real, text, array, object, or absent."""
        return func.coalesce(self._extract(path, "type", func.json_type), "absent")

    def _extract(self, path: Path, column: str, extract: Callable[..., ColumnElement[Any]]) -> ColumnElement[Any]:
        *outer, name = path
        if is_plain(name):
            return extract(self._json, literal(_make_json_path(path), String))
        # SQLite versions differ in how JSON paths escape quotes; json_each compares plain keys.
        each = func.json_each(self._json, _make_json_path(tuple(outer))).table_valued("key", "value", "type")
        return select(each.c[column]).where(each.c.key == name).limit(1).scalar_subquery()


class _Item(_Document):
    """An item of an array, in which the paths of a part of a filter begin; the empty path is the item itself.

    Args:
        row: A row of ``json_each``, with value and type.
    """

    def __init__(self, row: TableValuedAlias) -> None:
        # The value of anything but an array or object is not JSON text.
        super().__init__(case((row.c.type == "object", row.c.value), else_=literal("{}", String)))
        self._row = row

    def value(self, path: Path) -> ColumnElement[Any]:
        return super().value(path) if path else self._row.c.value

    def type(self, path: Path) -> ColumnElement[Any]:
        return super().type(path) if path else self._row.c.type


def compile_filter(where: Filter, document: _Document | None = None) -> Sql:
    """Return a filter as SQL over ``entries.metadata``, or over an item of an array in it."""
    document = _Document(entries.c.metadata) if document is None else document
    match where:
        case AllOf(parts):
            return and_(true(), *(compile_filter(part, document) for part in parts))
        case AnyOf((Compare() | CompareTime() | Among() as test, AnyItem(path, part))) if test.path == path:
            return _compile_comparison(test, document, ("array", _has_item(path, part, document)))
        case AnyOf(parts):
            return or_(false(), *(compile_filter(part, document) for part in parts))
        case Not(part):
            return not_(compile_filter(part, document))
        case AnyItem(path, part):
            return case((document.type(path) == "array", _has_item(path, part, document)), else_=false())
        case TypeIs(path, types):
            return document.type(path) == types[0] if len(types) == 1 else document.type(path).in_(types)
        case SameJson(path, kind, text):
            return and_(document.type(path) == kind, document.value(path) == text)
        case SizeIs(path, size):
            counted = case((document.type(path) == "array", func.json_array_length(document.value(path))), else_=-1)
            return counted == size
        case _:
            return _compile_comparison(where, document)


def _has_item(path: Path, part: Filter, document: _Document) -> Sql:
    """Return the SQL that an array has an item of which a filter holds."""
    each = func.json_each(document.value(path)).table_valued("value", "type")
    return select(literal(1)).select_from(each).where(compile_filter(part, _Item(each))).exists()


def _compile_comparison(where: _Comparison, document: _Document, *others: tuple[str, Sql]) -> Sql:
    """Return a comparison as SQL; it looks at the type once, also where other types have tests of their own."""
    value = document.value(where.path)
    match where:
        case Compare(_, op, right):
            texts = isinstance(right, str)
            compared = _COMPARE[op](value, literal(right, String) if texts else literal(right))
        case CompareTime(_, op, micros):
            texts = True
            compared = func.coalesce(_COMPARE[op](getattr(func, READ_MICROS)(value), literal(micros)), false())
        case Among(_, values, texts):
            listed = func.json_each(json.dumps(values)).table_valued("value")
            compared = value.in_(select(listed.c.value))
    kinds = ("text",) if texts else ("integer", "real")
    tests = {**dict.fromkeys(kinds, compared), **dict(others)}
    return case(tests, value=document.type(where.path), else_=false())


def _make_json_path(path: Path) -> str:
    if not all(map(is_plain, path)):
        raise InvalidInputError(f"a filter cannot reach into {path!r}: a name has quotes or escapes")
    return "$" + "".join(f'."{name}"' for name in path)
