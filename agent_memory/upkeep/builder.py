"""Builds a generation beside the live one, and swaps it in."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from agent_memory.errors import IndexStateError
from agent_memory.files import failpoint
from agent_memory.live.rows import entries_of, iter_rows
from agent_memory.live.store import Store
from agent_memory.reports import Job, JobState
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import UNSUPERSEDED, Generation, StoredText
from agent_memory.types import Progress
from agent_memory.upkeep.derive import Deriver
from agent_memory.upkeep.lease import LEASE
from agent_memory.upkeep.measure import measure_sampled_recall
from agent_memory.upkeep.plan import Target
from agent_memory.upkeep.sharing import work_on_ranges

_SWAP_ENTRIES = 16  # entries that may be encoded while the swap holds the write lock, at first
_POLL_S = 0.1
_LOOK_S = 1.0
_PATIENCE_S = 120.0
"""How long helpers that get no further are waited for, before their ranges are encoded here, too."""
_BREATH_S = 0.002
_REPLAYED_SEGMENTS = 256  # in one transaction
_LENGTH_TOLERANCE = 0.01
_RECALL_TOLERANCE = 0.03


class CancelledError(Exception):
    """The job was cancelled."""


class Builder:
    """Builds one generation. All of its state is in the job's row, so that another process can continue.

    Args:
        store: The store.
        target: What to build.
        generation: Its row.
        job: Its job.
        holder: Who holds the lease.
        batch_size: Entries written in one transaction.
        max_cpu: Share of the time that this thread may be busy, in (0, 1].
        progress: Called with (entries done, entries in all) after each batch.

    Attributes:
        recall: Recall@10 of the new index, once it is verified.
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
        self._sessions, self._generation, self._job, self._holder = target.space.sessions, generation, job, holder
        self._batch_size, self._max_cpu, self._progress = batch_size, max_cpu, progress
        self._deriver = Deriver(target, generation, int(job.progress.get("encoded", 0)))
        self._after = int(job.progress.get("after", 0))
        self._seq = int(job.progress.get("seq", 0))
        self._done = int(job.progress.get("done", 0))
        self.recall: float | None = None

    @property
    def encoded(self) -> int:
        """Texts encoded so far."""
        return self._deriver.encoded

    def run(self) -> None:
        """Fill, verify and swap in the generation.

        Raises:
            CancelledError: The job was cancelled.
            IndexStateError: The generation did not pass verification.
        """
        self._share()
        self._catch_up()
        failpoint("reindex-filled")
        self._evolve()
        self._verify()
        failpoint("reindex-verified")
        limit = _SWAP_ENTRIES
        while not self._try_swap(limit):
            self._catch_up()
            self._evolve()
            limit *= 2  # otherwise writers that are faster than this builder could keep it from ever finishing

    # --- filling -----------------------------------------------------------------------------------------

    def _share(self) -> None:
        """Encode ranges of entries, together with the processes that help; does nothing where nobody can.

        What they leave, ``_catch_up`` finds. A range of a process that was killed is claimed by the next one.
        """
        if not (self._store.database.is_shared and self._job.kind == "reindex" and self._deriver.encodes):
            return
        with self._write_step() as tx:
            if tx.ranges is not None:
                tx.ranges.divide(self._generation.id, self._batch_size)
        before, waited = None, 0.0
        while waited < _PATIENCE_S:
            work_on_ranges(self._store, self._generation, self._write_range)
            with self._write_step() as tx:
                count = None if tx.ranges is None else tx.ranges.count(self._generation.id)
                if count is None or not count.left:
                    self._deriver.encoded = max(self._deriver.encoded, 0 if count is None else count.encoded)
                    self._record(tx)
                    return
            waited, before = (waited + _LOOK_S if count == before else 0.0), count
            time.sleep(_LOOK_S)

    def _write_range(self, batch: Sequence[StoredText]) -> int:
        before = self._deriver.encoded
        self._write(batch, after=self._after)
        return self._deriver.encoded - before

    def _catch_up(self) -> None:
        """Give a vector to every entry without one: those behind the last id seen, and those changed since."""
        with self._store.read() as tx:
            seq = tx.changes.last_seq()
        while True:
            with self._store.read() as tx:
                batch = tx.vectors.select_missing(self._generation.id, after=self._after, limit=self._batch_size)
            if not batch:
                break
            self._write(batch, after=batch[-1].id)
        with self._store.read() as tx:
            missing = self._find_missing(tx)
        for start in range(0, len(missing), self._batch_size):
            self._write(missing[start : start + self._batch_size], after=self._after)
        with self._write_step() as tx:
            self._seq = seq
            self._record(tx)

    def _find_missing(self, tx: Transaction) -> list[StoredText]:
        """Return the entries without a vector, given that there were none at the end of the last pass."""
        if not tx.changes.reach_back_to(self._seq):
            return tx.vectors.select_missing(self._generation.id, after=0, limit=None)
        changed = tx.changes.ids_since(self._seq).tolist()
        behind = tx.vectors.select_missing(self._generation.id, after=self._after, limit=None)
        among = tx.vectors.select_missing_among(self._generation.id, changed)
        return list({entry.id: entry for entry in (*among, *behind)}.values())

    def _write(self, batch: Sequence[StoredText], *, after: int) -> None:
        started = time.perf_counter()
        with self._store.read() as tx:
            derived = self._deriver.derive(tx, batch)
        blobs = self._deriver.complete(derived, batch)
        locked = time.perf_counter()
        with self._write_step() as tx:
            self._deriver.store(tx, batch, blobs)
            self._after = max(self._after, after)
            self._done += len(batch)
            self._record(tx)
        failpoint("reindex-batch")
        ended = time.perf_counter()
        if self._progress is not None:
            self._progress(self._done, max(self._done, int(self._job.progress.get("total", 0))))
        self._rest(ended - started, ended - locked)

    def _evolve(self) -> None:
        """Replay the sessions of the new generation, in short transactions; it has all static vectors by now."""
        while True:
            with self._store.read() as tx:
                dirty = self._find_unevolved(tx)
            if not dirty:
                return
            for session_id, first in dirty.items():
                self._replay(session_id, first)

    def _replay(self, session_id: int, first: int) -> None:
        started = time.perf_counter()
        self._warm({session_id: first})
        with self._write_step() as tx:
            # The session may have changed since it was listed; then it will be listed again.
            if self._find_unevolved(tx, session_id).get(session_id) == first:
                self._sessions.replay(tx, self._generation, {session_id: first}, live=False, most=_REPLAYED_SEGMENTS)
        failpoint("reindex-evolved")
        took = time.perf_counter() - started
        self._rest(took, took)

    def _warm(self, dirty: dict[int, int]) -> None:
        self._sessions.warm(self._store.database, lambda _: dirty.items())

    def _find_unevolved(self, tx: Transaction, session_id: int | None = None) -> dict[int, int]:
        if self._sessions.encoder is None:
            return {}
        return tx.sessions.find_unevolved(self._generation, self._sessions.latents_bytes, session_id)

    def _rest(self, busy_s: float, locked_s: float) -> None:
        """Sleep for at least as long as the write lock was held, so that other writers get their turn."""
        time.sleep(max(_BREATH_S, locked_s, busy_s * (1 / self._max_cpu - 1)))

    # --- steps -------------------------------------------------------------------------------------------

    @contextmanager
    def _write_step(self) -> Iterator[Transaction]:
        """Open a write transaction under the lease; waits while the job is paused."""
        while True:
            with self._store.write() as tx:
                tx.leases.renew(LEASE, self._holder, self._store.database.now())
                state = tx.jobs.get(self._job.id).state
                if state is JobState.RUNNING:
                    yield tx
                    return
            if state is not JobState.PAUSED:
                raise CancelledError
            time.sleep(_POLL_S)

    def _record(self, tx: Transaction) -> None:
        facts: dict[str, Any] = dict(self._job.progress)
        facts |= {"after": self._after, "seq": self._seq, "done": self._done, "encoded": self.encoded}
        tx.jobs.record(self._job.id, facts, self._store.database.now())

    # --- verifying and swapping --------------------------------------------------------------------------

    def _verify(self) -> None:
        """Build the index from the new vectors, check each, measure recall, and save a snapshot for all processes."""
        from agent_memory.index import TieredIndex

        generation = self._generation
        index = TieredIndex(generation.dimension, generation.tiers, dtype=generation.dtype, options=self._options)
        with self._store.read() as tx:
            erasures = tx.erasures.read_state()
            for ids, matrix in iter_rows(tx, generation):
                lengths = np.linalg.norm(matrix.astype(np.float32), axis=1)
                if not (np.abs(lengths - 1) < _LENGTH_TOLERANCE).all():
                    raise IndexStateError(
                        f"verification: a vector of entry {entries_of(ids)[0]} or later has no unit length"
                    )
                index.add(ids, matrix)
            current = tx.entries.count(UNSUPERSEDED)
            missing = len(self._find_missing(tx))
            missing += tx.vectors.count_blank(generation)
            held = len(index) - tx.passages.count(generation)
            if not current - missing <= held <= current:
                raise IndexStateError(f"verification: {held} vectors for {current} entries, {missing} missing")
            if self._job.kind == "reindex":  # a former generation may hold vectors that the caller gave
                self._deriver.verify_sample(tx)
        index.maintain()
        self.recall = measure_sampled_recall(index.view(), self._options.seed)
        if self.recall is not None and self.recall < self._options.recall_target - _RECALL_TOLERANCE:
            raise IndexStateError(
                f"verification: recall@10 is {self.recall:.3f}, wanted {self._options.recall_target:.3f}"
            )
        self._store.index.keep(index, generation, self._seq, erasures)

    def _try_swap(self, limit: int) -> bool:
        """Encode the last missing entries and swap, in one transaction; False if there are more than ``limit``."""
        with self._store.read() as tx:
            changed = tx.sessions.find_sessions([entry.id for entry in self._find_missing(tx)])
        self._warm(dict(changed))
        with self._write_step() as tx:
            missing = self._find_missing(tx)
            if len(missing) > limit:
                return False
            blobs = self._deriver.complete(self._deriver.derive(tx, missing), missing)
            self._deriver.store(tx, missing, blobs)
            if self._find_missing(tx):
                raise IndexStateError("verification: entries without a vector at the swap")
            # A session may have to be replayed to its end; indexes learn of it from the change log.
            self._sessions.replay(tx, self._generation, self._find_unevolved(tx))
            now = self._store.database.now()
            tx.generations.swap(self._generation.id, now)
            self._done += len(missing)
            self._record(tx)
            tx.jobs.set_state(self._job.id, JobState.DONE, now)
            tx.leases.release(LEASE, self._holder)
            failpoint("reindex-in-swap")
        failpoint("reindex-swapped")
        return True
