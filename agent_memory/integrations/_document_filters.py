"""Filters of documents, as LangChain's users and as mem0 write them.

mem0 writes operators without a dollar: ``{"year": {"gte": 2024}}``; joins filters by ``AND``, ``OR`` and ``NOT``, the
last with a list; stands ``"*"`` for any value; and looks for a text inside of texts and lists by ``contains`` and
``icontains``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent_memory.errors import InvalidInputError
from agent_memory.formats.names import own_key
from agent_memory.integrations._plain import key_of, plain_where
from agent_memory.records import Entry
from agent_memory.storage.filters import MAX_LIST

Filter = Mapping[str, Any]
Entries = Callable[[], Iterable[Entry]]

PLACE = own_key("place")  # namespace and key again: a filter can name many documents at once
_COMPARING = frozenset(("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"))
_LOGICAL = {"AND": "$and", "OR": "$or", "NOT": "$not"}
_LOOKING_INSIDE = frozenset(("contains", "icontains"))


def where_of(filter: Filter | None, entries: Entries) -> Filter | None:
    """Return the store's filter of one for documents.

    Args:
        filter: An object of fields and operators, the store's own or mem0's.
        entries: Returns the entries of all documents; called only if a filter looks into texts or lists.

    Raises:
        InvalidInputError: It is a function or anything else that is no mapping.
    """
    if filter is None:
        return None
    if isinstance(filter, Mapping):
        return {"$and": [_condition(name, each, (), entries) for name, each in filter.items()]} if filter else {}
    what = f"the function {getattr(filter, '__name__', filter)!r}" if callable(filter) else repr(filter)
    raise InvalidInputError(
        f"filter must be an object such as {{'year': {{'$gte': 2024}}}}, which is applied inside the search; got {what}"
    )


def _condition(name: object, value: Any, path: tuple[str, ...], entries: Entries) -> dict[str, Any]:
    """Return the filter of one member of a filter, below the field that ``path`` leads to."""
    if name in _LOGICAL and not path and isinstance(value, list | tuple):
        name = _LOGICAL[str(name)]
    if name == "$not" and not path and isinstance(value, list | tuple):
        return {"$not": {"$or": [where_of(each, entries) for each in value]}}
    if name in ("$and", "$or") and not path and isinstance(value, list | tuple):
        return {str(name): [where_of(each, entries) for each in value]}
    if name == "$not" and not path:
        return {"$not": where_of(value, entries)}
    if isinstance(name, str) and name.startswith("$"):
        return _below(path, {name: plain_where(value)})
    path = (*path, key_of(name))
    if isinstance(value, str) and value == "*":
        return _below(path, {"$exists": True})
    if not isinstance(value, Mapping) or not value:
        return _below(path, plain_where(value))
    if all(word in _COMPARING or word in _LOOKING_INSIDE for word in value):
        return {"$and": [_word(word, each, path, entries) for word, each in value.items()]}
    if any(isinstance(word, str) and word.startswith("$") for word in value):
        return _below(path, plain_where(value))
    return {"$and": [_condition(inner, each, path, entries) for inner, each in value.items()]}


def _word(word: str, value: Any, path: tuple[str, ...], entries: Entries) -> dict[str, Any]:
    """Return the filter of an operator without a dollar."""
    if word in _COMPARING:
        return _below(path, {f"${word}": plain_where(value)})
    found = [entry.metadata[PLACE] for entry in entries() if _holds(entry.metadata, path, value, word == "icontains")]
    parts = [{PLACE: {"$in": found[start : start + MAX_LIST]}} for start in range(0, len(found), MAX_LIST)]
    return {"$or": parts or [{PLACE: {"$in": []}}]}


def _holds(metadata: Mapping[str, Any], path: tuple[str, ...], wanted: Any, fold: bool) -> bool:
    """Return whether a document's field is a text or a list that holds a value."""
    held: Any = metadata
    for name in path:
        held = held.get(name) if isinstance(held, Mapping) else None
    if PLACE not in metadata or not isinstance(held, str | list) or (isinstance(held, str) and type(wanted) is not str):
        return False
    if not fold or not isinstance(wanted, str):
        return wanted in held
    folded = held.casefold() if isinstance(held, str) else [str(each).casefold() for each in held]
    return wanted.casefold() in folded


def _below(path: tuple[str, ...], condition: Any) -> dict[str, Any]:
    for name in reversed(path):
        condition = {name: condition}
    return dict(condition)
