"""LlamaIndex's metadata filters in terms of the store's.

Comparisons are filters of the store. What looks into a list or a text (``contains``, ``any``, ``all``,
``text_match``) is decided here, over the metadata of all nodes, and becomes a filter by node: slower, and exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.integrations._erasing import check_ids
from agent_memory.integrations._plain import key_of, plain
from agent_memory.records import Entry

try:
    from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
except ModuleNotFoundError as error:
    raise MissingDependencyError("llama-index-core", "llama-index") from error

Where = dict[str, Any]

_MOST = 10_000  # values in one filter
_OPERATORS = {
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
}
_EMPTY: tuple[Any, ...] = (None, "", [])
_CONDITIONS = {FilterCondition.AND: "$and", FilterCondition.OR: "$or"}


def _itself(value: Any) -> Where:
    """Return the condition that a field equals a value itself: LlamaIndex does not look into lists here."""
    return {"$eq": value, "$not_contains": value}


def _among(value: Any, held: Any) -> bool:
    return value in held if isinstance(held, list) or (isinstance(held, str) and isinstance(value, str)) else False


def _within(value: Any, held: Any) -> bool:
    return isinstance(held, str) and str(value) in held


_LOOKING_INSIDE: dict[FilterOperator, Callable[[Any, Any], bool]] = {
    FilterOperator.CONTAINS: _among,
    FilterOperator.ANY: lambda values, held: any(_among(value, held) for value in values),
    FilterOperator.ALL: lambda values, held: all(_among(value, held) for value in values),
    FilterOperator.TEXT_MATCH: _within,
    FilterOperator.TEXT_MATCH_INSENSITIVE: lambda value, held: (
        isinstance(held, str) and _within(str(value).lower(), held.lower())
    ),
}


def where_of(
    filters: MetadataFilters | None,
    nodes: Callable[[], Iterable[Entry]],
    *,
    node_ids: list[str] | None = None,
    doc_ids: list[str] | None = None,
) -> Where | None:
    """Return the store's filter; None where nothing restricts. LlamaIndex means no restriction by an empty list.

    Args:
        filters: LlamaIndex's filters, nested at will.
        nodes: Returns the entries of all nodes; called only if a filter looks into lists or texts.
        node_ids: Only these nodes.
        doc_ids: Only nodes of these documents.

    Raises:
        InvalidInputError: An operator that is unknown, or a value that it cannot compare with.
    """
    parts = [_all_of(filters, nodes)] if filters is not None else []
    parts += [_is_among("node_id", check_ids("node_ids", node_ids))] if node_ids else []
    parts += [_is_among("ref_doc_id", check_ids("doc_ids", doc_ids))] if doc_ids else []
    present = [part for part in parts if part]
    return {"$and": present} if present else None


def _all_of(filters: MetadataFilters, nodes: Callable[[], Iterable[Entry]]) -> Where:
    parts = [
        _all_of(each, nodes) if isinstance(each, MetadataFilters) else _one(each, nodes) for each in filters.filters
    ]
    parts = [part for part in parts if part]
    if not parts:
        return {}
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {_CONDITIONS[filters.condition or FilterCondition.AND]: parts}


def _one(condition: MetadataFilter, nodes: Callable[[], Iterable[Entry]]) -> Where:
    name, operator, value = key_of(condition.key), condition.operator, plain(condition.value)
    if operator == FilterOperator.IS_EMPTY:
        return {"$or": [{name: {"$exists": False}}, *({name: _itself(empty)} for empty in _EMPTY)]}
    if operator == FilterOperator.EQ:
        return {name: _itself(value)}
    if operator == FilterOperator.NE:
        return {name: {"$not": _itself(value)}}
    if operator in (FilterOperator.IN, FilterOperator.NIN):
        if not isinstance(value, list) or len(value) > _MOST:
            raise InvalidInputError(f"the filter operator {operator.value!r} takes a list of up to {_MOST} values")
        among: Where = {"$or": [{name: _itself(each)} for each in value]} if value else {name: {"$in": []}}
        return among if operator == FilterOperator.IN else {"$not": among}
    if operator in _OPERATORS:
        return {name: {_OPERATORS[operator]: value}}
    if operator not in _LOOKING_INSIDE:
        raise InvalidInputError(f"the filter operator {getattr(operator, 'value', operator)!r} is not supported")
    if operator in (FilterOperator.ANY, FilterOperator.ALL) and not isinstance(value, list):
        raise InvalidInputError(f"the filter operator {operator.value!r} takes a list, got {condition.value!r}")
    matches = _LOOKING_INSIDE[operator]
    held = ((entry, entry.metadata.get(name)) for entry in nodes())
    matching = [entry for entry, one in held if one is not None and matches(value, one)]
    found = [entry.metadata["node_id"] for entry in matching if "node_id" in entry.metadata]
    return _is_among("node_id", found)


def _is_among(name: str, values: list[str]) -> Where:
    parts = [{name: {"$in": values[start : start + _MOST]}} for start in range(0, len(values), _MOST)]
    return {"$or": parts or [{name: {"$in": []}}]}
