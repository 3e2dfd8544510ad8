"""Generations beside the live one: begun, filled, swapped in, kept for a while, collected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Integer, LargeBinary, bindparam, column, delete, func, insert, select, text, update

from agent_memory.errors import StorageError
from agent_memory.reports import GenerationInfo, GenerationState
from agent_memory.storage.sqlite.entries import IN_LIST
from agent_memory.storage.sqlite.schema import assets, entries, generations, vectors
from agent_memory.storage.sqlite.vectors import Generation, generation_of

_STALE = "the store's generations have changed meanwhile"


@dataclass(frozen=True, slots=True)
class Lacking:
    """An entry that has no vector in a generation, as it was when it was read.

    Attributes:
        seq: The change that wrote it; a vector is stored only if it still is the last one.
    """

    id: int
    text: str
    seq: int


def begin(
    connection: Connection,
    *,
    fingerprint: str,
    encoder: Mapping[str, Any],
    dimension: int,
    tiers: Sequence[int],
    dtype: str,
    now: datetime,
    files: Mapping[str, bytes],
    session_encoder: Mapping[str, Any] | None,
) -> Generation:
    """Record a generation that is about to be built, with the files that its encoder needs."""
    row = insert(generations).values(
        fingerprint=fingerprint,
        encoder=json.dumps(dict(encoder), sort_keys=True),
        dimension=dimension,
        tiers=json.dumps(list(tiers)),
        dtype=dtype,
        state=GenerationState.BUILDING,
        created_at=now,
        session_encoder=None if session_encoder is None else json.dumps(session_encoder, sort_keys=True),
    )
    generation_id = connection.execute(row.returning(generations.c.id)).scalar_one()
    for name, content in files.items():
        connection.execute(insert(assets).values(generation_id=generation_id, name=name, content=content))
    return by_id(connection, generation_id)


def by_id(connection: Connection, generation_id: int) -> Generation:
    """Return a generation; raises StorageError if it is gone or damaged."""
    row = connection.execute(select(generations).where(generations.c.id == generation_id)).first()
    if row is None:
        raise StorageError(f"generation {generation_id} is gone: {_STALE}")
    return generation_of(row)


def in_state(connection: Connection, *states: GenerationState) -> list[Generation]:
    """Return the generations in the given states; the one retired, or else begun, last comes first."""
    order = (generations.c.retired_at.desc(), generations.c.id.desc())
    rows = connection.execute(select(generations).where(generations.c.state.in_(states)).order_by(*order))
    return [generation_of(row) for row in rows]


def listed(connection: Connection) -> list[GenerationInfo]:
    """Return facts about every generation, the oldest first."""
    counts = select(vectors.c.generation_id, func.count()).group_by(vectors.c.generation_id)
    held = {row[0]: row[1] for row in connection.execute(counts)}
    found = []
    for row in connection.execute(select(generations).order_by(generations.c.id)):
        generation = generation_of(row)
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


def asset(connection: Connection, generation_id: int, name: str) -> bytes | None:
    """Return a file that belongs to a generation, or None."""
    query = select(assets.c.content).where(assets.c.generation_id == generation_id, assets.c.name == name)
    content = connection.execute(query).scalar()
    return content if isinstance(content, bytes) else None


_HELD = select(vectors.c.entry_id).where(
    vectors.c.entry_id == entries.c.id, vectors.c.generation_id == bindparam("generation")
)
_LACKING = select(entries.c.id, entries.c.text, entries.c.seq).where(~_HELD.exists()).order_by(entries.c.id)
_LACKING_AFTER = _LACKING.where(entries.c.id > bindparam("after")).limit(bindparam("most"))
_LACKING_AMONG = _LACKING.where(entries.c.id.in_(bindparam("ids", expanding=True)))


def lacking(connection: Connection, generation_id: int, *, after: int, limit: int) -> list[Lacking]:
    """Return entries, former versions included, that have no vector in a generation, by id."""
    parameters = {"generation": generation_id, "after": after, "most": limit}
    return [Lacking(*row) for row in connection.execute(_LACKING_AFTER, parameters)]


def lacking_among(connection: Connection, generation_id: int, ids: Sequence[int]) -> list[Lacking]:
    """Return those of the given entries that exist and have no vector in a generation, by id."""
    found: list[Lacking] = []
    for start in range(0, len(ids), IN_LIST):
        parameters = {"generation": generation_id, "ids": [int(one) for one in ids[start : start + IN_LIST]]}
        found += [Lacking(*row) for row in connection.execute(_LACKING_AMONG, parameters)]
    return found


def among(connection: Connection, ids: Sequence[int]) -> list[Lacking]:
    """Return those of the given entries that exist, whether they have a vector or not."""
    query = select(entries.c.id, entries.c.text, entries.c.seq).where(entries.c.id.in_(list(ids)))
    return [Lacking(*row) for row in connection.execute(query)]


_STORE = text(
    "INSERT OR IGNORE INTO vectors (entry_id, generation_id, static) "
    "SELECT id, :generation, :static FROM entries WHERE id = :id AND seq = :seq"
)


def store(connection: Connection, generation_id: int, rows: Iterable[tuple[Lacking, bytes]]) -> None:
    """Store vectors of entries that have not changed since they were read; those of others are dropped."""
    values = [
        {"generation": generation_id, "id": entry.id, "seq": entry.seq, "static": static} for entry, static in rows
    ]
    if values:
        connection.execute(_STORE, values)


_COPY = text(
    "INSERT OR IGNORE INTO vectors (entry_id, generation_id, static, evolved, latents) "
    "SELECT entry_id, :target, static, iif(:all, evolved, NULL), iif(:all, latents, NULL) FROM vectors "
    "WHERE generation_id = :source AND entry_id IN (SELECT value FROM json_each(:ids))"
)


def copy(connection: Connection, source: Generation, target: Generation, ids: Sequence[int]) -> None:
    """Copy what one generation holds of entries to another of the same embedding space.

    What sessions made of them is copied if both have the same session encoder.
    """
    same = source.session_encoder == target.session_encoder
    connection.execute(_COPY, {"source": source.id, "target": target.id, "ids": json.dumps(list(ids)), "all": same})


_STATICS = text(
    "SELECT entry_id, static FROM vectors WHERE generation_id = :generation "
    "AND entry_id IN (SELECT value FROM json_each(:ids))"
).columns(column("entry_id", Integer), column("static", LargeBinary))


def statics(connection: Connection, generation: Generation, ids: Sequence[int], size_bytes: int) -> dict[int, bytes]:
    """Return the stored vectors of entries by id, former versions included; those of a wrong length are left out."""
    rows = connection.execute(_STATICS, {"generation": generation.id, "ids": json.dumps(list(ids))})
    return {row[0]: row[1] for row in rows if isinstance(row[1], bytes) and len(row[1]) == size_bytes}


def swap(connection: Connection, target_id: int, now: datetime) -> None:
    """Make a generation the live one, and the live one a former one, in the caller's transaction."""
    live = update(generations).where(generations.c.state == GenerationState.LIVE)
    connection.execute(live.values(state=GenerationState.FORMER, retired_at=now))
    ready = (GenerationState.BUILDING, GenerationState.FORMER)
    target = update(generations).where(generations.c.id == target_id, generations.c.state.in_(ready))
    if connection.execute(target.values(state=GenerationState.LIVE, retired_at=None)).rowcount != 1:
        raise StorageError(f"generation {target_id} cannot become live: {_STALE}")


def condemn(connection: Connection, generation_id: int) -> None:
    """Mark a generation that is not live for deletion."""
    row = update(generations).where(generations.c.id == generation_id, generations.c.state != GenerationState.LIVE)
    connection.execute(row.values(state=GenerationState.DROPPING))


def condemn_former(connection: Connection, before: datetime) -> int:
    """Mark former generations that were retired before a moment for deletion; returns how many."""
    state, retired = generations.c.state, generations.c.retired_at
    row = update(generations).where(state == GenerationState.FORMER, retired <= before)
    return int(connection.execute(row.values(state=GenerationState.DROPPING)).rowcount)


def condemned(connection: Connection) -> list[int]:
    """Return the numbers of the generations that are marked for deletion."""
    query = select(generations.c.id).where(generations.c.state == GenerationState.DROPPING)
    return list(connection.execute(query).scalars())


def drop_some(connection: Connection, generation_id: int, after: int, limit: int) -> int | None:
    """Delete a generation's next vectors behind an entry id; returns the last one's, None once all is gone."""
    theirs = (vectors.c.generation_id == generation_id) & (vectors.c.entry_id > after)
    some = select(vectors.c.entry_id).where(theirs).order_by(vectors.c.entry_id).limit(limit)
    ids = connection.execute(some).scalars().all()
    if ids:
        connection.execute(delete(vectors).where(theirs, vectors.c.entry_id <= ids[-1]))
        return int(ids[-1])
    connection.execute(delete(assets).where(assets.c.generation_id == generation_id))
    connection.execute(delete(generations).where(generations.c.id == generation_id))
    return None
