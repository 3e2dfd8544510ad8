"""All rows of a store, from one database to another: the columns are the same on every engine, checksums included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from agent_memory.storage.sqlite.changes import last_number
from agent_memory.storage.sqlite.slots import Link, driver

PAGE_ROWS = 500

TABLES: dict[str, tuple[str, ...]] = {
    "sessions": ("id", "namespace", "name", "created_at", "head_seq"),
    "entries": (
        *("id", "namespace", "key", "session_id", "speaker", "text", "metadata", "event_time", "created_at"),
        *("updated_at", "expires_at", "importance", "content_hash", "seq", "superseded_at", "checksum"),
    ),
    "mentions": ("entry_id", "start", "stop"),
    "generations": (
        *("id", "fingerprint", "encoder", "dimension", "tiers", "dtype", "state", "created_at", "session_encoder"),
        *("retired_at", "checksum"),
    ),
    "assets": ("generation_id", "name", "content", "checksum"),
    "vectors": ("entry_id", "generation_id", "static", "evolved", "latents", "checksum", "evolved_checksum"),
    "passages": ("entry_id", "generation_id", "spans", "vectors", "checksum"),
    "changes": ("seq", "entry_id", "op"),
    "erasures": (
        *("id", "token", "store_id", "made_at", "selection", "digest", "ids", "facts", "deferred", "finished_at"),
    ),
}
"""What is copied, in the order of its references; ``superseded_by``, which may refer to any row, is linked last."""

PLANS: dict[str, tuple[str, ...]] = {
    "jobs": ("id", "kind", "state", "progress", "error", "created_at", "updated_at", "finished_at"),
    "queries": ("id", "namespace", "asked_at", "k", "fingerprint", "dtype", "vector", "digest", "text"),
    "schedules": (*("name", "kind", "trigger", "options", "paused", "created_at", "last_run_at", "seal", "checksum"),),
    "copies": ("path", "kind", "made_at", "last_id"),
}
"""What a store does beside remembering."""

_KEYS = {
    "mentions": ("entry_id", "start", "stop"),
    "assets": ("generation_id", "name"),
    "vectors": ("entry_id", "generation_id"),
    "passages": ("entry_id", "generation_id"),
    "changes": ("seq",),
    "schedules": ("name",),
    "copies": ("path",),
}
_NOTES = ("mentions", "vectors_awaited", "store_id")  # in ``meta``: all but how words are written

Row = Sequence[Any]


def _key_of(table: str) -> tuple[str, ...]:
    return _KEYS.get(table, ("id",))


def list_columns(names: Sequence[str]) -> str:
    """Return column names as SQL."""
    return ", ".join(f'"{name}"' for name in names)


def read_pages(source: Link, table: str, columns: Sequence[str]) -> Iterator[list[Row]]:
    """Yield a table's rows in steps, in the order of its primary key."""
    after: Row | None = None
    key = _key_of(table)
    marks = ", ".join("?" * len(key))
    names = list_columns((*key, *columns))
    while True:
        where, given = ("", ()) if after is None else (f"WHERE ({list_columns(key)}) > ({marks})", tuple(after))
        query = f'SELECT {names} FROM "{table}" {where} ORDER BY {list_columns(key)} LIMIT ?'
        page = driver(source).execute(query, (*given, PAGE_ROWS)).fetchall()
        if not page:
            return
        yield [row[len(key) :] for row in page]
        after = page[-1][: len(key)]


def insert_page(target: Link, table: str, columns: Sequence[str], page: Sequence[Row]) -> None:
    """Write rows as they are."""
    marks = ", ".join("?" * len(columns))
    driver(target).executemany(f'INSERT INTO "{table}" ({list_columns(columns)}) VALUES ({marks})', page)


def link_versions(source: Link, write: Callable[[Sequence[Row]], object]) -> None:
    """Read what superseded what, in steps, and hand over (superseding id, superseded id)."""
    for page in read_pages(source, "entries", ("superseded_by", "id")):
        linked = [row for row in page if row[0] is not None]
        if linked:
            write(linked)


LINK = "UPDATE entries SET superseded_by = ? WHERE id = ?"


def copy_notes(source: Link, target: Link) -> None:
    """Copy the rows of ``meta`` that go with the entries, the store's id among them."""
    for name in _NOTES:
        row = driver(source).execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is not None:
            driver(target).execute("REPLACE INTO meta (name, value) VALUES (?, ?)", (name, row[0]))


def read_numbers(source: Link) -> dict[str, int]:
    """Return the highest numbers of entries and changes that a store has ever used."""
    return {table: last_number(source, table) for table in ("entries", "changes")}


def count_rows(link: Link, tables: Sequence[str]) -> dict[str, int]:
    """Return how many rows tables have."""
    return {table: int(driver(link).execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]) for table in tables}
