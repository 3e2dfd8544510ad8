"""What only PostgreSQL needs when rows come from another database."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psycopg

from agent_memory.errors import InvalidInputError
from agent_memory.storage import rows
from agent_memory.storage.postgres.driver import check_names, check_nul
from agent_memory.storage.sqlite.slots import Link
from agent_memory.storage.sqlite.values import decode_namespace

_IDENTITIES = ("sessions", "generations", "jobs", "queries", "erasures")
_TEXTS = {
    "sessions": ("name", "namespace"),
    "entries": ("key", "namespace", "speaker", "text", "metadata"),
    "queries": ("text", "namespace"),
}


def set_numbers(raw: psycopg.Connection[Any], numbers: Mapping[str, int]) -> None:
    """Make row numbers go on behind those that were used in the database that the rows are from."""
    for table, number in numbers.items():
        raw.execute("UPDATE totals SET value = %s WHERE name = %s", (number, table))
    for table in _IDENTITIES:
        raw.execute(
            f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), coalesce(max(id), 1), max(id) IS NOT NULL) "
            f"FROM {table}"
        )


def check_storable(source: Link) -> None:
    """Raise InvalidInputError if a text of a store holds the character NUL; it says which row."""
    for table, columns in _TEXTS.items():
        for page in rows.read_keyed(source, table, columns):
            for (number,), values in page:
                try:
                    given = dict(zip(columns, values, strict=True))
                    json = given.pop("metadata", None)
                    check_names(decode_namespace(given["namespace"]), given.get("key"), given.get("name"))
                    check_nul(*given.values(), json=json)
                except InvalidInputError as error:
                    raise InvalidInputError(f"{table} {number} ({str(values[0])[:60]!r}): {error}") from error
