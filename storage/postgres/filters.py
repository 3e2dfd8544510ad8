"""Compiles metadata filters to PostgreSQL's functions for JSON, with bound parameters only."""

from __future__ import annotations

import operator
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    ColumnElement,
    Double,
    Numeric,
    TableValuedAlias,
    Text,
    and_,
    case,
    cast,
    column,
    func,
    literal,
    not_,
    or_,
    select,
)
from sqlalchemy.sql import false, true

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
from agent_memory.storage.sqlite.schema import entries

Sql = ColumnElement[bool]
_Comparison = Compare | CompareTime | Among
_COMPARE: dict[str, Callable[[Any, Any], Sql]] = {
    "==": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class _Value:
    """A JSON value: the metadata of an entry, or an item of an array in it.

    Args:
        json: Its text as SQL of type ``json``, which keeps the spelling of numbers, as canonical JSON needs it.
    """

    def __init__(self, json: ColumnElement[Any]) -> None:
        self._json = json

    def at(self, path: Path) -> ColumnElement[Any]:
        """Return the member at a path, NULL if there is none; numbers are no names of items."""
        found = self._json
        for name in path:
            found = found.op("->", return_type=JSON())(literal(name, Text))  # NULL of what is no object
        return found

    def type(self, path: Path) -> ColumnElement[Any]:
        """Return the type as SQL, by the names of ``TypeIs``."""
        return func.json_kind(self.at(path))

    def text(self, path: Path) -> ColumnElement[Any]:
        """Return a text or number as text, for comparisons by code point."""
        return self.at(path).op("#>>", return_type=Text())(cast(literal("{}", Text), ARRAY(Text))).collate("C")


def compile_filter(where: Filter, document: _Value | None = None) -> Sql:
    """Return a filter as SQL over ``entries.metadata``, or over an item of an array in it."""
    document = _Value(cast(entries.c.metadata, JSON)) if document is None else document
    match where:
        case AllOf(parts):
            return and_(true(), *(compile_filter(part, document) for part in parts))
        case AnyOf(parts):
            return or_(false(), *(compile_filter(part, document) for part in parts))
        case Not(part):
            return not_(compile_filter(part, document))
        case AnyItem(path, part):
            return case((document.type(path) == "array", _has_item(path, part, document)), else_=false())
        case TypeIs(path, types):
            return document.type(path).in_(types)
        case SameJson(path, kind, text):
            same = cast(document.at(path), Text) == literal(text, Text)
            return case((document.type(path) == kind, same), else_=false())
        case SizeIs(path, size):
            counted = func.json_array_length(document.at(path)) == size
            return case((document.type(path) == "array", counted), else_=false())
        case _:
            return _compile_comparison(where, document)


def _has_item(path: Path, part: Filter, document: _Value) -> Sql:
    """Return the SQL that an array has an item of which a filter holds."""
    array = case((document.type(path) == "array", document.at(path)), else_=cast(literal("[]", Text), JSON))
    each: TableValuedAlias = func.json_array_elements(array).table_valued(column("value", JSON))
    return select(literal(1)).select_from(each).where(compile_filter(part, _Value(each.c.value))).exists()


def _compile_comparison(where: _Comparison, document: _Value) -> Sql:
    value, kind = document.text(where.path), document.type(where.path)
    match where:
        case Compare(_, op, right) if isinstance(right, str):
            compared = _COMPARE[op](value, literal(right, Text))
        case Compare(_, op, right):
            whole = _COMPARE[op](cast(value, Numeric), literal(Decimal(right), Numeric))
            return case((kind == "integer", whole), (kind == "real", _compare_real(value, op, right)), else_=false())
        case CompareTime(_, op, micros):
            compared = func.coalesce(_COMPARE[op](func.read_micros(value), literal(micros, BigInteger)), false())
        case Among(_, values, False):
            exact = [Decimal(one) for one in values]
            real = [float(one) for one in values if _round(one) == Decimal(one)]
            whole = cast(value, Numeric) == func.any(literal(exact, ARRAY(Numeric)))
            among = cast(value, Double) == func.any(literal(real, ARRAY(Double)))
            return case((kind == "integer", whole), (kind == "real", among), else_=false())
        case Among(_, values, _):
            compared = value == func.any(literal(list(values), ARRAY(Text)))
    return case((kind == "text", compared), else_=false())


def _compare_real(value: ColumnElement[Any], op: str, right: Any) -> Sql:  # noqa: ANN401 - int or float
    """Return the comparison of a stored float with a number, by their exact values."""
    near, exact = _round(right), Decimal(right)
    if near != exact:  # a whole number between two floats
        if op == "==":
            return false()
        below = near < exact
        op = ("<=" if below else "<") if op[0] == "<" else (">" if below else ">=")
    return _COMPARE[op](cast(value, Double), literal(float(near), Double))


def _round(number: Any) -> Decimal:  # noqa: ANN401 - int or float
    """Return the float that is nearest to a number, exactly."""
    try:
        return Decimal(float(number))
    except OverflowError:
        return Decimal("inf" if number > 0 else "-inf")
