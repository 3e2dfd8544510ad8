"""Mongo-style filters over an entry's metadata, compiled to SQL with bound parameters only.

A filter is an object of conditions that must all hold::

    {"topic": "home", "year": {"$gte": 2024, "$lt": 2026}, "$or": [{"done": False}, {"by": {"$in": ["al"]}}]}

A field name is a key of the metadata object, taken literally (dots are part of the name). A value is compared
by JSON type: ``1`` equals ``1.0`` but neither ``True`` nor ``"1"``. An object without operators reaches into
a nested object: ``{"home": {"city": "Berlin"}}``. ``$ne``, ``$nin`` and ``$not`` also match entries that lack
the field, and ``None`` means the JSON null itself (``{"$exists": False}`` finds absent fields). Order
comparisons hold between two numbers or two strings, never across.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import ColumnElement, String, and_, func, literal, not_, or_, select
from sqlalchemy.sql import false, true

from agent_memory.errors import InvalidInputError
from agent_memory.storage.sqlite.schema import entries

MAX_DEPTH = 32
MAX_CONDITIONS = 500  # SQLite parses at most 1,000 levels of an expression
MAX_LIST = 10_000
_INT64 = 2**63

Sql = ColumnElement[bool]


def compile_where(where: Mapping[str, Any] | None) -> Sql:
    """Return the SQL condition on ``entries`` of a filter; None and {} match everything.

    Raises:
        InvalidInputError: The filter is malformed, too deep or too large; the message names the part.
    """
    return true() if where is None else _Compiler().conditions(where, "$", 0)


class _Compiler:
    def __init__(self) -> None:
        self._count = 0

    def conditions(self, where: object, parent: str, depth: int) -> Sql:
        if not isinstance(where, Mapping):
            raise InvalidInputError(f"a filter must be an object, got {_kind(where)}")
        if depth > MAX_DEPTH:
            raise InvalidInputError(f"the filter is nested deeper than {MAX_DEPTH} levels")
        parts = [self._condition(name, value, parent, depth) for name, value in where.items()]
        return and_(true(), *parts)

    def _condition(self, name: object, value: object, parent: str, depth: int) -> Sql:
        self._count += 1
        if self._count > MAX_CONDITIONS:
            raise InvalidInputError(f"the filter has more than {MAX_CONDITIONS} conditions")
        if not isinstance(name, str):
            raise InvalidInputError(f"a filter's field name must be a string, got {_kind(name)}")
        if name in ("$and", "$or"):
            return self._all_or_any(name, value, parent, depth)
        if name == "$not":
            return not_(self.conditions(value, parent, depth + 1))
        if name.startswith("$"):
            raise InvalidInputError(f"unknown filter operator {_short(name)} where a field was expected")
        return self._field(_Field(name, parent), value, depth)

    def _all_or_any(self, name: str, value: object, parent: str, depth: int) -> Sql:
        if not isinstance(value, list | tuple) or not value:
            raise InvalidInputError(f"{name} takes a non-empty list of filters, got {_kind(value)}")
        parts = [self.conditions(part, parent, depth + 1) for part in value]
        return and_(*parts) if name == "$and" else or_(*parts)

    def _field(self, field: _Field, value: object, depth: int) -> Sql:
        if not isinstance(value, Mapping):
            return _equal(field, value)
        operators = [name for name in value if isinstance(name, str) and name.startswith("$")]
        if not value or not operators:
            return and_(field.type == "object", self.conditions(value, field.path, depth + 1))
        if len(operators) != len(value):
            raise InvalidInputError(f"operators and plain keys are mixed under {_short(field.name)}")
        return and_(*(self._operator(field, name, value[name], depth) for name in operators))

    def _operator(self, field: _Field, name: str, value: object, depth: int) -> Sql:
        self._count += 1
        if self._count > MAX_CONDITIONS:
            raise InvalidInputError(f"the filter has more than {MAX_CONDITIONS} conditions")
        if name == "$not":
            if depth > MAX_DEPTH:
                raise InvalidInputError(f"the filter is nested deeper than {MAX_DEPTH} levels")
            return not_(self._field(field, value, depth + 1))
        if name not in _OPERATORS:
            known = " ".join((*_OPERATORS, "$not"))
            raise InvalidInputError(f"unknown filter operator {_short(name)}; known: {known}")
        return _OPERATORS[name](field, value)


class _Field:
    """A member of the metadata object or of an object inside it, by its literal name."""

    def __init__(self, name: str, parent: str = "$") -> None:
        if "\x00" in name:
            raise InvalidInputError("a filter's field name must not contain NUL")
        self.name = _text(name)
        self._parent = parent
        # Quotes and escapes have no portable spelling in SQLite's JSON paths; json_each compares plain keys.
        self._plain = not any(character in '"\\' or ord(character) < 32 for character in name)

    @property
    def path(self) -> str:
        """JSON path of this member."""
        if not self._plain:
            raise InvalidInputError(f"a filter cannot reach into {_short(self.name)}: quotes or escapes in it")
        return f'{self._parent}."{self.name}"'

    def _member(self, column: str, extract: Callable[..., ColumnElement[Any]]) -> ColumnElement[Any]:
        if self._plain:
            return extract(entries.c.metadata, literal(self.path, String))
        each = func.json_each(entries.c.metadata, self._parent).table_valued("key", "value", "type")
        return select(each.c[column]).where(each.c.key == self.name).limit(1).scalar_subquery()

    @property
    def raw(self) -> ColumnElement[Any]:
        """The value: SQL text or number; JSON text for arrays and objects; NULL for null and absence."""
        return self._member("value", func.json_extract)

    @property
    def type(self) -> ColumnElement[Any]:
        """null, true, false, integer, real, text, array or object; "absent" if there is no such member."""
        return func.coalesce(self._member("type", func.json_type), "absent")


def _equal(field: _Field, value: object) -> Sql:
    if value is None:
        return field.type == "null"
    if isinstance(value, bool):
        return field.type == ("true" if value else "false")
    if isinstance(value, list | tuple | Mapping):
        kind = "object" if isinstance(value, Mapping) else "array"
        return and_(field.type == kind, field.raw == canonical_json(value))
    return _ordered(field, value, lambda left, right: left == right)


def _ordered(field: _Field, value: object, compare: Callable[[Any, Any], Sql]) -> Sql:
    if isinstance(value, str):
        return and_(field.type == "text", compare(field.raw, literal(_text(value), String)))
    return and_(field.type.in_(("integer", "real")), compare(field.raw, literal(_number(value))))


def _comparison(compare: Callable[[Any, Any], Sql]) -> Callable[[_Field, object], Sql]:
    return lambda field, value: _ordered(field, value, compare)


def _one_of(field: _Field, values: object) -> Sql:
    if not isinstance(values, list | tuple | set | frozenset):
        raise InvalidInputError(f"$in and $nin take a list, got {_kind(values)}")
    if len(values) > MAX_LIST:
        raise InvalidInputError(f"$in and $nin take at most {MAX_LIST} values, got {len(values)}")
    texts = [_text(value) for value in values if isinstance(value, str)]
    plain = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    numbers = [_number(value) for value in plain]
    others = [value for value in values if isinstance(value, bool) or not isinstance(value, str | int | float)]
    if len(others) > MAX_CONDITIONS:
        raise InvalidInputError(f"$in and $nin take at most {MAX_CONDITIONS} lists, objects and constants")
    parts = [_equal(field, value) for value in others]
    for chosen, kinds in ((texts, ("text",)), (numbers, ("integer", "real"))):
        if chosen:
            listed = func.json_each(json.dumps(chosen)).table_valued("value")
            parts.append(and_(field.type.in_(kinds), field.raw.in_(select(listed.c.value))))
    return or_(false(), *parts)


def _exists(field: _Field, value: object) -> Sql:
    if not isinstance(value, bool):
        raise InvalidInputError(f"$exists takes True or False, got {_kind(value)}")
    return field.type != "absent" if value else field.type == "absent"


_OPERATORS: dict[str, Callable[[_Field, object], Sql]] = {
    "$eq": _equal,
    "$ne": lambda field, value: not_(_equal(field, value)),
    "$gt": _comparison(lambda left, right: left > right),
    "$gte": _comparison(lambda left, right: left >= right),
    "$lt": _comparison(lambda left, right: left < right),
    "$lte": _comparison(lambda left, right: left <= right),
    "$in": _one_of,
    "$nin": lambda field, value: not_(_one_of(field, value)),
    "$exists": _exists,
}


def _number(value: object) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(f"a filter cannot compare with {_kind(value)}")
    if isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise InvalidInputError("a filter's whole numbers must fit in 64 bits")
    if not math.isfinite(value):
        raise InvalidInputError(f"a filter cannot compare with {value}")
    return value


def _text(value: str) -> str:
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("a string is not valid Unicode (lone surrogate)") from error
    return value


_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True)


def canonical_json(value: object) -> str:
    """Return the one JSON spelling that metadata is stored and compared in: minified, keys sorted.

    Raises:
        InvalidInputError: Not JSON: another type, NaN or infinity, too deep, or invalid Unicode.
    """
    if type(value) is dict and not value:
        return "{}"
    try:
        text = _JSON.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"not plain JSON: {error}") from error
    return _text(text)


def _kind(value: object) -> str:
    return type(value).__name__


def _short(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
