"""Stored vectors in SQLite."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sqlalchemy import Row, Select, bindparam, func, select, text
from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.storage.codec import DTYPES
from agent_memory.storage.records import LATER, Generation, StoredText
from agent_memory.storage.spaces import Vectors
from agent_memory.storage.sqlite.checksums import checksum_evolved, checksum_static
from agent_memory.storage.sqlite.entries import IN_LIST
from agent_memory.storage.sqlite.schema import HAS_VECTOR, entries, meta, vectors
from agent_memory.storage.sqlite.slots import Group, driver
from agent_memory.types import IdArray

_LENGTH_TOLERANCE = 0.01  # half precision rounds each component by up to 0.05 %
_READ = 2_000  # vectors per step when a whole generation is read


_HERE = vectors.c.generation_id == bindparam("generation")
_AMONG = vectors.c.entry_id.in_(bindparam("ids", expanding=True))
_STATIC_BY_IDS = select(vectors.c.entry_id, vectors.c.static.label("vector")).where(_HERE, HAS_VECTOR, _AMONG)
_SEARCHED = select(vectors.c.entry_id, func.coalesce(vectors.c.evolved, vectors.c.static).label("vector"))
_SEARCHED = _SEARCHED.where(_HERE, HAS_VECTOR)
_BY_IDS = _SEARCHED.where(_AMONG)
_CURRENT = _SEARCHED.join(entries).where(entries.c.superseded_at.is_(None))
_CURRENT_BY_IDS = _CURRENT.where(vectors.c.entry_id.in_(bindparam("ids", expanding=True)))
_CURRENT_PAGE = _CURRENT.where(vectors.c.entry_id > bindparam("after")).order_by(vectors.c.entry_id).limit(_READ)


def _parse_matrix(rows: Sequence[Any], generation: Generation) -> tuple[IdArray, npt.NDArray[Any]]:
    dtype = DTYPES[generation.dtype]
    size_bytes = generation.vector_bytes
    for row in rows:
        if not isinstance(row.vector, bytes) or len(row.vector) != size_bytes:
            raise StorageError(
                f"the stored vector of entry {row.entry_id} is damaged (not {size_bytes} bytes); "
                "run check with repair to encode it again"
            )
    ids = np.fromiter((row.entry_id for row in rows), dtype=np.int64, count=len(rows))
    matrix = np.frombuffer(b"".join(row.vector for row in rows), dtype=dtype)
    return ids, matrix.reshape(len(rows), generation.dimension)


_HELD = select(vectors.c.entry_id).where(
    vectors.c.entry_id == entries.c.id, vectors.c.generation_id == bindparam("generation")
)
_MISSING = select(entries.c.id, entries.c.text, entries.c.seq).where(~_HELD.exists()).order_by(entries.c.id)
_MISSING_AFTER = _MISSING.where(entries.c.id > bindparam("after")).limit(bindparam("most"))
_MISSING_AMONG = _MISSING.where(entries.c.id.in_(bindparam("ids", expanding=True)))


_TEXTS = (
    select(entries.c.id, entries.c.text, entries.c.seq)
    .where(text("entries.id IN (SELECT value FROM json_each(:ids))"))
    .order_by(entries.c.id)
)


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
    select(entries.c.id, entries.c.text, entries.c.seq)
    .join(vectors, vectors.c.entry_id == entries.c.id)
    .where(_HERE, vectors.c.entry_id > bindparam("after"), vectors.c.static == bindparam("later"))
    .order_by(vectors.c.entry_id)
    .limit(bindparam("most"))
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

    def _read_rows(self, query: Select[Any], generation: Generation, ids: Sequence[int] | IdArray) -> list[Row[Any]]:
        rows: list[Row[Any]] = []
        for start in range(0, len(ids), IN_LIST):
            chunk = [int(entry_id) for entry_id in ids[start : start + IN_LIST]]
            rows += self._connection.execute(query, {"generation": generation.id, "ids": chunk})
        return rows

    @override
    def sample_ids(self, generation: Generation, count: int) -> list[int]:
        largest = self._connection.execute(select(func.coalesce(func.max(entries.c.id), 0))).scalar_one()
        if largest <= count:
            query = _CURRENT.with_only_columns(vectors.c.entry_id).order_by(vectors.c.entry_id)
            return list(self._connection.execute(query, {"generation": generation.id}).scalars())
        found = set()
        for part in range(count):
            page = {"generation": generation.id, "after": part * largest // count}
            row = self._connection.execute(_CURRENT_PAGE.limit(1), page).first()
            if row is not None:
                found.add(int(row.entry_id))
        return sorted(found)

    @override
    def read_all(self, generation: Generation) -> Iterator[tuple[IdArray, npt.NDArray[Any]]]:
        after = 0
        while True:
            page = {"generation": generation.id, "after": after}
            rows = self._connection.execute(_CURRENT_PAGE, page).all()
            if not rows:
                return
            yield _parse_matrix(rows, generation)
            after = rows[-1].entry_id

    @override
    def find_faults(self, generation: Generation, ids: Sequence[int]) -> dict[int, str]:
        blank = self.find_blank(generation, ids)
        wrong = {entry_id: "missing" for entry_id in ids if entry_id not in blank}
        for row in self._read_rows(_STATIC_BY_IDS, generation, ids):
            del wrong[row.entry_id]
            try:
                _, matrix = _parse_matrix([row], generation)
            except StorageError:
                wrong[row.entry_id] = "of a wrong length"
                continue
            with np.errstate(invalid="ignore"):  # damaged numbers may be infinite or none at all
                length = float(np.linalg.norm(matrix.astype(np.float64)))
            if not abs(length - 1) < _LENGTH_TOLERANCE:
                wrong[row.entry_id] = f"not of unit length ({length:g})"
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
        return self._connection.execute(select(meta.c.value).where(meta.c.name == _AWAITED)).first() is not None

    @override
    def select_later(self, generation: Generation, *, after: int, limit: int) -> list[StoredText]:
        parameters = {"generation": generation.id, "after": after, "later": LATER, "most": limit}
        return [StoredText(*row) for row in self._connection.execute(_LATER_AFTER, parameters)]

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
        parameters = {"generation": generation_id, "after": after, "most": -1 if limit is None else limit}
        return [StoredText(*row) for row in self._connection.execute(_MISSING_AFTER, parameters)]

    @override
    def select_missing_among(self, generation_id: int, ids: Sequence[int]) -> list[StoredText]:
        found: list[StoredText] = []
        for start in range(0, len(ids), IN_LIST):
            parameters = {"generation": generation_id, "ids": [int(one) for one in ids[start : start + IN_LIST]]}
            found += [StoredText(*row) for row in self._connection.execute(_MISSING_AMONG, parameters)]
        return found

    @override
    def select_texts(self, ids: Sequence[int]) -> list[StoredText]:
        rows = self._connection.execute(_TEXTS, {"ids": json.dumps(list(ids))})
        return [StoredText(*row) for row in rows]

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
