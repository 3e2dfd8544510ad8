"""Writing entries. Every function works inside a write transaction that the caller holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, bindparam, delete, insert, select, update

from agent_memory.errors import StorageError
from agent_memory.records import Entry, Namespace
from agent_memory.storage import lexical
from agent_memory.storage.entries import IN_LIST, encode_namespace
from agent_memory.storage.history import archive
from agent_memory.storage.schema import changes, entries, sessions, vectors


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A validated entry that is about to be written, with its encoded vector.

    Attributes:
        metadata: Canonical JSON.
        vector: Little-endian bytes in the generation's dtype, or None to keep the stored vector.
        evolved: The vector after the session encoder, likewise; None to leave it to a replay of the session.
        latents: What the entry adds to its session's latent memory.
    """

    key: str
    text: str
    namespace: Namespace
    session: str | None
    speaker: str | None
    metadata: str
    event_time: datetime
    expires_at: datetime | None
    importance: float | None
    vector: bytes | None
    evolved: bytes | None = None
    latents: bytes | None = None


@dataclass(frozen=True, slots=True)
class Written:
    """What was put.

    Attributes:
        entries: (id, entry), in the order given.
        dirty: The first entry whose evolved vector no longer holds, by session.
    """

    entries: list[tuple[int, Entry]]
    dirty: dict[int, int]


@dataclass(frozen=True, slots=True)
class Removed:
    """What was deleted.

    Attributes:
        keys: How many keys are gone.
        dirty: As for ``Written``.
    """

    keys: int
    dirty: dict[int, int]


def content_hash(text: str) -> bytes:
    """Return the 16 bytes by which duplicate text is found."""
    return hashlib.sha256(text.encode()).digest()[:16]


def put(
    connection: Connection,
    drafts: Sequence[Draft],
    generation_id: int,
    now: datetime,
    *,
    keep_versions: int,
) -> Written:
    """Insert drafts, or replace the entries that have their keys.

    A key that several drafts share ends as the last of them. What is replaced is archived under a new id; the current
    entry keeps its own, and thereby its place in its session.
    """
    places = [(encode_namespace(draft.namespace), draft.key) for draft in drafts]
    final = {place: draft for place, draft in zip(places, drafts, strict=True)}
    known = _known(connection, final)
    next_id = _last_number(connection, "entries") + 1
    ids = {place: known[place].id if place in known else next_id + offset for offset, place in enumerate(final)}
    seqs = log_changes(connection, list(ids.values()), "put")
    session_ids = _session_ids(connection, final.values(), seqs[-1] if seqs else 0, now)
    older = _older_twins(connection, final)
    fresh: list[dict[str, Any]] = []
    replaced: list[dict[str, Any]] = []
    blobs: list[dict[str, Any]] = []
    stored: dict[tuple[str, str], tuple[int, Entry]] = {}
    dirty: dict[int, int] = {}
    for (place, draft), seq in zip(final.items(), seqs, strict=True):
        former = known.get(place)
        reborn = former is None or (former.expires_at is not None and former.expires_at <= now)
        row = _row(draft, place[0], ids[place], session_ids, seq)
        row |= {"created_at": now if reborn or former is None else former.created_at, "updated_at": now}
        (fresh if former is None else replaced).append(row)
        if draft.vector is not None:
            blob = {"entry_id": row["id"], "generation_id": generation_id, "static": draft.vector}
            blobs.append(blob | {"evolved": draft.evolved, "latents": draft.latents})
        _note_sessions(dirty, former, row, draft)
        twin = older.get((place[0], row["content_hash"]))
        entry = _entry_of(draft, row["created_at"], now)
        stored[place] = row["id"], replace(entry, duplicate_of=twin if twin != draft.key else None)
    archive(connection, list(known.values()), next_id + len(final), now, keep=keep_versions)
    lexical.delete_rows(connection, [(row.id, lexical.terms(row.text, row.speaker)) for row in known.values()])
    _write(connection, fresh, replaced, blobs)
    rows = (*fresh, *replaced)
    lexical.insert_rows(connection, [(row["id"], lexical.terms(row["text"], row["speaker"])) for row in rows])
    _drop_empty_sessions(connection, {row.session_id for row in known.values()} - {None})
    return Written([stored[place] for place in places], dirty)


def _note_sessions(dirty: dict[int, int], former: Row[Any] | None, row: dict[str, Any], draft: Draft) -> None:
    """Note which sessions a put entry changes, and from where on."""
    touched = set()
    if former is None:
        touched = {row["session_id"]} if draft.evolved is None else set()
    elif draft.vector is not None or any(former._mapping[name] != row[name] for name in _SEEN):
        touched = {former.session_id, row["session_id"]}
    for session_id in touched - {None}:
        dirty[session_id] = min(dirty.get(session_id, row["id"]), row["id"])


_SEEN = ("session_id", "speaker", "text", "event_time")
"""What a session encoder sees of an entry, beside its vector."""


def _row(draft: Draft, namespace: str, entry_id: int, session_ids: dict[Any, int], seq: int) -> dict[str, Any]:
    return {
        "id": entry_id,
        "namespace": namespace,
        "key": draft.key,
        "session_id": None if draft.session is None else session_ids[namespace, draft.session],
        "speaker": draft.speaker,
        "text": draft.text,
        "metadata": draft.metadata,
        "event_time": draft.event_time,
        "expires_at": draft.expires_at,
        "importance": draft.importance,
        "content_hash": content_hash(draft.text),
        "seq": seq,
    }


def _entry_of(draft: Draft, created_at: datetime, updated_at: datetime) -> Entry:
    return Entry(
        key=draft.key,
        text=draft.text,
        namespace=draft.namespace,
        session=draft.session,
        speaker=draft.speaker,
        metadata=json.loads(draft.metadata),
        event_time=draft.event_time,
        created_at=created_at,
        updated_at=updated_at,
        expires_at=draft.expires_at,
        importance=draft.importance,
    )


_PUT_VECTOR = insert(vectors).prefix_with("OR REPLACE")
_DROP_OTHERS = delete(vectors).where(
    vectors.c.entry_id == bindparam("b_entry"), vectors.c.generation_id != bindparam("b_generation")
)
_REPLACE = update(entries).where(entries.c.id == bindparam("b_id"))


def _write(connection: Connection, fresh: list[Any], replaced: list[Any], blobs: list[Any]) -> None:
    if fresh:
        connection.execute(insert(entries), fresh)
    for row in replaced:
        values = {name: value for name, value in row.items() if name != "id"}
        connection.execute(_REPLACE.values(**values), {"b_id": row["id"]})
    if blobs:
        replace_vectors(connection, blobs)


def replace_vectors(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> None:
    """Store vectors of one generation; those that other generations hold of the entries are of a former text, and go.

    A generation that lacks a vector is how a re-index learns that it must catch up.
    """
    others = [{"b_entry": row["entry_id"], "b_generation": row["generation_id"]} for row in rows]
    connection.execute(_DROP_OTHERS, others)
    connection.execute(_PUT_VECTOR, rows)


_KNOWN = select(entries).where(
    entries.c.namespace == bindparam("namespace"),
    entries.c.key.in_(bindparam("keys", expanding=True)),
    entries.c.superseded_at.is_(None),
)


def _known(connection: Connection, places: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Row[Any]]:
    found = {}
    for namespace, keys in _grouped(places).items():
        for start in range(0, len(keys), IN_LIST):
            parameters = {"namespace": namespace, "keys": keys[start : start + IN_LIST]}
            for row in connection.execute(_KNOWN, parameters):
                found[row.namespace, row.key] = row
    return found


_TWINS = (
    select(entries.c.key, entries.c.content_hash)
    .where(
        entries.c.content_hash.in_(bindparam("hashes", expanding=True)),
        entries.c.namespace == bindparam("namespace"),
        entries.c.superseded_at.is_(None),
    )
    .order_by(entries.c.id.desc())
)


def _older_twins(connection: Connection, final: dict[tuple[str, str], Draft]) -> dict[tuple[str, bytes], str]:
    """Return the key of the oldest entry, stored or in this batch, by namespace and content hash."""
    hashes = [(namespace, content_hash(draft.text)) for (namespace, _), draft in final.items()]
    oldest = {}
    for place, (_, key) in zip(reversed(hashes), reversed(list(final)), strict=True):
        oldest[place] = key
    for namespace, wanted in _grouped(hashes).items():
        for start in range(0, len(wanted), IN_LIST):
            parameters = {"namespace": namespace, "hashes": wanted[start : start + IN_LIST]}
            for row in connection.execute(_TWINS, parameters):
                oldest[namespace, row.content_hash] = row.key
    return oldest


def _grouped(pairs: Iterable[tuple[str, Any]]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for name, value in pairs:
        groups.setdefault(name, []).append(value)
    return groups


def _session_ids(
    connection: Connection, drafts: Iterable[Draft], head_seq: int, now: datetime
) -> dict[tuple[str, str], int]:
    """Return the ids of the drafts' sessions, begun where new; their heads move to ``head_seq``."""
    found: dict[tuple[str, str], int] = {}
    for draft in drafts:
        if draft.session is None:
            continue
        place = encode_namespace(draft.namespace), draft.session
        if place in found:
            continue
        here = and_(sessions.c.namespace == place[0], sessions.c.name == place[1])
        head = update(sessions).where(here).values(head_seq=head_seq).returning(sessions.c.id)
        session_id = connection.execute(head).scalar()
        if session_id is None:
            begun = insert(sessions).values(namespace=place[0], name=place[1], created_at=now, head_seq=head_seq)
            session_id = connection.execute(begun.returning(sessions.c.id)).scalar_one()
        found[place] = session_id
    return found


def remove(connection: Connection, ids: Sequence[int]) -> Removed:
    """Delete entries with all their versions, vectors and words.

    Sessions that thereby become empty go too.
    """
    removed = 0
    dirty: dict[int, int] = {}
    for start in range(0, len(ids), IN_LIST):
        chosen, version = entries.alias(), entries.alias()
        same = and_(chosen.c.namespace == version.c.namespace, chosen.c.key == version.c.key)
        query = select(version).join(chosen, same).where(chosen.c.id.in_(ids[start : start + IN_LIST])).distinct()
        rows = connection.execute(query).all()
        indexed = [row for row in rows if row.superseded_at is None]
        lexical.delete_rows(connection, [(row.id, lexical.terms(row.text, row.speaker)) for row in indexed])
        gone = [row.id for row in rows]
        for part in range(0, len(gone), IN_LIST):
            connection.execute(delete(entries).where(entries.c.id.in_(gone[part : part + IN_LIST])))
        removed += len({(row.namespace, row.key) for row in rows})
        seqs = log_changes(connection, gone, "forget")
        session_ids = {row.session_id for row in rows} - {None}
        for row in indexed:
            if row.session_id is not None:
                dirty[row.session_id] = min(dirty.get(row.session_id, row.id), row.id)
        here = sessions.c.id.in_(session_ids)
        connection.execute(update(sessions).where(here).values(head_seq=max(seqs, default=0)))
        _drop_empty_sessions(connection, session_ids)
    return Removed(removed, dirty)


def mend(connection: Connection, texts: Mapping[int, tuple[str, bytes]], generation_id: int) -> None:
    """Store checksum and vector anew for entries whose text is given by id."""
    for entry_id, (text, vector) in texts.items():
        connection.execute(_REPLACE.values(content_hash=content_hash(text)), {"b_id": entry_id})
        row = {"entry_id": entry_id, "generation_id": generation_id, "static": vector}
        replace_vectors(connection, [row])
    log_changes(connection, list(texts), "put")


def _drop_empty_sessions(connection: Connection, session_ids: Iterable[int]) -> None:
    inhabited = select(entries.c.id).where(entries.c.session_id == sessions.c.id).exists()
    for session_id in session_ids:
        connection.execute(delete(sessions).where(sessions.c.id == session_id, ~inhabited))


def log_changes(connection: Connection, ids: Sequence[int], op: str) -> list[int]:
    """Append one change per entry id; returns their seq numbers."""
    first = _last_number(connection, "changes") + 1
    seqs = list(range(first, first + len(ids)))
    rows = [{"seq": seq, "entry_id": entry_id, "op": op} for seq, entry_id in zip(seqs, ids, strict=True)]
    if rows:
        connection.execute(insert(changes), rows)
    return seqs


def _last_number(connection: Connection, table: str) -> int:
    # AUTOINCREMENT keeps this above every number ever used, so that a forgotten number never comes back.
    query = "SELECT seq FROM sqlite_sequence WHERE name = ?"
    number = connection.exec_driver_sql(query, (table,)).scalar() or 0
    if not isinstance(number, int) or not 0 <= number < _LAST_NUMBER:
        raise StorageError(f"the store is damaged: {table} are counted up to {str(number)[:40]!r}")
    return number


_LAST_NUMBER = 2**62
