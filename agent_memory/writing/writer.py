"""The write path: validate, encode outside of any transaction, then write in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.encoders.registry import NAMES
from agent_memory.errors import (
    DimensionMismatchError,
    EncoderMismatchError,
    InvalidInputError,
)
from agent_memory.inputs import NewEntry, ValidEntry
from agent_memory.live.sessions import Place, Prepared, Sessions
from agent_memory.records import Entry
from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite import history, writes
from agent_memory.storage.sqlite import sessions as session_rows
from agent_memory.storage.sqlite import vectors as generations
from agent_memory.storage.sqlite.database import Connection, Database
from agent_memory.storage.sqlite.vectors import Generation
from agent_memory.storage.sqlite.where import canonical_json
from agent_memory.types import Namespace, Progress

if TYPE_CHECKING:
    from agent_memory.encoders.base import Encoder, EncoderSpec
    from agent_memory.encoders.session import SessionSegment
    from agent_memory.storage.sqlite.entries import Condition

Item = str | Mapping[str, Any] | NewEntry

_LIGHT = 4
"""Entries whose vectors are given share a transaction with so many times more of their kind: each transaction dirties
pages of every index, and waits for the disk."""


class _Pending(NamedTuple):
    draft: writes.Draft
    vector: bytes | None


class Writer:
    """Turns items into committed entries of one store.

    Args:
        database: The store.
        encoder: Encodes the texts that come without a vector.
        sessions: Evolves the vectors of entries that belong to a session.
        config: Settings of the memory.
        scope: Returns the namespace to use for the one that a caller named, or raises.
    """

    def __init__(
        self,
        database: Database,
        encoder: Encoder,
        sessions: Sessions,
        config: Config,
        scope: Callable[[Sequence[str] | None], Namespace],
    ) -> None:
        self._database = database
        self.encoder = encoder
        self.sessions = sessions
        self._config = config
        self._scope = scope

    def add(self, item: Item) -> Entry:
        """Write one item."""
        self._database.connection()
        encoder = self.encoder
        return self._write([self._pending(item, encoder.spec)], encoder)[0]

    def add_many(
        self,
        items: Iterable[Item],
        *,
        session: str | None,
        progress: Progress | None,
        follow: Callable[[], bool] = lambda: False,
    ) -> list[Entry]:
        """Write many items, a batch a transaction, after all were validated.

        ``follow`` takes up the encoder of a generation that has become live meanwhile, if it can.
        """
        self._database.connection()
        if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
            raise InvalidInputError(f"items must be a list of texts or mappings, got {type(items).__name__}")
        home = inputs.name("session", session)
        encoder = self.encoder
        spec = encoder.spec
        pending = []
        for position, item in enumerate(items):
            try:
                pending.append(self._pending(item, spec, home))
            except DimensionMismatchError:
                raise
            except InvalidInputError as error:
                raise InvalidInputError(f"item {position}: {error}") from error
        written: list[Entry] = []
        for batch in self._batches(pending):
            given = any(item.vector is not None for item in batch)
            try:
                written += self._write(batch, encoder if given else self.encoder)
            except EncoderMismatchError:
                if given or not follow():
                    raise
                written += self._write(batch, self.encoder)
            if progress is not None:
                progress(len(written), len(pending))
        return written

    def _batches(self, pending: Iterable[_Pending]) -> Iterator[list[_Pending]]:
        """Cut items into transactions: ``batch_size`` of those that are encoded or evolved, more of the others."""
        batch: list[_Pending] = []
        room = self._config.batch_size * _LIGHT
        for item in pending:
            batch.append(item)
            room -= 1 if item.vector is not None and item.draft.session is None else _LIGHT
            if room <= 0:
                yield batch
                batch, room = [], self._config.batch_size * _LIGHT
        if batch:
            yield batch

    def _pending(self, item: Item, spec: EncoderSpec, session: str | None = None) -> _Pending:
        given = inputs.fields_of(item)
        entry = inputs.valid_entry(given, self._config, session=session)
        vector = given.get("vector")
        if vector is not None:
            # In the stored form, which is a copy: the caller may go on to use the array.
            vector = generations.as_stored(inputs.vector(vector, spec.dimension), spec.dtype).tobytes()
        return _Pending(_draft(entry, self._scope(entry.namespace), generated=given.get("key") is None), vector)

    def _write(self, batch: Sequence[_Pending], encoder: Encoder) -> list[Entry]:
        """Write a batch whose given vectors, if any, are of the space of an encoder."""
        sessions, spec = self.sessions, encoder.spec
        missing = [item.draft.text for item in batch if item.vector is None]
        encoded = iter(generations.as_stored(inputs.encoded(missing, encoder.encode_documents, spec), spec.dtype))
        drafts = [item.draft for item in batch]
        for draft, vector in batch:
            draft.vector = next(encoded).tobytes() if vector is None else vector
        now = datetime.now(UTC)
        prepared = self._prepared(drafts, encoder, sessions, now)
        if not all(draft.generated for draft in drafts):
            sessions.warm(self._database, lambda connection: _replaced(connection, drafts, now))
        with self._database.write() as connection:
            generation = self._generation(connection, now, encoder, sessions)
            self._attach(connection, drafts, prepared)
            return [entry for _, entry in self._put(connection, drafts, generation, sessions, now)]

    def _prepared(
        self, drafts: Sequence[writes.Draft], encoder: Encoder, sessions: Sessions, now: datetime
    ) -> dict[Place, Prepared]:
        """Evolve the entries of sessions, outside of the write transaction; that is the slow part."""
        if sessions.encoder is None or not any(draft.session for draft in drafts):
            return {}
        with self._database.read() as connection:
            generation = generations.live_generation(connection)
            if generation is not None:
                self.accept(generation, encoder=encoder, sessions=sessions)
            return sessions.prepare(connection, generation, _segments(drafts, encoder.spec.dtype, now))

    def _attach(
        self, connection: Connection, drafts: Sequence[writes.Draft], prepared: Mapping[Place, Prepared]
    ) -> None:
        """Give drafts what was prepared for them; where a session has moved meanwhile, a replay will do it."""
        if not prepared or len({(draft.namespace, draft.key) for draft in drafts}) < len(drafts):
            return
        usable = {
            place: iter(found.rows) for place, found in prepared.items() if self._unmoved(connection, place, found)
        }
        for draft in drafts:
            rows = usable.get((draft.namespace, draft.session or ""))
            if rows is not None:
                draft.evolved, draft.latents = next(rows)

    @staticmethod
    def _unmoved(connection: Connection, place: Place, prepared: Prepared) -> bool:
        return session_rows.head(connection, *place) == prepared.head

    def update(self, key: str, changed: Mapping[str, Any], scope: Namespace) -> Entry:
        """Change some fields of an entry; the entry is read again inside the transaction that writes it."""
        name = inputs.name("key", key) or ""
        with self._database.read() as connection:
            entry_id, entry = reading.find(connection, scope, name, datetime.now(UTC))
        merged = self._merged(entry, changed)
        encoder, sessions = self.encoder, self.sessions
        vectors = inputs.encoded([merged.text], encoder.encode_documents, encoder.spec) if "text" in changed else None
        seen = [(merged.speaker, merged.event_time)] if merged.session and merged.event_time else []
        sessions.warm(self._database, lambda connection: session_rows.sessions_of(connection, [entry_id]), seen)
        canonical_json(merged.metadata)
        now = datetime.now(UTC)
        with self._database.write() as connection:
            _, current = reading.find(connection, scope, name, now)
            generation = self._generation(connection, now, encoder, sessions)
            draft = _draft(self._merged(current, changed), current.namespace)
            draft.vector = None if vectors is None else generation.to_bytes(vectors)[0]
            return self._put(connection, [draft], generation, sessions, now)[0][1]

    def _merged(self, entry: Entry, changed: Mapping[str, Any]) -> ValidEntry:
        fields = {name: getattr(entry, name) for name in ValidEntry.__slots__}
        return inputs.valid_entry({**fields, **changed}, self._config)

    def _put(
        self,
        connection: Connection,
        drafts: Sequence[writes.Draft],
        generation: Generation,
        sessions: Sessions,
        now: datetime,
    ) -> list[tuple[int, Entry]]:
        keep = self._config.keep_versions
        written = writes.put(connection, drafts, generation.id, now, keep_versions=keep)
        sessions.replay(connection, generation, written.dirty)
        return written.entries

    def remove(self, condition: Condition) -> int:
        """Delete the entries that satisfy a condition; what sessions made of them goes too."""
        self.sessions.warm(
            self._database,
            lambda connection: session_rows.sessions_of(
                connection, reading.matching_ids(connection, condition).tolist()
            ),
        )
        with self._database.write() as connection:
            ids = reading.matching_ids(connection, condition)
            removed = writes.remove(connection, ids.tolist())
            generation = generations.live_generation(connection)
            if generation is not None:
                sessions = self.sessions
                self.accept(generation, sessions=sessions)
                sessions.replay(connection, generation, removed.dirty)
            return removed.keys

    def supersede(self, old: str, new: str, scope: Namespace) -> Entry:
        """Let the entry ``new`` take the place of ``old``."""
        names = [inputs.name("key", key) or "" for key in (old, new)]
        if old == new:
            raise InvalidInputError(f"an entry cannot supersede itself: {old!r}")
        now = datetime.now(UTC)
        self.sessions.warm(
            self._database,
            lambda connection: session_rows.sessions_of(
                connection, list(reading.ids_by_key(connection, scope, names[:1], now).values())
            ),
        )
        with self._database.write() as connection:
            (old_id, _), (new_id, entry) = (reading.find(connection, scope, name, now) for name in names)
            session_id = history.supersede(connection, old_id, new_id, now)
            writes.log_changes(connection, [old_id], "supersede")
            if session_id is not None:
                encoder, sessions = self.encoder, self.sessions
                generation = self._generation(connection, now, encoder, sessions)
                sessions.replay(connection, generation, {session_id: old_id})
        return entry

    def _generation(self, connection: Connection, now: datetime, encoder: Encoder, sessions: Sessions) -> Generation:
        generation = generations.live_generation(connection)
        if generation is None:
            spec = encoder.spec
            generation = generations.begin_generation(
                connection,
                fingerprint=spec.fingerprint,
                encoder=asdict(spec),
                dimension=spec.dimension,
                tiers=spec.tiers,
                dtype=spec.dtype,
                session_encoder=sessions.facts,
                now=now,
            )
        self.accept(generation, encoder=encoder, sessions=sessions)
        return generation

    def accept(
        self, generation: Generation, *, encoder: Encoder | None = None, sessions: Sessions | None = None
    ) -> None:
        """Raise EncoderMismatchError if the vectors of encoders (by default the writer's) are of another space."""
        spec = (encoder or self.encoder).spec
        if _fingerprint(spec) != generation.fingerprint:
            if generation.encoder.get("name") == spec.name and spec.name in NAMES:
                raise EncoderMismatchError(
                    f"{self._database.path.parent} holds vectors of another version of encoder {spec.name!r} "
                    f"(fingerprint {generation.fingerprint}, not {spec.fingerprint}). reindex(encoder={spec.name!r}), "
                    f"or agent-memory reindex --to {spec.name}, encodes its texts anew; nothing is lost."
                )
            raise EncoderMismatchError(
                f"{self._database.path.parent} holds vectors of encoder {generation.encoder.get('name')!r} "
                f"({generation.dimension} dimensions, fingerprint {generation.fingerprint}), not of "
                f"{spec.name!r} ({spec.dimension} dimensions, fingerprint {spec.fingerprint}). Open it with "
                "the former, and call reindex(encoder=…) to move it to the latter."
            )
        (sessions or self.sessions).accept(generation)


@lru_cache(maxsize=8)
def _fingerprint(spec: EncoderSpec) -> str:
    return spec.fingerprint


def _segments(drafts: Sequence[writes.Draft], dtype: str, now: datetime) -> dict[Place, list[SessionSegment]]:
    from agent_memory.encoders.session import SessionSegment

    segments: dict[Place, list[SessionSegment]] = {}
    for draft in drafts:
        if draft.session is not None and draft.vector is not None:
            # As it will be read back, so that a replay gives the same bits.
            vector = generations.from_stored(draft.vector, dtype)
            time = draft.event_time or now
            segment = SessionSegment(static=vector, text=draft.text, speaker=draft.speaker, time=time)
            segments.setdefault((draft.namespace, draft.session), []).append(segment)
    return segments


def _replaced(connection: Connection, drafts: Sequence[writes.Draft], now: datetime) -> list[tuple[int, int]]:
    """Return (session, entry) of the entries whose keys drafts are about to take."""
    keys: dict[Namespace, list[str]] = {}
    for draft in drafts:
        if not draft.generated:
            keys.setdefault(draft.namespace, []).append(draft.key)
    found = [reading.ids_by_key(connection, namespace, names, now).values() for namespace, names in keys.items()]
    return session_rows.sessions_of(connection, [entry_id for ids in found for entry_id in ids])


def _draft(entry: ValidEntry, namespace: Namespace, *, generated: bool = False) -> writes.Draft:
    """Return what will be written of an entry; its vector is still to come."""
    return writes.Draft(
        key=entry.key,
        text=entry.text,
        namespace=namespace,
        session=entry.session,
        speaker=entry.speaker,
        metadata=canonical_json(entry.metadata),
        event_time=entry.event_time,
        expires_at=entry.expires_at,
        importance=entry.importance,
        generated=generated,
    )
