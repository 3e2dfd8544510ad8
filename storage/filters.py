"""Mongo-style metadata filters, validated into a tree that each back end compiles.

A filter is an object whose conditions must all hold::

    {"topic": "home", "year": {"$gte": 2024, "$lt": 2026}, "$or": [{"done": False}, {"by": {"$in": ["al"]}}]}

A field name is a key of the metadata object, taken literally (dots are part of the name). A value is compared
by JSON type: ``1`` equals ``1.0`` but neither ``True`` nor ``"1"``. An object without operators reaches into
a nested object: ``{"home": {"city": "Berlin"}}``. ``$ne``, ``$nin`` and ``$not`` also match entries that lack
the field, and ``None`` means the JSON null itself (``{"$exists": False}`` finds absent fields). Order
comparisons hold between two numbers or two strings, never between a number and a string.

As in MongoDB, a condition on a field that is a list holds if it holds of the list or of one of its items:
``{"tags": "work"}`` finds ``["work", "urgent"]``. About lists are ``$contains``, ``$not_contains``, ``$all``, ``$size``
and ``$elemMatch``.

A ``datetime`` is compared as a moment with texts in ISO 8601, a ``date`` as that day (UTC). NumPy's scalars count as
the Python values that they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, TypeAlias

import numpy as np

from agent_memory.errors import InvalidInputError
from agent_memory.inputs import type_name
from agent_memory.storage.codec import canonical_json, check_unicode
from agent_memory.storage.moments import DAY, count_micros, to_plain, to_python

MAX_DEPTH = 32
MAX_CONDITIONS = 500  # back ends nest one expression in another for each; SQLite takes 1,000 levels
MAX_LIST = 10_000
_INT64 = 2**63

Path: TypeAlias = tuple[str, ...]
"""Names of the members that lead to a field, from the metadata object inwards; inside ``AnyItem`` from the item."""


@dataclass(frozen=True, slots=True)
class AllOf:
    """Every part holds; without parts, always."""

    parts: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class AnyOf:
    """At least one part holds; without parts, never."""

    parts: tuple[Filter, ...] = ()


@dataclass(frozen=True, slots=True)
class Not:
    """The part does not hold, or a field that it tests is absent."""

    part: Filter


@dataclass(frozen=True, slots=True)
class TypeIs:
    """The field has one of these JSON types: null, true, false, integer, real, text, array, object, or absent."""

    path: Path
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """The field compares with a text or number of the same kind; ``op`` is one of ``== < <= > >=``."""

    path: Path
    op: str
    value: str | int | float


@dataclass(frozen=True, slots=True)
class SameJson:
    """The field is an array or object with exactly this canonical JSON."""

    path: Path
    type: str
    json: str


@dataclass(frozen=True, slots=True)
class Among:
    """The field equals one of many texts, or one of many numbers."""

    path: Path
    values: tuple[str | int | float, ...]
    texts: bool


@dataclass(frozen=True, slots=True)
class CompareTime:
    """The field is a text that names a moment in ISO 8601, which compares with another; ``op`` as in ``Compare``.

    Attributes:
        micros: Microseconds since 1970 (UTC).
    """

    path: Path
    op: str
    micros: int


@dataclass(frozen=True, slots=True)
class AnyItem:
    """The field is an array, and the part holds of one of its items; the part's paths begin at the item."""

    path: Path
    part: Filter


@dataclass(frozen=True, slots=True)
class SizeIs:
    """The field is an array of so many items."""

    path: Path
    size: int


Filter: TypeAlias = AllOf | AnyOf | Not | TypeIs | Compare | SameJson | Among | CompareTime | AnyItem | SizeIs

EVERYTHING = AllOf()
"""The filter that every entry matches."""

_NUMBERS = ("integer", "real")


def parse_filter(where: Mapping[str, Any] | None) -> Filter:
    """Return the validated tree of a filter; None and {} match everything.

    Raises:
        InvalidInputError: The filter is malformed, too deep or too large; the message names the part.
    """
    return EVERYTHING if where is None else _Parser().parse(where, (), 0)


def is_plain(name: str) -> bool:
    """Return whether all back ends, of any version, read a member's name in a JSON path alike."""
    return not any(character in '"\\' or ord(character) < 32 for character in name)


class _Parser:
    def __init__(self) -> None:
        self._count = 0

    def parse(self, where: object, parent: Path, depth: int) -> Filter:
        if not isinstance(where, Mapping):
            raise InvalidInputError(f"a filter must be an object, got {type_name(where)}")
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"the filter is nested deeper than {MAX_DEPTH} levels")
        return AllOf(tuple(self._parse_condition(name, value, parent, depth) for name, value in where.items()))

    def _parse_condition(self, name: object, value: object, parent: Path, depth: int) -> Filter:
        self._count_condition()
        if not isinstance(name, str):
            raise InvalidInputError(f"a filter's field name must be a string, got {type_name(name)}")
        if name in ("$and", "$or"):
            return self._parse_all_or_any(name, value, parent, depth)
        if name == "$not":
            return Not(self.parse(value, parent, depth + 1))
        if name.startswith("$"):
            raise InvalidInputError(f"unknown filter operator {_quote(name)} where a field was expected")
        if "\x00" in name:
            raise InvalidInputError("a filter's field name must not contain NUL")
        return self._parse_field((*parent, check_unicode(name)), value, depth)

    def _count_condition(self) -> None:
        self._count += 1
        if self._count > MAX_CONDITIONS:
            raise InvalidInputError(f"the filter has more than {MAX_CONDITIONS} conditions")

    def _parse_all_or_any(self, name: str, value: object, parent: Path, depth: int) -> Filter:
        if not isinstance(value, list | tuple) or not value:
            raise InvalidInputError(f"{name} takes a non-empty list of filters, got {type_name(value)}")
        parts = tuple(self.parse(part, parent, depth + 1) for part in value)
        return AllOf(parts) if name == "$and" else AnyOf(parts)

    def _parse_field(self, path: Path, value: object, depth: int) -> Filter:
        if not isinstance(value, Mapping):
            return _match_equal(path, value)
        name = path[-1] if path else "$elemMatch"
        operators = [name for name in value if isinstance(name, str) and name.startswith("$")]
        if not value or not operators:
            if path and not is_plain(name):
                raise InvalidInputError(f"a filter cannot reach into {_quote(name)}: it has quotes or escapes")
            return AllOf((TypeIs(path, ("object",)), self.parse(value, path, depth + 1)))
        if len(operators) != len(value):
            raise InvalidInputError(f"operators and plain keys are mixed under {_quote(name)}")
        return AllOf(tuple(self._parse_operator(path, name, value[name], depth) for name in operators))

    def _parse_operator(self, path: Path, name: str, value: object, depth: int) -> Filter:
        self._count_condition()
        if name == "$not":
            if depth > MAX_DEPTH:
                raise InvalidInputError(f"the filter is nested deeper than {MAX_DEPTH} levels")
            return Not(self._parse_field(path, value, depth + 1))
        if name == "$elemMatch":
            return self._parse_item(path, value, depth)
        if name == "$all":
            return self._parse_each(path, value)
        if name not in _OPERATORS:
            known = " ".join((*_OPERATORS, "$all", "$elemMatch", "$not"))
            raise InvalidInputError(f"unknown filter operator {_quote(name)}; known: {known}")
        return _OPERATORS[name](path, value)

    def _parse_item(self, path: Path, value: object, depth: int) -> Filter:
        """Return that one item satisfies operators, or, being an object, a filter."""
        if not isinstance(value, Mapping) or not value:
            raise InvalidInputError(f"$elemMatch takes a non-empty object, got {type_name(value)}")
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"the filter is nested deeper than {MAX_DEPTH} levels")
        if any(name in value for name in (*_OPERATORS, "$all", "$elemMatch")):
            return AnyItem(path, self._parse_field((), value, depth + 1))
        return AnyItem(path, AllOf((TypeIs((), ("object",)), self.parse(value, (), depth + 1))))

    def _parse_each(self, path: Path, values: object) -> Filter:
        """Return that the field, or one of its items, equals each of a list; of an empty one nothing does."""
        given = _list_values("$all", values)
        for _ in given:
            self._count_condition()
        return AllOf(tuple(_match_equal(path, value) for value in given)) if given else AnyOf()


def _or_item(path: Path, build: Callable[[Path], Filter]) -> Filter:
    """Return that a test holds of a field or of one of its items."""
    return AnyOf((build(path), AnyItem(path, build(()))))


def _match_equal(path: Path, value: object) -> Filter:
    return _or_item(path, lambda place: _match_itself(place, value))


def _match_itself(path: Path, value: object) -> Filter:
    """Return that a field, not one of its items, equals a value."""
    value = _to_operand(value)
    if value is None:
        return TypeIs(path, ("null",))
    if isinstance(value, bool):
        return TypeIs(path, ("true" if value else "false",))
    if isinstance(value, list | tuple | Mapping):
        return SameJson(path, "object" if isinstance(value, Mapping) else "array", canonical_json(value))
    return _compare(path, "==", value)


def _match_comparison(op: str) -> Callable[[Path, object], Filter]:
    return lambda path, value: _or_item(path, lambda place: _compare(place, op, _to_operand(value)))


def _compare(path: Path, op: str, value: object) -> Filter:
    if isinstance(value, str):
        return Compare(path, op, check_unicode(value))
    if isinstance(value, datetime):
        to_plain(value)
        return CompareTime(path, op, count_micros(value))
    if isinstance(value, date):
        return _compare_day(path, op, count_micros(value))
    return Compare(path, op, _check_number(value))


def _compare_day(path: Path, op: str, start: int) -> Filter:
    """Return a comparison with a day as a whole: what is after it is after its end."""
    end = start + DAY
    if op == "==":
        return AllOf((CompareTime(path, ">=", start), CompareTime(path, "<", end)))
    return {
        "<": CompareTime(path, "<", start),
        "<=": CompareTime(path, "<", end),
        ">": CompareTime(path, ">=", end),
        ">=": CompareTime(path, ">=", start),
    }[op]


def _to_operand(value: object) -> object:
    """Return a value of the caller's as one of Python's."""
    try:
        return to_plain(value) if isinstance(value, np.ndarray) else to_python(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"a filter cannot compare with {type_name(value)}: {error}") from error


def _list_values(what: str, values: object) -> list[object]:
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Collection):
        raise InvalidInputError(f"{what} takes a list, got {type_name(values)}")
    if len(values) > MAX_LIST:
        raise InvalidInputError(f"{what} takes at most {MAX_LIST} values, got {len(values)}")
    return [_to_operand(value) for value in values]


def _match_one_of(path: Path, values: object) -> Filter:
    given = _list_values("$in, as $nin,", values)
    return _or_item(path, lambda place: _match_itself_one_of(place, given))


def _match_itself_one_of(path: Path, values: list[object]) -> Filter:
    texts = tuple(check_unicode(value) for value in values if isinstance(value, str))
    plain = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    numbers = tuple(_check_number(value) for value in plain)
    others = [value for value in values if isinstance(value, bool) or not isinstance(value, str | int | float)]
    if len(others) > MAX_CONDITIONS:
        raise InvalidInputError(f"$in and $nin take at most {MAX_CONDITIONS} lists, objects, times and constants")
    parts: list[Filter] = [_match_itself(path, value) for value in others]
    parts += [Among(path, texts, texts=True)] if texts else []
    parts += [Among(path, numbers, texts=False)] if numbers else []
    return AnyOf(tuple(parts))


def _match_contained(path: Path, value: object) -> Filter:
    return AnyItem(path, _match_itself((), value))


def _match_size(path: Path, value: object) -> Filter:
    size = _to_operand(value)
    if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < _INT64:
        raise InvalidInputError(f"$size takes a whole number from 0, got {type_name(value)}")
    return SizeIs(path, size)


def _match_exists(path: Path, value: object) -> Filter:
    if not isinstance(value, bool):
        raise InvalidInputError(f"$exists takes True or False, got {type_name(value)}")
    absent = TypeIs(path, ("absent",))
    return Not(absent) if value else absent


_OPERATORS: dict[str, Callable[[Path, object], Filter]] = {
    "$eq": _match_equal,
    "$ne": lambda path, value: Not(_match_equal(path, value)),
    "$gt": _match_comparison(">"),
    "$gte": _match_comparison(">="),
    "$lt": _match_comparison("<"),
    "$lte": _match_comparison("<="),
    "$in": _match_one_of,
    "$nin": lambda path, value: Not(_match_one_of(path, value)),
    "$exists": _match_exists,
    "$contains": _match_contained,
    "$not_contains": lambda path, value: Not(_match_contained(path, value)),
    "$size": _match_size,
}


def _check_number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(f"a filter cannot compare with {type_name(value)}")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise InvalidInputError("a filter's whole numbers must fit in 64 bits")
    if not math.isfinite(value):
        raise InvalidInputError(f"a filter cannot compare with {value}")
    return value


def _quote(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
