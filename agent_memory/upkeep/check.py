"""What ``check`` looks for and mends, and what ``stats`` counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from agent_memory.errors import StorageError
from agent_memory.live.index import Accept, LiveIndex
from agent_memory.live.sessions import Sessions
from agent_memory.reports import Report, Stats
from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite import lexical, writes
from agent_memory.storage.sqlite import sessions as session_rows
from agent_memory.storage.sqlite import vectors as generations
from agent_memory.storage.sqlite.database import Connection, Database
from agent_memory.types import FloatArray, Namespace

_PAGE = 500
_EDITED = "the text differs from its checksum"

Encode = Callable[[list[str]], FloatArray]


def stats(connection: Connection, namespace: Namespace, folder: Path, live_index: LiveIndex) -> Stats:
    """Return the facts that ``Memory.stats`` promises."""
    generation = generations.live_generation(connection)
    now = datetime.now(UTC)
    live = reading.matching(namespace, now)
    alive = reading.count(connection, live)
    namespaces, texts = reading.count_distinct(connection, live)
    index = live_index.stats()
    return Stats(
        entries=alive,
        expired=reading.count(connection, reading.expired(namespace, now)),
        duplicates=alive - texts,
        sessions=len(reading.list_sessions(connection, live)),
        namespaces=namespaces,
        seq=generations.last_seq(connection),
        encoder=None if generation is None else str(generation.encoder.get("name")),
        session_encoder=None if generation is None else (generation.session_encoder or {}).get("name"),
        fingerprint=None if generation is None else generation.fingerprint,
        tiers=() if generation is None else generation.tiers,
        database_bytes=_size_bytes(folder.glob("memory.db*")),
        snapshot_bytes=_size_bytes((folder / "index").rglob("*")),
        index={} if index is None else asdict(index),
    )


def _size_bytes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # another process has just replaced it
            continue
    return total


def check(
    database: Database, live_index: LiveIndex, *, accept: Accept, sessions: Sessions, encode: Encode, repair: bool
) -> Report:
    """Look through a store and mend what can be mended; see ``Memory.check``."""
    problems: list[str] = []
    repaired: list[str] = []
    try:
        with database.read() as connection:
            problems += _database_faults(connection)
            total = reading.count(connection, reading.in_namespace(()))
        damaged = _damaged_entries(database)
    except StorageError as error:
        return Report(entries=0, problems=(*problems, str(error)))
    problems += damaged.values()
    if repair and damaged:
        _encode_again(database, sorted(damaged), encode, accept)
        repaired += damaged.values()
    edited = any(line.endswith(_EDITED) for line in damaged.values())
    words, mended = _word_faults(database, problems, repair=repair, anew=edited)
    problems += words
    repaired += [fault for fault in mended if fault not in repaired]
    if sessions.encoder is not None:
        found = _session_faults(database, accept, sessions, repair=repair, again=sorted(damaged))
        problems += found
        repaired += found if repair else ()
    if set(problems) <= set(repaired):
        with database.read() as connection:
            faults = live_index.faults(connection, accept)
        problems += faults
        if repair and faults:
            with database.read() as connection:
                live_index.start_over(connection, accept)
            repaired += faults
    return Report(entries=total, problems=tuple(problems), repaired=tuple(repaired))


def _word_faults(database: Database, before: list[str], *, repair: bool, anew: bool) -> tuple[list[str], list[str]]:
    """Return what is wrong with the full-text index, and which faults, of the database too, are no more.

    Args:
        database: The store.
        before: Faults found so far; newer versions of SQLite name a damaged full-text index among the database's.
        repair: True to mend it.
        anew: True to index all words anew in any case: texts were edited behind its back.
    """
    found = _compared_words(database)
    if not repair or not (found or anew):
        return found, []
    try:
        with database.write() as connection:
            lexical.rebuild(connection)
    except StorageError:
        with database.write() as connection:
            lexical.rebuild(connection, unreadable=True)
    with database.read() as connection:
        left = _database_faults(connection)
    left += _compared_words(database)
    return found, [fault for fault in (*before, *found) if fault not in left]


def _compared_words(database: Database) -> list[str]:
    try:
        with database.read() as connection:
            return lexical.faults(connection)
    except StorageError as error:
        return [f"full-text index: {error}"]


def _database_faults(connection: Connection) -> list[str]:
    faults = [
        f"database: {line}" for line in connection.exec_driver_sql("PRAGMA integrity_check").scalars() if line != "ok"
    ]
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return faults + [f"database: row {row[1]} of {row[0]} refers to a missing row of {row[2]}" for row in broken]


def _damaged_entries(database: Database) -> dict[int, str]:
    """Return a sentence for each entry whose text or vector is not what was written, by entry id."""
    damaged: dict[int, str] = {}
    after_id = 0
    while True:
        with database.read() as connection:
            generation = generations.live_generation(connection)
            page = reading.select_texts(connection, after_id=after_id, limit=_PAGE)
            if not page or generation is None:
                return damaged
            ids = [entry_id for entry_id, _, _, _ in page]
            unusable = generations.unusable_vectors(connection, generation, ids)
        for entry_id, key, text, fingerprint in page:
            if writes.content_hash(text) != fingerprint:
                damaged[entry_id] = f"entry {key!r}: {_EDITED}"
            elif entry_id in unusable:
                damaged[entry_id] = f"entry {key!r}: the vector is {unusable[entry_id]}"
        after_id = ids[-1]


def _session_faults(
    database: Database, accept: Accept, sessions: Sessions, *, repair: bool, again: list[int]
) -> list[str]:
    """Return a sentence for each session whose evolved vectors or latents are not there; mend them if asked to."""
    with database.read() as connection:
        generation = generations.live_generation(connection)
        if generation is None:
            return []
        accept(generation)
        broken = session_rows.unevolved(connection, generation, sessions.latents_bytes)
    if repair and (broken or again):
        sessions.warm(database, lambda connection: [*broken.items(), *session_rows.sessions_of(connection, again)])
        with database.write() as connection:
            dirty = session_rows.unevolved(connection, generation, sessions.latents_bytes)
            for session_id, entry_id in session_rows.sessions_of(connection, again):
                dirty[session_id] = min(entry_id, dirty.get(session_id, entry_id))
            sessions.replay(connection, generation, dirty)
    return [f"session {number}: evolved vectors or latents are missing or of a wrong length" for number in broken]


def _encode_again(database: Database, ids: list[int], encode: Encode, accept: Accept) -> None:
    for start in range(0, len(ids), _PAGE):
        chunk = ids[start : start + _PAGE]
        with database.read() as connection:
            texts = {entry_id: entry.text for entry_id, entry in reading.fetch(connection, chunk).items()}
        matrix = encode(list(texts.values()))
        with database.write() as connection:
            generation = generations.live_generation(connection)
            if generation is None:
                return
            accept(generation)
            blobs = dict(zip(texts, generation.to_bytes(matrix), strict=True))
            now_there = reading.fetch(connection, chunk)
            unchanged = {
                entry_id: (text, blobs[entry_id])
                for entry_id, text in texts.items()
                if entry_id in now_there and now_there[entry_id].text == text
            }
            writes.mend(connection, unchanged, generation.id)
