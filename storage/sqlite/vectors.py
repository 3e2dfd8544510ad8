"""Generations, their stored vectors, and the change log that indexes catch up with."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection, Row, bindparam, func, insert, select

from agent_memory.errors import StorageError
from agent_memory.storage.sqlite.database import driver
from agent_memory.storage.sqlite.entries import IN_LIST
from agent_memory.storage.sqlite.schema import changes, checked_row, entries, generations, microseconds, vectors
from agent_memory.types import IdArray

_DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
_LENGTH_TOLERANCE = 0.01  # half precision rounds each component by up to 0.05 %
_READ = 2_000  # vectors a step while a whole generation is read


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One embedding space of a store.

    Attributes:
        id: Row number.
        fingerprint: The encoder's.
        encoder: Facts about the encoder, for messages.
        dimension: Native dimension of the vectors.
        tiers: Ascending prefix dimensions; the last is ``dimension``.
        dtype: Stored number format, ``float16`` or ``float32``.
        session_encoder: Facts about the session encoder; None if vectors are not evolved.
        identity: Tells this generation of this store from every other, in names of index files.
    """

    id: int
    fingerprint: str
    encoder: Mapping[str, Any]
    dimension: int
    tiers: tuple[int, ...]
    dtype: Literal["float16", "float32"]
    session_encoder: Mapping[str, Any] | None
    identity: str

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return _DTYPES[self.dtype].itemsize

    def to_bytes(self, matrix: npt.NDArray[np.float32]) -> list[bytes]:
        """Return the stored form of vectors, shape (n, dimension)."""
        return [row.tobytes() for row in matrix.astype(_DTYPES[self.dtype])]

    def from_bytes(self, blob: bytes) -> npt.NDArray[np.float32]:
        """Return the vector of a stored form, shape (dimension,).

        Raises:
            StorageError: It has another length than the generation says.
        """
        if len(blob) != self.dimension * self.itemsize:
            raise StorageError(f"a stored vector is damaged (not {self.dimension * self.itemsize} bytes)")
        return from_stored(blob, self.dtype)


def as_stored(matrix: npt.NDArray[np.float32], dtype: str) -> npt.NDArray[Any]:
    """Return vectors in a stored number format, little-endian."""
    return matrix.astype(_DTYPES[dtype])


def from_stored(blob: bytes, dtype: str) -> npt.NDArray[np.float32]:
    """Return the vector of bytes in a stored number format, shape (dimension,)."""
    return np.frombuffer(blob, _DTYPES[dtype]).astype(np.float32)


def live_generation(connection: Connection) -> Generation | None:
    """Return the generation that recall answers from, or None before the first write.

    Raises:
        StorageError: The row is damaged.
    """
    row = driver(connection).execute(_LIVE).fetchone()
    return None if row is None else _parsed(*row)


_LIVE = f"SELECT {', '.join(column.name for column in generations.c)} FROM generations WHERE state = 'live'"


# Every call of every kind asks for the live generation first.
@lru_cache(maxsize=8, typed=True)
def _parsed(*values: object) -> Generation:
    return generation_of(checked_row(generations.c, values))


def generation_of(row: Row[Any] | SimpleNamespace) -> Generation:
    """Return the generation that a row of the table describes; raises StorageError if it is damaged."""
    try:
        tiers = tuple(int(tier) for tier in json.loads(row.tiers))
        encoder = dict(json.loads(row.encoder))
        session_encoder = None if row.session_encoder is None else dict(json.loads(row.session_encoder))
        began = microseconds(row.created_at)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StorageError(f"generation {row.id} is damaged: {error}") from error
    if row.dtype not in _DTYPES or not tiers or tiers[-1] != row.dimension or sorted(set(tiers)) != list(tiers):
        raise StorageError(f"generation {row.id} is damaged: {row.dtype}, {row.dimension} dimensions, {tiers}")
    return Generation(
        id=row.id,
        fingerprint=row.fingerprint,
        encoder=encoder,
        dimension=row.dimension,
        tiers=tiers,
        dtype=row.dtype,
        session_encoder=session_encoder,
        identity=f"{row.id}-{row.fingerprint}-{began}",
    )


def begin_generation(
    connection: Connection,
    *,
    fingerprint: str,
    encoder: Mapping[str, Any],
    dimension: int,
    tiers: Sequence[int],
    dtype: str,
    session_encoder: Mapping[str, Any] | None,
    now: datetime,
) -> Generation:
    """Record the embedding space of a store that has none yet."""
    connection.execute(
        insert(generations).values(
            fingerprint=fingerprint,
            encoder=json.dumps(encoder, sort_keys=True),
            dimension=dimension,
            tiers=json.dumps(list(tiers)),
            dtype=dtype,
            state="live",
            created_at=now,
            session_encoder=None if session_encoder is None else json.dumps(session_encoder, sort_keys=True),
        )
    )
    begun = live_generation(connection)
    if begun is None:
        raise StorageError("the new generation cannot be read back")
    return begun


def last_seq(connection: Connection) -> int:
    """Return the number of the store's latest change; 0 if there was none."""
    return int(driver(connection).execute("SELECT coalesce(max(seq), 0) FROM changes").fetchone()[0])


_SINCE = select(changes.c.entry_id).where(changes.c.seq > bindparam("seq")).distinct()


def log_reaches_back_to(connection: Connection, seq: int) -> bool:
    """Return whether the change log still holds every change after a number; maintenance drops the oldest."""
    first = first_seq(connection)
    return first is None or first <= seq + 1


def first_seq(connection: Connection) -> int | None:
    """Return the number of the oldest change in the log; None if there is none."""
    first = driver(connection).execute("SELECT min(seq) FROM changes").fetchone()[0]
    return None if first is None else int(first)


def changed_since(connection: Connection, seq: int) -> IdArray:
    """Return the ids of the entries put or forgotten after a change number, shape (n,)."""
    ids = connection.execute(_SINCE, {"seq": seq}).scalars().all()
    return np.array(ids, dtype=np.int64)


_HERE = vectors.c.generation_id == bindparam("generation")
_AMONG = vectors.c.entry_id.in_(bindparam("ids", expanding=True))
_STATIC_BY_IDS = select(vectors.c.entry_id, vectors.c.static.label("vector")).where(_HERE, _AMONG)
_SEARCHED = select(vectors.c.entry_id, func.coalesce(vectors.c.evolved, vectors.c.static).label("vector")).where(_HERE)
_BY_IDS = _SEARCHED.where(_AMONG)
_CURRENT = _SEARCHED.join(entries).where(entries.c.superseded_at.is_(None))
_CURRENT_BY_IDS = _CURRENT.where(vectors.c.entry_id.in_(bindparam("ids", expanding=True)))
_CURRENT_PAGE = _CURRENT.where(vectors.c.entry_id > bindparam("after")).order_by(vectors.c.entry_id).limit(_READ)


def read_vectors(
    connection: Connection,
    generation: Generation,
    ids: Sequence[int] | IdArray,
    *,
    former: bool = False,
    static: bool = False,
) -> tuple[IdArray, npt.NDArray[Any]]:
    """Return the vectors of the given entries that are searched: evolved where there are such, else static.

    Args:
        connection: A transaction.
        generation: The embedding space.
        ids: Entries; superseded ones are left out.
        former: True to read the vectors of superseded entries too.
        static: True for the static vectors, superseded entries included.

    Returns:
        Ids found, shape (n,), and their vectors in the generation's dtype, shape (n, dimension).

    Raises:
        StorageError: A stored vector has another length than the generation says.
    """
    rows: list[Any] = []
    query = _STATIC_BY_IDS if static else _BY_IDS if former else _CURRENT_BY_IDS
    for start in range(0, len(ids), IN_LIST):
        chunk = [int(entry_id) for entry_id in ids[start : start + IN_LIST]]
        rows += connection.execute(query, {"generation": generation.id, "ids": chunk})
    return _matrix(rows, generation)


def sample_ids(connection: Connection, generation: Generation, count: int) -> list[int]:
    """Return about so many ids of current entries with a vector, spread over the store."""
    largest = connection.execute(select(func.coalesce(func.max(entries.c.id), 0))).scalar_one()
    if largest <= count:
        query = _CURRENT.with_only_columns(vectors.c.entry_id).order_by(vectors.c.entry_id)
        return list(connection.execute(query, {"generation": generation.id}).scalars())
    found = set()
    for part in range(count):
        page = {"generation": generation.id, "after": part * largest // count}
        row = connection.execute(_CURRENT_PAGE.limit(1), page).first()
        if row is not None:
            found.add(int(row.entry_id))
    return sorted(found)


def all_vectors(connection: Connection, generation: Generation) -> Iterator[tuple[IdArray, npt.NDArray[Any]]]:
    """Yield the vectors of all current entries in steps, by ascending entry id; shapes as read_vectors.

    Raises:
        StorageError: A stored vector has another length than the generation says.
    """
    after = 0
    while True:
        page = {"generation": generation.id, "after": after}
        rows = connection.execute(_CURRENT_PAGE, page).all()
        if not rows:
            return
        yield _matrix(rows, generation)
        after = rows[-1].entry_id


def _matrix(rows: Sequence[Any], generation: Generation) -> tuple[IdArray, npt.NDArray[Any]]:
    dtype = _DTYPES[generation.dtype]
    size_bytes = generation.dimension * dtype.itemsize
    for row in rows:
        if not isinstance(row.vector, bytes) or len(row.vector) != size_bytes:
            raise StorageError(
                f"the stored vector of entry {row.entry_id} is damaged (not {size_bytes} bytes); "
                "run check with repair to encode it again"
            )
    ids = np.fromiter((row.entry_id for row in rows), dtype=np.int64, count=len(rows))
    matrix = np.frombuffer(b"".join(row.vector for row in rows), dtype=dtype)
    return ids, matrix.reshape(len(rows), generation.dimension)


def unusable_vectors(connection: Connection, generation: Generation, ids: Sequence[int]) -> dict[int, str]:
    """Return what is wrong with the vectors of the given entries, by entry id; sound ones are left out."""
    rows = connection.execute(_STATIC_BY_IDS, {"generation": generation.id, "ids": list(ids)}).all()
    wrong = dict.fromkeys(ids, "missing")
    for row in rows:
        del wrong[row.entry_id]
        try:
            _, matrix = _matrix([row], generation)
        except StorageError:
            wrong[row.entry_id] = "of a wrong length"
            continue
        length = float(np.linalg.norm(matrix.astype(np.float64)))
        if not abs(length - 1) < _LENGTH_TOLERANCE:
            wrong[row.entry_id] = f"not of unit length ({length:g})"
    return wrong
