"""Re-indexing: builds a generation beside the live one and swaps it in, or brings a former one back."""

from __future__ import annotations

import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from agent_memory.encoders.registry import load_encoder
from agent_memory.errors import AgentMemoryError, EncoderMismatchError, NotFoundError
from agent_memory.files import failpoint
from agent_memory.live.space import Space
from agent_memory.live.spaces import ROTATION
from agent_memory.live.store import Store
from agent_memory.reports import GenerationState, Job, JobState, ReindexReport
from agent_memory.storage.base import Transaction
from agent_memory.storage.operations import OPEN_STATES
from agent_memory.storage.records import ANY, Generation
from agent_memory.telemetry.stages import stage
from agent_memory.types import Progress
from agent_memory.upkeep.builder import Builder, CancelledError
from agent_memory.upkeep.lease import LEASE, hold_lease
from agent_memory.upkeep.plan import ReindexRequest, Source, Target, plan_reindex
from agent_memory.upkeep.rehearsal import ROW_BYTES
from agent_memory.upkeep.sharing import check_workers, start_workers

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder

_DROPPED = 500  # vectors deleted in one transaction
_BREATH_S = 0.002


class Reindexer:
    """Builds, swaps and deletes generations of one store.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._spaces = store, store.spaces

    def reindex(self, request: ReindexRequest, current: Space, progress: Progress | None) -> ReindexReport:
        """Build the requested generation, or continue an interrupted build, and swap it in."""
        started = time.perf_counter()
        check_workers(self._store, request.workers, request.encoder)
        with stage("reindex", store=self._store), hold_lease(self._store) as holder:
            self._delete_condemned(holder)
            target = plan_reindex(self._store, request, current)
            self._spaces.add(target.space.encoder)
            generation, job = self._begin(target, holder)
            failpoint("reindex-begun")
            return self._run(request, target, generation, job, holder, progress, started)

    def rollback(self, encoder: Encoder | str | Path | None, progress: Progress | None) -> ReindexReport:
        """Bring the latest former generation up to date and swap it in."""
        started = time.perf_counter()
        if encoder is not None:
            self._spaces.add(load_encoder(encoder))
        with stage("rollback", store=self._store), hold_lease(self._store) as holder:
            target, generation, job = self._begin_rollback(holder)
            return self._run(ReindexRequest(), target, generation, job, holder, progress, started)

    def collect(self, grace: timedelta) -> int:
        """Delete former generations that were retired longer ago than ``grace``; returns how many."""
        with hold_lease(self._store) as holder:
            with self._store.write() as tx:
                tx.leases.renew(LEASE, holder, self._store.database.now())
                count = tx.generations.condemn_former(self._store.database.now() - grace)
            self._delete_condemned(holder)
        return count

    # --- beginning ---------------------------------------------------------------------------------------

    def _begin(self, target: Target, holder: str) -> tuple[Generation, Job]:
        """Return the generation to build and its job: those of an interrupted build, or new ones."""
        now = self._store.database.now()
        with self._store.write() as tx:
            tx.leases.renew(LEASE, holder, now)
            generation = self._find_begun(tx, target)
            progress = _read_former_progress(tx, generation)
            _close_unfinished(tx, "reindex", "the process was killed; a later job continued", now)
            if generation is None:
                rotation = getattr(target.space.encoder, "rotation", None)
                generation = tx.generations.begin(
                    state=GenerationState.BUILDING,
                    session_encoder=target.space.sessions.facts,
                    now=now,
                    files={} if rotation is None else {ROTATION: rotation.to_bytes()},
                    **(target.space.facts | {"tiers": target.tiers}),
                )
            facts = {**progress, "generation": generation.id, "source": target.source, "total": tx.entries.count(ANY)}
            job = tx.jobs.create("reindex", facts, now)
        self._delete_condemned(holder)
        return generation, job

    def _find_begun(self, tx: Transaction, target: Target) -> Generation | None:
        """Return the unfinished generation that fits the target, or None; condemns all others."""
        found = None
        spec = target.space.spec
        for begun in tx.generations.find_in_state(GenerationState.BUILDING):
            same = (begun.fingerprint, begun.tiers, begun.dtype) == (spec.fingerprint, target.tiers, spec.dtype)
            if same and found is None and target.space.sessions.fits(begun):
                found = begun
            else:
                tx.generations.condemn(begun.id)
        return found

    def _begin_rollback(self, holder: str) -> tuple[Target, Generation, Job]:
        """Return the generation to roll back to, as a target and as its row, and the new job."""
        now = self._store.database.now()
        with self._store.write() as tx:
            tx.leases.renew(LEASE, holder, now)
            former = tx.generations.find_in_state(GenerationState.FORMER)
            live = tx.generations.live()
            if not former or live is None:
                raise NotFoundError("there is no former generation to roll back to")
            generation = former[0]
            space = self._spaces.find(tx, generation)
            if space is None:
                name = generation.encoder.get("name")
                raise EncoderMismatchError(f"rolling back needs encoder {name!r}: rollback(encoder=…)")
            same = live.fingerprint == generation.fingerprint and live.dtype == generation.dtype
            source = Source.COPY if same else Source.ENCODE
            _close_unfinished(tx, "rollback", "the process was killed; a later job started over", now)
            facts = {"generation": generation.id, "source": source, "total": tx.entries.count(ANY)}
            job = tx.jobs.create("rollback", facts, now)
        return Target(space=space, source=source, tiers=generation.tiers), generation, job

    # --- running -----------------------------------------------------------------------------------------

    def _run(
        self,
        request: ReindexRequest,
        target: Target,
        generation: Generation,
        job: Job,
        holder: str,
        progress: Progress | None,
        started: float,
    ) -> ReindexReport:
        builder = Builder(
            self._store,
            target,
            generation,
            job,
            holder,
            batch_size=request.batch_size,
            max_cpu=request.max_cpu,
            progress=progress,
        )
        state = JobState.DONE
        helpers = request.workers - 1 if target.source is Source.ENCODE and job.kind == "reindex" else 0
        named = request.encoder if isinstance(request.encoder, str | Path) else None
        try:
            with start_workers(self._store, helpers, named):
                builder.run()
        except CancelledError:
            state = JobState.CANCELLED
            self._abandon(job, generation, holder)
        except AgentMemoryError as error:
            self._record_failure(job, error)
            raise
        with self._store.read() as tx:
            live = tx.generations.live()
            total = tx.entries.count(ANY)
        grown = state is JobState.DONE and job.kind == "reindex"
        return ReindexReport(
            job=job.id,
            state=state,
            generation=None if live is None else live.id,
            source=target.source,
            entries=total,
            encoded=builder.encoded,
            seconds=time.perf_counter() - started,
            added_bytes=total * (generation.vector_bytes + ROW_BYTES) if grown else 0,
            recall=builder.recall,
        )

    def _abandon(self, job: Job, generation: Generation, holder: str) -> None:
        if job.kind == "rollback":  # the former generation remains available
            return
        with self._store.write() as tx:
            tx.generations.condemn(generation.id)
        self._delete_condemned(holder)

    def _record_failure(self, job: Job, error: AgentMemoryError) -> None:
        """Record why a job stopped. What it built stays; the next re-index to the same target continues it."""
        try:
            with self._store.write() as tx:
                if tx.jobs.get(job.id).state in OPEN_STATES:
                    tx.jobs.set_state(job.id, JobState.FAILED, self._store.database.now(), str(error)[:1000])
        except AgentMemoryError:
            pass  # the first error tells more

    def _delete_condemned(self, holder: str) -> None:
        """Delete condemned generations in short transactions, and index snapshots of generations that are gone."""
        from agent_memory.index import discard_others

        with self._store.read() as tx:
            condemned = tx.generations.list_condemned()
        for generation_id in condemned:
            after: int | None = 0
            while after is not None:
                with self._store.write() as tx:
                    tx.leases.renew(LEASE, holder, self._store.database.now())
                    after = tx.generations.drop_next(generation_id, after, _DROPPED)
                failpoint("drop-batch")
                time.sleep(_BREATH_S)
        with self._store.read() as tx:
            kept = {generation.identity for generation in tx.generations.find_in_state(*GenerationState)}
        discard_others(self._store.index.folder, kept)


def _close_unfinished(tx: Transaction, kind: str, error: str, now: datetime) -> None:
    for job in tx.jobs.list_all(kind=kind, unfinished=True):
        tx.jobs.set_state(job.id, JobState.FAILED, now, error)


def _read_former_progress(tx: Transaction, generation: Generation | None) -> dict[str, int]:
    """Return the progress of the last job that built a generation."""
    if generation is None:
        return {}
    for job in tx.jobs.list_all(kind="reindex"):
        if job.progress.get("generation") == generation.id:
            return {name: int(job.progress.get(name, 0)) for name in ("after", "seq", "done", "encoded")}
    return {}
