"""What filters and conditions mean, in plain Python over one entry at a time."""

from __future__ import annotations

import operator
from datetime import UTC, datetime, timedelta
from typing import Any

from agent_memory.records import Entry
from agent_memory.storage.codec import canonical_json
from agent_memory.storage.filters import (
    AllOf,
    Among,
    AnyItem,
    AnyOf,
    Compare,
    CompareTime,
    Filter,
    Not,
    SameJson,
    SizeIs,
    TypeIs,
)
from agent_memory.storage.records import Condition

_ABSENT = object()
_KINDS = {type(None): "null", int: "integer", float: "real", str: "text", list: "array", dict: "object"}
_COMPARE = {"==": operator.eq, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


def _kind(value: object) -> str:
    if value is _ABSENT:
        return "absent"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _KINDS[type(value)]


def _member(metadata: Any, path: tuple[str, ...]) -> Any:
    value: Any = metadata
    for name in path:
        value = value.get(name, _ABSENT) if isinstance(value, dict) else _ABSENT
    return value


def _moment(value: object) -> datetime | None:
    """The moment that a text names, if it names at least a day."""
    if not isinstance(value, str) or not value[:4].isdecimal() or value[4:5] != "-" or len(value) < 10:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def holds(where: Filter, metadata: Any) -> bool:
    """Whether a filter holds of an entry's metadata, or of an item of a list in it."""
    match where:
        case AllOf(parts):
            return all(holds(part, metadata) for part in parts)
        case AnyOf(parts):
            return any(holds(part, metadata) for part in parts)
        case Not(part):
            return not holds(part, metadata)
        case _:
            return _passes(where, metadata)


def _passes(where: Filter, metadata: Any) -> bool:
    match where:
        case TypeIs(path, types):
            return _kind(_member(metadata, path)) in types
        case SameJson(path, kind, json):
            value = _member(metadata, path)
            return _kind(value) == kind and canonical_json(value) == json
        case Compare(path, op, right):
            value = _member(metadata, path)
            return _is_comparable(value, isinstance(right, str)) and _COMPARE[op](value, right)
        case Among(path, values, texts):
            value = _member(metadata, path)
            return _is_comparable(value, texts) and value in values
        case CompareTime(path, op, micros):
            moment, other = _moment(_member(metadata, path)), datetime(1970, 1, 1, tzinfo=UTC)
            return moment is not None and _COMPARE[op](moment, other + timedelta(microseconds=micros))
        case AnyItem(path, part):
            value = _member(metadata, path)
            return isinstance(value, list) and any(holds(part, item) for item in value)
        case SizeIs(path, size):
            value = _member(metadata, path)
            return isinstance(value, list) and len(value) == size
    raise AssertionError(where)


def _is_comparable(value: object, text: bool) -> bool:
    return _kind(value) == "text" if text else _kind(value) in ("integer", "real")


def _is_in_state(condition: Condition, entry: Entry) -> bool:
    moment = condition.moment
    unsuperseded = entry.superseded_at is None
    if condition.state == "any":
        return True
    if condition.state == "unsuperseded":
        return unsuperseded
    assert moment is not None
    expired = entry.expires_at is not None and entry.expires_at <= moment
    if condition.state == "expired":
        return unsuperseded and expired
    if condition.state == "current":
        return unsuperseded and not expired
    replaced = entry.superseded_at is not None and entry.superseded_at <= moment
    return entry.updated_at <= moment and not replaced and not expired


def satisfies(condition: Condition, entry: Entry) -> bool:
    """Whether an entry satisfies a condition."""
    scope = condition.namespace
    here = entry.namespace == scope if condition.key is not None else entry.namespace[: len(scope)] == scope
    shown = condition.internal or condition.key is not None or "@internal" not in entry.namespace
    return (
        here
        and shown
        and condition.key in (None, entry.key)
        and condition.session in (None, entry.session)
        and condition.speaker in (None, entry.speaker)
        and (condition.since is None or entry.event_time >= condition.since)
        and (condition.until is None or entry.event_time <= condition.until)
        and (condition.spans is None or any(start <= entry.event_time < end for start, end in condition.spans))
        and (not condition.superseded or entry.superseded_at is not None)
        and _is_in_state(condition, entry)
        and holds(condition.where, entry.metadata)
    )
