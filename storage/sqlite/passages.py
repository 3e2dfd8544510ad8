"""Stored vectors of passages in SQLite: one row for all passages of an entry in a generation."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.storage.codec import DTYPES
from agent_memory.storage.records import Generation, ReadPassages, StoredPassages, StoredVectors
from agent_memory.storage.spaces import Passages
from agent_memory.storage.sqlite.checksums import checksum_passages
from agent_memory.storage.sqlite.driver import sqlite3
from agent_memory.storage.sqlite.slots import Group, driver
from agent_memory.types import IdArray

_NUMBER = np.dtype("<u4")
SPAN_BYTES = 2 * _NUMBER.itemsize
_PAGE = 200  # entries per step when a whole generation is read

# Of the same static vector only: another one stands for another text.
_PUT = (
    "INSERT OR REPLACE INTO passages (entry_id, generation_id, spans, vectors, checksum) "
    "SELECT entry_id, generation_id, ?, ?, ? FROM vectors WHERE entry_id = ? AND generation_id = ? AND static = ?"
)
_COLUMNS = "entry_id, passages.spans, passages.vectors, static, evolved"
_FROM = "FROM passages JOIN vectors USING (entry_id, generation_id)"
_CURRENT = "EXISTS (SELECT 1 FROM entries WHERE id = entry_id AND superseded_at IS NULL)"
_AMONG = "entry_id IN (SELECT value FROM json_each(?))"
_READ_FORMER = f"SELECT {_COLUMNS} {_FROM} WHERE generation_id = ? AND {_AMONG} ORDER BY entry_id"
_READ = f"SELECT {_COLUMNS} {_FROM} WHERE generation_id = ? AND {_AMONG} AND {_CURRENT} ORDER BY entry_id"
_READ_PAGE = (
    f"SELECT {_COLUMNS} {_FROM} WHERE generation_id = ? AND entry_id > ? AND {_CURRENT} ORDER BY entry_id LIMIT ?"
)
_STORED = f"SELECT entry_id, generation_id, spans, vectors, checksum FROM passages WHERE generation_id = ? AND {_AMONG}"
_STATICS = f"SELECT entry_id, static FROM vectors WHERE generation_id = ? AND {_AMONG}"
_COUNT = f"SELECT coalesce(sum(length(spans) / {SPAN_BYTES}), 0) FROM passages WHERE generation_id = ? AND {_CURRENT}"


def put_passages(raw: sqlite3.Connection, generation_id: int, rows: Iterable[tuple[int, StoredVectors]]) -> None:
    """See ``Passages.put``."""
    for entry_id, found in rows:
        if found.passages is not None:
            spans = np.array(found.passages.spans, _NUMBER).tobytes()
            total = checksum_passages(entry_id, generation_id, spans, found.passages.vectors)
            raw.execute(_PUT, (spans, found.passages.vectors, total, entry_id, generation_id, found.static))


def copy_passages(raw: sqlite3.Connection, generation_id: int, copy_ids: Mapping[int, int]) -> None:
    """Copy the passages of entries to copies of them, by the entries' ids; damaged ones are left out."""
    for row in raw.execute(_STORED, (generation_id, json.dumps(list(copy_ids)))).fetchall():
        if row[4] == checksum_passages(*row[:4]):
            copy_id = copy_ids[row[0]]
            total = checksum_passages(copy_id, generation_id, *row[2:4])
            raw.execute("INSERT OR REPLACE INTO passages VALUES (?, ?, ?, ?, ?)", (copy_id, *row[1:4], total))


def _parse_spans(entry_id: int, spans: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(spans, bytes) or len(spans) % SPAN_BYTES or not spans:
        raise _damaged(entry_id)
    found = tuple((start, stop) for start, stop in np.frombuffer(spans, _NUMBER).reshape(-1, 2).tolist())
    if any(start >= stop for start, stop in found):
        raise _damaged(entry_id)
    return found


def _damaged(entry_id: int) -> StorageError:
    return StorageError(
        f"the stored passages of entry {entry_id} are damaged; run check with repair to encode them again"
    )


def _parse(row: Sequence[Any], generation: Generation) -> ReadPassages:
    entry_id, spans, vectors, static, evolved = row
    found, size = _parse_spans(entry_id, spans), generation.vector_bytes
    if not isinstance(vectors, bytes) or len(vectors) != len(found) * size:
        raise _damaged(entry_id)
    if any(not isinstance(one, bytes) or len(one) != size for one in (static, evolved) if one is not None):
        raise StorageError(
            f"the stored vector of entry {entry_id} is damaged (not {size} bytes); "
            "run check with repair to encode it again"
        )
    matrix = np.frombuffer(vectors, DTYPES[generation.dtype]).astype(np.float32)
    return ReadPassages(
        entry_id=entry_id,
        spans=found,
        vectors=matrix.reshape(len(found), generation.dimension),
        static=generation.from_bytes(static),
        evolved=None if evolved is None else generation.from_bytes(evolved),
    )


class SqlitePassages(Group, Passages):
    """``Passages`` in SQLite."""

    @override
    def put(self, generation_id: int, rows: Iterable[tuple[int, StoredVectors]]) -> None:
        put_passages(driver(self._connection), generation_id, rows)

    @override
    def read(self, generation: Generation, ids: Sequence[int] | IdArray, *, former: bool = False) -> list[ReadPassages]:
        given = json.dumps([int(entry_id) for entry_id in ids])
        rows = driver(self._connection).execute(_READ_FORMER if former else _READ, (generation.id, given))
        return [_parse(row, generation) for row in rows]

    @override
    def read_all(self, generation: Generation) -> Iterator[list[ReadPassages]]:
        after = 0
        while rows := driver(self._connection).execute(_READ_PAGE, (generation.id, after, _PAGE)).fetchall():
            yield [_parse(row, generation) for row in rows]
            after = rows[-1][0]

    @override
    def read_stored(self, generation: Generation, ids: Sequence[int]) -> dict[int, StoredPassages | None]:
        found: dict[int, StoredPassages | None] = {}
        for row in driver(self._connection).execute(_STORED, (generation.id, json.dumps(list(ids)))):
            entry_id, _, spans, vectors, total = row
            sound = isinstance(spans, bytes) and isinstance(vectors, bytes) and total == checksum_passages(*row[:4])
            found[entry_id] = StoredPassages(_parse_spans(entry_id, spans), vectors) if sound else None
        return found

    @override
    def copy(self, source: Generation, target: Generation, ids: Sequence[int]) -> None:
        raw = driver(self._connection)
        found = {number: one for number, one in self.read_stored(source, ids).items() if one is not None}
        if not found:
            return
        statics = raw.execute(_STATICS, (target.id, json.dumps(list(found)))).fetchall()
        put_passages(raw, target.id, ((number, StoredVectors(static, found[number])) for number, static in statics))

    @override
    def count(self, generation: Generation) -> int:
        return int(driver(self._connection).execute(_COUNT, (generation.id,)).fetchone()[0])
