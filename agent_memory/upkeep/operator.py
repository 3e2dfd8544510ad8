"""``Operator``: what an operator does to a store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory import inputs
from agent_memory.live.store import Store
from agent_memory.recall.query_log import QueryLog
from agent_memory.reports import GenerationInfo, Job, JobState, Maintenance, ReindexReport, Report, Schedule, Stats
from agent_memory.storage.records import Condition
from agent_memory.types import Namespace, Progress
from agent_memory.upkeep import backup as backups
from agent_memory.upkeep.check import Checker, count_stats
from agent_memory.upkeep.maintenance import Maintainer
from agent_memory.upkeep.reindex import Reindexer, ReindexRequest, control_job
from agent_memory.upkeep.schedules import make_schedule, read_schedules, seal
from agent_memory.writing.writer import Writer

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, SessionEncoder

GRACE = timedelta(days=7)
"""How long a former generation is kept for ``rollback`` unless the caller says otherwise."""


class Operator:
    """The operator's half of ``Memory``: re-indexing, generations, jobs, maintenance, schedules, backup, checks.

    Args:
        store: The store.
        writer: Deletes expired entries.
        queries: The query log.
        namespace: The memory's scope.
    """

    def __init__(self, store: Store, writer: Writer, queries: QueryLog, namespace: Namespace) -> None:
        self._store, self._writer, self._queries, self._namespace = store, writer, queries, namespace

    def stats(self) -> Stats:
        """Return facts about the store: counts, encoder, sizes on disk, the index in memory."""
        return count_stats(self._store, self._namespace)

    def check(self, repair: bool = False) -> Report:
        """Look for damage: in the database, in every field and vector, in the full-text index, the index, snapshots.

        Args:
            repair: True to mend what can be mended: vectors are encoded again, full-text index and index are rebuilt.
                A changed text is taken as it is; another changed field is named until the entry is written again.
        """
        return Checker(self._store, self._store.follow_space(), repair=repair).run()

    # --- generations -------------------------------------------------------------------------------------

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
        If the process is killed, the next call with the same arguments continues where it was.

        A process that has the store open without an encoder of its own, or with one given by name, follows; one
        that gave an encoder object gets ``EncoderMismatchError`` until it is opened again.

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
            InvalidInputError: An argument is unusable, the store is empty, or it is in that space already.
            LeaseHeldError: Another process is re-indexing the store.
            IndexStateError: The new generation did not pass verification; the live one was not touched.
        """
        request = ReindexRequest(
            encoder=encoder,
            session_encoder=session_encoder,
            tiers=tiers,
            rotation=rotation,
            batch_size=batch_size,
            max_cpu=max_cpu,
        )
        current = self._store.follow_space()
        if dry_run:
            self._queries.flush()
            return Reindexer(self._store).dry_run(request, current)
        report = Reindexer(self._store).reindex(request, current, progress)
        self._store.follow()
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
            EncoderMismatchError: Its encoder is not known in this process.
        """
        report = Reindexer(self._store).rollback(encoder, progress)
        self._store.follow()
        return report

    def collect_generations(self, *, grace: timedelta = GRACE) -> int:
        """Delete former generations that were retired longer ago than ``grace``; returns how many."""
        return Reindexer(self._store).collect(grace)

    def generations(self) -> list[GenerationInfo]:
        """Return the store's generations, the oldest first."""
        with self._store.read() as tx:
            return tx.generations.list_all()

    def jobs(self, *, limit: int = 100) -> list[Job]:
        """Return jobs under way and finished ones, the newest first."""
        with self._store.read() as tx:
            return tx.jobs.list_all(limit=limit)

    def pause_job(self, job: int) -> Job:
        """Let a running job wait after its present step, in whichever process it runs."""
        return control_job(self._store, job, JobState.PAUSED)

    def resume_job(self, job: int) -> Job:
        """Let a paused job go on."""
        return control_job(self._store, job, JobState.RUNNING)

    def cancel_job(self, job: int) -> Job:
        """End a job after its present step; what it has built is deleted, the live generation stays."""
        return control_job(self._store, job, JobState.CANCELLED)

    # --- maintenance -------------------------------------------------------------------------------------

    def maintenance(self, *, dry_run: bool = False, only: Sequence[str] | None = None) -> Maintenance:
        """Do what the store needs; with ``dry_run=True`` only say what that is, and about how long it takes.

        Recall and writes go on meanwhile. What needs the store for itself (``vacuum``, ``log``) is postponed
        while others use it, and the result says so.

        A dry run also asks the latest queries (``Config.query_log``; stored entries if there are none) of an index
        built over a sample of the entries, and compares what that finds, takes and weighs; see ``Replay``.

        Args:
            dry_run: True to write nothing.
            only: Names of the actions to carry out; see ``MaintenanceAction``.
        """
        space = self._store.follow_space()
        self._queries.flush()
        upkeep = Maintainer(
            self._store,
            space,
            grace=GRACE,
            purge=self.purge_expired,
            collect=lambda grace: Reindexer(self._store).collect(grace),
        )
        return upkeep.look(rehearse=True) if dry_run else upkeep.carry_out(None if only is None else set(only))

    def purge_expired(self) -> int:
        """Delete the entries that have expired, here and in the namespaces below; returns how many."""
        return self._writer.remove(Condition(namespace=self._namespace, state="expired", moment=datetime.now(UTC)))

    def clear_queries(self, *, namespace: Sequence[str] | None = None) -> int:
        """Delete what the query log holds of queries asked here and in the namespaces below; returns how many.

        What other processes have asked in the last seconds may still be written by them.
        """
        return self._queries.clear(inputs.scope(namespace, self._namespace))

    def save_snapshot(self) -> None:
        """Bring the index up to date and write its snapshot, as ``close`` does."""
        space = self._store.follow_space()
        with self._store.read() as tx:
            self._store.index.view(tx, space.accept)
        self._store.index.save()

    # --- periodic jobs -----------------------------------------------------------------------------------

    def schedules(self) -> list[Schedule]:
        """Return the periodic jobs of the store, by name."""
        with self._store.read() as tx:
            return read_schedules(tx, self._store.folder)

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
        wanted = make_schedule(name or kind, kind, trigger, options)
        with self._store.write() as tx:
            tx.schedules.put(wanted, datetime.now(UTC), seal=seal(wanted, self._store.folder))
        return wanted

    def unschedule(self, name: str) -> None:
        """Delete a schedule; raises NotFoundError if there is none of that name."""
        with self._store.write() as tx:
            tx.schedules.remove(name)

    def pause_schedule(self, name: str, *, paused: bool = True) -> None:
        """Let the worker leave a schedule out, or with ``paused=False`` do it again."""
        with self._store.write() as tx:
            tx.schedules.set_paused(name, paused)

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
        return backups.backup(self._store, inputs.folder("path", path), progress)

    def backup_into(self, folder: Path, *, keep: int) -> tuple[Path, int]:
        """Write a backup into a folder, and delete this store's oldest ones there; returns (file, entries)."""
        return backups.backup_into(self._store, folder, keep)

    @staticmethod
    def restore(backup: str | Path, path: str | Path, *, replace: bool = False) -> int:
        """Make a store of a backup, or put it in the place of a store that nobody has open.

        Schedules and the history of jobs do not come along: a backup may be a stranger's.

        Args:
            backup: A file that ``backup`` wrote.
            path: The folder of the store.
            replace: True to replace the store that is there; it is lost.

        Returns:
            How many entries it holds, former versions included.

        Raises:
            NotFoundError: There is no such backup.
            InvalidInputError: There is a store, and ``replace`` was not said, or the backup is that store's own file.
            StorageError: The backup is damaged, holds what no store has, or the store is in use; nothing was changed.
        """
        return backups.restore(inputs.folder("backup", backup), inputs.folder("path", path), replace=replace)
