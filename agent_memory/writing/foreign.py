"""Reads the stores of other systems: SQLite files of mem0, Chroma and LangGraph, opened read-only.

Only texts and the facts recorded with them are read; texts are encoded again. Nothing is ever unpickled: mem0's local
Qdrant file (``storage.sqlite``) holds pickled objects and is refused; mem0's ``history.db`` has the texts.

Supported layouts: Chroma 1.x ``chroma.sqlite3`` (tables collections, segments, embeddings, embedding_metadata), mem0
``history.db`` (table history), langgraph-checkpoint-sqlite 3.x ``SqliteStore`` (table store).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from agent_memory import inputs
from agent_memory.errors import InvalidInputError, NotFoundError, StorageError
from agent_memory.storage.sqlite.driver import connect_guarded, sqlite3

Item = dict[str, Any]

_PAGE = 500
_TEXT_FIELDS = ("text", "content", "memory", "data")
_VALUES = ("string_value", "int_value", "float_value", "bool_value")
_DOCUMENT = "chroma:document"


class Foreign(StrEnum):
    """The system that wrote a store."""

    MEM0 = "mem0"
    CHROMA = "chroma"
    LANGGRAPH = "langgraph"


def read_items(source: str, path: Path) -> Iterator[Item]:
    """Yield the entries of a store as arguments of ``Memory.add``, namespaces relative to the importing memory's.

    Raises:
        InvalidInputError: The source is unknown, or the file does not have its layout.
        NotFoundError: There is no such file.
        StorageError: The file is damaged.
    """
    try:
        kind = Foreign(source)
    except ValueError as error:
        raise InvalidInputError(f"source must be one of {[str(one) for one in Foreign]}, got {source!r}") from error
    default, tables, read = _READERS[kind]
    file = path / default if path.is_dir() else path
    if not file.is_file():
        raise NotFoundError(f"there is no file {file}")
    with _open(file) as connection:
        held = _list_tables(connection)
        if kind is Foreign.MEM0 and "points" in held:
            raise InvalidInputError(f"{file} holds pickled points, which are never read; give mem0's history.db")
        if not tables <= held:
            raise InvalidInputError(f"{file} is not a {kind} store: it lacks the tables {sorted(tables - held)}")
        yield from read(connection)


@contextmanager
def _open(file: Path) -> Iterator[sqlite3.Connection]:
    try:
        connection = connect_guarded(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        try:
            connection.row_factory = sqlite3.Row
            connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
            connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN")
            yield connection
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StorageError(f"cannot read {file}: {error}") from error


def _list_tables(connection: sqlite3.Connection) -> set[str]:
    """Return the names of ordinary tables without computed columns: nothing else of a stranger's file is queried."""
    rows = connection.execute("SELECT name FROM pragma_table_list WHERE schema = 'main' AND type = 'table'")
    names = [str(row[0]) for row in rows]
    computed = "SELECT 1 FROM pragma_table_xinfo(?) WHERE hidden != 0"
    return {name for name in names if connection.execute(computed, (name,)).fetchone() is None}


def _parse_time(key: object, value: object) -> datetime | None:
    """Return the time of an item, which the other system wrote in UTC where it names no zone; None stays None."""
    return inputs.parse_time(f"the time of item {key!r}", None if value is None else str(value))


def _from_mem0(connection: sqlite3.Connection) -> Iterator[Item]:
    newest: dict[str, sqlite3.Row] = {}
    for row in connection.execute("SELECT * FROM history ORDER BY rowid"):
        newest[str(row["memory_id"])] = row
    for key, row in newest.items():
        text = row["new_memory"]
        if row["is_deleted"] or row["event"] == "DELETE" or not isinstance(text, str) or not text.strip():
            continue
        columns = row.keys()
        actor = row["actor_id"] if "actor_id" in columns else None
        role = row["role"] if "role" in columns else None
        yield {
            "key": key,
            "text": text,
            "speaker": str(actor or role) if actor or role else None,
            "event_time": _parse_time(key, row["updated_at"] or row["created_at"]),
            "metadata": {"source": "mem0"},
        }


def _from_chroma(connection: sqlite3.Connection) -> Iterator[Item]:
    rows = connection.execute(
        "SELECT e.id, e.embedding_id, e.created_at, c.name FROM embeddings e "
        "JOIN segments s ON s.id = e.segment_id JOIN collections c ON c.id = s.collection ORDER BY e.id"
    )
    while page := rows.fetchmany(_PAGE):
        facts: dict[int, Item] = {row["id"]: {} for row in page}
        marks = ",".join("?" * len(facts))
        for row in connection.execute(f"SELECT * FROM embedding_metadata WHERE id IN ({marks})", list(facts)):
            facts[row["id"]][str(row["key"])] = _read_value(row)
        for row in page:
            metadata = facts[row["id"]]
            text = metadata.pop(_DOCUMENT, None)
            if not isinstance(text, str) or not text.strip():  # a vector without a document
                continue
            yield {
                "key": str(row["embedding_id"]),
                "text": text,
                "namespace": [str(row["name"])],
                "event_time": _parse_time(row["embedding_id"], row["created_at"]),
                "metadata": metadata,
            }


def _read_value(row: sqlite3.Row) -> object:
    if "bool_value" in row.keys() and row["bool_value"] is not None:
        return bool(row["bool_value"])
    return next((row[name] for name in _VALUES[:3] if row[name] is not None), None)


def _from_langgraph(connection: sqlite3.Connection) -> Iterator[Item]:
    for row in connection.execute("SELECT prefix, key, value, created_at FROM store ORDER BY rowid"):
        try:
            value = json.loads(row["value"])
        except (TypeError, ValueError, RecursionError) as error:
            raise InvalidInputError(f"item {row['key']!r} of {row['prefix']!r} is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidInputError(f"item {row['key']!r} of {row['prefix']!r} is not a JSON object")
        field = next((name for name in _TEXT_FIELDS if isinstance(value.get(name), str) and value[name].strip()), None)
        text = json.dumps(value, ensure_ascii=False) if field is None else value.pop(field)
        yield {
            "key": str(row["key"]),
            "text": text,
            "namespace": str(row["prefix"]).split("."),
            "event_time": _parse_time(row["key"], row["created_at"]),
            "metadata": value,
        }


_Reader = Callable[[sqlite3.Connection], Iterator[Item]]
_READERS: dict[Foreign, tuple[str, set[str], _Reader]] = {
    Foreign.MEM0: ("history.db", {"history"}, _from_mem0),
    Foreign.CHROMA: (
        "chroma.sqlite3",
        {"collections", "segments", "embeddings", "embedding_metadata"},
        _from_chroma,
    ),
    Foreign.LANGGRAPH: ("store.sqlite", {"store"}, _from_langgraph),
}
