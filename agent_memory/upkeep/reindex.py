"""Re-indexing: a new generation is planned, built beside the live one, and swapped in; or a former one comes back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.encoders.registry import load_encoder
from agent_memory.errors import AgentMemoryError, EncoderMismatchError, InvalidInputError, NotFoundError
from agent_memory.files import failpoint
from agent_memory.live.space import Space
from agent_memory.live.spaces import ROTATION, base_of, read_rotation
from agent_memory.live.store import Store
from agent_memory.reports import GenerationState, Job, JobState, ReindexReport, ReplaySource
from agent_memory.storage.base import Transaction
from agent_memory.storage.operations import OPEN_STATES
from agent_memory.storage.records import ANY, UNSUPERSEDED, Generation
from agent_memory.types import IdArray, Progress
from agent_memory.upkeep import rehearsal
from agent_memory.upkeep.builder import LEASE, Builder, Cancelled, Source, Target, drop_condemned, hold_lease

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.encoders.rotation import Rotation
    from agent_memory.storage.base import Transaction
from agent_memory.types import FloatArray

_FITTED_ON = 4_096
_ENCODED = 2_000  # texts that a dry run encodes at most,
_ENCODING_S = 10.0  # and for about how long
_STEP = 32
_WRITE_S = 4e-4  # for one vector to be read, written and put into the index (benchmarks/reindex.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReindexRequest:
    """The arguments of ``Memory.reindex``."""

    encoder: Encoder | str | Path | None = None
    session_encoder: SessionEncoder | str | None = "auto"
    tiers: Sequence[int] | None = None
    rotation: str | None = None
    batch_size: int = 256
    max_cpu: float = 1.0

    def check(self) -> None:
        """Raise InvalidInputError if an option is unusable."""
        if self.rotation not in (None, "fit"):
            raise InvalidInputError(f"rotation must be None or 'fit', got {self.rotation!r}")
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise InvalidInputError(f"batch_size must be a positive integer, got {self.batch_size!r}")
        if not 0 < self.max_cpu <= 1:
            raise InvalidInputError(f"max_cpu must be in (0, 1], got {self.max_cpu!r}")


class Reindexer:
    """Builds and swaps generations of one store.

    Args:
        store: The store.
    """

    def __init__(self, store: Store) -> None:
        self._store, self._spaces, self._options = store, store.spaces, store.index.options

    # --- the two that swap -------------------------------------------------------------------------------

    def reindex(self, request: ReindexRequest, current: Space, progress: Progress | None) -> ReindexReport:
        """Build the generation that is requested for, or go on building it, and swap it in."""
        request.check()
        started = time.perf_counter()
        with hold_lease(self._store) as holder:
            self._drop(holder)
            target = self._plan(request, current)
            self._spaces.add(target.space.encoder)
            generation, job = self._begin(target, holder)
            failpoint("reindex-begun")
            return self._run(request, target, generation, job, holder, progress, started)

    def rollback(self, encoder: Encoder | str | Path | None, progress: Progress | None) -> ReindexReport:
        """Bring the latest former generation up to date and swap it in."""
        started = time.perf_counter()
        if encoder is not None:
            self._spaces.add(load_encoder(encoder))
        with hold_lease(self._store) as holder:
            with self._store.write() as tx:
                tx.leases.renew(LEASE, holder, datetime.now(UTC))
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
                for job in tx.jobs.list_all(kind="rollback", unfinished=True):
                    tx.jobs.set_state(job.id, JobState.FAILED, datetime.now(UTC), "killed, and begun again")
                facts = {"generation": generation.id, "source": source, "total": _total(tx)}
                job = tx.jobs.create("rollback", facts, datetime.now(UTC))
            target = Target(space=space, source=source, tiers=generation.tiers)
            return self._run(ReindexRequest(), target, generation, job, holder, progress, started)

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
        try:
            builder.run()
        except Cancelled:
            state = JobState.CANCELLED
            self._abandon(job, generation, holder)
        except AgentMemoryError as error:
            self._fail(job, error)
            raise
        with self._store.read() as tx:
            live = tx.generations.live()
            total = _total(tx)
        return ReindexReport(
            job=job.id,
            state=state,
            generation=None if live is None else live.id,
            source=target.source,
            entries=total,
            encoded=builder.encoded,
            seconds=time.perf_counter() - started,
            added_bytes=0 if state is JobState.CANCELLED or job.kind == "rollback" else total * _row_bytes(generation),
            recall=builder.recall,
        )

    def _abandon(self, job: Job, generation: Generation, holder: str) -> None:
        if job.kind == "rollback":  # the former generation stays what it was
            return
        with self._store.write() as tx:
            tx.generations.condemn(generation.id)
        self._drop(holder)

    def _fail(self, job: Job, error: AgentMemoryError) -> None:
        """Record why a job stopped. What it built stays, and the next re-index of the same kind goes on with it."""
        try:
            with self._store.write() as tx:
                if tx.jobs.get(job.id).state in OPEN_STATES:
                    tx.jobs.set_state(job.id, JobState.FAILED, datetime.now(UTC), str(error)[:1000])
        except AgentMemoryError:
            pass  # the first error tells more

    # --- beginning ---------------------------------------------------------------------------------------

    def _plan(self, request: ReindexRequest, current: Space) -> Target:
        with self._store.read() as tx:
            live = tx.generations.live()
            if live is None:
                raise InvalidInputError("the store is empty: there is nothing to re-index")
            base = base_of(current.encoder if request.encoder is None else load_encoder(request.encoder))
            again = request.encoder is None and current.fingerprint == live.fingerprint
            encoder = current.encoder if again else base
            step = None
            if request.rotation == "fit":
                encoder, step = self._fit(tx, live, base, again=again)
            tiers = _choose_tiers(request, live, encoder)
            same = encoder.spec.fingerprint == live.fingerprint and encoder.spec.dtype == live.dtype
            recorded = live.session_encoder or {} if same else None
            evolving = self._spaces.find_session_encoder(request.session_encoder, encoder, recorded)
            space = self._spaces.build(encoder, evolving)
            if same:
                if tiers == live.tiers and space.sessions.fits(live):
                    raise InvalidInputError("the store is in this embedding space and layout already")
                return Target(space=space, source=Source.COPY, tiers=tiers)
            source = Source.ENCODE if step is None else Source.ROTATE
            return Target(space=space, source=source, tiers=tiers, step=step)

    def _fit(self, tx: Transaction, live: Generation, base: Encoder, *, again: bool) -> tuple[Encoder, Rotation | None]:
        """Return a rotated encoder, and what leads there from the live vectors if they are of the same model.

        A generation that a killed process has begun keeps its rotation, so that it can be gone on with.
        """
        from agent_memory.encoders.rotation import RotatedEncoder, Rotation, fit_rotation

        former = read_rotation(tx, live) if again else None
        for begun in tx.generations.find_in_state(GenerationState.BUILDING):
            rotation = read_rotation(tx, begun)
            if rotation is not None and rotation.dimension == base.spec.dimension:
                encoder = RotatedEncoder(base, rotation)
                if encoder.spec.fingerprint == begun.fingerprint:
                    step = rotation if former is None else Rotation(former.matrix.T @ rotation.matrix)
                    return encoder, step if again else None
        ids = tx.vectors.sample_ids(live, _FITTED_ON)
        if again:
            _, matrix = tx.vectors.read(live, ids, static=True)
            step = fit_rotation(matrix.astype(np.float32))
            total = step if former is None else Rotation(former.matrix @ step.matrix)
            return RotatedEncoder(base, total), step
        texts = [entry.text for entry in tx.vectors.select_texts(ids[: 2 * base.spec.dimension])]
        return RotatedEncoder(base, fit_rotation(base.encode_documents(texts))), None

    def _begin(self, target: Target, holder: str) -> tuple[Generation, Job]:
        """Return the row and the job of what is to be built: those of a killed process, or new ones."""
        now = datetime.now(UTC)
        spec = target.space.spec
        with self._store.write() as tx:
            tx.leases.renew(LEASE, holder, now)
            mine = None
            for begun in tx.generations.find_in_state(GenerationState.BUILDING):
                same = (begun.fingerprint, begun.tiers, begun.dtype) == (spec.fingerprint, target.tiers, spec.dtype)
                if same and mine is None and target.space.sessions.fits(begun):
                    mine = begun
                else:
                    tx.generations.condemn(begun.id)
            progress = self._former_progress(tx, mine, now)
            if mine is None:
                rotation = getattr(target.space.encoder, "rotation", None)
                mine = tx.generations.begin(
                    state=GenerationState.BUILDING,
                    session_encoder=target.space.sessions.facts,
                    now=now,
                    files={} if rotation is None else {ROTATION: rotation.to_bytes()},
                    **(target.space.facts | {"tiers": target.tiers}),
                )
            facts = {**progress, "generation": mine.id, "source": target.source, "total": _total(tx)}
            job = tx.jobs.create("reindex", facts, now)
        self._drop(holder)
        return mine, job

    def _former_progress(self, tx: Transaction, mine: Generation | None, now: datetime) -> dict[str, int]:
        """Return how far a killed or failed job came, and close what is left of unfinished ones."""
        for job in tx.jobs.list_all(kind="reindex", unfinished=True):
            tx.jobs.set_state(job.id, JobState.FAILED, now, "killed; a later job went on")
        if mine is None:
            return {}
        for job in tx.jobs.list_all(kind="reindex"):
            if job.progress.get("generation") == mine.id:
                return {name: int(job.progress.get(name, 0)) for name in ("after", "seq", "done", "encoded")}
        return {}

    # --- looking ahead -----------------------------------------------------------------------------------

    def dry_run(self, request: ReindexRequest, current: Space) -> ReindexReport:
        """Try the request on a sample; nothing is written."""
        request.check()
        target = self._plan(request, current)
        with self._store.read() as tx:
            live = tx.generations.live()
            if live is None:
                raise InvalidInputError("the store is empty: there is nothing to re-index")
            total, whole = _total(tx), tx.entries.count(UNSUPERSEDED)
            most = _ENCODED if target.source is Source.ENCODE else rehearsal.SAMPLE
            ids = tx.vectors.sample_ids(live, most)
            held, matrix = tx.vectors.read(live, ids, static=True)
            texts = {entry.id: entry.text for entry in tx.vectors.select_texts(held[:_ENCODED].tolist())}
            logged, words = rehearsal.read_logged_queries(tx, live), tx.queries.read_texts(rehearsal.REPLAYED)
        old = matrix.astype(np.float32)
        started = time.perf_counter()
        new = _derive(target, old, [texts[entry_id] for entry_id in held[:_ENCODED].tolist()])
        took = (time.perf_counter() - started) / max(1, len(new))
        held, old = held[: len(new)], old[: len(new)]
        questions = _choose_questions(target, current, logged, words, old, new)
        spec, build = target.space.spec, partial(rehearsal.build_trial, held, options=self._options, whole=whole)
        before = build(old, questions.before, tiers=live.tiers, dtype=live.dtype)
        after = build(new, questions.after, tiers=target.tiers, dtype=spec.dtype)
        selves = None if questions.places is None else held[questions.places]
        found = rehearsal.compare(before, after, questions.source)
        return ReindexReport(
            job=None,
            state="planned",
            generation=None,
            source=target.source,
            entries=total,
            encoded=total if target.source is Source.ENCODE else 0,
            seconds=(took * total + total * _WRITE_S + after.build_s) / request.max_cpu,
            added_bytes=total * (spec.dimension * np.dtype(spec.dtype).itemsize + 24),
            recall=found.recall_after,
            agreement=rehearsal.measure_agreement(before, after, selves),
            replay=found,
        )

    def collect(self, grace: timedelta) -> int:
        """Delete former generations that were retired longer ago than ``grace``; returns how many."""
        with hold_lease(self._store) as holder:
            with self._store.write() as tx:
                tx.leases.renew(LEASE, holder, datetime.now(UTC))
                count = tx.generations.condemn_former(datetime.now(UTC) - grace)
            self._drop(holder)
        return count

    def _drop(self, holder: str) -> None:
        """Delete what is marked for deletion, and the index snapshots of generations that are no more."""
        from agent_memory.index.snapshot.write import discard_others

        drop_condemned(self._store, holder)
        with self._store.read() as tx:
            kept = {generation.identity for generation in tx.generations.find_in_state(*GenerationState)}
        discard_others(self._store.index.folder, kept)


def control_job(store: Store, job_id: int, state: JobState) -> Job:
    """Pause, resume or cancel a job; its process obeys at its next step, or whoever goes on with it.

    Raises:
        NotFoundError: There is no such job.
        InvalidInputError: It is finished already.
    """
    with store.write() as tx:
        now = datetime.now(UTC)
        job = tx.jobs.get(job_id)
        if job.state not in OPEN_STATES:
            raise InvalidInputError(f"job {job_id} is {job.state} already")
        tx.jobs.set_state(job_id, state, now)
        orphan = tx.leases.find_holder(LEASE, now) is None
        if state is JobState.CANCELLED and orphan and job.kind == "reindex":
            tx.generations.condemn(int(job.progress.get("generation", 0)))
        return tx.jobs.get(job_id)


@dataclass(frozen=True, slots=True)
class _Questions:
    """The questions of a dry run, in both spaces; ``places``: where entries play the query, which of the sample."""

    source: ReplaySource
    before: FloatArray
    after: FloatArray
    places: IdArray | None = None


def _choose_questions(
    target: Target, current: Space, logged: FloatArray, words: list[str], old: FloatArray, new: FloatArray
) -> _Questions:
    """Return what can be asked of both spaces: logged queries if they can be had in both, else entries."""
    if target.source is Source.ENCODE and words:
        before, after = (space.encode_queries(words) for space in (current, target.space))
        return _Questions(ReplaySource.TEXTS, before, after)
    if target.source is not Source.ENCODE and len(logged):
        return _Questions(ReplaySource.QUERIES, logged, logged if target.step is None else target.step.apply(logged))
    places = rehearsal.choose_rows(len(old), rehearsal.REPLAYED)
    return _Questions(ReplaySource.ENTRIES, old[places], new[places], places)


def _derive(target: Target, old: FloatArray, texts: list[str]) -> FloatArray:
    """Return the new vectors of a sample; of its first entries only, if their texts take long to encode."""
    if target.source is not Source.ENCODE:
        return old if target.step is None else np.asarray(target.step.apply(old), np.float32)
    started, parts = time.perf_counter(), []
    for start in range(0, len(texts), _STEP):
        parts.append(target.space.encode_documents(texts[start : start + _STEP]))
        if time.perf_counter() - started > _ENCODING_S:
            break
    return np.concatenate(parts) if parts else old[:0]


def _choose_tiers(request: ReindexRequest, live: Generation, encoder: Encoder) -> tuple[int, ...]:
    spec = encoder.spec
    if request.tiers is None:
        return live.tiers if request.encoder is None else spec.tiers
    try:
        tiers = tuple(int(tier) for tier in request.tiers)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"tiers must be dimensions, got {request.tiers!r}") from error
    if not 1 <= len(tiers) <= 3 or tuple(sorted(set(tiers))) != tiers or tiers[0] < 1 or tiers[-1] != spec.dimension:
        raise InvalidInputError(
            f"tiers must be one to three ascending dimensions that end at {spec.dimension}, got {tiers}"
        )
    return tiers


def _total(tx: Transaction) -> int:
    return tx.entries.count(ANY)


def _row_bytes(generation: Generation) -> int:
    return generation.vector_bytes + 24
