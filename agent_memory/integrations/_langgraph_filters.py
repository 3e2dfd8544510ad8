"""LangGraph's search filters in terms of the store's.

The values of LangGraph items are stored under ``value`` in the metadata of entries. As in the stores that ship
with LangGraph, ``None`` also matches a field that is absent, and ``$ne`` an absent field unless compared with
None. A dotted name means the field of that literal name or the path through nested objects.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent_memory.errors import InvalidInputError
from agent_memory.formats.names import encode_key

Where = dict[str, Any]

_ORDER = ("$gt", "$gte", "$lt", "$lte")
_NOTHING: Where = {"$in": []}
_INT64 = 2**63


def to_where(filters: Mapping[str, Any] | None) -> list[Where]:
    """Return the conditions on metadata, all of which must hold, of a LangGraph filter.

    Raises:
        InvalidInputError: An operator is unknown.
    """
    conditions: list[Where] = []
    for name, value in (filters or {}).items():
        paths = [(name,)] if "." not in name else [(name,), tuple(name.split("."))]
        conditions += _conditions(paths, value)
    return conditions


def _conditions(paths: Sequence[tuple[str, ...]], value: object) -> Iterator[Where]:
    if not isinstance(value, Mapping):
        yield _compared(paths, "$eq", value)
    elif any(str(name).startswith("$") for name in value):
        for operator, operand in value.items():
            yield _compared(paths, operator, operand)
    elif not value:
        yield _any(paths, {})
    else:
        for name, nested in value.items():
            yield from _conditions([(*path, name) for path in paths], nested)


def _compared(paths: Sequence[tuple[str, ...]], operator: str, operand: object) -> Where:
    if operator == "$ne":
        return {"$not": _compared(paths, "$eq", operand)}
    if operator == "$nin":
        return {"$not": _any(paths, {"$in": operand})}
    if operator == "$exists":
        there = _any(paths, {"$exists": True})
        return there if operand else {"$not": there}
    if operator == "$eq":
        if operand is None:
            return {"$or": [_any(paths, {"$eq": None}), {"$not": _any(paths, {"$exists": True})}]}
        return _any(paths, _equal(operand))
    if operator in _ORDER:
        return _any(paths, _ordered(operator, operand))
    if operator == "$in":
        return _any(paths, {"$in": operand})
    raise InvalidInputError(f"unsupported operator: {operator!r}")


def _any(paths: Sequence[tuple[str, ...]], condition: Where) -> Where:
    """Return the filter that one of the paths into the value satisfies a condition."""
    nested = []
    for path in paths:
        inner: Where = condition
        for name in reversed(path):
            inner = {encode_key(str(name)): inner}
        nested.append({"value": inner})
    return nested[0] if len(nested) == 1 else {"$or": nested}


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _equal(operand: Any) -> Where:
    if _is_number(operand) and (not math.isfinite(_real(operand)) or operand != _storable(operand)):
        return _NOTHING
    value = _storable(operand)
    return {"$eq": value, "$not_contains": value}  # LangGraph does not look into lists


def _ordered(operator: str, operand: Any) -> Where:
    """Return an order comparison in which infinities have become the largest numbers that can be stored."""
    if not _is_number(operand):
        return {operator: operand}
    number = _real(operand)
    if math.isnan(number):
        return _NOTHING
    if math.isinf(number):
        reaches_all = (number > 0) == operator.startswith("$lt")
        most = math.copysign(sys.float_info.max, number)
        return {f"{operator[:3]}e": most} if reaches_all else _NOTHING
    return {operator: _storable(operand)}


def _storable(operand: Any) -> Any:
    return float(operand) if isinstance(operand, int) and not -_INT64 <= operand < _INT64 else operand


def _real(operand: float) -> float:
    try:
        return float(operand)
    except OverflowError:
        return math.inf if operand > 0 else -math.inf
