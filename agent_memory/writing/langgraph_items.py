"""How the value of a LangGraph item is kept in the metadata of an entry, for the adapter and for imports.

The value lies under ``value``, so that filters reach it. Metadata are stored with their keys sorted: the order in which
the value had them is kept beside it. A value that is too long for metadata is kept as JSON on *pages*, entries beside
the item's; of its fields only short ones are left under ``value``, for filters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from agent_memory.errors import InvalidInputError
from agent_memory.formats.names import decode_key, encode_key, encode_name, is_too_long, suffixed, with_keys
from agent_memory.storage.codec import canonical_json
from agent_memory.storage.moments import to_plain

NO_TEXT = "(no text)"
"""Text of an entry that has none."""

_MOST_CHARS = 900_000  # of metadata; the rest is for what else they hold
_PAGE_CHARS = 400_000  # quotation marks and backslashes take two each in the metadata of a page
_SHORT_CHARS = 1_000
_SHORT_FIELDS = 100


def write_value(key: str, value: Mapping[str, Any], stamp: str) -> tuple[dict[str, Any], list[str]]:
    """Return the metadata that keep a value, and its pages, if it needs any.

    Args:
        key: The item's key.
        value: The item's value.
        stamp: Names the write.

    Raises:
        InvalidInputError: The value is not JSON.
    """
    metadata: dict[str, Any] = {"value": with_keys(value, encode_key), "stamp": stamp}
    if is_too_long(key):
        metadata["name"] = key
    order = list(_list_orders(metadata["value"]))
    if any(places != sorted(places) for places in order):
        metadata["order"] = order
    if len(canonical_json(metadata)) <= _MOST_CHARS:
        return metadata, []
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=to_plain)
    pages = [text[start : start + _PAGE_CHARS] for start in range(0, len(text), _PAGE_CHARS)]
    metadata.pop("order", None)
    return {**metadata, "value": _keep_short(metadata["value"]), "pages": len(pages)}, pages


def read_value(metadata: Mapping[str, Any], pages: Sequence[str] = ()) -> dict[str, Any]:
    """Return the value that ``write_value`` was given.

    Raises:
        InvalidInputError: It has pages, and they are not these.
    """
    if metadata.get("pages"):
        try:
            value = json.loads("".join(pages))
        except ValueError as error:
            raise InvalidInputError("the pages of an item's value are incomplete") from error
    else:
        value = with_keys(_put_in_order(metadata["value"], metadata.get("order")), decode_key)
    if not isinstance(value, dict):
        raise InvalidInputError(f"an item's value must be an object, got {type(value).__name__}")
    return value


def make_pages(key: str, pages: Sequence[str], stamp: str) -> Iterator[dict[str, Any]]:
    """Yield the entries, all but their vectors, that hold the pages of an item."""
    about = {"kind": "page", "ranked": False, "of": encode_name(key), "stamp": stamp}
    for name, page in zip(page_keys(encode_name(key), len(pages)), pages, strict=True):
        yield {"key": name, "text": NO_TEXT, "metadata": {**about, "page": page}}


def page_keys(entry_key: str, count: int) -> list[str]:
    """Return the keys of the entries that hold the pages of an item.

    Args:
        entry_key: Key of the item's entry.
        count: Number of its pages.
    """
    return [suffixed(entry_key, "p", number) for number in range(count)]


def _keep_short(value: Mapping[str, Any]) -> dict[str, Any]:
    short = ((name, part) for name, part in value.items() if len(canonical_json({name: part})) <= _SHORT_CHARS)
    return dict(pair for pair, _ in zip(short, range(_SHORT_FIELDS), strict=False))


def _list_orders(value: object) -> Iterator[list[int]]:
    """Yield for every object of a value, outer ones first, the place of each of its keys among them in sorted order."""
    if isinstance(value, Mapping):
        names = [name for name in value if isinstance(name, str)]  # others are refused by the store
        places = {name: place for place, name in enumerate(sorted(names))}
        yield [places[name] for name in names]
        for part in value.values():
            yield from _list_orders(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _list_orders(part)


def _put_in_order(value: Any, order: object) -> Any:  # noqa: ANN401 - a JSON value
    """Return a value with its keys in their order; as it is, if the order is not that of this value."""
    if not isinstance(order, list):
        return value
    try:
        return _arrange(value, iter(order))
    except (StopIteration, IndexError, TypeError, ValueError, RuntimeError):
        return value


def _arrange(value: Any, orders: Iterator[Any]) -> Any:  # noqa: ANN401 - a JSON value
    if isinstance(value, Mapping):
        names, places = sorted(value), next(orders)
        if sorted(places) != list(range(len(names))):
            raise ValueError("this is the order of another object")
        return {names[place]: _arrange(value[names[place]], orders) for place in places}
    return [_arrange(part, orders) for part in value] if isinstance(value, list | tuple) else value
