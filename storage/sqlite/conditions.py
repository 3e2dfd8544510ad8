"""Compiles conditions and filters to SQL with bound parameters only."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable
from typing import Any

from sqlalchemy import ColumnElement, String, and_, func, literal, not_, or_, select
from sqlalchemy.sql import false, true

from agent_memory.errors import InvalidInputError
from agent_memory.storage.filters import AllOf, Among, AnyOf, Compare, Filter, Not, Path, SameJson, TypeIs, is_plain
from agent_memory.storage.records import Condition
from agent_memory.storage.sqlite.schema import entries, sessions
from agent_memory.types import Namespace

_SEPARATOR = "\x1f"
_AFTER_SEPARATOR = "\x20"

Sql = ColumnElement[bool]


def encode_namespace(namespace: Namespace) -> str:
    """Return the column value of a namespace: each part followed by a separator; empty for the root."""
    return "".join(part + _SEPARATOR for part in namespace)


def decode_namespace(value: str) -> Namespace:
    """Return the namespace that a column value stands for."""
    return tuple(value.split(_SEPARATOR)[:-1])


def in_namespace(column: ColumnElement[str], namespace: Namespace) -> Sql:
    """Return the SQL that a column is a namespace or below it: a range of its index, never a scan."""
    value = encode_namespace(namespace)
    return and_(column >= value, column < value[:-1] + _AFTER_SEPARATOR) if value else true()


def compile_condition(condition: Condition) -> Sql:
    """Return a condition as SQL over ``entries`` (and ``sessions``, in a subquery)."""
    columns = entries.c
    parts = [_compile_state(condition), compile_filter(condition.where)]
    if condition.key is None:
        parts.append(in_namespace(columns.namespace, condition.namespace))
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
        inside = [and_(columns.event_time >= start, columns.event_time < end) for start, end in condition.spans]
        parts.append(or_(false(), *inside))
    if condition.superseded:
        parts.append(columns.superseded_at.is_not(None))
    return and_(*parts)


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


def compile_filter(where: Filter) -> Sql:
    """Return a filter as SQL over ``entries.metadata``."""
    match where:
        case AllOf(parts):
            return and_(true(), *map(compile_filter, parts))
        case AnyOf(parts):
            return or_(false(), *map(compile_filter, parts))
        case Not(part):
            return not_(compile_filter(part))
        case TypeIs(path, types):
            return _extract_type(path) == types[0] if len(types) == 1 else _extract_type(path).in_(types)
        case SameJson(path, kind, text):
            return and_(_extract_type(path) == kind, _extract_value(path) == text)
        case Compare(path, op, value):
            right = literal(value, String) if isinstance(value, str) else literal(value)
            return and_(_is_text(path, isinstance(value, str)), _COMPARE[op](_extract_value(path), right))
        case Among(path, values, texts):
            listed = func.json_each(json.dumps(values)).table_valued("value")
            return and_(_is_text(path, texts), _extract_value(path).in_(select(listed.c.value)))


def _is_text(path: Path, text: bool) -> Sql:
    return _extract_type(path) == "text" if text else _extract_type(path).in_(("integer", "real"))


def _extract_value(path: Path) -> ColumnElement[Any]:
    """Return the value as SQL: text or number; JSON text for arrays and objects; NULL for null and absent."""
    return _extract_member(path, "value", func.json_extract)


def _extract_type(path: Path) -> ColumnElement[Any]:
    """Return the type as SQL: null, true, false, integer, real, text, array, object, or absent."""
    return func.coalesce(_extract_member(path, "type", func.json_type), "absent")


def _extract_member(path: Path, column: str, extract: Callable[..., ColumnElement[Any]]) -> ColumnElement[Any]:
    *outer, name = path
    if is_plain(name):
        return extract(entries.c.metadata, literal(_make_json_path(path), String))
    # SQLite versions differ in how JSON paths escape quotes; json_each compares plain keys.
    each = func.json_each(entries.c.metadata, _make_json_path(tuple(outer))).table_valued("key", "value", "type")
    return select(each.c[column]).where(each.c.key == name).limit(1).scalar_subquery()


def _make_json_path(path: Path) -> str:
    if not all(map(is_plain, path)):
        raise InvalidInputError(f"a filter cannot reach into {path!r}: a name has quotes or escapes")
    return "$" + "".join(f'."{name}"' for name in path)
