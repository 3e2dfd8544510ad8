"""SQLite's statements in PostgreSQL's words.

Both back ends run the same statements, so that what they mean is written once. Where the engines spell something
otherwise, it is spelled here; what only one of them has is in a class of its own (``groups``).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from agent_memory.storage.sqlite.changes import LAST_NUMBER

_OWN = {LAST_NUMBER: "SELECT last_number(%s)"}
_LIST = r"\(SELECT value FROM json_each\(\?\)\)"
_KEYS = re.compile(rf"(\S*\bkey) IN {_LIST}")
_IDS = re.compile(rf"IN {_LIST}")
_ROWS = re.compile(r"SELECT value FROM json_each\(\?\)")
_IGNORE = re.compile(r"^INSERT OR IGNORE (INTO .*)$", re.DOTALL)
_REPLACE = re.compile(r"^(?:INSERT OR REPLACE|REPLACE) INTO (\w+)\s*(?:\(([^)]*)\))?(.*)$", re.DOTALL)
_LIMIT = re.compile(r"LIMIT \?")
_ROWID = re.compile(r"\browid\b")

KEYS = {"vectors": ("entry_id", "generation_id"), "passages": ("entry_id", "generation_id"), "meta": ("name",)}
"""Primary keys of the tables whose rows are replaced."""

PASSAGES = ("entry_id", "generation_id", "spans", "vectors", "checksum")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement for PostgreSQL.

    Attributes:
        sql: Its text, with ``%s`` for the values.
        before: What must run first, with as many of the first values as it takes; None for nothing.
        taken: How many that are.
    """

    sql: str
    before: str | None = None
    taken: int = 0


@lru_cache(maxsize=1024)
def translate(sql: str) -> Statement:
    """Return what a statement of SQLite is in PostgreSQL."""
    if sql in _OWN:
        return Statement(_OWN[sql])
    if (found := _REPLACE.match(sql)) is not None:
        return _translate_replace(found[1], found[2], found[3])
    if (found := _IGNORE.match(sql)) is not None:
        return Statement(f"INSERT {_spell(found[1])} ON CONFLICT DO NOTHING")
    return Statement(_spell(sql))


def _translate_replace(table: str, columns: str | None, rest: str) -> Statement:
    keys = KEYS[table]
    names = PASSAGES if columns is None else tuple(name.strip() for name in columns.split(","))
    insert = f"INSERT INTO {table} ({', '.join(names)}){_spell(rest)}"
    if table == "vectors":
        # SQLite deletes the row that is replaced, and with it the passages of the former text.
        gone = " AND ".join(f"{name} = %s" for name in keys)
        return Statement(insert, f"DELETE FROM {table} WHERE {gone}", len(keys))
    changed = ", ".join(f"{name} = excluded.{name}" for name in names if name not in keys)
    return Statement(f"{insert} ON CONFLICT ({', '.join(keys)}) DO UPDATE SET {changed}")


def _spell(sql: str) -> str:
    """Return a statement with PostgreSQL's placeholders, lists, limits and row numbers."""
    sql = sql.replace("%", "%%")
    # An array that is computed once lets the index be used.
    sql = _KEYS.sub(r"\1 = ANY(ARRAY(SELECT json_array_elements_text(?::json)))", sql)
    sql = _IDS.sub("= ANY(ARRAY(SELECT json_array_elements_text(?::json)::bigint))", sql)
    sql = _ROWS.sub("SELECT json_array_elements_text(?::json)::bigint", sql)
    sql = sql.replace("LIMIT -1 OFFSET", "OFFSET").replace(" IS NOT ?", " IS DISTINCT FROM ?")
    sql = sql.replace("FROM lexical_docsize WHERE id", "FROM lexical WHERE entry_id")
    sql = _LIMIT.sub("LIMIT nullif(?, -1)", sql)
    return _ROWID.sub("ctid", sql).replace("?", "%s")
