"""Generations in SQLite."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from typing_extensions import override

from agent_memory.errors import StorageError
from agent_memory.reports import GenerationInfo, GenerationState
from agent_memory.storage.codec import DTYPES
from agent_memory.storage.records import Generation
from agent_memory.storage.spaces import Generations
from agent_memory.storage.sqlite.checksums import change, seal
from agent_memory.storage.sqlite.lazy import sa, tables
from agent_memory.storage.sqlite.slots import Group, Link, driver
from agent_memory.storage.sqlite.values import GENERATIONS, microseconds, read_row

if TYPE_CHECKING:
    from sqlalchemy import Row

_STALE = "another process has changed the store's generations"


def _get(connection: Link, generation_id: int) -> Generation:
    row = connection.execute(sa.select(tables.generations).where(tables.generations.c.id == generation_id)).first()
    if row is None:
        raise StorageError(f"generation {generation_id} is gone: {_STALE}")
    return _parse(row)


_LIVE = f"SELECT {', '.join(GENERATIONS)} FROM generations WHERE state = 'live'"


# Cached because every call reads the live generation first.
@lru_cache(maxsize=8, typed=True)
def _parse_live(*values: object) -> Generation:
    return _parse(read_row(GENERATIONS, values))


def _parse(row: Row[Any] | SimpleNamespace) -> Generation:
    try:
        tiers = tuple(int(tier) for tier in json.loads(row.tiers))
        encoder = dict(json.loads(row.encoder))
        session_encoder = None if row.session_encoder is None else dict(json.loads(row.session_encoder))
        began = microseconds(row.created_at)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StorageError(f"generation {row.id} is damaged: {error}") from error
    if row.dtype not in DTYPES or not tiers or tiers[-1] != row.dimension or sorted(set(tiers)) != list(tiers):
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


class SqliteGenerations(Group, Generations):
    """``Generations`` in SQLite."""

    @override
    def live(self) -> Generation | None:
        row = driver(self._connection).execute(_LIVE).fetchone()
        return None if row is None else _parse_live(*row)

    @override
    def begin(
        self,
        *,
        state: GenerationState,
        fingerprint: str,
        encoder: Mapping[str, Any],
        dimension: int,
        tiers: Sequence[int],
        dtype: str,
        session_encoder: Mapping[str, Any] | None,
        now: datetime,
        files: Mapping[str, bytes] | None = None,
    ) -> Generation:
        row = sa.insert(tables.generations).values(
            fingerprint=fingerprint,
            encoder=json.dumps(dict(encoder), sort_keys=True),
            dimension=dimension,
            tiers=json.dumps(list(tiers)),
            dtype=dtype,
            state=state,
            created_at=now,
            session_encoder=None if session_encoder is None else json.dumps(session_encoder, sort_keys=True),
        )
        generation_id = self._connection.execute(row.returning(tables.generations.c.id)).scalar_one()
        raw = driver(self._connection)
        seal(raw, "generations", "id = ?", (generation_id,))
        for name, content in (files or {}).items():
            self._connection.execute(
                sa.insert(tables.assets).values(generation_id=generation_id, name=name, content=content)
            )
        seal(raw, "assets", "generation_id = ?", (generation_id,))
        return _get(self._connection, generation_id)

    @override
    def find_in_state(self, *states: GenerationState) -> list[Generation]:
        order = (tables.generations.c.retired_at.desc().nulls_last(), tables.generations.c.id.desc())
        rows = self._connection.execute(
            sa.select(tables.generations).where(tables.generations.c.state.in_(states)).order_by(*order)
        )
        return [_parse(row) for row in rows]

    @override
    def list_all(self) -> list[GenerationInfo]:
        counts = sa.select(tables.vectors.c.generation_id, sa.func.count()).group_by(tables.vectors.c.generation_id)
        held = {row[0]: row[1] for row in self._connection.execute(counts)}
        found = []
        for row in self._connection.execute(sa.select(tables.generations).order_by(tables.generations.c.id)):
            generation = _parse(row)
            try:
                state = GenerationState(row.state)
            except ValueError as error:
                raise StorageError(f"generation {row.id} is damaged: {error}") from error
            found.append(
                GenerationInfo(
                    id=generation.id,
                    state=state,
                    encoder=str(generation.encoder.get("name")),
                    fingerprint=generation.fingerprint,
                    dimension=generation.dimension,
                    tiers=generation.tiers,
                    dtype=generation.dtype,
                    vectors=held.get(generation.id, 0),
                    created_at=row.created_at,
                    retired_at=row.retired_at,
                )
            )
        return found

    @override
    def read_file(self, generation_id: int, name: str) -> bytes | None:
        query = sa.select(tables.assets.c.content).where(
            tables.assets.c.generation_id == generation_id, tables.assets.c.name == name
        )
        content = self._connection.execute(query).scalar()
        return content if isinstance(content, bytes) else None

    @override
    def swap(self, target_id: int, now: datetime) -> None:
        raw = driver(self._connection)
        change(raw, "generations", "state = 'live'", (), {"state": GenerationState.FORMER, "retired_at": now})
        ready = "id = ? AND state IN ('building', 'former')"
        if change(raw, "generations", ready, (target_id,), {"state": GenerationState.LIVE, "retired_at": None}) != 1:
            raise StorageError(f"generation {target_id} cannot become live: {_STALE}")

    @override
    def condemn(self, generation_id: int) -> None:
        values = {"state": GenerationState.DROPPING}
        change(driver(self._connection), "generations", "id = ? AND state != 'live'", (generation_id,), values)

    @override
    def condemn_former(self, before: datetime) -> int:
        raw, values = driver(self._connection), {"state": GenerationState.DROPPING}
        return change(raw, "generations", "state = 'former' AND retired_at <= ?", (microseconds(before),), values)

    @override
    def list_condemned(self) -> list[int]:
        query = sa.select(tables.generations.c.id).where(tables.generations.c.state == GenerationState.DROPPING)
        return list(self._connection.execute(query).scalars())

    @override
    def drop_next(self, generation_id: int, after: int, limit: int) -> int | None:
        theirs = (tables.vectors.c.generation_id == generation_id) & (tables.vectors.c.entry_id > after)
        chosen = sa.select(tables.vectors.c.entry_id).where(theirs).order_by(tables.vectors.c.entry_id).limit(limit)
        ids = self._connection.execute(chosen).scalars().all()
        if ids:
            self._connection.execute(sa.delete(tables.vectors).where(theirs, tables.vectors.c.entry_id <= ids[-1]))
            return int(ids[-1])
        self._connection.execute(sa.delete(tables.assets).where(tables.assets.c.generation_id == generation_id))
        self._connection.execute(sa.delete(tables.generations).where(tables.generations.c.id == generation_id))
        return None
