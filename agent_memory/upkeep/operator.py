"""``Operator``: the methods of ``Memory`` that keep a store in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory import inputs
from agent_memory.live.store import Store
from agent_memory.recall.query_log import QueryLog
from agent_memory.records import Copied, Copy, Erasure
from agent_memory.reports import GenerationInfo, Maintenance, ReindexReport, Report, Stats
from agent_memory.types import Namespace, Progress
from agent_memory.writing.erasure import Eraser

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder, SessionEncoder

GRACE = timedelta(days=7)
"""How long a former generation is kept for ``rollback`` by default."""


class Operator:
    """Re-indexing, generations, maintenance, backup and checks of one store.

    Args:
        store: The store.
        eraser: Forgets expired entries.
        queries: The query log.
        namespace: The memory's scope.
    """

    def __init__(self, store: Store, eraser: Eraser, queries: QueryLog, namespace: Namespace) -> None:
        self._store, self._eraser, self._queries, self._namespace = store, eraser, queries, namespace

    def stats(self) -> Stats:
        """Return facts about the store: counts, encoder, sizes on disk, index in memory.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> memory.stats().entries
            1
        """
        from agent_memory.upkeep.check import count_stats

        return count_stats(self._store, self._namespace)

    def check(self, repair: bool = False) -> Report:
        """Look for damage in the database, in every field and vector, the full-text index, the index and its snapshots.

        Args:
            repair: True to repair what can be repaired: encode vectors again, rebuild full-text index and index. A
                changed text is taken as it is; another changed field is reported until the entry is written again.

        Example:
            >>> memory.check().ok
            True
        """
        from agent_memory.upkeep.check import Checker

        return Checker(self._store, self._store.follow_space(), repair=inputs.check_flag("repair", repair)).run()

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
        workers: int = 1,
        join: bool = False,
    ) -> ReindexReport:
        """Move the store to another encoder or layout while it is in use, by this and other processes.

        A new generation of vectors is built beside the live one, caught up with concurrent writes, verified, and
        swapped in by one transaction. Until then recall uses the live generation, which is kept for ``rollback``
        afterwards. If only the layout changes, stored vectors are copied or rotated instead of encoded. If the process
        is killed, the next call with the same arguments continues the build.

        Other processes follow the store to its new encoder, unless they opened it with an encoder object: those get
        ``EncoderMismatchError`` until they open it again.

        Args:
            encoder: The new encoder, as for ``Memory``; None to keep the present one.
            session_encoder: As for ``Memory``; ``"auto"`` keeps the present one, or chooses one for a new encoder.
            tiers: One to three ascending dimensions, the last of them the native one.
            rotation: ``"fit"`` to rotate the space so that its first dimensions carry the most information.
            dry_run: True to write nothing, and report what the re-index would cost and what the latest queries would
                find; see ``Replay``. Queries come from the query log (``Config.query_log``; another encoder also needs
                ``Config.query_text="plain"``); without any, stored entries are used as queries.
            progress: Called with (entries done, entries in all) after each batch.
            batch_size: Entries encoded and written together.
            max_cpu: Share of the time that the work may take, in (0, 1]; it sleeps for the rest.
            workers: Processes on this machine that encode together, this one included. More than one needs a memory
                on PostgreSQL, and an encoder by name or path.
            join: True to help with a re-index that another process, on any machine, has begun: encode what nobody has
                claimed, and return what was encoded here. Only ``encoder`` and ``progress`` are looked at.

        Raises:
            InvalidInputError: An argument is unusable, the store is empty, or it has this embedding space already.
            LeaseHeldError: Another process is re-indexing the store.
            NotFoundError: With ``join``, no re-index is under way.
            IndexStateError: The new generation did not pass verification; the live one was not touched.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> print(memory.reindex(tiers=(128, 768)).source)
            copy
        """
        from agent_memory.upkeep.plan import ReindexRequest
        from agent_memory.upkeep.rehearsal import rehearse_reindex
        from agent_memory.upkeep.reindex import Reindexer
        from agent_memory.upkeep.sharing import Helper

        inputs.check_flag("dry_run", dry_run)
        inputs.check_flag("join", join)
        request = ReindexRequest(
            encoder=encoder,
            session_encoder=session_encoder,
            tiers=tiers,
            rotation=rotation,
            batch_size=batch_size,
            max_cpu=max_cpu,
            workers=workers,
        )
        if join:
            return Helper(self._store, encoder).run(progress)
        current = self._store.follow_space()
        if dry_run:
            self._queries.flush()
            return rehearse_reindex(self._store, request, current)
        report = Reindexer(self._store).reindex(request, current, progress)
        self._store.follow()
        return report

    def rollback(
        self, *, encoder: Encoder | str | Path | None = None, progress: Progress | None = None
    ) -> ReindexReport:
        """Return to the generation before the last re-index, after adding the entries written since.

        Args:
            encoder: Encoder of that generation; needed if it is not built in and this memory did not open with it.
            progress: As for ``reindex``.

        Raises:
            NotFoundError: There is no former generation, or it was deleted.
            EncoderMismatchError: This process does not know the generation's encoder.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> report = memory.reindex(tiers=(128, 768))
            >>> str(memory.rollback().state)
            'done'
        """
        inputs.check_encoder("encoder", encoder)
        from agent_memory.upkeep.reindex import Reindexer

        report = Reindexer(self._store).rollback(encoder, progress)
        self._store.follow()
        return report

    def collect_generations(self, *, grace: timedelta = GRACE) -> int:
        """Delete former generations that were retired longer ago than ``grace``; returns how many.

        Example:
            >>> memory.collect_generations()
            0
        """
        from agent_memory.upkeep.reindex import Reindexer

        return Reindexer(self._store).collect(inputs.check_timedelta("grace", grace))

    def generations(self) -> list[GenerationInfo]:
        """Return the store's generations, oldest first.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> [(generation.id, str(generation.state)) for generation in memory.generations()]
            [(1, 'live')]
        """
        with self._store.read() as tx:
            return tx.generations.list_all()

    # --- maintenance -------------------------------------------------------------------------------------

    def maintenance(self, *, dry_run: bool = False, only: Sequence[str] | None = None) -> Maintenance:
        """Do the maintenance that the store needs; with ``dry_run=True`` only report it, with estimated times.

        Recalls and writes continue. Actions that need exclusive access (``vacuum``, ``log``) are postponed while
        others use the store, and their result says so.

        A dry run also builds an index over a sample of the entries and compares it with the present one, on the latest
        queries (``Config.query_log``) or, without any, on stored entries; see ``Replay``.

        Args:
            dry_run: True to write nothing.
            only: Names of the actions to carry out; see ``MaintenanceAction``.

        Example:
            >>> entry = memory.add("The code is 1234.", expires_at="2099-12-31")
            >>> [(action.name, action.result) for action in memory.maintenance().actions]
            []
        """
        from agent_memory.upkeep.maintenance import Maintainer
        from agent_memory.upkeep.reindex import Reindexer

        inputs.check_flag("dry_run", dry_run)
        names = None if only is None else set(inputs.check_names("only", only))
        space = self._store.follow_space()
        self._queries.flush()
        collect = Reindexer(self._store).collect
        maintainer = Maintainer(self._store, space, grace=GRACE, eraser=self._eraser, collect=collect)
        return maintainer.look(rehearse=True) if dry_run else maintainer.carry_out(names)

    def purge_expired(self) -> Erasure:
        """Forget what has expired and what ``Config.retention`` says, here and in the namespaces below.

        Superseded entries that have expired go, too. Returns how many, as a receipt like that of ``forget``.

        Example:
            >>> entry = memory.add("The code is 1234.", expires_at="2099-12-31")
            >>> memory.purge_expired()
            0
        """
        return self._eraser.purge()

    def clear_queries(self, *, namespace: Sequence[str] | None = None) -> int:
        """Delete logged queries that were asked in a namespace or below it; returns how many.

        Other processes may still write queries that they were asked in the last seconds.

        Args:
            namespace: The namespace; this memory's own if left out.

        Example:
            >>> memory.clear_queries()
            0
        """
        return self._queries.clear(inputs.resolve_namespace(namespace, self._namespace))

    def save_snapshot(self) -> None:
        """Bring the index and the words tier up to date and write their snapshots, as ``close`` does.

        Example:
            >>> memory.save_snapshot()
        """
        space = self._store.follow_space()
        with self._store.read() as tx:
            self._store.index.view(tx, space.accept)
            self._store.words.view(tx)
        self._store.save()

    # --- backup ------------------------------------------------------------------------------------------

    def backup(self, path: str | Path, *, progress: Progress | None = None) -> int:
        """Copy the store to one file while it is in use; returns the number of entries in the copy.

        The copy holds all versions and vectors, so that restoring it encodes nothing. It is verified (pages,
        references, numbers of rows) and appears whole or not at all.

        Args:
            path: The file; an existing one is replaced.
            progress: Called with (pages copied, pages in all).

        Raises:
            StorageError: The file cannot be written, or the copy is damaged; an existing file is left as it was.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> memory.backup("alice.db")
            1
        """
        from agent_memory.upkeep import backup as backups

        return backups.backup(self._store, inputs.parse_path("path", path), progress)

    def backup_into(self, folder: Path, *, keep: int) -> tuple[Path, int]:
        """Write a backup into a folder, and delete this store's oldest ones there; returns (file, entries)."""
        from agent_memory.upkeep import backup as backups

        return backups.backup_into(self._store, folder, keep)

    @staticmethod
    def restore(
        backup: str | Path,
        path: str | Path,
        *,
        replace: bool = False,
        apply_forgets: bool = False,
        receipts: Sequence[Erasure | Mapping[str, Any]] = (),
    ) -> int:
        """Create a store from a backup, or replace a store that nobody has open.

        Schedules and the history of jobs do not come along: a backup may be a stranger's. If entries come back that the
        store that is replaced, or a receipt, says were forgotten since, a warning says so.

        Args:
            backup: A file that ``backup`` wrote.
            path: The folder of the store, or the address of a PostgreSQL database, where a schema without a store
                is filled. An interrupted restore to an address is finished by the same call.
            replace: True to replace an existing store in a folder; its content is lost.
            apply_forgets: True to forget again what was forgotten after the backup was made.
            receipts: What ``forget`` returned, or its ``to_dict``, where the store that forgot is not at ``path``.

        Returns:
            The number of entries in the store, former versions included.

        Raises:
            NotFoundError: There is no such backup.
            InvalidInputError: There is a store, and ``replace`` is False or ``path`` an address; or the backup is that
                store's file.
            StorageError: The backup is damaged, holds what no store has, or the store is in use; nothing was changed.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> count = memory.backup("alice.db")
            >>> Memory.restore("alice.db", "copy-of-my-agent")
            1
        """
        source, place = inputs.parse_path("backup", backup), inputs.parse_place("path", path)
        from agent_memory.upkeep import backup as backups

        return backups.restore(
            source,
            place,
            replace=inputs.check_flag("replace", replace),
            receipts=receipts,
            apply_forgets=inputs.check_flag("apply_forgets", apply_forgets),
        )

    @staticmethod
    def copy(
        source: str | Path, target: str | Path, *, dry_run: bool = False, progress: Progress | None = None
    ) -> Copied:
        """Copy a store to another place: from a folder to a PostgreSQL database, back, or of the same kind.

        Entries with all versions, vectors, latents, sessions, generations, receipts of ``forget`` and logged queries
        are copied as they are; nothing is encoded. Schedules, jobs and the list of backups stay behind. One state of
        the source is copied, which others may go on writing to. Until the copy is complete and compared row by row,
        nobody can open it: if the process is killed, the same call continues it. It gets an id of its own, and the two
        stores know of each other, so that the receipts of ``forget`` name the other one.

        Args:
            source: Folder or address of a store.
            target: Folder or address where no store is, or an unfinished copy of this one. Nobody may have it open.
            dry_run: True to look at both and write nothing.
            progress: Called with (rows copied and verified, twice the number of rows).

        Raises:
            NotFoundError: There is no store at ``source``.
            InvalidInputError: ``target`` holds another store, or cannot hold some row; nothing was written.
            StorageError: One of them cannot be read or written, or the copy differs from the source.

        Example:
            >>> entry = memory.add("Alice moved to Berlin.")
            >>> Memory.copy("my-agent", "moved-agent").entries
            1
        """
        places = inputs.parse_place("source", source), inputs.parse_place("target", target)
        inputs.check_progress(progress)
        from agent_memory.upkeep import copying

        return copying.copy(*places, progress, dry_run=inputs.check_flag("dry_run", dry_run))

    def copies(self) -> list[Copy]:
        """Return the backups, exports and copies made of this store, and the store it is a copy of, oldest first.

        Each says which receipts of ``forget`` are later, and how many forgotten rows it still holds.

        Example:
            >>> count = memory.backup("alice.db")
            >>> [copy.kind for copy in memory.copies()]
            ['backup']
        """
        from agent_memory.upkeep import backup as backups

        return backups.list_copies(self._store)
