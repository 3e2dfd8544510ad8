"""Finds and repairs damage for ``check``; counts for ``stats``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from agent_memory.errors import LockTimeoutError, StorageError
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.reports import Report, Stats
from agent_memory.storage.codec import content_hash
from agent_memory.storage.records import ANY, AlteredKind, AlteredRow, Condition
from agent_memory.types import Namespace, is_internal

_PAGE = 500
_EDITED = "the text differs from its checksum"
_UNLIKE = "differs from its checksum"
_ALTERED = "a field differs from the checksum; what it was is lost, write it again"


def count_stats(store: Store, namespace: Namespace) -> Stats:
    """Return facts about a store; see ``Memory.stats``."""
    now = store.database.now()
    shown = is_internal(namespace)
    current = Condition(namespace=namespace, moment=now, internal=shown)
    with store.read() as tx:
        generation = tx.generations.live()
        alive = tx.entries.count(current)
        namespaces, texts = tx.entries.count_distinct(current)
        expired = tx.entries.count(Condition(namespace=namespace, state="expired", moment=now, internal=shown))
        sessions, seq = len(tx.entries.list_sessions(current)), tx.changes.last_seq()
    index = store.index.stats()
    return Stats(
        entries=alive,
        expired=expired,
        duplicates=alive - texts,
        sessions=sessions,
        namespaces=namespaces,
        seq=seq,
        encoder=None if generation is None else str(generation.encoder.get("name")),
        session_encoder=None if generation is None else (generation.session_encoder or {}).get("name"),
        fingerprint=None if generation is None else generation.fingerprint,
        tiers=() if generation is None else generation.tiers,
        database_bytes=store.database.size_bytes(),
        snapshot_bytes=_add_sizes(store.index.folder.rglob("*")),
        database=store.database.describe(),
        index={} if index is None else asdict(index),
    )


def _add_sizes(paths: Iterable[Path]) -> int:
    total = 0
    for path in paths:
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # another process has just replaced it
            continue
    return total


class Checker:
    """Finds damage in a store and repairs it if asked to; see ``Memory.check``.

    Args:
        store: The store.
        space: Encodes damaged entries again.
        repair: True to repair what can be repaired.
    """

    def __init__(self, store: Store, space: Space, *, repair: bool) -> None:
        self._store, self._space, self._repair = store, space, repair

    def run(self) -> Report:
        """Return the faults, and which of them were repaired."""
        store = self._store
        faults: list[str] = []
        repaired: list[str] = []
        try:
            with store.read() as tx:
                faults = tx.find_faults()
                total = tx.entries.count(ANY)
            damaged = self._find_damaged()
            altered = self._find_altered(damaged)
        except StorageError as error:
            return Report(entries=0, problems=(*faults, str(error)))
        lost = [f"{row.name}: {_ALTERED}" for row in altered if row.kind is not AlteredKind.EVOLVED]
        derived = {row.entry_id: f"{row.name}: {_UNLIKE}" for row in altered if row.kind is AlteredKind.EVOLVED}
        problems = [*faults, *damaged.values(), *derived.values(), *lost]
        if self._repair and damaged:
            self._encode_again(sorted(damaged))
            repaired += damaged.values()
        if self._repair and derived:
            with store.write() as tx:
                tx.sessions.clear_altered(sorted(derived))
            repaired += derived.values()
        edited = any(line.endswith(_EDITED) for line in damaged.values())
        words, gone = self._check_words(faults, rebuild=edited)
        problems += words
        repaired += [fault for fault in gone if fault not in repaired]
        replayed = self._check_sessions(sorted(damaged)) if self._space.sessions.encoder is not None else []
        problems += replayed
        repaired += replayed if self._repair else ()
        if set(problems) - set(lost) <= set(repaired):
            stale = self._check_index()
            problems += stale
            repaired += stale if self._repair else ()
        return Report(entries=total, problems=tuple(problems), repaired=tuple(repaired))

    def _check_index(self) -> list[str]:
        store = self._store
        with store.read() as tx:
            faults = store.index.faults(tx, self._space.accept)
        with store.read() as tx:
            words = store.words.faults(tx)
        if self._repair and words:
            store.words.start_over()
        if self._repair and faults:
            with store.read() as tx:
                store.index.start_over(tx, self._space.accept)
        return [*faults, *words]

    def _check_words(self, before: list[str], *, rebuild: bool) -> tuple[list[str], list[str]]:
        """Return the faults of the full-text index, and which faults (of the database too) a rebuild removed.

        Args:
            before: Faults found so far; recent SQLite versions report a damaged full-text index as a database fault.
            rebuild: True to rebuild in any case, because texts were edited without the index noticing.
        """
        found = self._find_word_faults()
        if not self._repair or not (found or rebuild):
            return found, []
        try:
            with self._store.write() as tx:
                tx.lexical.rebuild()
        except LockTimeoutError:
            raise
        except StorageError:
            with self._store.write() as tx:
                tx.lexical.rebuild(unreadable=True)
        self._store.words.start_over()
        with self._store.read() as tx:
            left = tx.find_faults()
        left += self._find_word_faults()
        return found, [fault for fault in (*before, *found) if fault not in left]

    def _find_word_faults(self) -> list[str]:
        try:
            with self._store.read() as tx:
                return tx.lexical.find_faults()
        except StorageError as error:
            return [f"full-text index: {error}"]

    def _find_damaged(self) -> dict[int, str]:
        """Return a sentence for each entry whose text or vector was damaged, by entry id."""
        damaged: dict[int, str] = {}
        after_id = 0
        while True:
            with self._store.read() as tx:
                generation = tx.generations.live()
                page = tx.entries.select_texts(after_id=after_id, limit=_PAGE)
                if not page or generation is None:
                    return damaged
                ids = [entry_id for entry_id, _, _, _ in page]
                faults = tx.vectors.find_faults(generation, ids)
            for entry_id, key, text, checksum in page:
                if content_hash(text) != checksum:
                    damaged[entry_id] = f"entry {key!r}: {_EDITED}"
                elif entry_id in faults:
                    damaged[entry_id] = f"entry {key!r}: the vector is {faults[entry_id]}"
            after_id = ids[-1]

    def _find_altered(self, damaged: dict[int, str]) -> list[AlteredRow]:
        """Return the rows that are not what was written; those whose vector can be encoded again join the damaged."""
        with self._store.read() as tx:
            altered = tx.find_altered()
            there = tx.entries.fetch([row.entry_id for row in altered if row.kind is AlteredKind.STATIC])
        left = []
        for row in altered:
            if row.kind is AlteredKind.STATIC and row.entry_id in there:
                damaged.setdefault(row.entry_id, f"entry {there[row.entry_id].key!r}: the vector {_UNLIKE}")
            elif row.kind is not AlteredKind.ENTRY or not damaged.get(row.entry_id, "").endswith(_EDITED):
                left.append(row)
        return left

    def _check_sessions(self, again: Sequence[int]) -> list[str]:
        """Return a sentence for each session with missing evolved vectors or latents; replays them if repairing.

        Args:
            again: Entries whose vectors were just repaired; their sessions are always replayed.
        """
        store, sessions = self._store, self._space.sessions
        with store.read() as tx:
            generation = tx.generations.live()
            if generation is None:
                return []
            self._space.accept(generation)
            broken = tx.sessions.find_unevolved(generation, sessions.latents_bytes)
        if self._repair and (broken or again):
            sessions.warm(store.database, lambda tx: [*broken.items(), *tx.sessions.find_sessions(again)])
            with store.write() as tx:
                dirty = tx.sessions.find_unevolved(generation, sessions.latents_bytes)
                for session_id, entry_id in tx.sessions.find_sessions(again):
                    dirty[session_id] = min(entry_id, dirty.get(session_id, entry_id))
                sessions.replay(tx, generation, dirty)
        return [f"session {number}: evolved vectors or latents are missing or of a wrong length" for number in broken]

    def _encode_again(self, ids: list[int]) -> None:
        for start in range(0, len(ids), _PAGE):
            chunk = ids[start : start + _PAGE]
            with self._store.read() as tx:
                texts = {entry_id: entry.text for entry_id, entry in tx.entries.fetch(chunk).items()}
            encoded = dict(zip(texts, self._space.encode_texts(list(texts.values())), strict=True))
            with self._store.write() as tx:
                generation = tx.generations.live()
                if generation is None:
                    return
                self._space.accept(generation)
                now_there = tx.entries.fetch(chunk)
                unchanged = {
                    entry_id: (text, encoded[entry_id])
                    for entry_id, text in texts.items()
                    if entry_id in now_there and now_there[entry_id].text == text
                }
                tx.drafts.mend(unchanged, generation.id)
