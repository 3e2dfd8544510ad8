"""Mongo-style metadata filters, validated into a tree that each back end compiles.

A filter is an object whose conditions must all hold::

    {"topic": "home", "year": {"$gte": 2024, "$lt": 2026}, "$or": [{"done": False}, {"by": {"$in": ["al"]}}]}

A field name is a key of the metadata object, taken literally (dots are part of the name). A value is compared
by JSON type: ``1`` equals ``1.0`` but neither ``True`` nor ``"1"``. An object without operators reaches into
a nested object: ``{"home": {"city": "Berlin"}}``. ``$ne``, ``$nin`` and ``$not`` also match entries that lack
the field, and ``None`` means the JSON null itself (``{"$exists": False}`` finds absent fields). Order
comparisons hold between two numbers or two strings, never between a number and a string.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from agent_memory.errors import InvalidInputError
from agent_memory.inputs import type_name
from agent_memory.storage.codec import canonical_json, check_unicode

MAX_DEPTH = 32
MAX_CONDITIONS = 500  # back ends nest one expression in another for each; SQLite takes 1,000 levels
MAX_LIST = 10_000
_INT64 = 2**63

Path: TypeAlias = tuple[str, ...]
"""Names of the members that lead to a field, from the metadata object inwards."""


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


Filter: TypeAlias = AllOf | AnyOf | Not | TypeIs | Compare | SameJson | Among

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
        operators = [name for name in value if isinstance(name, str) and name.startswith("$")]
        if not value or not operators:
            if not is_plain(path[-1]):
                raise InvalidInputError(f"a filter cannot reach into {_quote(path[-1])}: it has quotes or escapes")
            return AllOf((TypeIs(path, ("object",)), self.parse(value, path, depth + 1)))
        if len(operators) != len(value):
            raise InvalidInputError(f"operators and plain keys are mixed under {_quote(path[-1])}")
        return AllOf(tuple(self._parse_operator(path, name, value[name], depth) for name in operators))

    def _parse_operator(self, path: Path, name: str, value: object, depth: int) -> Filter:
        self._count_condition()
        if name == "$not":
            if depth > MAX_DEPTH:
                raise InvalidInputError(f"the filter is nested deeper than {MAX_DEPTH} levels")
            return Not(self._parse_field(path, value, depth + 1))
        if name not in _OPERATORS:
            known = " ".join((*_OPERATORS, "$not"))
            raise InvalidInputError(f"unknown filter operator {_quote(name)}; known: {known}")
        return _OPERATORS[name](path, value)


def _match_equal(path: Path, value: object) -> Filter:
    if value is None:
        return TypeIs(path, ("null",))
    if isinstance(value, bool):
        return TypeIs(path, ("true" if value else "false",))
    if isinstance(value, list | tuple | Mapping):
        return SameJson(path, "object" if isinstance(value, Mapping) else "array", canonical_json(value))
    return _match_comparison("==")(path, value)


def _match_comparison(op: str) -> Callable[[Path, object], Filter]:
    def build(path: Path, value: object) -> Filter:
        return Compare(path, op, check_unicode(value) if isinstance(value, str) else _check_number(value))

    return build


def _match_one_of(path: Path, values: object) -> Filter:
    if not isinstance(values, list | tuple | set | frozenset):
        raise InvalidInputError(f"$in and $nin take a list, got {type_name(values)}")
    if len(values) > MAX_LIST:
        raise InvalidInputError(f"$in and $nin take at most {MAX_LIST} values, got {len(values)}")
    texts = tuple(check_unicode(value) for value in values if isinstance(value, str))
    plain = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    numbers = tuple(_check_number(value) for value in plain)
    others = [value for value in values if isinstance(value, bool) or not isinstance(value, str | int | float)]
    if len(others) > MAX_CONDITIONS:
        raise InvalidInputError(f"$in and $nin take at most {MAX_CONDITIONS} lists, objects and constants")
    parts: list[Filter] = [_match_equal(path, value) for value in others]
    parts += [Among(path, texts, texts=True)] if texts else []
    parts += [Among(path, numbers, texts=False)] if numbers else []
    return AnyOf(tuple(parts))


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
