"""The part of ``Memory`` that looks after the store: re-indexing, generations, jobs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from agent_memory.errors import EncoderMismatchError
from agent_memory.live.index import LiveIndex
from agent_memory.live.spaces import Spaces
from agent_memory.recall.query_log import QueryLog
from agent_memory.reports import GenerationInfo, Job, JobState, Maintenance, ReindexReport, Schedule
from agent_memory.storage.sqlite import entries as reading
from agent_memory.storage.sqlite import generations, jobs, schedules
from agent_memory.storage.sqlite import vectors as stored
from agent_memory.storage.sqlite.database import Database
from agent_memory.types import Namespace, Progress
from agent_memory.upkeep import backup as backups
from agent_memory.upkeep import reindex as reindexing
from agent_memory.upkeep import worker as periodic
from agent_memory.upkeep.maintenance import Upkeep
from agent_memory.upkeep.reindex import Reindexer, Wish
from agent_memory.writing.writer import Writer

if TYPE_CHECKING:
    from agent_memory.config import Config
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.live.sessions import Sessions
    from agent_memory.memory import Memory

_R = TypeVar("_R")

GRACE = timedelta(days=7)
"""How long a former generation is kept for ``rollback`` unless the caller says otherwise."""


class Care:
    """What ``Memory`` inherits; not to be used by itself."""

    path: Path
    namespace: Namespace
    _index: LiveIndex
    config: Config
    _database: Database
    _writer: Writer
    _spaces: Spaces
    _encoder: Encoder
    _sessions: Sessions
    _queries: QueryLog
    _scope: Callable[[Sequence[str] | None], Namespace]

    def reindex(
        self,
        *,
        encoder: Encoder | str | Path | None = None,
        session_encoder: SessionEncoder | str | None = "auto",
        tiers: Sequence[int] | None = None,
        rotation: str | None = None,
        dry_run: bool = False,
        progress: Progress | None = None,
        batch_size: int = 256,
        max_cpu: float = 1.0,
    ) -> ReindexReport:
        """Move the store to another encoder or layout while it is in use, here and in other processes.

        The next generation of vectors is built beside the live one, caught up with what is written meanwhile,
        verified, and put in its place in one transaction; until then recall answers from the live one, which is
        kept for ``rollback``. Where only the layout changes, stored vectors are copied or rotated, not encoded.
        If the process is killed, the next call with the same wish goes on where it was.

        A process that has the store open without an encoder of its own, or with one given by name, follows; one
        that gave an encoder object gets ``EncoderMismatchError`` until it is opened anew.

        Args:
            encoder: The new encoder, as for ``Memory``; None to keep it.
            session_encoder: As for ``Memory``; ``"auto"`` keeps the store's own, or with another encoder takes
                what fits that.
            tiers: New tiers: one to three ascending dimensions, the last the native one.
            rotation: ``"fit"`` to rotate the space so that the first dimensions carry the most.
            dry_run: Only try it on a sample and say what it would cost, and what the latest queries
                (``Config.query_log``; stored entries if there are none) would find; see ``Replay``. Another encoder
                needs their words: ``Config.query_text="plain"``.
            progress: Called with (entries done, entries in all) after each batch.
            batch_size: Entries encoded and written together.
            max_cpu: Share of the time that the work may take, in (0, 1]; it sleeps for the rest.

        Raises:
            InvalidInputError: The wish is unusable, the store is empty, or it is in that space already.
            LeaseHeldError: Another process is re-indexing the store.
            IndexStateError: The new generation did not pass verification; the live one was not touched.
        """
        wish = Wish(
            encoder=encoder,
            session_encoder=session_encoder,
            tiers=tiers,
            rotation=rotation,
            batch_size=batch_size,
            max_cpu=max_cpu,
        )
        current = self._current_encoder()
        if dry_run:
            self._queries.flush()
            return self._reindexer().dry_run(wish, current)
        report = self._reindexer().reindex(wish, current, progress)
        self._follow()
        return report

    def rollback(
        self, *, encoder: Encoder | str | Path | None = None, progress: Progress | None = None
    ) -> ReindexReport:
        """Return to the generation before the last re-index, brought up to date with what was written since.

        Args:
            encoder: Its encoder, if that is neither known by name nor the one this memory was opened with.
            progress: As for ``reindex``.

        Raises:
            NotFoundError: There is no former generation, or it was collected.
            EncoderMismatchError: Its encoder is not at hand.
        """
        report = self._reindexer().rollback(encoder, progress)
        self._follow()
        return report

    def collect_generations(self, *, grace: timedelta = GRACE) -> int:
        """Delete former generations that were retired longer ago than ``grace``; returns how many."""
        return self._reindexer().collect(grace)

    def generations(self) -> list[GenerationInfo]:
        """Return the store's generations, the oldest first."""
        with self._database.read() as connection:
            return generations.listed(connection)

    def jobs(self, *, limit: int = 100) -> list[Job]:
        """Return jobs under way and finished ones, the newest first."""
        with self._database.read() as connection:
            return jobs.listed(connection, limit=limit)

    def pause_job(self, job: int) -> Job:
        """Let a running job wait after its present step, in whichever process it runs."""
        return reindexing.control(self._database, job, JobState.PAUSED)

    def resume_job(self, job: int) -> Job:
        """Let a paused job go on."""
        return reindexing.control(self._database, job, JobState.RUNNING)

    def cancel_job(self, job: int) -> Job:
        """End a job after its present step; what it has built is deleted, the live generation stays."""
        return reindexing.control(self._database, job, JobState.CANCELLED)

    # --- maintenance -------------------------------------------------------------------------------------

    def maintenance(self, *, dry_run: bool = True, only: Sequence[str] | None = None) -> Maintenance:
        """Say what the store needs and about how long it takes; with ``dry_run=False`` do it.

        Recall and writes go on meanwhile. What needs the store for itself (``vacuum``, ``log``) is put off when others
        are using it, and the result says so.

        Only to look also asks the latest queries (``Config.query_log``; stored entries if there are none) of an index
        built anew over a sample of the entries, and compares what that finds, takes and weighs; see ``Replay``.

        Args:
            dry_run: True to only look.
            only: Names of the actions to carry out; see ``MaintenanceAction``.
        """
        encoder = self._current_encoder()
        self._queries.flush()
        upkeep = Upkeep(
            self._database,
            self._index,
            partial(self._writer.accept, encoder=encoder),
            recall_target=self.config.recall_target,
            grace=GRACE,
            purge=self.purge_expired,
            collect=lambda grace: self._reindexer().collect(grace),
        )
        return upkeep.look(rehearse=True) if dry_run else upkeep.carry_out(None if only is None else set(only))

    def purge_expired(self) -> int:
        """Delete the entries that have expired, here and in the namespaces below; returns how many."""
        return self._writer.remove(reading.expired(self.namespace, datetime.now(UTC)))

    def clear_queries(self, *, namespace: Sequence[str] | None = None) -> int:
        """Delete what the query log holds of queries asked here and in the namespaces below; returns how many.

        What other processes have asked in the last seconds may still be written by them.
        """
        return self._queries.clear(self._scope(namespace))

    def save_snapshot(self) -> None:
        """Bring the index up to date and write its snapshot, as ``close`` does."""
        encoder = self._current_encoder()
        with self._database.read() as connection:
            self._index.view(connection, partial(self._writer.accept, encoder=encoder))
        self._index.save()

    # --- periodic jobs -----------------------------------------------------------------------------------

    def schedules(self) -> list[Schedule]:
        """Return the periodic jobs of the store, by name."""
        with self._database.read() as connection:
            return schedules.listed(connection)

    def schedule(
        self, kind: str, trigger: str, *, name: str | None = None, options: Mapping[str, Any] | None = None
    ) -> Schedule:
        """Have a worker (``agent-memory jobs run``, or ``maintenance="background"``) do a job again and again.

        Args:
            kind: ``maintain`` (what ``maintenance`` finds), ``purge`` (expired entries), ``compact`` (generations,
                full-text index, change log, free pages), ``retrain`` (the tiers, if they need it), ``verify``
                (``check``), ``snapshot`` or ``backup``.
            trigger: A cron expression of five fields in UTC, ``"0 3 * * *"``, or ``"every 30m"`` (s, m, h, d).
            name: A name of your own; the kind if left out. One that exists is replaced.
            options: Of a backup: ``folder``, and how many to ``keep`` there (7).

        Raises:
            InvalidInputError: An argument is unusable.
            MissingDependencyError: APScheduler is not installed.
        """
        wanted = periodic.checked(name or kind, kind, trigger, options)
        with self._database.write() as connection:
            schedules.put(connection, wanted, datetime.now(UTC))
        return wanted

    def unschedule(self, name: str) -> None:
        """Delete a schedule; raises NotFoundError if there is none of that name."""
        with self._database.write() as connection:
            schedules.remove(connection, name)

    def pause_schedule(self, name: str, *, paused: bool = True) -> None:
        """Let the worker leave a schedule out, or with ``paused=False`` do it again."""
        with self._database.write() as connection:
            schedules.change(connection, name, paused=int(paused))

    def run_job(self, kind: str, *, options: Mapping[str, Any] | None = None) -> Job:
        """Do one periodic job now; returns its record."""
        periodic.checked(kind, kind, "every 1h", options)
        number = periodic.run_once(cast("Memory", self), self._database, kind, options)
        with self._database.read() as connection:
            return jobs.get(connection, number)

    def work(self, stop: threading.Event) -> None:
        """Do the store's periodic jobs until ``stop`` is set; waits while another worker does them."""
        periodic.Worker(cast("Memory", self), self._database, stop).run()

    # --- backup ------------------------------------------------------------------------------------------

    def backup(self, path: str | Path, *, progress: Progress | None = None) -> int:
        """Copy the store, as it is now, to one file, while it is in use; returns how many entries the copy holds.

        The file has every version and every vector, so that nothing is encoded when it is restored. It is verified
        (every page, references, numbers of rows) and appears whole or not at all.

        Args:
            path: The file; an existing one is replaced.
            progress: Called with (pages copied, pages in all).

        Raises:
            StorageError: It cannot be written, or the copy is not sound; a former file is left as it was.
        """
        return backups.backup(self._database, Path(path), progress)

    @staticmethod
    def restore(backup: str | Path, path: str | Path, *, replace: bool = False) -> int:
        """Make a store of a backup, or put it in the place of a store that nobody has open.

        Args:
            backup: A file that ``backup`` wrote.
            path: The folder of the store.
            replace: True to replace the store that is there; it is lost.

        Returns:
            How many entries it holds, former versions included.

        Raises:
            NotFoundError: There is no such backup.
            InvalidInputError: There is a store, and ``replace`` was not said.
            StorageError: The backup is damaged, or the store is in use; nothing was changed.
        """
        return backups.restore(Path(backup), Path(path), replace=replace)

    # --- the encoder of the live generation --------------------------------------------------------------

    def _reindexer(self) -> Reindexer:
        return Reindexer(self._database, self.config, self.path / "index", self._spaces)

    def _follow(self) -> bool:
        """Take up the encoder of the live generation if it has changed; returns whether there is one at hand."""
        with self._database.read() as connection:
            generation = stored.live_generation(connection)
            if generation is None:
                return False
            same = generation.fingerprint == self._encoder.spec.fingerprint
            if same and self._sessions.fits(generation):
                return True
            encoder = self._spaces.renewed(connection, generation)
        if encoder is None:
            return False
        sessions = self._spaces.sessions_of(encoder, generation)
        self._encoder, self._sessions = encoder, sessions
        self._writer.encoder, self._writer.sessions = encoder, sessions
        return True

    def _current_encoder(self) -> Encoder:
        self._follow()
        return self._encoder

    def _following(self, call: Callable[[], _R]) -> _R:
        """Return what a call returns; once more if the live generation has changed under it and can be followed."""
        try:
            return call()
        except EncoderMismatchError:
            if not self._follow():
                raise
        return call()
