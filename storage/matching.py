"""Filters on values of JSON in Python, as back ends evaluate them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

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
    Path,
    SameJson,
    SizeIs,
    TypeIs,
)
from agent_memory.storage.moments import read_micros

_Test: TypeAlias = Among | AnyItem | Compare | CompareTime | SameJson | SizeIs | TypeIs

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}

_MISSING = object()
_KINDS: dict[type, str] = {int: "integer", float: "real", str: "text", list: "array", dict: "object"}


def kinds_of(*, texts: bool) -> tuple[str, ...]:
    """Return the JSON types that compare with a text, or with a number."""
    return ("text",) if texts else ("integer", "real")


def holds(where: Filter, item: object) -> bool:
    """Return whether a filter whose paths begin at a value of JSON holds of it."""
    match where:
        case AllOf(parts):
            return all(holds(part, item) for part in parts)
        case AnyOf(parts):
            return any(holds(part, item) for part in parts)
        case Not(part):
            return not holds(part, item)
        case _:
            return _holds_of(where, _look(item, where.path))


def _holds_of(where: _Test, value: object) -> bool:
    """Return whether a test holds of the value that it looks at."""
    match where:
        case TypeIs(_, types):
            return _name_kind(value) in types
        case SameJson(_, kind, text):
            return _name_kind(value) == kind and canonical_json(value) == text
        case Compare(_, op, right):
            return _name_kind(value) in kinds_of(texts=isinstance(right, str)) and COMPARE[op](value, right)
        case Among(_, given, texts):
            return _name_kind(value) in kinds_of(texts=texts) and value in given
        case CompareTime(_, op, micros):
            moment = read_micros(value)
            return moment is not None and COMPARE[op](moment, micros)
        case SizeIs(_, size):
            return isinstance(value, list) and len(value) == size
        case AnyItem(_, part):
            return isinstance(value, list) and any(holds(part, one) for one in value)


def _look(item: object, path: Path) -> object:
    for name in path:
        item = item.get(name, _MISSING) if isinstance(item, dict) else _MISSING
    return item


def _name_kind(value: object) -> str:
    if value is _MISSING:
        return "absent"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    return _KINDS[type(value)]
