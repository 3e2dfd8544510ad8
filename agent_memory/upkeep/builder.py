"""Filling a generation beside the live one, and putting it in the live one's place."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.errors import IndexStateError, LeaseHeldError, StorageError
from agent_memory.files import failpoint
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.reports import Job, JobState
from agent_memory.storage.base import Transaction
from agent_memory.storage.operations import new_holder
from agent_memory.storage.records import UNSUPERSEDED, Generation, StoredText
from agent_memory.types import FloatArray, Progress
from agent_memory.upkeep.rehearsal import measure_recall

if TYPE_CHECKING:
    from agent_memory.encoders.rotation import Rotation
    from agent_memory.index import IndexView

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
    """The generation to build.

    Attributes:
        space: Makes its vectors.
        source: Where they come from.
        tiers: Ascending prefix dimensions.
        step: With ``rotate``: what leads from the live generation's vectors to the new ones.
    """

    space: Space
    source: Source
    tiers: tuple[int, ...]
    step: Rotation | None = None


class Cancelled(Exception):
    """The job was cancelled."""


class Builder:
    """Builds one generation, resumably: all that it knows is in the job's row.

    Args:
        store: The store.
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
        store: Store,
        target: Target,
        generation: Generation,
        job: Job,
        holder: str,
        *,
        batch_size: int,
        max_cpu: float,
        progress: Progress | None,
    ) -> None:
        self._store, self._options = store, store.index.options
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
        while not self._try_swap(few):
            self._catch_up()
            self._evolve()
            few *= 2  # a writer that is faster than this builder must not keep it from ending

    # --- filling -----------------------------------------------------------------------------------------

    def _catch_up(self) -> None:
        """Give a vector to all that lacks one: what lies behind the last id seen, and what has changed since."""
        with self._store.read() as tx:
            seq = tx.changes.last_seq()
        while True:
            with self._store.read() as tx:
                batch = tx.vectors.select_missing(self._generation.id, after=self._after, limit=self._batch_size)
            if not batch:
                break
            self._write(batch, after=batch[-1].id)
        for batch in self._find_changed():
            self._write(batch, after=self._after)
        with self._step() as tx:
            self._seq = seq
            self._record(tx)

    def _find_changed(self) -> Iterator[list[StoredText]]:
        with self._store.read() as tx:
            late = self._find_late(tx)
        for start in range(0, len(late), self._batch_size):
            yield late[start : start + self._batch_size]

    def _find_late(self, tx: Transaction) -> list[StoredText]:
        """Return all that lacks a vector, given that everything did up to the last pass."""
        if not tx.changes.reach_back_to(self._seq):
            return tx.vectors.select_missing(self._generation.id, after=0, limit=None)
        changed = tx.changes.ids_since(self._seq).tolist()
        behind = tx.vectors.select_missing(self._generation.id, after=self._after, limit=None)
        among = tx.vectors.select_missing_among(self._generation.id, changed)
        return list({entry.id: entry for entry in (*among, *behind)}.values())

    def _write(self, batch: Sequence[StoredText], *, after: int) -> None:
        started = time.perf_counter()
        with self._store.read() as tx:
            derived = self._derive(tx, batch)
        blobs = self._complete(derived, batch)
        writing = time.perf_counter()
        with self._step() as tx:
            self._put(tx, batch, blobs)
            self._after = max(self._after, after)
            self._done += len(batch)
            self._record(tx)
        failpoint("reindex-batch")
        ended = time.perf_counter()
        if self._progress is not None:
            self._progress(self._done, max(self._done, int(self._job.progress.get("total", 0))))
        # At least as long as the lock was held, so that other writers get their turn.
        time.sleep(max(_BREATH_S, ended - writing, (ended - started) * (1 / self._max_cpu - 1)))

    def _put(self, tx: Transaction, batch: Sequence[StoredText], blobs: dict[int, bytes]) -> None:
        if self._target.source is Source.COPY:
            live = self._live(tx)
            tx.vectors.copy(live, self._generation, [entry.id for entry in batch])
        tx.vectors.store(self._generation.id, [(entry, blobs[entry.id]) for entry in batch if entry.id in blobs])

    def _live(self, tx: Transaction) -> Generation:
        live = tx.generations.live()
        if live is None:
            raise StorageError("the store has no live generation")
        return live

    def _complete(self, derived: dict[int, bytes], batch: Sequence[StoredText]) -> dict[int, bytes]:
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

    def _derive(self, tx: Transaction, batch: Sequence[StoredText]) -> dict[int, bytes]:
        if self._target.source is Source.ENCODE:
            return {}
        live = self._live(tx)
        found = tx.vectors.read_stored(live, [entry.id for entry in batch])
        if self._target.step is None or not found:
            return found
        rotated = self._target.step.apply(np.stack([live.from_bytes(blob) for blob in found.values()]))
        rotated /= np.linalg.norm(rotated, axis=1, keepdims=True)
        return dict(zip(found, self._generation.to_bytes(rotated), strict=True))

    def _encode(self, texts: list[str]) -> FloatArray:
        return self._target.space.encode_documents(texts)

    def _evolve(self) -> None:
        """Replay the sessions of the new generation, a stretch a transaction. Its static vectors are all there."""
        while True:
            with self._store.read() as tx:
                dirty = self._find_unevolved(tx)
            if not dirty:
                return
            for session_id, first in dirty.items():
                started = time.perf_counter()
                self._warm({session_id: first})
                with self._step() as tx:
                    # What was clean when it was listed may have changed: only what is still there counts.
                    if self._find_unevolved(tx, session_id).get(session_id) == first:
                        self._target.space.sessions.replay(
                            tx, self._generation, {session_id: first}, live=False, most=_STRETCH
                        )
                failpoint("reindex-evolved")
                took = time.perf_counter() - started
                time.sleep(max(_BREATH_S, took, took * (1 / self._max_cpu - 1)))

    def _warm(self, dirty: dict[int, int]) -> None:
        self._target.space.sessions.warm(self._store.database, lambda _: dirty.items())

    def _find_unevolved(self, tx: Transaction, session_id: int | None = None) -> dict[int, int]:
        sessions = self._target.space.sessions
        if sessions.encoder is None:
            return {}
        return tx.sessions.find_unevolved(self._generation, sessions.latents_bytes, session_id)

    # --- steps -------------------------------------------------------------------------------------------

    @contextmanager
    def _step(self) -> Iterator[Transaction]:
        """Open a write transaction under the lease; waits while the job is paused."""
        while True:
            with self._store.write() as tx:
                now = datetime.now(UTC)
                tx.leases.renew(LEASE, self._holder, now)
                state = tx.jobs.get(self._job.id).state
                if state is JobState.RUNNING:
                    yield tx
                    return
            if state is not JobState.PAUSED:
                raise Cancelled
            time.sleep(_POLL_S)

    def _record(self, tx: Transaction) -> None:
        facts: dict[str, Any] = dict(self._job.progress)
        facts |= {"after": self._after, "seq": self._seq, "done": self._done, "encoded": self.encoded}
        tx.jobs.record(self._job.id, facts, datetime.now(UTC))

    # --- the end -----------------------------------------------------------------------------------------

    def _verify(self) -> None:
        """Build the index, look at every vector, measure its recall, and leave its snapshot for all processes."""
        from agent_memory.index import TieredIndex

        generation = self._generation
        index = TieredIndex(generation.dimension, generation.tiers, dtype=generation.dtype, options=self._options)
        with self._store.read() as tx:
            for ids, matrix in tx.vectors.read_all(generation):
                lengths = np.linalg.norm(matrix.astype(np.float32), axis=1)
                if not (np.abs(lengths - 1) < _LENGTH_TOLERANCE).all():
                    raise IndexStateError(f"verification: a vector of entry {ids[0]} or later has no unit length")
                index.add(ids, matrix)
            current = tx.entries.count(UNSUPERSEDED)
            missing = len(self._find_late(tx))
            if not current - missing <= len(index) <= current:
                raise IndexStateError(f"verification: {len(index)} vectors for {current} entries, {missing} to come")
            self._verify_sample(tx)
        index.maintain()
        self.recall = measure_sampled_recall(index.view(), self._options.seed)
        if self.recall is not None and self.recall < self._options.recall_target - _RECALL_TOLERANCE:
            raise IndexStateError(
                f"verification: recall@10 is {self.recall:.3f}, wanted {self._options.recall_target:.3f}"
            )
        if not self._store.index.folder.is_symlink():
            index.save(self._store.index.folder, generation=generation.identity, seq=self._seq)

    def _verify_sample(self, tx: Transaction) -> None:
        """Derive a few vectors a second time; they must be those that were stored.

        Not when rolling back: vectors of a former generation may have been given by the caller.
        """
        if self._job.kind != "reindex":
            return
        ids = tx.vectors.sample_ids(self._generation, 8)
        held, matrix = tx.vectors.read(self._generation, ids, static=True)
        sample = tx.vectors.select_texts(held.tolist())
        derived = self._derive(tx, sample)
        if self._target.source is Source.ENCODE:
            texts = self._encode([entry.text for entry in sample]) if sample else np.empty((0, 0), np.float32)
            derived = dict(zip([entry.id for entry in sample], self._generation.to_bytes(texts), strict=True))
        rows = dict(zip(held.tolist(), matrix.astype(np.float32), strict=True))
        for entry_id, blob in derived.items():
            again = self._generation.from_bytes(blob)
            if not float(rows[entry_id] @ again) > 0.95:
                raise IndexStateError(f"verification: the vector of entry {entry_id} is not that of its text")

    def _try_swap(self, few: int) -> bool:
        """Catch up with the last few entries and swap, in one transaction; False if they are too many."""
        with self._store.read() as tx:
            changed = tx.sessions.find_sessions([entry.id for entry in self._find_late(tx)])
        self._warm(dict(changed))
        with self._step() as tx:
            late = self._find_late(tx)
            if len(late) > few:
                return False
            self._put(tx, late, self._complete(self._derive(tx, late), late))
            if self._find_late(tx):
                raise IndexStateError("verification: entries without a vector at the swap")
            # A session may have to be replayed to its end; indexes hear of it by the change log.
            self._target.space.sessions.replay(tx, self._generation, self._find_unevolved(tx))
            now = datetime.now(UTC)
            tx.generations.swap(self._generation.id, now)
            self._done += len(late)
            self._record(tx)
            tx.jobs.set_state(self._job.id, JobState.DONE, now)
            tx.leases.release(LEASE, self._holder)
            failpoint("reindex-in-swap")
        failpoint("reindex-swapped")
        return True


def measure_sampled_recall(view: IndexView, seed: int) -> float | None:
    """Return recall@10 of an index against exact search, over a sample of its own rows; None if it is empty."""
    ids = view.ids()
    if not len(ids):
        return None
    chosen = np.random.default_rng(seed).choice(len(ids), min(_SAMPLE, len(ids)), replace=False)
    return measure_recall(view, view.vectors_of(ids[np.sort(chosen)]))


def drop_condemned(store: Store, holder: str) -> None:
    """Delete what is marked for deletion, a little a transaction, under the lease."""
    with store.read() as tx:
        doomed = tx.generations.list_condemned()
    for generation_id in doomed:
        after: int | None = 0
        while after is not None:
            with store.write() as tx:
                tx.leases.renew(LEASE, holder, datetime.now(UTC))
                after = tx.generations.drop_next(generation_id, after, _DROPPED)
            failpoint("drop-batch")
            time.sleep(_BREATH_S)


@contextmanager
def hold_lease(store: Store, name: str = LEASE) -> Iterator[str]:
    """Hold a lease; raises LeaseHeldError if another process has it."""
    holder = new_holder()
    with store.write() as tx:
        tx.leases.acquire(name, holder, datetime.now(UTC))
    try:
        yield holder
    finally:
        try:
            with store.write() as tx:
                tx.leases.release(name, holder)
        except (StorageError, LeaseHeldError):
            pass  # it runs out by itself
