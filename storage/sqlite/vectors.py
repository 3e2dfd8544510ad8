"""Stored vectors in SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.storage.codec import DTYPES
from agent_memory.storage.records import LATER, Generation, StoredText
from agent_memory.storage.spaces import Vectors
from agent_memory.storage.sqlite.checksums import checksum_evolved, checksum_static
from agent_memory.storage.sqlite.entries import IN_LIST
from agent_memory.storage.sqlite.slots import Group, driver
from agent_memory.storage.sqlite.values import read_integer, read_text
from agent_memory.types import IdArray

_LENGTH_TOLERANCE = 0.01  # half precision rounds each component by up to 0.05 %
_READ = 2_000  # vectors per step when a whole generation is read


_STATIC = "SELECT entry_id, static FROM vectors"
_SEARCHED = "SELECT entry_id, coalesce(evolved, static) FROM vectors"
_WHOLE = f"generation_id = ? AND length(static) > {len(LATER)}"
_AMONG = "entry_id IN (SELECT value FROM json_each(?))"
_STATIC_BY_IDS = f"{_STATIC} WHERE {_WHOLE} AND {_AMONG}"
_BY_IDS = f"{_SEARCHED} WHERE {_WHOLE} AND {_AMONG}"
_CURRENT = f"{_SEARCHED} JOIN entries ON id = entry_id WHERE {_WHOLE} AND superseded_at IS NULL"
_CURRENT_BY_IDS = f"{_CURRENT} AND {_AMONG}"
_CURRENT_PAGE = f"{_CURRENT} AND entry_id > ? ORDER BY entry_id LIMIT ?"
_CURRENT_IDS = f"SELECT entry_id FROM ({_CURRENT}) ORDER BY entry_id"

_Row = tuple[Any, Any]
"""Id of an entry and its vector, as SQLite has them."""


def _parse_matrix(rows: Sequence[_Row], generation: Generation) -> tuple[IdArray, npt.NDArray[Any]]:
    dtype = DTYPES[generation.dtype]
    size_bytes = generation.vector_bytes
    for entry_id, vector in rows:
        if not isinstance(vector, bytes) or len(vector) != size_bytes:
            raise StorageError(
                f"the stored vector of entry {entry_id} is damaged (not {size_bytes} bytes); "
                "run check with repair to encode it again"
            )
    ids = np.fromiter((read_integer(row[0]) for row in rows), dtype=np.int64, count=len(rows))
    matrix = np.frombuffer(b"".join(row[1] for row in rows), dtype=dtype)
    return ids, matrix.reshape(len(rows), generation.dimension)


_MISSING = (
    "SELECT id, text, seq FROM entries WHERE NOT EXISTS "
    "(SELECT 1 FROM vectors WHERE entry_id = entries.id AND generation_id = ?)"
)
_MISSING_AFTER = f"{_MISSING} AND id > ? ORDER BY id LIMIT ?"
_MISSING_AMONG = f"{_MISSING} AND id IN (SELECT value FROM json_each(?)) ORDER BY id"
_TEXTS = "SELECT id, text, seq FROM entries WHERE id IN (SELECT value FROM json_each(?)) ORDER BY id"


_STORE = (
    "INSERT OR IGNORE INTO vectors (entry_id, generation_id, static, checksum) "
    "SELECT id, ?, ?, ? FROM entries WHERE id = ? AND seq = ?"
)


_READ_ROWS = (
    "SELECT entry_id, static, evolved, latents, checksum, evolved_checksum FROM vectors "
    "WHERE generation_id = ? AND entry_id IN (SELECT value FROM json_each(?))"
)
_COPY = (
    "INSERT OR IGNORE INTO vectors (entry_id, generation_id, static, evolved, latents, checksum, evolved_checksum) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)


_STATICS = (
    "SELECT entry_id, static, checksum FROM vectors WHERE generation_id = ? "
    "AND entry_id IN (SELECT value FROM json_each(?))"
)


_AWAITED = "vectors_awaited"
_BLANK = (
    "SELECT entry_id, static FROM vectors "
    "WHERE generation_id = ? AND length(static) <= ? AND entry_id IN (SELECT value FROM json_each(?))"
)
_COUNT_BLANK = (
    "SELECT count(*) FROM vectors JOIN entries ON id = entry_id "
    "WHERE generation_id = ? AND length(static) <= ? AND superseded_at IS NULL"
)
_LATER_AFTER = (
    "SELECT id, text, seq FROM entries JOIN vectors ON entry_id = id "
    "WHERE generation_id = ? AND entry_id > ? AND static = ? ORDER BY entry_id LIMIT ?"
)
_FILL_IN = (
    "UPDATE vectors SET static = ?, checksum = ? WHERE entry_id = ? AND generation_id = ? AND static = ? "
    "AND EXISTS (SELECT 1 FROM entries WHERE id = entry_id AND seq = ?)"
)


class SqliteVectors(Group, Vectors):
    """``Vectors`` in SQLite."""

    @override
    def read(
        self,
        generation: Generation,
        ids: Sequence[int] | IdArray,
        *,
        former: bool = False,
        static: bool = False,
    ) -> tuple[IdArray, npt.NDArray[Any]]:
        query = _STATIC_BY_IDS if static else _BY_IDS if former else _CURRENT_BY_IDS
        return _parse_matrix(self._read_rows(query, generation, ids), generation)

    def _read_rows(self, query: str, generation: Generation, ids: Sequence[int] | IdArray) -> list[_Row]:
        rows: list[_Row] = []
        for start in range(0, len(ids), IN_LIST):
            chunk = json.dumps([int(entry_id) for entry_id in ids[start : start + IN_LIST]])
            rows += driver(self._connection).execute(query, (generation.id, chunk)).fetchall()
        return rows

    def _read_texts(self, query: str, *given: object) -> list[StoredText]:
        rows = driver(self._connection).execute(query, given).fetchall()
        return [StoredText(read_integer(number), read_text(text), read_integer(seq)) for number, text, seq in rows]

    @override
    def sample_ids(self, generation: Generation, count: int) -> list[int]:
        raw = driver(self._connection)
        largest = read_integer(raw.execute("SELECT coalesce(max(id), 0) FROM entries").fetchone()[0])
        if largest <= count:
            return [read_integer(row[0]) for row in raw.execute(_CURRENT_IDS, (generation.id,)).fetchall()]
        found = set()
        for part in range(count):
            row = raw.execute(_CURRENT_PAGE, (generation.id, part * largest // count, 1)).fetchone()
            if row is not None:
                found.add(int(row[0]))
        return sorted(found)

    @override
    def read_all(self, generation: Generation) -> Iterator[tuple[IdArray, npt.NDArray[Any]]]:
        after = 0
        while True:
            rows = driver(self._connection).execute(_CURRENT_PAGE, (generation.id, after, _READ)).fetchall()
            if not rows:
                return
            yield _parse_matrix(rows, generation)
            after = rows[-1][0]

    @override
    def find_faults(self, generation: Generation, ids: Sequence[int]) -> dict[int, str]:
        blank = self.find_blank(generation, ids)
        wrong = {entry_id: "missing" for entry_id in ids if entry_id not in blank}
        for row in self._read_rows(_STATIC_BY_IDS, generation, ids):
            entry_id = row[0]
            del wrong[entry_id]
            try:
                _, matrix = _parse_matrix([row], generation)
            except StorageError:
                wrong[entry_id] = "of a wrong length"
                continue
            with np.errstate(invalid="ignore"):  # damaged numbers may be infinite or none at all
                length = float(np.linalg.norm(matrix.astype(np.float64)))
            if not abs(length - 1) < _LENGTH_TOLERANCE:
                wrong[entry_id] = f"not of unit length ({length:g})"
        return wrong

    @override
    def find_blank(self, generation: Generation, ids: Sequence[int]) -> dict[int, bytes]:
        rows = driver(self._connection).execute(_BLANK, (generation.id, len(LATER), json.dumps([int(n) for n in ids])))
        return dict(rows.fetchall())

    @override
    def count_blank(self, generation: Generation) -> int:
        rows = driver(self._connection).execute(_COUNT_BLANK, (generation.id, len(LATER)))
        return int(rows.fetchone()[0])

    @override
    def await_later(self) -> None:
        driver(self._connection).execute("INSERT OR IGNORE INTO meta (name, value) VALUES (?, '1')", (_AWAITED,))

    @override
    def is_awaiting(self) -> bool:
        found = driver(self._connection).execute("SELECT value FROM meta WHERE name = ?", (_AWAITED,)).fetchone()
        return found is not None

    @override
    def select_later(self, generation: Generation, *, after: int, limit: int) -> list[StoredText]:
        return self._read_texts(_LATER_AFTER, generation.id, after, LATER, limit)

    @override
    def fill_in(self, generation: Generation, rows: Iterable[tuple[StoredText, bytes]]) -> list[int]:
        raw, filled = driver(self._connection), []
        for entry, static in rows:
            total = checksum_static(entry.id, generation.id, static)
            values = (static, total, entry.id, generation.id, LATER, entry.seq)
            if raw.execute(_FILL_IN, values).rowcount:
                filled.append(entry.id)
        return filled

    @override
    def end_waiting(self, generation: Generation) -> bool:
        if self.select_later(generation, after=0, limit=1):
            return False
        driver(self._connection).execute("DELETE FROM meta WHERE name = ?", (_AWAITED,))
        return True

    @override
    def select_missing(self, generation_id: int, *, after: int, limit: int | None) -> list[StoredText]:
        return self._read_texts(_MISSING_AFTER, generation_id, after, -1 if limit is None else limit)

    @override
    def select_missing_among(self, generation_id: int, ids: Sequence[int]) -> list[StoredText]:
        found: list[StoredText] = []
        for start in range(0, len(ids), IN_LIST):
            chunk = json.dumps([int(one) for one in ids[start : start + IN_LIST]])
            found += self._read_texts(_MISSING_AMONG, generation_id, chunk)
        return found

    @override
    def select_texts(self, ids: Sequence[int]) -> list[StoredText]:
        return self._read_texts(_TEXTS, json.dumps(list(ids)))

    @override
    def store(self, generation_id: int, rows: Iterable[tuple[StoredText, bytes]]) -> None:
        values = (
            (generation_id, static, checksum_static(entry.id, generation_id, static), entry.id, entry.seq)
            for entry, static in rows
        )
        driver(self._connection).executemany(_STORE, values)

    @override
    def copy(self, source: Generation, target: Generation, ids: Sequence[int]) -> None:
        same = source.session_encoder == target.session_encoder
        raw, copies = driver(self._connection), []
        for entry_id, static, evolved, latents, total, evolved_total in raw.execute(
            _READ_ROWS, (source.id, json.dumps(list(ids)))
        ):
            if total != checksum_static(entry_id, source.id, static) or static == LATER:
                continue  # damaged, or not there yet: without a copy it is encoded again
            if not same or evolved_total != checksum_evolved(entry_id, source.id, evolved, latents):
                evolved = latents = None
            sums = checksum_static(entry_id, target.id, static), checksum_evolved(entry_id, target.id, evolved, latents)
            copies.append((entry_id, target.id, static, evolved, latents, *sums))
        raw.executemany(_COPY, copies)

    @override
    def read_stored(self, generation: Generation, ids: Sequence[int]) -> dict[int, bytes]:
        rows = driver(self._connection).execute(_STATICS, (generation.id, json.dumps(list(ids))))
        return {
            entry_id: static
            for entry_id, static, total in rows
            if isinstance(static, bytes)
            and len(static) == generation.vector_bytes
            and total == checksum_static(entry_id, generation.id, static)
        }
