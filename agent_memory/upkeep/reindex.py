"""Re-indexing: a new generation is planned, built beside the live one, and swapped in; or a former one comes back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.encoders.registry import load_encoder
from agent_memory.errors import AgentMemoryError, EncoderMismatchError, InvalidInputError, NotFoundError
from agent_memory.files import failpoint
from agent_memory.live.sessions import Sessions
from agent_memory.live.spaces import ROTATION, Spaces, base_of, rotation_of
from agent_memory.reports import GenerationState, Job, JobState, ReindexReport, ReplaySource
from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite import generations, jobs, leases, queries
from agent_memory.storage.sqlite import vectors as stored
from agent_memory.storage.sqlite.database import Connection, Database
from agent_memory.storage.sqlite.vectors import Generation
from agent_memory.types import IdArray, Progress
from agent_memory.upkeep import rehearsal as replay
from agent_memory.upkeep.builder import LEASE, Builder, Cancelled, Source, Target, drop_condemned, lease

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.encoders.rotation import Rotation
    from agent_memory.index import IndexOptions
    from agent_memory.types import FloatArray

_FITTED_ON = 4_096
_ENCODED = 2_000  # texts that a dry run encodes at most,
_ENCODING_S = 10.0  # and for about how long
_STEP = 32
_WRITE_S = 4e-4  # for one vector to be read, written and put into the index (benchmarks/reindex.py)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a caller wants of a re-index; see ``Memory.reindex``."""

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
        database: The store.
        config: Settings of the memory.
        folder: Where index snapshots live.
        spaces: The encoders at hand.
    """

    def __init__(self, database: Database, config: Config, folder: Path, spaces: Spaces) -> None:
        self._database, self._config, self._folder, self._spaces = database, config, folder, spaces

    @property
    def _options(self) -> IndexOptions:
        from agent_memory.index import IndexOptions

        return IndexOptions(recall_target=self._config.recall_target, threads=self._config.threads)

    # --- the two that swap -------------------------------------------------------------------------------

    def reindex(self, wish: Wish, current: Encoder, progress: Progress | None) -> ReindexReport:
        """Build the generation that is wished for, or go on building it, and swap it in."""
        wish.check()
        started = time.perf_counter()
        with lease(self._database) as holder:
            self._drop(holder)
            target = self._planned(wish, current)
            self._spaces.know(target.encoder)
            generation, job = self._begun(target, holder)
            failpoint("reindex-begun")
            return self._run(wish, target, generation, job, holder, progress, started)

    def rollback(self, encoder: Encoder | str | Path | None, progress: Progress | None) -> ReindexReport:
        """Bring the latest former generation up to date and swap it in."""
        started = time.perf_counter()
        if encoder is not None:
            self._spaces.know(load_encoder(encoder))
        with lease(self._database) as holder:
            with self._database.write() as connection:
                leases.renew(connection, LEASE, holder, datetime.now(UTC))
                former = generations.in_state(connection, GenerationState.FORMER)
                live = stored.live_generation(connection)
                if not former or live is None:
                    raise NotFoundError("there is no former generation to roll back to")
                generation = former[0]
                found = self._spaces.renewed(connection, generation)
                if found is None:
                    name = generation.encoder.get("name")
                    raise EncoderMismatchError(f"rolling back needs encoder {name!r}: rollback(encoder=…)")
                same = live.fingerprint == generation.fingerprint and live.dtype == generation.dtype
                source = Source.COPY if same else Source.ENCODE
                for job in jobs.listed(connection, kind="rollback", unfinished=True):
                    jobs.set_state(connection, job.id, JobState.FAILED, datetime.now(UTC), "killed, and begun again")
                facts = {"generation": generation.id, "source": source, "total": _total(connection)}
                job = jobs.create(connection, "rollback", facts, datetime.now(UTC))
            sessions = self._spaces.sessions_of(found, generation)
            target = Target(encoder=found, sessions=sessions, source=source, tiers=generation.tiers)
            return self._run(Wish(), target, generation, job, holder, progress, started)

    def _run(
        self,
        wish: Wish,
        target: Target,
        generation: Generation,
        job: Job,
        holder: str,
        progress: Progress | None,
        started: float,
    ) -> ReindexReport:
        builder = Builder(
            self._database,
            self._folder,
            self._options,
            target,
            generation,
            job,
            holder,
            batch_size=wish.batch_size,
            max_cpu=wish.max_cpu,
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
        with self._database.read() as connection:
            live = stored.live_generation(connection)
            total = _total(connection)
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
        with self._database.write() as connection:
            generations.condemn(connection, generation.id)
        self._drop(holder)

    def _fail(self, job: Job, error: AgentMemoryError) -> None:
        """Record why a job stopped. What it built stays, and the next re-index of the same kind goes on with it."""
        try:
            with self._database.write() as connection:
                if jobs.get(connection, job.id).state in jobs.OPEN:
                    jobs.set_state(connection, job.id, JobState.FAILED, datetime.now(UTC), str(error)[:1000])
        except AgentMemoryError:
            pass  # the first error tells more

    # --- beginning ---------------------------------------------------------------------------------------

    def _planned(self, wish: Wish, current: Encoder) -> Target:
        with self._database.read() as connection:
            live = stored.live_generation(connection)
            if live is None:
                raise InvalidInputError("the store is empty: there is nothing to re-index")
            base = base_of(current if wish.encoder is None else load_encoder(wish.encoder))
            again = wish.encoder is None and current.spec.fingerprint == live.fingerprint
            encoder = current if again else base
            step = None
            if wish.rotation == "fit":
                encoder, step = self._fitted(connection, live, base, again=again)
            tiers = _tiers(wish, live, encoder)
            same = encoder.spec.fingerprint == live.fingerprint and encoder.spec.dtype == live.dtype
            recorded = live.session_encoder or {} if same else None
            evolving = self._spaces.session_encoder(wish.session_encoder, encoder, recorded)
            sessions = Sessions(evolving, encoder.spec.dtype)
            if same:
                if tiers == live.tiers and sessions.fits(live):
                    raise InvalidInputError("the store is in this embedding space and layout already")
                return Target(encoder=encoder, sessions=sessions, source=Source.COPY, tiers=tiers)
            source = Source.ENCODE if step is None else Source.ROTATE
            return Target(encoder=encoder, sessions=sessions, source=source, tiers=tiers, step=step)

    def _fitted(
        self, connection: Connection, live: Generation, base: Encoder, *, again: bool
    ) -> tuple[Encoder, Rotation | None]:
        """Return a rotated encoder, and what leads there from the live vectors if they are of the same model.

        A generation that a killed process has begun keeps its rotation, so that it can be gone on with.
        """
        from agent_memory.encoders.rotation import RotatedEncoder, Rotation, fit_rotation

        former = rotation_of(connection, live) if again else None
        for begun in generations.in_state(connection, GenerationState.BUILDING):
            rotation = rotation_of(connection, begun)
            if rotation is not None and rotation.dimension == base.spec.dimension:
                encoder = RotatedEncoder(base, rotation)
                if encoder.spec.fingerprint == begun.fingerprint:
                    step = rotation if former is None else Rotation(former.matrix.T @ rotation.matrix)
                    return encoder, step if again else None
        ids = stored.sample_ids(connection, live, _FITTED_ON)
        if again:
            _, matrix = stored.read_vectors(connection, live, ids, static=True)
            step = fit_rotation(matrix.astype(np.float32))
            total = step if former is None else Rotation(former.matrix @ step.matrix)
            return RotatedEncoder(base, total), step
        texts = [entry.text for entry in generations.among(connection, ids[: 2 * base.spec.dimension])]
        return RotatedEncoder(base, fit_rotation(base.encode_documents(texts))), None

    def _begun(self, target: Target, holder: str) -> tuple[Generation, Job]:
        """Return the row and the job of what is to be built: those of a killed process, or new ones."""
        now = datetime.now(UTC)
        spec = target.encoder.spec
        with self._database.write() as connection:
            leases.renew(connection, LEASE, holder, now)
            mine = None
            for begun in generations.in_state(connection, GenerationState.BUILDING):
                same = (begun.fingerprint, begun.tiers, begun.dtype) == (spec.fingerprint, target.tiers, spec.dtype)
                if same and mine is None and target.sessions.fits(begun):
                    mine = begun
                else:
                    generations.condemn(connection, begun.id)
            progress = self._former_progress(connection, mine, now)
            if mine is None:
                rotation = getattr(target.encoder, "rotation", None)
                mine = generations.begin(
                    connection,
                    fingerprint=spec.fingerprint,
                    encoder=asdict(spec),
                    dimension=spec.dimension,
                    tiers=target.tiers,
                    dtype=spec.dtype,
                    now=now,
                    session_encoder=target.sessions.facts,
                    files={} if rotation is None else {ROTATION: rotation.to_bytes()},
                )
            facts = {**progress, "generation": mine.id, "source": target.source, "total": _total(connection)}
            job = jobs.create(connection, "reindex", facts, now)
        self._drop(holder)
        return mine, job

    def _former_progress(self, connection: Connection, mine: Generation | None, now: datetime) -> dict[str, int]:
        """Return how far a killed or failed job came, and close what is left of unfinished ones."""
        for job in jobs.listed(connection, kind="reindex", unfinished=True):
            jobs.set_state(connection, job.id, JobState.FAILED, now, "killed; a later job went on")
        if mine is None:
            return {}
        for job in jobs.listed(connection, kind="reindex"):
            if job.progress.get("generation") == mine.id:
                return {name: int(job.progress.get(name, 0)) for name in ("after", "seq", "done", "encoded")}
        return {}

    # --- looking ahead -----------------------------------------------------------------------------------

    def dry_run(self, wish: Wish, current: Encoder) -> ReindexReport:
        """Try the wish on a sample; nothing is written."""
        wish.check()
        target = self._planned(wish, current)
        with self._database.read() as connection:
            live = stored.live_generation(connection)
            if live is None:
                raise InvalidInputError("the store is empty: there is nothing to re-index")
            total, whole = _total(connection), reading.count(connection, reading.unsuperseded)
            most = _ENCODED if target.source is Source.ENCODE else replay.SAMPLE
            ids = stored.sample_ids(connection, live, most)
            held, matrix = stored.read_vectors(connection, live, ids, static=True)
            texts = {entry.id: entry.text for entry in generations.among(connection, held[:_ENCODED].tolist())}
            asked, words = replay.asked(connection, live), queries.texts(connection, replay.ASKED)
        old = matrix.astype(np.float32)
        started = time.perf_counter()
        new = _derived(target, old, [texts[entry_id] for entry_id in held[:_ENCODED].tolist()])
        took = (time.perf_counter() - started) / max(1, len(new))
        held, old = held[: len(new)], old[: len(new)]
        posed = _posed(target, current, asked, words, old, new)
        spec, options = target.encoder.spec, self._options
        before = replay.tried(held, old, posed.before, tiers=live.tiers, dtype=live.dtype, options=options, whole=whole)
        after = replay.tried(held, new, posed.after, tiers=target.tiers, dtype=spec.dtype, options=options, whole=whole)
        found = replay.compared(before, after, posed.source)
        return ReindexReport(
            job=None,
            state="planned",
            generation=None,
            source=target.source,
            entries=total,
            encoded=total if target.source is Source.ENCODE else 0,
            seconds=(took * total + total * _WRITE_S + after.build_s) / wish.max_cpu,
            added_bytes=total * (spec.dimension * np.dtype(spec.dtype).itemsize + 24),
            recall=found.recall_after,
            agreement=replay.agreement(before, after, None if posed.places is None else held[posed.places]),
            replay=found,
        )

    def collect(self, grace: timedelta) -> int:
        """Delete former generations that were retired longer ago than ``grace``; returns how many."""
        with lease(self._database) as holder:
            with self._database.write() as connection:
                leases.renew(connection, LEASE, holder, datetime.now(UTC))
                count = generations.condemn_former(connection, datetime.now(UTC) - grace)
            self._drop(holder)
        return count

    def _drop(self, holder: str) -> None:
        """Delete what is marked for deletion, and the index snapshots of generations that are no more."""
        from agent_memory.index.snapshot.write import discard_others

        drop_condemned(self._database, holder)
        with self._database.read() as connection:
            kept = {generation.identity for generation in generations.in_state(connection, *GenerationState)}
        discard_others(self._folder, kept)


def control(database: Database, job_id: int, state: JobState) -> Job:
    """Pause, resume or cancel a job; its process obeys at its next step, or whoever goes on with it.

    Raises:
        NotFoundError: There is no such job.
        InvalidInputError: It is finished already.
    """
    with database.write() as connection:
        now = datetime.now(UTC)
        job = jobs.get(connection, job_id)
        if job.state not in jobs.OPEN:
            raise InvalidInputError(f"job {job_id} is {job.state} already")
        jobs.set_state(connection, job_id, state, now)
        orphan = leases.holder_of(connection, LEASE, now) is None
        if state is JobState.CANCELLED and orphan and job.kind == "reindex":
            generations.condemn(connection, int(job.progress.get("generation", 0)))
        return jobs.get(connection, job_id)


@dataclass(frozen=True, slots=True)
class _Posed:
    """The questions of a dry run, in both spaces; ``places``: where entries play the query, which of the sample."""

    source: ReplaySource
    before: FloatArray
    after: FloatArray
    places: IdArray | None = None


def _posed(
    target: Target, current: Encoder, asked: FloatArray, words: list[str], old: FloatArray, new: FloatArray
) -> _Posed:
    """Return what can be asked of both spaces: logged queries if they can be had in both, else entries."""
    if target.source is Source.ENCODE and words:
        before, after = (inputs.encoded(words, one.encode_queries, one.spec) for one in (current, target.encoder))
        return _Posed(ReplaySource.TEXTS, before, after)
    if target.source is not Source.ENCODE and len(asked):
        return _Posed(ReplaySource.QUERIES, asked, asked if target.step is None else target.step.apply(asked))
    places = replay.some(len(old), replay.ASKED)
    return _Posed(ReplaySource.ENTRIES, old[places], new[places], places)


def _derived(target: Target, old: FloatArray, texts: list[str]) -> FloatArray:
    """Return the new vectors of a sample; of its first entries only, if their texts take long to encode."""
    if target.source is not Source.ENCODE:
        return old if target.step is None else np.asarray(target.step.apply(old), np.float32)
    started, parts = time.perf_counter(), []
    for start in range(0, len(texts), _STEP):
        parts.append(inputs.encoded(texts[start : start + _STEP], target.encoder.encode_documents, target.encoder.spec))
        if time.perf_counter() - started > _ENCODING_S:
            break
    return np.concatenate(parts) if parts else old[:0]


def _tiers(wish: Wish, live: Generation, encoder: Encoder) -> tuple[int, ...]:
    spec = encoder.spec
    if wish.tiers is None:
        return live.tiers if wish.encoder is None else spec.tiers
    try:
        tiers = tuple(int(tier) for tier in wish.tiers)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"tiers must be dimensions, got {wish.tiers!r}") from error
    if not 1 <= len(tiers) <= 3 or tuple(sorted(set(tiers))) != tiers or tiers[0] < 1 or tiers[-1] != spec.dimension:
        raise InvalidInputError(
            f"tiers must be one to three ascending dimensions that end at {spec.dimension}, got {tiers}"
        )
    return tiers


def _total(connection: Connection) -> int:
    return reading.count(connection, reading.in_namespace(()))


def _row_bytes(generation: Generation) -> int:
    return generation.dimension * np.dtype(generation.dtype).itemsize + 24
