"""What a store needs, what that would cost, and doing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.errors import LeaseHeldError
from agent_memory.live.index import Accept, LiveIndex
from agent_memory.reports import GenerationState, Maintenance, MaintenanceAction, Replay, ReplaySource
from agent_memory.storage.sqlite import generations, jobs, queries, upkeep
from agent_memory.storage.sqlite import vectors as stored
from agent_memory.storage.sqlite.database import LOG_BYTES, Connection, Database
from agent_memory.storage.sqlite.vectors import Generation
from agent_memory.types import FloatArray
from agent_memory.upkeep import rehearsal as replay
from agent_memory.upkeep.builder import sampled_recall

if TYPE_CHECKING:
    from agent_memory.index import IndexView

KEPT_CHANGES = 10_000
"""The youngest changes stay in the log, so that other processes can catch up."""

_WAL_BYTES = 2 * LOG_BYTES
_FREE_SHARE = 0.25
_FREE_BYTES = 16 << 20
_SEGMENTS = 8
_DRIFT = 0.03
_SAMPLE = 100
_DISK_BYTES_S = 100e6  # assumed speed of reading and writing a file


class Upkeep:
    """Looks after one store.

    Args:
        database: The store.
        live_index: Its index in this process.
        accept: Raises if the live generation is not that of this process's encoder.
        recall_target: What the tiers should find.
        grace: How long former generations are kept.
        purge: Deletes expired entries in the memory's namespace; returns how many.
        collect: Deletes former generations beyond the grace; returns how many.
    """

    def __init__(
        self,
        database: Database,
        live_index: LiveIndex,
        accept: Accept,
        *,
        recall_target: float,
        grace: timedelta,
        purge: Callable[[], int],
        collect: Callable[[timedelta], int],
    ) -> None:
        self._database, self._index, self._accept = database, live_index, accept
        self._target, self._grace, self._purge, self._collect = recall_target, grace, purge, collect

    def look(self, *, rehearse: bool = False) -> Maintenance:
        """Return the state of the store and what should be done about it; writes nothing.

        Args:
            rehearse: True to also build an index over a sample, and ask it the latest queries.
        """
        now = datetime.now(UTC)
        with self._database.read() as connection:
            view = self._index.view(connection, self._accept)
            state = upkeep.state(self._database, connection, now)
            former = [
                one
                for one in generations.listed(connection)
                if one.state is GenerationState.DROPPING
                or (one.state is GenerationState.FORMER and one.retired_at and one.retired_at <= now - self._grace)
            ]
            prunable = self._prunable(connection)
            live = stored.live_generation(connection)
            asked = np.empty((0, 0), np.float32) if live is None else replay.asked(connection, live)
            logged = queries.count(connection, ())
        index = self._index.stats()
        drift = {} if view is None else tier_recall(view)
        findings: dict[str, Any] = asdict(state) | {"tier_recall": drift}
        findings["queries"] = logged
        tried = None if view is None or live is None or not rehearse else self._rehearsed(view, live, asked)
        findings["index_tail"] = 0 if index is None else index.tail
        findings["index_tombstones"] = 0 if index is None else index.tombstones
        file_bytes, free_bytes = state.pages * state.page_bytes, state.free_pages * state.page_bytes
        actions = []

        def add(name: str, needed: object, reason: str, seconds: float, freed: int = 0) -> None:
            if needed:
                actions.append(
                    MaintenanceAction(name=name, reason=reason, seconds=round(seconds, 3), freed_bytes=freed)
                )

        add("purge", state.expired, f"{state.expired} expired entries", state.expired * 1e-4)
        recall = None if view is None else sampled_recall(view, 7)
        findings["recall"] = recall
        weak = recall is not None and recall < self._target - _DRIFT
        due = index is not None and (index.maintenance_due or weak)
        rebuild_s = (index.rows if index else 0) * 3e-5 if tried is None else tried.build_seconds
        freed = 0 if tried is None else tried.index_bytes_before - tried.index_bytes_after
        add("index", due, "the index has outgrown its tiers", rebuild_s, freed)
        vectors = sum(one.vectors for one in former)
        size = sum(one.vectors * one.dimension * np.dtype(one.dtype).itemsize for one in former)
        add("collect", former, f"{len(former)} former generations, {vectors} vectors", vectors * 2e-5, size)
        segments = state.lexical_segments
        add("lexical", segments > _SEGMENTS, f"the full-text index has {segments} segments", state.rows * 1e-5)
        add("changes", prunable, f"{prunable} changes that every snapshot has passed", prunable * 1e-6)
        roomy = free_bytes > _FREE_BYTES and free_bytes > _FREE_SHARE * file_bytes
        add("vacuum", roomy, f"{free_bytes} of {file_bytes} bytes are free", 2 * file_bytes / _DISK_BYTES_S, free_bytes)
        wal = state.wal_bytes
        add("log", wal > _WAL_BYTES, f"the log has {wal} bytes", wal / _DISK_BYTES_S, wal)
        return Maintenance(findings=findings, actions=tuple(actions), replay=tried)

    def _rehearsed(self, view: IndexView, live: Generation, asked: FloatArray) -> Replay:
        """Return what the latest queries find in the index, and in one built anew over a sample of its rows."""
        ids = view.ids()
        ids = ids[replay.some(len(ids), replay.SAMPLE)]
        matrix = view.vectors_of(ids)
        source = ReplaySource.QUERIES if len(asked) else ReplaySource.ENTRIES
        questions = asked if len(asked) else matrix[replay.some(len(ids), replay.ASKED)]
        after = replay.tried(
            ids, matrix, questions, tiers=live.tiers, dtype=live.dtype, options=self._index.options, whole=len(view)
        )
        stats = self._index.stats()
        size = 0 if stats is None else replay.index_bytes(stats, live.dtype, stats.rows + stats.tombstones)
        return replay.compared(replay.Trial(view, questions, size), after, source)

    def _prunable(self, connection: Connection) -> int:
        """Return how many changes nobody on this disk needs any more, if they are many."""
        first = stored.first_seq(connection)
        count = self._floor(connection) - first + 1 if first is not None else 0
        return count if count > KEPT_CHANGES else 0

    def _floor(self, connection: Connection) -> int:
        """Return the number up to which snapshots and jobs have passed the change log."""
        floor = stored.last_seq(connection) - KEPT_CHANGES
        oldest = [seq for seq, _ in self._index.snapshots()]
        started = [int(job.progress.get("seq", 0)) for job in jobs.listed(connection, unfinished=True)]
        return max(0, min([floor, *oldest, *started]))

    def carry_out(self, only: set[str] | None = None) -> Maintenance:
        """Do what ``look`` finds, or those of the given names; returns what was done."""
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

    def _do(self, name: str) -> str:
        match name:
            case "purge":
                return f"{self._purge()} entries purged"
            case "index":
                with self._database.read() as connection:
                    self._index.start_over(connection, self._accept)
                return "index built anew"
            case "collect":
                try:
                    return f"{self._collect(self._grace)} generations deleted"
                except LeaseHeldError as error:
                    return f"put off: {error}"
            case "lexical":
                return f"merged in {upkeep.merge_lexical(self._database)} steps"
            case "changes":
                with self._database.read() as connection:
                    floor = self._floor(connection)
                return f"{upkeep.prune_changes(self._database, floor)} changes dropped"
            case "vacuum":
                return "done" if upkeep.vacuum(self._database) else "put off: the store is in use"
            case _:
                return "done" if upkeep.truncate_log(self._database) else "put off: the store is in use"


def tier_recall(view: IndexView) -> dict[int, float]:
    """Return, for each tier, the share of the exact top 10 that it handed on, over a sample of the index's rows."""
    ids = view.ids()
    if not len(ids):
        return {}
    chosen = np.random.default_rng(7).choice(len(ids), min(_SAMPLE, len(ids)), replace=False)
    queries = view.vectors_of(ids[chosen])
    truth = view.search(queries, 10, exact=True).ids
    found = view.search(queries, 10, explain=True)
    shares: dict[int, list[float]] = {}
    for wanted, tiers in zip(truth, found.traces, strict=True):
        best = wanted[wanted >= 0]
        for tier in tiers:
            shares.setdefault(tier.tier, []).append(float(np.isin(best, tier.ids[: tier.kept]).mean()))
    return {tier: float(np.mean(values)) for tier, values in sorted(shares.items())}
