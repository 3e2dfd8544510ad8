"""Finds out what a store needs and what that would cost, and does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.errors import LeaseHeldError
from agent_memory.live.served_view import ServedView
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.reports import GenerationInfo, GenerationState, Maintenance, MaintenanceAction, Replay
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import DatabaseState
from agent_memory.upkeep.measure import measure_sampled_recall, measure_tier_recall
from agent_memory.upkeep.rehearsal import read_logged_queries, rehearse_rebuild
from agent_memory.writing.erasure import Eraser
from agent_memory.writing.mentions import read_unread

if TYPE_CHECKING:
    from agent_memory.index import IndexStats

KEPT_CHANGES = 10_000
"""Number of recent changes that stay in the log, so that other processes can catch up."""

_WAL_BYTES = 32 << 20
_FREE_SHARE = 0.25
_FREE_BYTES = 16 << 20
_SEGMENTS = 8
_DRIFT = 0.03
_DISK_BYTES_S = 100e6  # assumed speed of reading and writing a file
_INDEXED_ROW_S = 3e-5  # to index one row
_READ_ROW_S = 1e-4  # to read a text for times


@dataclass(frozen=True, slots=True, kw_only=True)
class _Survey:
    """What a look at a store found.

    Attributes:
        state: Figures of the database.
        collectable: Former generations past their grace period.
        prunable: Changes that can leave the log.
        surplus: Rows that are beyond their namespace's retention.
        unerased: Erasures that are to be finished.
        logged: Queries in the query log.
        index: Facts about the index; None if nothing is stored.
        recall: Recall@10 of the index against exact search, or None.
        tier_recall: Share of the exact top 10 that each tier hands on, by dimension.
        replay: With a rehearsal: what the latest queries find in the index and in a new one.
    """

    state: DatabaseState
    collectable: list[GenerationInfo]
    prunable: int
    surplus: int
    unerased: int
    logged: int
    index: IndexStats | None
    recall: float | None
    tier_recall: dict[int, float]
    replay: Replay | None

    def list_findings(self) -> dict[str, Any]:
        """Return the figures that ``Maintenance.findings`` describes."""
        return asdict(self.state) | {
            "tier_recall": self.tier_recall,
            "queries": self.logged,
            "index_tail": 0 if self.index is None else self.index.tail,
            "index_tombstones": 0 if self.index is None else self.index.tombstones,
            "recall": self.recall,
        }


class Maintainer:
    """Says what one store needs, and does it.

    Args:
        store: The store.
        space: Its embedding space in this process.
        grace: How long former generations are kept.
        eraser: Forgets expired entries in the memory's namespace, and finishes what was forgotten.
        collect: Deletes former generations past the grace period; returns how many.
    """

    def __init__(
        self,
        store: Store,
        space: Space,
        *,
        grace: timedelta,
        eraser: Eraser,
        collect: Callable[[timedelta], int],
    ) -> None:
        self._store, self._index, self._accept = store, store.index, space.accept
        self._grace, self._eraser, self._collect = grace, eraser, collect

    def look(self, *, rehearse: bool = False) -> Maintenance:
        """Return the state of the store and what should be done about it; writes nothing.

        Args:
            rehearse: True to also build an index over a sample of the entries, and ask it the latest queries.
        """
        survey = self._survey(rehearse=rehearse)
        actions = (*self._list_data_actions(survey), *self._list_file_actions(survey))
        return Maintenance(findings=survey.list_findings(), actions=actions, replay=survey.replay)

    def carry_out(self, only: set[str] | None = None) -> Maintenance:
        """Do what ``look`` finds, or only the actions of the given names; returns what was done."""
        looked = self.look()
        done = []
        for action in looked.actions:
            if only is not None and action.name not in only:
                continue
            started = time.perf_counter()
            result = self._do(action.name)
            seconds = round(time.perf_counter() - started, 3)
            done.append(replace(action, seconds=seconds, result=result))
        return Maintenance(findings=looked.findings, actions=tuple(done), done=True)

    def _read_mentions(self) -> int:
        total = 0
        while True:  # many short transactions, after each of which a process may be killed
            with self._store.write() as tx:
                count = read_unread(tx, self._store.config)
            if not count:
                return total
            total += count

    # --- looking -----------------------------------------------------------------------------------------

    def _survey(self, *, rehearse: bool) -> _Survey:
        now = self._store.database.now()
        with self._store.read() as tx:
            view = self._index.view(tx, self._accept)
            state = tx.measure(now)
            generations = tx.generations.list_all()
            prunable = self._count_prunable(tx)
            surplus = len(self._eraser.find_surplus(tx, now))
            unerased = len(tx.erasures.list_unfinished())
            live = tx.generations.live()
            questions = None if live is None or not rehearse else read_logged_queries(tx, live)
            logged = tx.queries.count(())
            rows = None if view is None or isinstance(view.rows, ServedView) else view.rows
        stats, replay = self._index.stats(), None
        if rows is not None and live is not None and questions is not None:
            replay = rehearse_rebuild(rows, live, questions, stats=stats, options=self._index.options)
        return _Survey(
            state=state,
            collectable=[one for one in generations if self._is_collectable(one, now)],
            prunable=prunable,
            surplus=surplus,
            unerased=unerased,
            logged=logged,
            index=stats,
            # On the server it was measured when the index was made: exact searches there take too long for this.
            recall=(None if stats is None else stats.plan.recall) if rows is None else measure_sampled_recall(rows, 7),
            tier_recall={} if rows is None else measure_tier_recall(rows),
            replay=replay,
        )

    def _is_collectable(self, generation: GenerationInfo, now: datetime) -> bool:
        if generation.state is GenerationState.DROPPING:
            return True
        retired_at = generation.retired_at
        return generation.state is GenerationState.FORMER and bool(retired_at and retired_at <= now - self._grace)

    def _list_data_actions(self, survey: _Survey) -> Iterator[MaintenanceAction]:
        """Yield what should be done about entries, index and generations."""
        expired, index, replay = survey.state.expired, survey.index, survey.replay
        if expired or survey.surplus:
            reason = f"{expired} expired entries, {survey.surplus} rows beyond their retention"
            yield _make_action("purge", reason, (expired + survey.surplus) * 1e-4)
        if survey.unerased:
            reason = f"{survey.unerased} erasures whose traces are still in files"
            yield _make_action("erase", reason, 0.1 + survey.state.pages * survey.state.page_bytes / _DISK_BYTES_S)
        if unread := survey.state.unread:
            yield _make_action("mentions", f"{unread} entries were never read for times", unread * _READ_ROW_S)
        weak = survey.recall is not None and survey.recall < self._store.config.recall_target - _DRIFT
        if index is not None and (index.maintenance_due or weak):
            seconds = index.rows * _INDEXED_ROW_S if replay is None else replay.build_seconds
            freed = 0 if replay is None else replay.index_bytes_before - replay.index_bytes_after
            yield _make_action("index", "the index has outgrown its tiers", seconds, freed)
        if former := survey.collectable:
            vectors = sum(one.vectors for one in former)
            freed = sum(one.vectors * one.dimension * np.dtype(one.dtype).itemsize for one in former)
            reason = f"{len(former)} former generations, {vectors} vectors"
            yield _make_action("collect", reason, vectors * 2e-5, freed)

    def _list_file_actions(self, survey: _Survey) -> Iterator[MaintenanceAction]:
        """Yield what should be done about the full-text index, the change log and the database file."""
        state, prunable = survey.state, survey.prunable
        segments, wal_bytes = state.lexical_segments, state.wal_bytes
        if segments > _SEGMENTS:
            yield _make_action("lexical", f"the full-text index has {segments} segments", state.rows * 1e-5)
        if prunable:
            yield _make_action("changes", f"{prunable} changes that every snapshot has passed", prunable * 1e-6)
        file_bytes, free_bytes = state.pages * state.page_bytes, state.free_pages * state.page_bytes
        if free_bytes > _FREE_BYTES and free_bytes > _FREE_SHARE * file_bytes:
            reason = f"{free_bytes} of {file_bytes} bytes are free"
            yield _make_action("vacuum", reason, 2 * file_bytes / _DISK_BYTES_S, free_bytes)
        if wal_bytes > _WAL_BYTES:
            reason = f"the write-ahead log has {wal_bytes} bytes"
            yield _make_action("log", reason, wal_bytes / _DISK_BYTES_S, wal_bytes)

    def _count_prunable(self, tx: Transaction) -> int:
        """Return how many changes of the log no snapshot or job needs any more; 0 if they are few."""
        first = tx.changes.first_seq()
        count = self._find_floor(tx) - first + 1 if first is not None else 0
        return count if count > KEPT_CHANGES else 0

    def _find_floor(self, tx: Transaction) -> int:
        """Return the number of the last change that all snapshots and jobs have passed."""
        floor = tx.changes.last_seq() - KEPT_CHANGES
        oldest = [seq for seq, _ in self._index.snapshots()]
        started = [int(job.progress.get("seq", 0)) for job in tx.jobs.list_all(unfinished=True)]
        return max(0, min([floor, *oldest, *started]))

    # --- doing -------------------------------------------------------------------------------------------

    def _do(self, name: str) -> str:
        match name:
            case "purge":
                return f"{self._eraser.purge()} entries purged"
            case "erase":
                _, pending = self._eraser.finish()
                return f"postponed: {'; '.join(pending)}" if pending else "done"
            case "index":
                with self._store.read() as tx:
                    self._index.improve(tx, self._accept)
                return "index rebuilt"
            case "collect":
                try:
                    return f"{self._collect(self._grace)} generations deleted"
                except LeaseHeldError as error:
                    return f"postponed: {error}"
            case "mentions":
                return f"{self._read_mentions()} texts read"
            case "lexical":
                return f"merged in {self._store.database.merge_lexical()} steps"
            case "changes":
                with self._store.read() as tx:
                    floor = self._find_floor(tx)
                return f"{self._store.database.prune_changes(floor)} changes dropped"
            case "vacuum":
                return "done" if self._store.database.vacuum() else "postponed: the store is in use"
            case _:
                return "done" if self._store.database.truncate_log() else "postponed: the store is in use"


def _make_action(name: str, reason: str, seconds: float, freed_bytes: int = 0) -> MaintenanceAction:
    return MaintenanceAction(name=name, reason=reason, seconds=round(seconds, 3), freed_bytes=freed_bytes)
