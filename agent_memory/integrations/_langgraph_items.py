"""How LangGraph items are stored as entries.

An item is one entry: its value is in the metadata (see ``writing.langgraph_items``, which imports share), its text and
vector are those of the first indexed text.
Every further indexed text of the item is a *part*: an entry beside it that repeats the value, so that filters
hold inside the search, and that leads back to the item. Item and parts carry the stamp of the write that made
them; a part whose stamp is not that of its item is left over from another write and is not seen. An item
without indexed text has no vector and is never ranked.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.formats.names import decode_name, decode_names, encode_name, encode_names, suffixed
from agent_memory.inputs import is_blank, type_name
from agent_memory.integrations._text import entry_text, usable_text
from agent_memory.records import Entry
from agent_memory.types import FloatArray, Namespace
from agent_memory.writing.langgraph_items import make_pages, page_keys, read_value, write_value

try:
    from langgraph.store.base import IndexConfig, Item, PutOp, SearchItem, TTLConfig, get_text_at_path, tokenize_path
except ModuleNotFoundError as error:
    raise MissingDependencyError("langgraph", "langgraph") from error

Field = str | list[str]

ITEMS = {"kind": "item"}
RANKED = {"ranked": True}
UNRANKED = {"kind": "item", "ranked": False}
_SECONDS = 60
_SETTINGS = ("dims", "embed", "fields", "text_fields", "distance_type")


def fields_of(paths: Sequence[str] | None) -> list[Field]:
    """Return index paths in the form that ``texts_of`` takes; the whole item by default."""
    return [path if path == "$" else tokenize_path(path) for path in paths or ["$"]]


def settings_of(index: IndexConfig | Literal[False] | None) -> dict[str, Any]:
    """Return the settings of an index by LangGraph's own names.

    Raises:
        InvalidInputError: A setting is unknown, or cannot be followed.
    """
    if not index:
        return {}
    if not isinstance(index, Mapping):
        raise InvalidInputError(f"index must be an object such as {{'fields': ['text']}}, or False, got {index!r}")
    settings = dict(index)
    unknown = [name for name in settings if name not in _SETTINGS]
    if unknown:
        raise InvalidInputError(f"unknown setting of index: {unknown[0]!r}; there are {', '.join(_SETTINGS)}")
    if settings.pop("distance_type", "cosine") != "cosine":
        raise InvalidInputError(f"distance_type must be 'cosine', got {index['distance_type']!r}")  # type: ignore[typeddict-item]
    text_fields = settings.pop("text_fields", None)  # as SqliteStore calls them
    if text_fields is not None and settings.get("fields") is not None and text_fields != settings["fields"]:
        raise InvalidInputError(f"fields and text_fields differ: {settings['fields']!r} and {text_fields!r}")
    fields = settings.get("fields") if text_fields is None else text_fields
    fields = [fields] if isinstance(fields, str) else fields
    if fields is not None and not (isinstance(fields, list | tuple) and all(isinstance(one, str) for one in fields)):
        raise InvalidInputError(f"fields must be a list of paths such as ['text', 'notes[*].title'], got {fields!r}")
    return {**settings, "fields": fields}


def check_ttl(ttl: TTLConfig | None) -> TTLConfig | None:
    """Return LangGraph's settings for expiry.

    Raises:
        InvalidInputError: One is unknown, or of another type: nothing would expire.
    """
    if ttl is None:
        return None
    if not isinstance(ttl, Mapping):
        raise InvalidInputError(f"ttl must be an object such as {{'default_ttl': 60}}, got {ttl!r}")
    for name, value in ttl.items():
        if name not in TTLConfig.__annotations__:
            known = ", ".join(TTLConfig.__annotations__)
            raise InvalidInputError(f"unknown setting of ttl: {name!r}; there are {known}")
        is_switch = name in ("refresh_on_read", "omit_expired")
        is_minutes = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if not (isinstance(value, bool) if is_switch else value is None or is_minutes):
            wanted = "true or false" if is_switch else "a number of minutes above 0, or None"
            raise InvalidInputError(f"{name} of ttl must be {wanted}, got {value!r}")
    return ttl


def texts_of(op: PutOp, default: Sequence[Field]) -> list[str]:
    """Return the texts of an item that are to be embedded, each once."""
    if op.value is None or op.index is False:
        return []
    fields = default if op.index is None else fields_of(op.index)
    texts = [text for field in fields for text in _text_at(op.value, field)]
    return list(dict.fromkeys(usable_text(text) for text in texts if not is_blank(text)))


def _text_at(value: Any, field: Field) -> list[str]:
    try:
        return get_text_at_path(value, field)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"an item's value must be plain JSON: {error}") from error


@dataclass(frozen=True)
class Layout:
    """Where the items of a store live.

    Attributes:
        base: Namespace under which every LangGraph namespace lies.
        dimension: Size of the vectors.
        max_text_chars: Where to cut the texts of entries; the value is kept whole.
    """

    base: Namespace
    dimension: int
    max_text_chars: int

    def scope(self, namespace: Sequence[str]) -> Namespace:
        """Return the store's namespace of a LangGraph namespace."""
        return (*self.base, *encode_names(namespace))

    def namespace(self, scope: Namespace) -> Namespace:
        """Return the LangGraph namespace of a namespace of the store."""
        return decode_names(scope[len(self.base) :])

    def entries(
        self, op: PutOp, scope: Namespace, texts: Sequence[str], vectors: dict[str, FloatArray]
    ) -> list[dict[str, Any]]:
        """Return the entries of an item: itself, then its parts and pages.

        Args:
            op: The write; its value is not None.
            scope: The store's namespace of the item.
            texts: From ``texts_of``.
            vectors: Vectors by text; a text without one is not ranked by.
        """
        indexed = [text for text in texts if text in vectors]
        value = dict(op.value or {})
        key, stamp = encode_name(op.key), uuid.uuid4().hex
        metadata, pages = write_value(op.key, value, stamp)
        metadata["ttl"] = op.ttl
        shared = {
            "namespace": scope,
            "expires_at": None if op.ttl is None else _end_of(op.ttl),
        }
        first, *others = indexed or [_text_at(value, "$")[0]]
        about = {"kind": "item", "ranked": bool(indexed), "parts": len(others)}
        item = {"text": self._cut(first), "key": key, "vector": vectors.get(first, False)}
        parts = [
            {
                **shared,
                "text": self._cut(text),
                "key": suffixed(key, "v", number),
                "metadata": {**metadata, "kind": "part", "ranked": True, "of": key},
                "vector": vectors[text],
            }
            for number, text in enumerate(others)
        ]
        paged = ({**shared, **page, "vector": False} for page in make_pages(op.key, pages, stamp))
        return [{**shared, **item, "metadata": {**metadata, **about}}, *parts, *paged]

    def _cut(self, text: str) -> str:
        return entry_text(text)[: self.max_text_chars]

    def item(self, entry: Entry, pages: Sequence[str] = ()) -> Item:
        """Return the item of an entry, with its pages, if its value has any."""
        return Item(
            value=read_value(entry.metadata, pages),
            key=entry.metadata.get("name", decode_name(entry.key)),
            namespace=self.namespace(entry.namespace),
            created_at=entry.created_at,
            updated_at=entry.event_time,  # when it was put; moving its expiry does not change that
        )

    def found(self, entry: Entry, score: float | None = None, pages: Sequence[str] = ()) -> SearchItem:
        """Return the item of an entry as the result of a search."""
        item = self.item(entry, pages)
        return SearchItem(item.namespace, item.key, item.value, item.created_at, item.updated_at, score)


def is_item(entry: Entry | None) -> bool:
    """Return whether an entry is a LangGraph item."""
    return entry is not None and entry.metadata.get("kind") == "item"


def item_key(entry: Entry) -> str:
    """Return the key of the item that an item or a part belongs to."""
    return str(entry.metadata.get("of", entry.key))


def part_keys(entry: Entry) -> list[str]:
    """Return the keys of the parts and pages of an item."""
    parts = [suffixed(entry.key, "v", number) for number in range(int(entry.metadata.get("parts", 0)))]
    return parts + page_keys_of(entry)


def page_keys_of(entry: Entry) -> list[str]:
    """Return the keys of the pages of an item."""
    return page_keys(entry.key, int(entry.metadata.get("pages", 0)))


def page_of(entry: Entry | None, stamp: object) -> str | None:
    """Return what a page holds; None for one that is missing or of another write."""
    if entry is None or entry.metadata.get("stamp") != stamp:
        return None
    return str(entry.metadata.get("page", ""))


def refreshed(entry: Entry, now: datetime) -> datetime | None:
    """Return when an item that is read now is to expire; None if that is not worth a write.

    The time to live is moved in steps of a hundredth of it: an item read in a loop is not written each time.
    """
    ttl = entry.metadata.get("ttl")
    if ttl is None or entry.expires_at is None:
        return None
    expiry = now + timedelta(minutes=ttl)
    return expiry if (expiry - entry.expires_at).total_seconds() >= ttl * _SECONDS / 100 else None


def _end_of(ttl: object) -> datetime:
    """Return when an item expires that is written now.

    Raises:
        InvalidInputError: ``ttl`` is no number of minutes, or leads beyond the year 9999.
    """
    if isinstance(ttl, bool) or not isinstance(ttl, int | float):
        raise InvalidInputError(f"ttl must be a number of minutes, got {type_name(ttl)}")
    try:
        return datetime.now(UTC) + timedelta(minutes=ttl)
    except (OverflowError, ValueError) as error:
        raise InvalidInputError(f"ttl must be a number of minutes until before the year 10000, got {ttl}") from error
