"""Filling a generation beside the live one, and putting it in the live one's place."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory import inputs
from agent_memory.errors import IndexStateError, LeaseHeldError, StorageError
from agent_memory.files import failpoint
from agent_memory.live.sessions import Sessions
from agent_memory.reports import Job, JobState
from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite import generations, jobs, leases
from agent_memory.storage.sqlite import sessions as session_rows
from agent_memory.storage.sqlite import vectors as stored
from agent_memory.storage.sqlite.database import Connection, Database
from agent_memory.storage.sqlite.generations import Lacking
from agent_memory.storage.sqlite.vectors import Generation
from agent_memory.types import FloatArray, Progress
from agent_memory.upkeep.rehearsal import recall_at_10

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder
    from agent_memory.encoders.rotation import Rotation
    from agent_memory.index import IndexOptions, IndexView

LEASE = "reindex"
"""Name of the lease under which generations are built, swapped and dropped."""


_FEW = 16  # entries that may be encoded while the swap holds the write lock, at first
_POLL_S = 0.1
_BREATH_S = 0.002
_SAMPLE = 200
_STRETCH = 256  # segments that are evolved in one transaction
_DROPPED = 500
_LENGTH_TOLERANCE = 0.01
_RECALL_TOLERANCE = 0.03


class Source(StrEnum):
    """Where the vectors of a new generation come from."""

    COPY = "copy"
    ROTATE = "rotate"
    ENCODE = "encode"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a generation shall be.

    Attributes:
        encoder: Makes its vectors.
        sessions: Evolves those of sessions.
        source: Where they come from.
        tiers: Ascending prefix dimensions.
        step: With ``rotate``: what leads from the live generation's vectors to the new ones.
    """

    encoder: Encoder
    sessions: Sessions
    source: Source
    tiers: tuple[int, ...]
    step: Rotation | None = None


class Cancelled(Exception):
    """The job was cancelled."""


class Builder:
    """Builds one generation, resumably: all that it knows is in the job's row.

    Args:
        database: The store.
        folder: Where index snapshots live.
        options: How the index is built and verified.
        target: What to build.
        generation: Its row.
        job: Its job.
        holder: Who holds the lease.
        batch_size: Entries a transaction.
        max_cpu: Share of the time that this thread may be busy, in (0, 1].
        progress: Called with (entries done, entries in all) after each batch.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        options: IndexOptions,
        target: Target,
        generation: Generation,
        job: Job,
        holder: str,
        *,
        batch_size: int,
        max_cpu: float,
        progress: Progress | None,
    ) -> None:
        self._database, self._folder, self._options = database, folder, options
        self._target, self._generation, self._job, self._holder = target, generation, job, holder
        self._batch_size, self._max_cpu, self._progress = batch_size, max_cpu, progress
        self._after = int(job.progress.get("after", 0))
        self._seq = int(job.progress.get("seq", 0))
        self._done = int(job.progress.get("done", 0))
        self.encoded = int(job.progress.get("encoded", 0))
        self.recall: float | None = None

    def run(self) -> None:
        """Fill, verify, swap.

        Raises:
            Cancelled: The job was cancelled meanwhile.
            IndexStateError: The generation did not pass verification.
        """
        self._catch_up()
        failpoint("reindex-filled")
        self._evolve()
        self._verify()
        failpoint("reindex-verified")
        few = _FEW
        while not self._swapped(few):
            self._catch_up()
            self._evolve()
            few *= 2  # a writer that is faster than this builder must not keep it from ending

    # --- filling -----------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Give a vector to all that lacks one: what lies behind the last id seen, and what has changed since."""
        with self._database.read() as connection:
            seq = stored.last_seq(connection)
        while True:
            with self._database.read() as connection:
                batch = generations.lacking(connection, self._generation.id, after=self._after, limit=self._batch_size)
            if not batch:
                break
            self._store(batch, after=batch[-1].id)
        for batch in self._changed():
            self._store(batch, after=self._after)
        with self._step() as connection:
            self._seq = seq
            self._record(connection)

    def _changed(self) -> Iterator[list[Lacking]]:
        with self._database.read() as connection:
            late = self._late(connection)
        for start in range(0, len(late), self._batch_size):
            yield late[start : start + self._batch_size]

    def _late(self, connection: Connection) -> list[Lacking]:
        """Return all that lacks a vector, given that everything did up to the last pass."""
        if not stored.log_reaches_back_to(connection, self._seq):
            return generations.lacking(connection, self._generation.id, after=0, limit=-1)
        changed = stored.changed_since(connection, self._seq).tolist()
        behind = generations.lacking(connection, self._generation.id, after=self._after, limit=-1)
        among = generations.lacking_among(connection, self._generation.id, changed)
        return list({entry.id: entry for entry in (*among, *behind)}.values())

    def _store(self, batch: Sequence[Lacking], *, after: int) -> None:
        started = time.perf_counter()
        with self._database.read() as connection:
            derived = self._derived(connection, batch)
        blobs = self._completed(derived, batch)
        writing = time.perf_counter()
        with self._step() as connection:
            self._put(connection, batch, blobs)
            self._after = max(self._after, after)
            self._done += len(batch)
            self._record(connection)
        failpoint("reindex-batch")
        ended = time.perf_counter()
        if self._progress is not None:
            self._progress(self._done, max(self._done, int(self._job.progress.get("total", 0))))
        # At least as long as the lock was held, so that other writers get their turn.
        time.sleep(max(_BREATH_S, ended - writing, (ended - started) * (1 / self._max_cpu - 1)))

    def _put(self, connection: Connection, batch: Sequence[Lacking], blobs: dict[int, bytes]) -> None:
        if self._target.source is Source.COPY:
            live = self._live(connection)
            generations.copy(connection, live, self._generation, [entry.id for entry in batch])
        generations.store(
            connection, self._generation.id, [(entry, blobs[entry.id]) for entry in batch if entry.id in blobs]
        )

    def _live(self, connection: Connection) -> Generation:
        live = stored.live_generation(connection)
        if live is None:
            raise StorageError("the store has no live generation")
        return live

    def _completed(self, derived: dict[int, bytes], batch: Sequence[Lacking]) -> dict[int, bytes]:
        """Return what was derived for a batch, and the vectors of the other entries, encoded."""
        rest = [entry for entry in batch if entry.id not in derived]
        if self._target.source is Source.COPY:
            derived = {}  # SQLite copies them
        if rest:
            vectors = self._encode([entry.text for entry in rest])
            self.encoded += len(rest)
            blobs = self._generation.to_bytes(vectors)
            derived |= {entry.id: blob for entry, blob in zip(rest, blobs, strict=True)}
        return derived

    def _derived(self, connection: Connection, batch: Sequence[Lacking]) -> dict[int, bytes]:
        if self._target.source is Source.ENCODE:
            return {}
        live = self._live(connection)
        item = np.dtype(live.dtype).newbyteorder("<")
        found = generations.statics(connection, live, [entry.id for entry in batch], live.dimension * item.itemsize)
        if self._target.step is None or not found:
            return found
        matrix = np.frombuffer(b"".join(found.values()), dtype=item).reshape(len(found), live.dimension)
        rotated = self._target.step.apply(matrix.astype(np.float32))
        rotated /= np.linalg.norm(rotated, axis=1, keepdims=True)
        return dict(zip(found, self._generation.to_bytes(rotated), strict=True))

    def _encode(self, texts: list[str]) -> FloatArray:
        return inputs.encoded(texts, self._target.encoder.encode_documents, self._target.encoder.spec)

    def _evolve(self) -> None:
        """Replay the sessions of the new generation, a stretch a transaction. Its static vectors are all there."""
        while True:
            with self._database.read() as connection:
                dirty = self._unevolved(connection)
            if not dirty:
                return
            for session_id, first in dirty.items():
                started = time.perf_counter()
                self._warm({session_id: first})
                with self._step() as connection:
                    # What was clean when it was listed may have changed: only what is still there counts.
                    if self._unevolved(connection, session_id).get(session_id) == first:
                        self._target.sessions.replay(
                            connection, self._generation, {session_id: first}, live=False, most=_STRETCH
                        )
                failpoint("reindex-evolved")
                took = time.perf_counter() - started
                time.sleep(max(_BREATH_S, took, took * (1 / self._max_cpu - 1)))

    def _warm(self, dirty: dict[int, int]) -> None:
        self._target.sessions.warm(self._database, lambda _: dirty.items())

    def _unevolved(self, connection: Connection, session_id: int | None = None) -> dict[int, int]:
        sessions = self._target.sessions
        if sessions.encoder is None:
            return {}
        return session_rows.unevolved(connection, self._generation, sessions.latents_bytes, session_id)

    # --- steps -------------------------------------------------------------------------------------------

    @contextmanager
    def _step(self) -> Iterator[Connection]:
        """Open a write transaction under the lease; waits while the job is paused."""
        while True:
            with self._database.write() as connection:
                now = datetime.now(UTC)
                leases.renew(connection, LEASE, self._holder, now)
                state = jobs.get(connection, self._job.id).state
                if state is JobState.RUNNING:
                    yield connection
                    return
            if state is not JobState.PAUSED:
                raise Cancelled
            time.sleep(_POLL_S)

    def _record(self, connection: Connection) -> None:
        facts: dict[str, Any] = dict(self._job.progress)
        facts |= {"after": self._after, "seq": self._seq, "done": self._done, "encoded": self.encoded}
        jobs.record(connection, self._job.id, facts, datetime.now(UTC))

    # --- the end -----------------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Build the index, look at every vector, measure its recall, and leave its snapshot for all processes."""
        from agent_memory.index import TieredIndex

        generation = self._generation
        index = TieredIndex(generation.dimension, generation.tiers, dtype=generation.dtype, options=self._options)
        with self._database.read() as connection:
            for ids, matrix in stored.all_vectors(connection, generation):
                lengths = np.linalg.norm(matrix.astype(np.float32), axis=1)
                if not (np.abs(lengths - 1) < _LENGTH_TOLERANCE).all():
                    raise IndexStateError(f"verification: a vector of entry {ids[0]} or later has no unit length")
                index.add(ids, matrix)
            current = reading.count(connection, reading.unsuperseded)
            missing = len(self._late(connection))
            if not current - missing <= len(index) <= current:
                raise IndexStateError(f"verification: {len(index)} vectors for {current} entries, {missing} to come")
            self._verify_sample(connection)
        index.maintain()
        self.recall = sampled_recall(index.view(), self._options.seed)
        if self.recall is not None and self.recall < self._options.recall_target - _RECALL_TOLERANCE:
            raise IndexStateError(
                f"verification: recall@10 is {self.recall:.3f}, wanted {self._options.recall_target:.3f}"
            )
        if not self._folder.is_symlink():
            index.save(self._folder, generation=generation.identity, seq=self._seq)

    def _verify_sample(self, connection: Connection) -> None:
        """Derive a few vectors a second time; they must be those that were stored.

        Not when rolling back: vectors of a former generation may have been given by the caller.
        """
        if self._job.kind != "reindex":
            return
        ids = stored.sample_ids(connection, self._generation, 8)
        held, matrix = stored.read_vectors(connection, self._generation, ids, static=True)
        sample = generations.among(connection, held.tolist())
        derived = self._derived(connection, sample)
        if self._target.source is Source.ENCODE:
            texts = self._encode([entry.text for entry in sample]) if sample else np.empty((0, 0), np.float32)
            derived = dict(zip([entry.id for entry in sample], self._generation.to_bytes(texts), strict=True))
        rows = dict(zip(held.tolist(), matrix.astype(np.float32), strict=True))
        for entry_id, blob in derived.items():
            again = np.frombuffer(blob, dtype=np.dtype(self._generation.dtype).newbyteorder("<")).astype(np.float32)
            if not float(rows[entry_id] @ again) > 0.95:
                raise IndexStateError(f"verification: the vector of entry {entry_id} is not that of its text")

    def _swapped(self, few: int) -> bool:
        """Catch up with the last few entries and swap, in one transaction; False if they are too many."""
        with self._database.read() as connection:
            changed = session_rows.sessions_of(connection, [entry.id for entry in self._late(connection)])
        self._warm(dict(changed))
        with self._step() as connection:
            late = self._late(connection)
            if len(late) > few:
                return False
            self._put(connection, late, self._completed(self._derived(connection, late), late))
            if self._late(connection):
                raise IndexStateError("verification: entries without a vector at the swap")
            # A session may have to be replayed to its end; indexes hear of it by the change log.
            self._target.sessions.replay(connection, self._generation, self._unevolved(connection))
            now = datetime.now(UTC)
            generations.swap(connection, self._generation.id, now)
            self._done += len(late)
            self._record(connection)
            jobs.set_state(connection, self._job.id, JobState.DONE, now)
            leases.release(connection, LEASE, self._holder)
            failpoint("reindex-in-swap")
        failpoint("reindex-swapped")
        return True


def sampled_recall(view: IndexView, seed: int) -> float | None:
    """Return recall@10 of an index against exact search, over a sample of its own rows; None if it is empty."""
    ids = view.ids()
    if not len(ids):
        return None
    chosen = np.random.default_rng(seed).choice(len(ids), min(_SAMPLE, len(ids)), replace=False)
    return recall_at_10(view, view.vectors_of(ids[np.sort(chosen)]))


def drop_condemned(database: Database, holder: str) -> None:
    """Delete what is marked for deletion, a little a transaction, under the lease."""
    with database.read() as connection:
        doomed = generations.condemned(connection)
    for generation_id in doomed:
        after: int | None = 0
        while after is not None:
            with database.write() as connection:
                leases.renew(connection, LEASE, holder, datetime.now(UTC))
                after = generations.drop_some(connection, generation_id, after, _DROPPED)
            failpoint("drop-batch")
            time.sleep(_BREATH_S)


@contextmanager
def lease(database: Database, name: str = LEASE) -> Iterator[str]:
    """Hold a lease; raises LeaseHeldError if another process has it."""
    holder = leases.new_holder()
    with database.write() as connection:
        leases.acquire(connection, name, holder, datetime.now(UTC))
    try:
        yield holder
    finally:
        try:
            with database.write() as connection:
                leases.release(connection, name, holder)
        except (StorageError, LeaseHeldError):
            pass  # it runs out by itself
