"""The write path: validate, encode outside of any transaction, then write in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.errors import (
    DimensionMismatchError,
    EncoderMismatchError,
    InvalidInputError,
)
from agent_memory.inputs import FloatArray, NewEntry, ValidEntry
from agent_memory.records import Entry, Namespace
from agent_memory.sessions import Place, Prepared, Sessions
from agent_memory.storage import entries as reading
from agent_memory.storage import history, writes
from agent_memory.storage import sessions as session_rows
from agent_memory.storage import vectors as generations
from agent_memory.storage.database import Connection, Database
from agent_memory.storage.vectors import Generation
from agent_memory.storage.where import canonical_json

if TYPE_CHECKING:
    from agent_memory.encoders.base import Encoder
    from agent_memory.encoders.session import SessionSegment
    from agent_memory.storage.entries import Condition

Progress = Callable[[int, int], None]
Item = str | Mapping[str, Any] | NewEntry


@dataclass(frozen=True, slots=True)
class _Pending:
    entry: ValidEntry
    metadata: str
    vector: FloatArray | None
    named: bool


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
        return self._write([self._pending(item)])[0]

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
        pending = []
        for position, item in enumerate(items):
            try:
                pending.append(self._pending(item, home))
            except DimensionMismatchError:
                raise
            except InvalidInputError as error:
                raise InvalidInputError(f"item {position}: {error}") from error
        written: list[Entry] = []
        for start in range(0, len(pending), self._config.batch_size):
            batch = pending[start : start + self._config.batch_size]
            try:
                written += self._write(batch)
            except EncoderMismatchError:
                if any(item.vector is not None for item in batch) or not follow():
                    raise
                written += self._write(batch)
            if progress is not None:
                progress(len(written), len(pending))
        return written

    def _pending(self, item: Item, session: str | None = None) -> _Pending:
        given = inputs.as_new_entry(item)
        entry = inputs.valid_entry(given, self._config)
        entry = replace(entry, session=entry.session or session, namespace=self._scope(entry.namespace))
        vector = None
        if given.vector is not None:
            vector = inputs.vector(given.vector, self.encoder.spec.dimension)
        return _Pending(entry, canonical_json(entry.metadata), vector, given.key is not None)

    def _write(self, batch: Sequence[_Pending]) -> list[Entry]:
        encoder, sessions = self.encoder, self.sessions
        missing = [item.entry.text for item in batch if item.vector is None]
        encoded = iter(inputs.encoded(missing, encoder.encode_documents, encoder.spec))
        vectors = np.stack([next(encoded) if item.vector is None else item.vector for item in batch])
        now = datetime.now(UTC)
        prepared = self._prepared(batch, vectors, encoder, sessions, now)
        if any(item.named for item in batch):
            sessions.warm(self._database, lambda connection: _replaced(connection, batch, now))
        with self._database.write() as connection:
            generation = self._generation(connection, now, encoder, sessions)
            blobs = generation.to_bytes(vectors)
            drafts = [_draft(item.entry, item.metadata, blob, now) for item, blob in zip(batch, blobs, strict=True)]
            self._attach(connection, drafts, prepared)
            return [entry for _, entry in self._put(connection, drafts, generation, sessions, now)]

    def _prepared(
        self, batch: Sequence[_Pending], vectors: FloatArray, encoder: Encoder, sessions: Sessions, now: datetime
    ) -> dict[Place, Prepared]:
        """Evolve the entries of sessions, outside of the write transaction; that is the slow part."""
        if sessions.encoder is None or not any(item.entry.session for item in batch):
            return {}
        with self._database.read() as connection:
            generation = generations.live_generation(connection)
            if generation is not None:
                self.accept(generation, encoder=encoder, sessions=sessions)
            # As they will be read back, so that a replay gives the same bits.
            stored = generations.as_stored(vectors, encoder.spec.dtype).astype(np.float32)
            return sessions.prepare(connection, generation, self._segments(batch, stored, now))

    def _segments(
        self, batch: Sequence[_Pending], stored: FloatArray, now: datetime
    ) -> dict[Place, list[SessionSegment]]:
        from agent_memory.encoders.session import SessionSegment

        segments: dict[Place, list[SessionSegment]] = {}
        for item, vector in zip(batch, stored, strict=True):
            entry = item.entry
            if entry.session is not None:
                segment = SessionSegment(
                    static=vector, text=entry.text, speaker=entry.speaker, time=entry.event_time or now
                )
                segments.setdefault((entry.namespace or (), entry.session), []).append(segment)
        return segments

    def _attach(self, connection: Connection, drafts: list[writes.Draft], prepared: Mapping[Place, Prepared]) -> None:
        """Give drafts what was prepared for them; where a session has moved meanwhile, a replay will do it."""
        if len({(draft.namespace, draft.key) for draft in drafts}) < len(drafts):
            return
        usable = {
            place: iter(found.rows) for place, found in prepared.items() if self._unmoved(connection, place, found)
        }
        for number, draft in enumerate(drafts):
            rows = usable.get((draft.namespace, draft.session or ""))
            if rows is not None:
                evolved, latents = next(rows)
                drafts[number] = replace(draft, evolved=evolved, latents=latents)

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
            blob = None if vectors is None else generation.to_bytes(vectors)[0]
            merged = self._merged(current, changed)
            draft = _draft(merged, canonical_json(merged.metadata), blob, now)
            return self._put(connection, [draft], generation, sessions, now)[0][1]

    def _merged(self, entry: Entry, changed: Mapping[str, Any]) -> ValidEntry:
        fields = {name: getattr(entry, name) for name in ValidEntry.__slots__}
        return inputs.valid_entry({**fields, **changed}, self._config)

    def _put(
        self,
        connection: Connection,
        drafts: list[writes.Draft],
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
        if spec.fingerprint != generation.fingerprint:
            raise EncoderMismatchError(
                f"{self._database.path.parent} holds vectors of encoder {generation.encoder.get('name')!r} "
                f"({generation.dimension} dimensions, fingerprint {generation.fingerprint}), not of "
                f"{spec.name!r} ({spec.dimension} dimensions, fingerprint {spec.fingerprint}). Open it with "
                "the former, and call reindex(encoder=…) to move it to the latter."
            )
        (sessions or self.sessions).accept(generation)


def _replaced(connection: Connection, batch: Sequence[_Pending], now: datetime) -> list[tuple[int, int]]:
    """Return (session, entry) of the entries whose keys a batch is about to take."""
    keys: dict[Namespace, list[str]] = {}
    for item in batch:
        if item.named:
            keys.setdefault(item.entry.namespace or (), []).append(item.entry.key)
    found = [reading.ids_by_key(connection, namespace, names, now).values() for namespace, names in keys.items()]
    return session_rows.sessions_of(connection, [entry_id for ids in found for entry_id in ids])


def _draft(entry: ValidEntry, metadata: str, vector: bytes | None, now: datetime) -> writes.Draft:
    return writes.Draft(
        key=entry.key,
        text=entry.text,
        namespace=entry.namespace or (),
        session=entry.session,
        speaker=entry.speaker,
        metadata=metadata,
        event_time=entry.event_time or now,
        expires_at=entry.expires_at,
        importance=entry.importance,
        vector=vector,
    )
