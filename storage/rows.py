"""All rows of a store, from one database to another: the columns are the same on every engine, checksums included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from agent_memory.errors import UnfinishedCopyError
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
Keyed = tuple[tuple[Any, ...], tuple[Any, ...]]

MARK = "copying "
"""What the revision of a store begins with while rows are copied into it: no version opens it meanwhile."""


def _key_of(table: str) -> tuple[str, ...]:
    return _KEYS.get(table, ("id",))


def list_columns(names: Sequence[str]) -> str:
    """Return column names as SQL."""
    return ", ".join(f'"{name}"' for name in names)


def read_keyed(source: Link, table: str, columns: Sequence[str]) -> Iterator[list[Keyed]]:
    """Yield a table's rows with their primary keys in steps, in the order of the keys."""
    after: Row | None = None
    while page := _read_page(source, table, columns, after):
        yield page
        after = page[-1][0]


def _read_page(source: Link, table: str, columns: Sequence[str], after: Row | None) -> list[Keyed]:
    key = _key_of(table)
    where, given = ("", ()) if after is None else (f"WHERE {_compare(key, '>')}", tuple(after))
    query = f'SELECT {list_columns((*key, *columns))} FROM "{table}" {where} ORDER BY {list_columns(key)} LIMIT ?'
    return _split(driver(source).execute(query, (*given, PAGE_ROWS)).fetchall(), key)


def _compare(key: Sequence[str], sign: str) -> str:
    return f"({list_columns(key)}) {sign} ({', '.join('?' * len(key))})"


def _split(found: Sequence[Row], key: Sequence[str]) -> list[Keyed]:
    return [(tuple(row[: len(key)]), tuple(row[len(key) :])) for row in found]


def read_pages(source: Link, table: str, columns: Sequence[str]) -> Iterator[list[Row]]:
    """Yield a table's rows in steps, in the order of its primary key."""
    for page in read_keyed(source, table, columns):
        yield [row for _, row in page]


def read_keyed_apart(
    begin: Callable[[], AbstractContextManager[Link]], table: str, columns: Sequence[str]
) -> Iterator[list[Keyed]]:
    """Yield rows as ``read_keyed`` does, each step of a transaction of its own: rows may be deleted in between."""
    after: Row | None = None
    while True:
        with begin() as link:
            page = _read_page(link, table, columns, after)
        if not page:
            return
        yield page
        after = page[-1][0]


def read_between(link: Link, table: str, columns: Sequence[str], first: Row, last: Row) -> list[Keyed]:
    """Return the rows from one primary key to another, both included."""
    key = _key_of(table)
    query = (
        f'SELECT {list_columns((*key, *columns))} FROM "{table}" WHERE {_compare(key, ">=")} AND {_compare(key, "<=")}'
    )
    return _split(driver(link).execute(query, (*first, *last)).fetchall(), key)


def delete_keys(target: Link, table: str, keys: Sequence[Row]) -> None:
    """Delete the rows of some primary keys, and what refers to them."""
    driver(target).executemany(f'DELETE FROM "{table}" WHERE {_compare(_key_of(table), "=")}', keys)


def merge_page(target: Link, table: str, columns: Sequence[str], page: Sequence[Row]) -> None:
    """Write rows as they are, over those of the same primary keys."""
    key = _key_of(table)
    changed = ", ".join(f'"{name}" = excluded."{name}"' for name in columns if name not in key)
    marks = ", ".join("?" * len(columns))
    driver(target).executemany(
        f'INSERT INTO "{table}" ({list_columns(columns)}) VALUES ({marks}) '
        f"ON CONFLICT ({list_columns(key)}) DO UPDATE SET {changed}",
        page,
    )


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


def read_notes(link: Link) -> dict[str, Any]:
    """Return the rows of ``meta`` that go with the entries, the store's id among them, by name."""
    found = {}
    for name in _NOTES:
        row = driver(link).execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        if row is not None:
            found[name] = row[0]
    return found


def write_notes(link: Link, notes: Mapping[str, Any]) -> None:
    """Put rows into ``meta``, in place of those of the same names."""
    for name, value in notes.items():
        driver(link).execute("REPLACE INTO meta (name, value) VALUES (?, ?)", (name, value))


def read_numbers(source: Link) -> dict[str, int]:
    """Return the highest numbers of entries and changes that a store has ever used."""
    return {table: last_number(source, table) for table in ("entries", "changes")}


def count_rows(link: Link, tables: Sequence[str]) -> dict[str, int]:
    """Return how many rows tables have."""
    return {table: int(driver(link).execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]) for table in tables}


def write_revision(link: Link, revision: str) -> None:
    """Set the revision of a store's schema."""
    driver(link).execute("UPDATE alembic_version SET version_num = ?", (revision,))


def refuse_unfinished(revision: object, name: object) -> None:
    """Raise UnfinishedCopyError if that is the revision of a store that rows are being copied into."""
    if isinstance(revision, str) and revision.startswith(MARK):
        raise UnfinishedCopyError(
            f"{name} is an unfinished copy of another store; run the same copy again to finish it, or delete it"
        )
