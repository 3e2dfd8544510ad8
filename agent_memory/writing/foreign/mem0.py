"""mem0's ``history.db`` (table history): the last text of every memory that was not deleted.

mem0's local Qdrant file (``storage.sqlite``) holds pickled objects, which are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from agent_memory.errors import InvalidInputError
from agent_memory.formats.names import encode_name, is_too_long
from agent_memory.writing.foreign.found import Found, Options
from agent_memory.writing.foreign.stores import Row, check_tables, list_tables, open_store

FILE = "history.db"
TABLES = {"history"}


def read(file: Path, options: Options) -> Iterator[Found]:
    """Yield the memories of a store; see ``registry.Format``."""
    with open_store(file) as connection:
        held = list_tables(connection)
        if "points" in held:
            raise InvalidInputError(f"{file} holds pickled points, which are never read; give mem0's history.db")
        check_tables(file, held, TABLES, "mem0")
        newest: dict[str, Row] = {}
        for row in connection.execute("SELECT * FROM history ORDER BY rowid"):
            newest[str(row["memory_id"])] = row
        for key, row in newest.items():
            yield _read_memory(key, row)


def _read_memory(key: str, row: Row) -> Found:
    place, text = f"item {key[:200]!r}", row["new_memory"]
    if row["is_deleted"] or row["event"] == "DELETE":
        return Found(place, reason="deleted")
    if not isinstance(text, str) or not text.strip():
        return Found(place, reason="empty")
    columns = row.keys()
    actor = next((str(row[one]) for one in ("actor_id", "role") if one in columns and row[one]), None)
    time = row["updated_at"] or (row["created_at"] if "created_at" in columns else None)
    name = {"memory_id": key} if is_too_long(key) else {}
    return Found(
        place,
        {
            "key": encode_name(key),
            "text": text,
            "speaker": None if actor is None else encode_name(actor),
            "event_time": time,
            "metadata": {"source": "mem0", **name},
        },
    )
