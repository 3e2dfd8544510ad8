"""LangGraph's ``SqliteStore`` (table store), in the form and place that ``AgentMemoryStore`` reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_memory.errors import InvalidInputError
from agent_memory.formats.names import encode_name, encode_names
from agent_memory.formats.prompt import without_recalled
from agent_memory.inputs import is_blank
from agent_memory.writing.foreign.found import Found, Options
from agent_memory.writing.foreign.stores import Row, check_tables, list_columns, list_tables, open_store
from agent_memory.writing.langgraph_items import NO_TEXT, make_pages, write_value

FILE = "store.sqlite"
TABLES = {"store"}

NAMESPACE = ("langgraph",)
"""Where ``AgentMemoryStore`` keeps its items unless told otherwise."""

_TEXT_FIELDS = ("text", "content", "memory", "data")


def read(file: Path, options: Options) -> Iterator[Found]:
    """Yield the items of a store; see ``registry.Format``."""
    with open_store(file) as connection:
        check_tables(file, list_tables(connection), TABLES, "langgraph")
        columns = list_columns(connection, "store")
        for row in connection.execute("SELECT * FROM store ORDER BY rowid"):
            place = f"item {str(row['key'])[:200]!r} of {str(row['prefix'])[:200]!r}"
            try:
                yield from _read_item(row, columns, place, options)
            except InvalidInputError as error:
                yield Found(place, refused=str(error))


def _read_item(row: Row, columns: set[str], place: str, options: Options) -> Iterator[Found]:
    try:
        value = json.loads(row["value"])
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"its value is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInputError("its value is not a JSON object")
    key = str(row["key"])
    place_and_value = json.dumps([str(row["prefix"]), key, value])
    stamp = hashlib.sha256(place_and_value.encode()).hexdigest()[:32]  # of this item alone, the same for the same value
    metadata, pages = write_value(key, value, stamp)
    about = {"kind": "item", "ranked": True, "parts": 0, "ttl": _get_ttl(row, columns)}
    shared = {
        "namespace": (*NAMESPACE, *encode_names(str(row["prefix"]).split("."))),
        "event_time": next((row[one] for one in ("updated_at", "created_at") if one in columns and row[one]), None),
        "expires_at": row["expires_at"] if "expires_at" in columns else None,
    }
    texts = (value[name] for name in _TEXT_FIELDS if isinstance(value.get(name), str) and not is_blank(value[name]))
    text = without_recalled(next(texts, None) or json.dumps(value, ensure_ascii=False))
    text = NO_TEXT if is_blank(text[: options.max_text_chars]) else text[: options.max_text_chars]
    yield Found(place, {**shared, "key": encode_name(key), "text": text, "metadata": {**metadata, **about}})
    for page in make_pages(key, pages, stamp):
        yield Found(place, {**shared, **page, "vector": False})


def _get_ttl(row: Row, columns: set[str]) -> Any:  # noqa: ANN401 - whatever the column holds
    """Return the minutes for which reading an item prolongs its life."""
    ttl = row["ttl_minutes"] if "ttl_minutes" in columns else None
    return ttl if isinstance(ttl, int | float) and row["expires_at"] is not None else None
