"""``Writer``: validates items, encodes them outside of any transaction, and writes them in one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.errors import DimensionMismatchError, InvalidInputError
from agent_memory.live.sessions import Place, Prepared
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.records import PROVENANCE, Entry, cap_provenance, read_provenance
from agent_memory.storage.base import Transaction
from agent_memory.storage.codec import canonical_json, decode_vector, encode_vectors
from agent_memory.storage.records import LATER, NO_VECTOR, Draft, Generation, StoredVectors
from agent_memory.telemetry.stages import stage
from agent_memory.types import Address, Namespace, Progress, Time
from agent_memory.writing.items import FIELDS, Item, ValidEntry, get_fields, parse_entry
from agent_memory.writing.later import Later
from agent_memory.writing.mentions import list_mentions
from agent_memory.writing.updates import MOST, find_updates

if TYPE_CHECKING:
    from agent_memory.encoders.session import SessionSegment

_LIGHT = 4
"""How many times ``Config.batch_size`` entries with given vectors fit in one transaction. They are fast to write, and
each transaction dirties pages of every database index and waits for the disk."""


_PIECE = 1_000
"""Characters of a text that count as another entry in the size of a batch, because they take as long to encode."""


class _Pending(NamedTuple):
    draft: Draft
    vector: bytes | None


class Writer:
    """Writes entries of one store.

    Args:
        store: The store.
        namespace: The memory's namespace; entries go into it or below it.
        later: Encodes what is stored with its vector still to come.
    """

    def __init__(self, store: Store, namespace: Namespace, later: Later) -> None:
        self._store, self._namespace, self._config = store, namespace, store.config
        self._later = later

    def add(self, item: Item, *, progress: Progress | None = None) -> Entry:
        """Write one item.

        Args:
            item: The item.
            progress: Called with (passages encoded, passages in all).
        """
        self._store.database.assert_open()

        def write(space: Space) -> Entry:
            return self._write([self._validate(item, space)], space, progress=progress)[0]

        return self._store.call_in_space(write)

    def add_many(
        self, items: Iterable[Item], *, session: str | None, progress: Progress | None, expired: bool = False
    ) -> list[Entry]:
        """Validate all items, then write them in batches, each in one transaction.

        Args:
            items: As for ``Memory.add_many``.
            session: As for ``Memory.add_many``.
            progress: As for ``Memory.add_many``.
            expired: Accept entries that expire while they are written.
        """
        self._store.database.assert_open()
        if isinstance(items, str | bytes | Mapping) or not inputs.is_iterable(items):
            raise InvalidInputError(f"items must be a list of texts or mappings, got {type(items).__name__}")
        home = inputs.check_optional_name("session", session)
        space = self._store.space
        pending = []
        for position, item in enumerate(items):
            try:
                pending.append(self._validate(item, space, home, expired=expired))
            except DimensionMismatchError:
                raise
            except InvalidInputError as error:
                raise InvalidInputError(f"item {position}: {error}") from error
        written: list[Entry] = []
        for batch in self._split(pending):
            written += self._write_batch(batch, space)
            if progress is not None:
                progress(len(written), len(pending))
        return written

    def _write_batch(self, batch: Sequence[_Pending], space: Space) -> list[Entry]:
        """Write a batch. Given vectors belong to ``space``; texts are encoded for the live generation."""
        if any(item.vector is not None for item in batch):
            return self._write(batch, space)
        return self._store.call_in_space(lambda live_space: self._write(batch, live_space))

    def _split(self, pending: Iterable[_Pending]) -> Iterator[list[_Pending]]:
        """Split items into transactions: ``batch_size`` of those that are encoded or evolved, more of the others."""
        batch: list[_Pending] = []
        room = self._config.batch_size * _LIGHT
        for item in pending:
            batch.append(item)
            evolved = item.draft.session is not None and item.vector not in (NO_VECTOR, LATER)
            room -= _LIGHT if item.vector is None or evolved else 1
            if item.vector is None:
                room -= _LIGHT * (len(item.draft.text) // _PIECE)
            if room <= 0:
                yield batch
                batch, room = [], self._config.batch_size * _LIGHT
        if batch:
            yield batch

    def _validate(self, item: Item, space: Space, session: str | None = None, *, expired: bool = False) -> _Pending:
        given = get_fields(item)
        entry = parse_entry(given, self._config, session=session)
        if not expired:
            inputs.check_expiry("expires_at", entry.expires_at)
        vector = given.get("vector")
        if vector is False or (isinstance(vector, str) and vector == "later"):
            vector = NO_VECTOR if vector is False else LATER
        elif vector is not None:
            # A copy, in the stored form: the caller may change the array afterwards.
            spec = space.spec
            vector = encode_vectors(inputs.parse_vector(vector, spec.dimension), spec.dtype).tobytes()
        scope = self._namespace if entry.namespace is None else inputs.check_inside(entry.namespace, self._namespace)
        entry.check(self._store.database, scope)
        return _Pending(_make_draft(entry, scope, self._config, generated=given.get("key") is None), vector)

    def _write(self, batch: Sequence[_Pending], space: Space, *, progress: Progress | None = None) -> list[Entry]:
        """Write a batch; its given vectors, if any, belong to the space."""
        named = not all(item.draft.generated for item in batch)
        texts = [item.draft.text for item in batch]
        with stage("add", store=self._store, named=named, records=len(batch), texts=texts):
            return self._write_drafts(batch, space, progress)

    def _write_drafts(self, batch: Sequence[_Pending], space: Space, progress: Progress | None) -> list[Entry]:
        sessions = space.sessions
        missing = [item.draft.text for item in batch if item.vector is None]
        encoded = iter(space.encode_texts(missing, progress=progress))
        drafts = [item.draft for item in batch]
        for draft, vector in batch:
            found = next(encoded) if vector is None else StoredVectors(vector)
            draft.vector, draft.passages = found.static, found.passages
        now = self._store.database.now()
        prepared = self._prepare(drafts, space, now)
        if not all(draft.generated for draft in drafts):
            sessions.warm(self._store.database, lambda tx: _find_replaced(tx, drafts, now))
        later = any(draft.vector == LATER for draft in drafts)
        updates = self._find_updates(batch, drafts, space, now)
        with self._store.write() as tx:
            generation = space.find_or_begin(tx, now)
            _attach(tx, drafts, prepared)
            written = [entry for _, entry in self._put(tx, drafts, generation, space, now)]
            if later:
                tx.vectors.await_later()
        if later:
            self._later.start()
        pairs = zip(written, updates, strict=True)
        return [replace(entry, may_supersede=keys) if keys else entry for entry, keys in pairs]

    def _find_updates(
        self, batch: Sequence[_Pending], drafts: Sequence[Draft], space: Space, now: datetime
    ) -> list[tuple[str, ...]]:
        """Return the keys of earlier entries that drafts probably update.

        None for a bulk load, nor beside given vectors: it would cost more than all else that writing them does.
        """
        if len(drafts) > MOST or any(item.vector is not None for item in batch):
            return [()] * len(drafts)
        with self._store.read() as tx:
            generation = tx.generations.live()
            if generation is not None:  # another process may have moved the store to another encoder
                space.accept(generation)
            return find_updates(tx, generation, drafts, now, dtype=space.spec.dtype)

    def _prepare(self, drafts: Sequence[Draft], space: Space, now: datetime) -> dict[Place, Prepared]:
        """Evolve the entries of sessions outside of the write transaction, because it is slow."""
        if space.sessions.encoder is None or not any(draft.session and draft.has_vector for draft in drafts):
            return {}
        with self._store.read() as tx:
            generation = tx.generations.live()
            if generation is not None:
                space.accept(generation)
            return space.sessions.prepare(tx, generation, _group_segments(drafts, space.spec.dtype, now))

    def update(
        self,
        key: str,
        given: Mapping[str, Any],
        namespace: Sequence[str] | None,
        *,
        accept: Callable[[Entry], None] | None = None,
    ) -> Entry:
        """Change the fields of an entry that are not UNSET; it is read again inside the transaction that writes it.

        Args:
            key: The entry's key.
            given: The fields.
            namespace: Where the entry lives.
            accept: Called with the entry as it was read in that transaction; nothing is written if it raises.
        """
        changed = {name: value for name, value in given.items() if value is not inputs.UNSET}
        if changed.get("event_time", ...) is None or changed.get("text", ...) is None:
            raise InvalidInputError("text and event_time can be changed, but not removed")
        scope, name = inputs.resolve_namespace(namespace, self._namespace), inputs.check_name("key", key)
        with stage("update", store=self._store, key=name, records=1):
            return self._store.call_in_space(lambda space: self._update(name, changed, scope, space, accept))

    def _update(
        self,
        key: str,
        changed: Mapping[str, Any],
        scope: Namespace,
        space: Space,
        accept: Callable[[Entry], None] | None,
    ) -> Entry:
        with self._store.read() as tx:
            entry_id, entry = tx.entries.find(scope, key, self._store.database.now())
        merged = self._merge(entry, changed)
        if "expires_at" in changed:
            inputs.check_expiry("expires_at", merged.expires_at)
        encoded = space.encode_texts([merged.text])[0] if "text" in changed else None
        seen = [(merged.speaker, merged.event_time)] if merged.session and merged.event_time else []
        space.sessions.warm(self._store.database, lambda tx: tx.sessions.find_sessions([entry_id]), seen)
        now = self._store.database.now()
        with self._store.write() as tx:
            _, current = tx.entries.find(scope, key, now)
            if accept is not None:
                accept(current)
            generation = space.find_or_begin(tx, now)
            draft = _make_draft(self._merge(current, changed), current.namespace, self._config)
            if encoded is not None:
                draft.vector, draft.passages = encoded.static, encoded.passages
            return self._put(tx, [draft], generation, space, now)[0][1]

    def _merge(self, entry: Entry, changed: Mapping[str, Any]) -> ValidEntry:
        fields = {name: getattr(entry, name) for name in FIELDS}
        return parse_entry({**fields, **changed, "metadata": _merge_metadata(entry, changed)}, self._config)

    def _put(
        self, tx: Transaction, drafts: Sequence[Draft], generation: Generation, space: Space, now: datetime
    ) -> list[tuple[int, Entry]]:
        _keep_provenance(tx, drafts)
        written = tx.drafts.put(drafts, generation.id, now, keep_versions=self._config.keep_versions)
        space.sessions.replay(tx, generation, written.dirty)
        space.sessions.replay_past(tx, generation, written.dirty_past)
        return written.entries

    def set_expiry(self, expiries: Mapping[str, Time | None], *, namespace: Sequence[str] | None = None) -> int:
        """Set when entries expire, all in one transaction; returns how many there were.

        Unlike ``update`` this makes no new version: what the entries say has not changed.

        Args:
            expiries: The new expiry of each, by key; None for never. Keys that are not there are passed over.
            namespace: Where the entries live; this memory's namespace if left out.

        Raises:
            InvalidInputError: A key or a time is unusable; nothing was written.

        Example:
            >>> entry = memory.add("The shop opens at nine.", key="shop")
            >>> memory.set_expiry({"shop": "2199-01-01", "no-such-key": None})
            1
        """
        scope = inputs.resolve_namespace(namespace, self._namespace)
        if not isinstance(expiries, Mapping):
            raise InvalidInputError(f"expiries must be a mapping of keys to times, got {inputs.type_name(expiries)}")
        names = inputs.check_names("expiries", list(expiries))
        zone = self._store.config.zone
        times = {name: inputs.parse_expiry("expires_at", expiries[name], zone) for name in names}
        with self._store.write() as tx:
            found = tx.entries.select_ids_by_key(scope, names, self._store.database.now())
            tx.drafts.set_expiry({entry_id: times[name] for name, entry_id in found.items()})
        return len(found)

    def supersede(self, old: str, new: str, namespace: Sequence[str] | None) -> Entry:
        """Replace the entry ``old`` by the entry ``new``."""
        scope = inputs.resolve_namespace(namespace, self._namespace)
        names = [inputs.check_name("key", key) for key in (old, new)]
        if old == new:
            raise InvalidInputError(f"an entry cannot supersede itself: {old!r}")
        with stage("update", store=self._store, key=new, records=1):
            return self._store.call_in_space(lambda space: self._supersede(names, scope, space))

    def _supersede(self, names: Sequence[str], scope: Namespace, space: Space) -> Entry:
        now = self._store.database.now()

        def find_sessions(tx: Transaction) -> list[tuple[int, int]]:
            return tx.sessions.find_sessions(list(tx.entries.select_ids_by_key(scope, names[:1], now).values()))

        space.sessions.warm(self._store.database, find_sessions)
        with self._store.write() as tx:
            (old_id, _), (new_id, entry) = (tx.entries.find(scope, name, now) for name in names)
            session_id = tx.drafts.supersede(old_id, new_id, now)
            if session_id is not None:
                space.sessions.replay(tx, space.find_or_begin(tx, now), {session_id: old_id})
        return entry


def _attach(tx: Transaction, drafts: Sequence[Draft], prepared: Mapping[Place, Prepared]) -> None:
    """Attach prepared vectors to their drafts, unless the session has moved since: then a replay evolves them."""
    if not prepared or len({(draft.namespace, draft.key) for draft in drafts}) < len(drafts):
        return
    usable = {
        place: iter(found.rows) for place, found in prepared.items() if tx.sessions.find_head(*place) == found.head
    }
    for draft in drafts:
        rows = usable.get((draft.namespace, draft.session or ""))
        if rows is not None and draft.has_vector:
            draft.evolved, draft.latents = next(rows)


def _group_segments(drafts: Sequence[Draft], dtype: str, now: datetime) -> dict[Place, list[SessionSegment]]:
    """Return drafts as segments, by session."""
    from agent_memory.encoders.session import SessionSegment

    segments: dict[Place, list[SessionSegment]] = {}
    for draft in drafts:
        if draft.session is not None and draft.vector is not None and draft.has_vector:
            # The vector as it will be read back, so that a replay gives the same bits.
            vector = decode_vector(draft.vector, dtype)
            time = draft.event_time or now
            segment = SessionSegment(static=vector, text=draft.text, speaker=draft.speaker, time=time)
            segments.setdefault((draft.namespace, draft.session), []).append(segment)
    return segments


def _find_replaced(tx: Transaction, drafts: Sequence[Draft], now: datetime) -> list[tuple[int, int]]:
    """Return (session, entry) of the entries that drafts are about to replace."""
    places = [(draft.namespace, draft.key) for draft in drafts if not draft.generated]
    return tx.sessions.find_sessions(tx.entries.select_ids_at(places, now))


def _merge_metadata(entry: Entry, changed: Mapping[str, Any]) -> Any:  # noqa: ANN401 - not validated yet
    """Return an entry's metadata after a change. The provenance goes with the words, not with the other metadata."""
    metadata = changed.get("metadata", entry.metadata)
    if not isinstance(metadata, Mapping | None):
        return metadata
    text = changed.get("text", entry.text)
    if not isinstance(text, str) or text != entry.text:
        return metadata if "metadata" in changed else cap_provenance(entry.metadata, None)
    kept = {} if entry.provenance is None else {PROVENANCE: entry.provenance}
    return kept | dict(metadata or {})


def _keep_provenance(tx: Transaction, drafts: Sequence[Draft]) -> None:
    """Lower the provenance of drafts to that of the entries that they replace, of whatever state."""
    if not any(f'"{PROVENANCE}"' in draft.metadata for draft in drafts):
        return  # what names none cannot raise any
    batch: dict[Address, str | None] = {}
    known = tx.entries.select_newest(list({(one.namespace, one.key): None for one in drafts if not one.generated}))
    for draft in drafts:
        if draft.generated:
            continue
        place = draft.namespace, draft.key
        metadata = json.loads(draft.metadata)
        if place in batch:
            most = batch[place]
        else:
            former = known.get(place)
            most = read_provenance(metadata) if former is None else former[1].provenance
        capped = cap_provenance(metadata, most)
        if capped is not metadata:
            draft.metadata = canonical_json(capped)
        batch[place] = read_provenance(capped)


def _make_draft(entry: ValidEntry, namespace: Namespace, config: Config, *, generated: bool = False) -> Draft:
    """Return the draft of an entry, without its vector."""
    return Draft(
        key=entry.key,
        text=entry.text,
        namespace=namespace,
        session=entry.session,
        speaker=entry.speaker,
        metadata=entry.stored_metadata,
        event_time=entry.event_time,
        expires_at=entry.expires_at,
        importance=entry.importance,
        generated=generated,
        mentions=list_mentions(entry.text, entry.event_time or datetime.now(UTC), config),
    )
