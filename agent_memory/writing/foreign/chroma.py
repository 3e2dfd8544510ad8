"""Chroma 1.x ``chroma.sqlite3``: documents and their metadata, in the form that the LangChain vector store reads.

A collection is a namespace. Where a file has several of one name, in several databases or of several tenants, the
names of those come before it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent_memory.formats.names import encode_key, encode_name, encode_names, is_too_long, own_key
from agent_memory.writing.foreign.found import Found, Options
from agent_memory.writing.foreign.stores import (
    Connection,
    Row,
    check_tables,
    list_columns,
    list_tables,
    open_store,
)

FILE = "chroma.sqlite3"
TABLES = {"collections", "segments", "embeddings", "embedding_metadata"}

NAME = own_key("key")
"""Metadata key of a document's id, where that is too long for a key."""

_PAGE = 500
_DOCUMENT = "chroma:document"
_VALUES = ("string_value", "int_value", "float_value")


def read(file: Path, options: Options) -> Iterator[Found]:
    """Yield the documents of a store; see ``registry.Format``."""
    with open_store(file) as connection:
        held = list_tables(connection)
        check_tables(file, held, TABLES, "chroma")
        names = _name_collections(connection, held)
        rows = connection.execute(
            "SELECT e.id, e.embedding_id, e.created_at, s.collection FROM embeddings e "
            "JOIN segments s ON s.id = e.segment_id JOIN collections c ON c.id = s.collection ORDER BY e.id"
        )
        while page := rows.fetchmany(_PAGE):
            facts: dict[int, dict[str, Any]] = {row["id"]: {} for row in page}
            marks = ",".join("?" * len(facts))
            for row in connection.execute(f"SELECT * FROM embedding_metadata WHERE id IN ({marks})", list(facts)):
                _add_fact(facts[row["id"]], row)
            if "embedding_metadata_array" in held:
                query = f"SELECT * FROM embedding_metadata_array WHERE id IN ({marks})"
                for row in connection.execute(query, list(facts)):
                    facts[row["id"]].setdefault(str(row["key"]), []).append(_read_value(row))
            for row in page:
                yield _read_document(row, facts[row["id"]], names[row["collection"]])


def _name_collections(connection: Connection, held: set[str]) -> dict[str, tuple[str, ...]]:
    """Return the namespace of each collection by its id: as few names as tell them all apart."""
    columns = list_columns(connection, "collections")
    about: dict[str, tuple[str, str]] = {}
    if "databases" in held and list_columns(connection, "databases") >= {"id", "name", "tenant_id"}:
        rows = connection.execute("SELECT id, name, tenant_id FROM databases")
        about = {str(row["id"]): (str(row["tenant_id"]), str(row["name"])) for row in rows}
    paths = {}
    for row in connection.execute("SELECT * FROM collections"):
        database = str(row["database_id"]) if "database_id" in columns else ""
        paths[row["id"]] = (*about.get(database, ("", database)), str(row["name"]))
    for depth in (1, 2, 3):
        if max(Counter(path[-depth:] for path in paths.values()).values(), default=1) == 1:
            return {one: path[-depth:] for one, path in paths.items()}
    return {one: (*path, str(one)) for one, path in paths.items()}


def _add_fact(facts: dict[str, Any], row: Row) -> None:
    value = _read_value(row)
    if value is not None or str(row["key"]) not in facts:
        facts[str(row["key"])] = value


def _read_value(row: Row) -> object:
    if "bool_value" in row.keys() and row["bool_value"] is not None:
        return bool(row["bool_value"])
    value = next((row[name] for name in _VALUES if row[name] is not None), None)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_document(row: Row, facts: dict[str, Any], collection: tuple[str, ...]) -> Found:
    key = str(row["embedding_id"])
    place = f"item {key[:200]!r}"
    text = facts.pop(_DOCUMENT, None)
    if not isinstance(text, str) or not text.strip():
        return Found(place, reason="no document")
    metadata = {encode_key(name): value for name, value in facts.items() if "\x00" not in name}
    return Found(
        place,
        {
            "key": encode_name(key),
            "text": text,
            "namespace": encode_names(collection),
            "event_time": row["created_at"],
            "metadata": metadata | ({NAME: key} if is_too_long(key) else {}),
        },
    )
