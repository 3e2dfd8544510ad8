"""What a store needs, what that would cost, and doing it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.errors import LeaseHeldError
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.reports import GenerationState, Maintenance, MaintenanceAction, Replay, ReplaySource
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Generation
from agent_memory.types import FloatArray
from agent_memory.upkeep import rehearsal
from agent_memory.upkeep.builder import measure_sampled_recall

if TYPE_CHECKING:
    from agent_memory.index import IndexView

KEPT_CHANGES = 10_000
"""The youngest changes stay in the log, so that other processes can catch up."""

_WAL_BYTES = 32 << 20
_FREE_SHARE = 0.25
_FREE_BYTES = 16 << 20
_SEGMENTS = 8
_DRIFT = 0.03
_SAMPLE = 100
_DISK_BYTES_S = 100e6  # assumed speed of reading and writing a file


class Maintainer:
    """Says what one store needs, and does it.

    Args:
        store: The store.
        space: Its embedding space in this process.
        grace: How long former generations are kept.
        purge: Deletes expired entries in the memory's namespace; returns how many.
        collect: Deletes former generations beyond the grace; returns how many.
    """

    def __init__(
        self,
        store: Store,
        space: Space,
        *,
        grace: timedelta,
        purge: Callable[[], int],
        collect: Callable[[timedelta], int],
    ) -> None:
        self._store, self._index, self._accept = store, store.index, space.accept
        self._grace, self._purge, self._collect = grace, purge, collect

    def look(self, *, rehearse: bool = False) -> Maintenance:
        """Return the state of the store and what should be done about it; writes nothing.

        Args:
            rehearse: True to also build an index over a sample, and ask it the latest queries.
        """
        now = datetime.now(UTC)
        with self._store.read() as tx:
            view = self._index.view(tx, self._accept)
            state = tx.measure(now)
            former = [
                one
                for one in tx.generations.list_all()
                if one.state is GenerationState.DROPPING
                or (one.state is GenerationState.FORMER and one.retired_at and one.retired_at <= now - self._grace)
            ]
            prunable = self._count_prunable(tx)
            live = tx.generations.live()
            questions = np.empty((0, 0), np.float32) if live is None else rehearsal.read_logged_queries(tx, live)
            logged = tx.queries.count(())
        index = self._index.stats()
        drift = {} if view is None else measure_tier_recall(view)
        findings: dict[str, Any] = asdict(state) | {"tier_recall": drift}
        findings["queries"] = logged
        trial = None if view is None or live is None or not rehearse else self._rehearse(view, live, questions)
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
        recall = None if view is None else measure_sampled_recall(view, 7)
        findings["recall"] = recall
        weak = recall is not None and recall < self._store.config.recall_target - _DRIFT
        due = index is not None and (index.maintenance_due or weak)
        rebuild_s = (index.rows if index else 0) * 3e-5 if trial is None else trial.build_seconds
        freed = 0 if trial is None else trial.index_bytes_before - trial.index_bytes_after
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
        return Maintenance(findings=findings, actions=tuple(actions), replay=trial)

    def _rehearse(self, view: IndexView, live: Generation, logged: FloatArray) -> Replay:
        """Return what the latest queries find in the index, and in a new one over a sample of its rows."""
        ids = view.ids()
        ids = ids[rehearsal.choose_rows(len(ids), rehearsal.SAMPLE)]
        matrix = view.vectors_of(ids)
        source = ReplaySource.QUERIES if len(logged) else ReplaySource.ENTRIES
        questions = logged if len(logged) else matrix[rehearsal.choose_rows(len(ids), rehearsal.REPLAYED)]
        after = rehearsal.build_trial(
            ids, matrix, questions, tiers=live.tiers, dtype=live.dtype, options=self._index.options, whole=len(view)
        )
        stats = self._index.stats()
        size = 0 if stats is None else rehearsal.estimate_bytes(stats, live.dtype, stats.rows + stats.tombstones)
        return rehearsal.compare(rehearsal.Trial(view, questions, size), after, source)

    def _count_prunable(self, tx: Transaction) -> int:
        """Return how many changes nobody on this disk needs any more, if they are many."""
        first = tx.changes.first_seq()
        count = self._find_floor(tx) - first + 1 if first is not None else 0
        return count if count > KEPT_CHANGES else 0

    def _find_floor(self, tx: Transaction) -> int:
        """Return the number up to which snapshots and jobs have passed the change log."""
        floor = tx.changes.last_seq() - KEPT_CHANGES
        oldest = [seq for seq, _ in self._index.snapshots()]
        started = [int(job.progress.get("seq", 0)) for job in tx.jobs.list_all(unfinished=True)]
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
                with self._store.read() as tx:
                    self._index.start_over(tx, self._accept)
                return "index rebuilt"
            case "collect":
                try:
                    return f"{self._collect(self._grace)} generations deleted"
                except LeaseHeldError as error:
                    return f"postponed: {error}"
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


def measure_tier_recall(view: IndexView) -> dict[int, float]:
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
