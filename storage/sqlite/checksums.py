"""Checksums of rows: bit rot in any column of what is kept for long is found by ``check``.

A checksum is the CRC-32 of a row's columns. Every flipped bit, and every burst of up to 32, changes it; for a
vector it takes a tenth of the time of BLAKE2b, and need not withstand forgery: whoever can write the file can write
checksums as well. Vectors have two, since evolved vectors are written again and again beside a static one that stays.

A row that is changed keeps its damage on record (``carry``): nothing but writing it in full makes it sound again.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent_memory.storage.sqlite.driver import sqlite3
from agent_memory.storage.sqlite.values import microseconds

if TYPE_CHECKING:
    from agent_memory.storage.sqlite.slots import Raw

COVERED: dict[tuple[str, str], tuple[str, ...]] = {
    ("entries", "checksum"): (
        *("namespace", "key", "session_id", "speaker", "text", "metadata", "event_time", "expires_at", "importance"),
        *("content_hash", "seq", "created_at", "updated_at", "id", "superseded_at", "superseded_by"),
    ),
    ("vectors", "checksum"): ("entry_id", "generation_id", "static"),
    ("vectors", "evolved_checksum"): ("entry_id", "generation_id", "evolved", "latents"),
    ("passages", "checksum"): ("entry_id", "generation_id", "spans", "vectors"),
    ("generations", "checksum"): (
        *("id", "fingerprint", "encoder", "dimension", "tiers", "dtype", "state", "created_at", "session_encoder"),
        "retired_at",
    ),
    ("assets", "checksum"): ("generation_id", "name", "content"),
    ("schedules", "checksum"): (
        *("name", "kind", "trigger", "options", "paused", "created_at", "last_run_at", "seal"),
    ),
}
"""The columns that each checksum is over, by table and column of the checksum; tests hold them to the schema."""


BLOBS = {
    ("vectors", "checksum"): 1,
    ("vectors", "evolved_checksum"): 2,
    ("passages", "checksum"): 2,
    ("assets", "checksum"): 1,
}
"""How many of the last columns under a checksum are long."""


def checksum(values: Sequence[object], blobs: int = 0) -> int:
    """Return the CRC-32 of a row's values, as SQLite returns them: integers, floats, text, bytes, None.

    Args:
        values: The values.
        blobs: How many of the last ones are long, and not to be spelled out.
    """
    # Not repr: which characters that escapes depends on the version of Python.
    if not blobs:
        return zlib.crc32(ascii(tuple(values)).encode("ascii"))
    total, sizes = 0, []
    for value in values[-blobs:]:
        if isinstance(value, bytes):
            total = zlib.crc32(value, total)
            sizes.append((len(value),))
        else:
            sizes.append((str(value), type(value).__name__))  # type: ignore[arg-type]
    return zlib.crc32(ascii((*values[:-blobs], sizes)).encode("ascii"), total)


def checksum_static(entry_id: int, generation_id: int, static: bytes | None) -> int:
    """Return the checksum of a static vector."""
    return checksum((entry_id, generation_id, static), 1)


def checksum_evolved(entry_id: int, generation_id: int, evolved: bytes | None, latents: bytes | None) -> int | None:
    """Return the checksum of what a session encoder made; None if there is nothing of it."""
    if evolved is None and latents is None:
        return None
    return checksum((entry_id, generation_id, evolved, latents), 2)


def checksum_passages(entry_id: int, generation_id: int, spans: bytes, vectors: bytes) -> int:
    """Return the checksum of what stands for the passages of a text."""
    return checksum((entry_id, generation_id, spans, vectors), 2)


def carry(stored: int | None, before: Sequence[object], after: Sequence[object]) -> int | None:
    """Return the checksum of a changed row: right if the one before was right, else still wrong."""
    return None if stored is None else stored ^ checksum(before) ^ checksum(after)


def stored_values(columns: Iterable[str], row: Mapping[str, Any]) -> list[object]:
    """Return the values of a row as SQLite holds them."""
    return [_plain(row[name]) for name in columns]


_PLAIN = frozenset((str, int, float, bytes, type(None)))


def _plain(value: object) -> object:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, datetime):
        return microseconds(value)
    return str(value) if isinstance(value, str) else int(value) if isinstance(value, bool) else value


def change(
    raw: sqlite3.Connection, table: str, where: str, given: Sequence[object], values: Mapping[str, object]
) -> int:
    """Set columns of the rows that satisfy an SQL condition, with their checksums; returns how many they are."""
    columns = COVERED[table, "checksum"]
    names = ", ".join(f'"{name}"' for name in columns)
    plain = {name: _plain(value) for name, value in values.items()}
    setting = ", ".join(f'"{name}" = ?' for name in plain)
    found = raw.execute(f'SELECT rowid, checksum, {names} FROM "{table}" WHERE {where}', tuple(given)).fetchall()
    for rowid, stored, *before in found:
        after = [plain.get(name, value) for name, value in zip(columns, before, strict=True)]
        total = carry(stored, before, after)
        raw.execute(f'UPDATE "{table}" SET {setting}, checksum = ? WHERE rowid = ?', (*plain.values(), total, rowid))
    return len(found)


def seal(raw: sqlite3.Connection, table: str, where: str, given: Sequence[object]) -> None:
    """Give the rows that satisfy an SQL condition, and were just written in full, their checksums."""
    columns, blobs = COVERED[table, "checksum"], BLOBS.get((table, "checksum"), 0)
    names = ", ".join(f'"{name}"' for name in columns)
    found = raw.execute(f'SELECT rowid, {names} FROM "{table}" WHERE {where}', tuple(given)).fetchall()
    for rowid, *values in found:
        raw.execute(
            f'UPDATE "{table}" SET checksum = ? WHERE rowid = ?',
            (checksum(values, blobs), rowid),
        )


def find_altered(raw: Raw, table: str, column: str) -> Iterator[tuple[object, ...]]:
    """Yield the covered columns of each row whose checksum does not fit; reads the whole table."""
    columns, blobs = COVERED[table, column], BLOBS.get((table, column), 0)
    names = ", ".join(f'"{name}"' for name in columns)
    empty = [None] * 2 if column == "evolved_checksum" else []
    with exact_text(raw):
        for stored, *values in raw.stream(f'SELECT "{column}", {names} FROM "{table}"'):
            if empty and values[2:] == empty:
                sound = stored is None
            else:
                sound = stored == checksum(values, blobs)
            if not sound:
                yield tuple(values)


@contextmanager
def exact_text(raw: sqlite3.Connection) -> Iterator[None]:
    """Let text that is no UTF-8 any more be read."""
    former = raw.text_factory
    raw.text_factory = lambda data: data.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        raw.text_factory = former
