"""The index that the database itself keeps: what a process does for it, beside searching it.

It holds the entries up to one change of the log, and never those that were forgotten. What has changed since, each
process compares with the query by itself; when that has become much, the process that notices takes it in. The first
one that needs the index fills it, in steps that the next one continues if it is killed.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.config import Config
from agent_memory.errors import InvalidInputError, LockTimeoutError, StorageError
from agent_memory.files import failpoint, reset_in_child
from agent_memory.live.rows import Rows, RowView, entries_of, first_extra, read_rows, replace_extras
from agent_memory.live.served_view import ServedView
from agent_memory.storage.base import Database, Transaction
from agent_memory.storage.nearest import Nearest, NearestRows, NearestState, choose_coarse
from agent_memory.storage.records import Accept, Generation
from agent_memory.types import FloatArray, IdArray

if TYPE_CHECKING:
    from agent_memory.index import IndexOptions, IndexStats, TieredIndex

_log = logging.getLogger("agent_memory")

MOST_NEW = 1_000
"""Changes that are searched beside the index; a recall that finds more takes them in."""
EXACT_BELOW = 10_000
"""Rows below which every one is compared."""

_STEP = 1_000  # entries in one transaction
_BREATH_S = 0.002
_CANDIDATES = (100, 200, 400, 800)
_SAMPLE = 40
_K = 10
_TIE = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Held:
    """What this process knows of the index, and of what has changed since.

    Attributes:
        identity: The generation's.
        state: How far the index is.
        seq: The last change that ``changed`` and ``fresh`` know.
        erasures: The erasures that they have seen.
        changed: The entries that have changed since the index, int64 (n,).
        fresh: Those of them that are searched, in this process; None if there are none.
        extras: All rows of passages, ascending.
    """

    identity: str
    state: NearestState
    seq: int
    erasures: tuple[int, int]
    changed: IdArray
    fresh: TieredIndex | None
    extras: IdArray


class ServedIndex:
    """The index of one generation on the server, as this process uses it; it has what ``LiveIndex`` has.

    Args:
        database: The database.
        config: Settings of the memory.

    Attributes:
        folder: Where no snapshots are.
    """

    def __init__(self, database: Database, config: Config) -> None:
        self._database, self._config = database, config
        self.folder = Path(os.devnull) / "index"
        self._start()
        reset_in_child(self, ServedIndex._start)

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._history = 0
        self._generation: Generation | None = None

    def assert_usable(self) -> None:
        """Raise if the database cannot keep an index; see ``Nearest.assert_usable``."""
        with self._database.read() as tx:
            _get(tx).assert_usable()

    @property
    def options(self) -> IndexOptions:
        """How an index is built that is compared with this one."""
        from agent_memory.index import IndexOptions

        return IndexOptions(recall_target=self._config.recall_target, threads=self._config.threads)

    # --- searching ---------------------------------------------------------------------------------------

    def view(self, tx: Transaction, accept: Accept) -> RowView | None:
        """Return a view that equals the store as ``tx``'s transaction sees it; see ``LiveIndex.view``."""
        generation = tx.generations.live()
        if generation is None:
            return None
        accept(generation)
        nearest = _get(tx)
        if self._is_behind(tx, nearest, generation) and not self._database.read_only:
            self._bring_up(generation)
            nearest.see_newest()
            generation = tx.generations.live()
            if generation is None:
                return None
            accept(generation)
        with self._lock:
            held = self._catch_up(tx, nearest, generation)
            self._generation = generation
            view = _make_view(nearest, generation, held)
        return RowView(view, held.extras)

    def _is_behind(self, tx: Transaction, nearest: Nearest, generation: Generation) -> bool:
        state = nearest.read_state(generation)
        if state is None:
            nearest.assert_usable(generation)
            return True
        behind = tx.changes.last_seq() - state.seq
        return not state.complete or behind > MOST_NEW or not tx.changes.reach_back_to(state.seq)

    def _catch_up(self, tx: Transaction, nearest: Nearest, generation: Generation) -> _Held:
        state = nearest.read_state(generation)
        if state is None or not state.complete or not tx.changes.reach_back_to(state.seq):
            raise StorageError(
                "the index on the server is not filled, and this memory cannot fill it: open it once with a role that "
                "can write, or use Config(index='local')"
            )
        seq, erasures = tx.changes.last_seq(), tx.erasures.read_state()
        held, self._held = self._held if tx.history == self._history else None, None
        self._history = tx.history
        if held is None or (held.identity, held.state, held.erasures) != (generation.identity, state, erasures):
            held = self._begin(nearest, generation, state, erasures)
        if held.seq > seq:  # another thread has seen more than this transaction
            self._held = held
            held = self._begin(nearest, generation, state, erasures)
            return _take_in(held, tx, generation, seq, self.options)
        self._held = held = _take_in(held, tx, generation, seq, self.options)
        return held

    def _begin(self, nearest: Nearest, generation: Generation, state: NearestState, erasures: tuple[int, int]) -> _Held:
        none = np.empty(0, np.int64)
        return _Held(
            identity=generation.identity,
            state=state,
            seq=state.seq,
            erasures=erasures,
            changed=none,
            fresh=None,
            extras=nearest.read_ids(generation, first=first_extra()),
        )

    # --- filling -----------------------------------------------------------------------------------------

    def _bring_up(self, generation: Generation) -> None:
        """Fill the index, or take in what has changed, in short write transactions; then make it approximate."""
        filled = False
        while True:
            with self._database.write() as tx:
                more, was_filled = _step(tx, generation)
            filled |= was_filled
            failpoint("nearest-step")
            if not more:
                break
            time.sleep(_BREATH_S)
        if filled:
            self.build(generation)

    def build(self, generation: Generation) -> None:
        """Make the approximate index if there are enough rows for it, and measure how many candidates it needs."""
        with self._database.read() as tx:
            state = _get(tx).read_state(generation)
        if state is None or state.rows < EXACT_BELOW or not self._database.build_nearest(generation):
            return
        with self._database.read() as tx:
            candidates, recall = _measure(_get(tx), generation, self._config.recall_target)
        with self._database.write() as tx:
            nearest = _get(tx)
            state = nearest.read_state(generation)
            if state is not None:
                nearest.record(generation, replace(state, candidates=candidates, recall=recall))

    def save(self) -> None:
        """Take in what has changed, unless others are writing; raises nothing, since no call needs it."""
        generation = self._generation
        if generation is None or self._database.read_only:
            return
        try:
            more = True
            while more:
                with self._database.write(wait_s=0.1) as tx:
                    live = tx.generations.live()
                    if live is None or live.identity != generation.identity:
                        return
                    more, _ = _step(tx, live)
        except LockTimeoutError:
            return
        except StorageError as error:
            _log.warning("the index on the server was not brought up to date: %s", error)

    def keep(self, index: TieredIndex, generation: Generation, seq: int, erasures: tuple[int, int]) -> Path | None:
        """Fill the index of a generation that is about to become the live one; see ``LiveIndex.keep``."""
        with self._database.read() as tx:
            _get(tx).assert_usable(generation)
        self._bring_up(generation)
        with self._database.write() as tx:
            nearest = _get(tx)
            state = nearest.read_state(generation)
            if state is not None and state.seq > seq:
                # What was written since has its vectors at the swap alone: it is taken in once more after that.
                nearest.record(generation, replace(state, seq=seq))
        return None

    # --- upkeep ------------------------------------------------------------------------------------------

    def start_over(self, tx: Transaction, accept: Accept) -> RowView | None:
        """Delete the index, and fill it from the store; returns its view."""
        generation = tx.generations.live()
        if generation is None:
            return None
        with self._database.write() as writing:
            _get(writing).begin(generation, NearestState(seq=writing.changes.last_seq()))
        with self._lock:
            self._held = None
        _get(tx).see_newest()
        return self.view(tx, accept)

    def improve(self, tx: Transaction, accept: Accept) -> None:
        """Do what ``IndexStats.maintenance_due`` asks for."""
        generation = tx.generations.live()
        if generation is not None:
            self._bring_up(generation)
            self.build(generation)
            _get(tx).see_newest()

    def faults(self, tx: Transaction, accept: Accept) -> list[str]:
        """Return what is wrong with the index on the server, one sentence each; reads all of it."""
        if self.view(tx, accept) is None or (generation := tx.generations.live()) is None:
            return []
        nearest = _get(tx)
        with self._lock:
            rows = _make_view(nearest, generation, self._catch_up(tx, nearest, generation))
        wrong, after, seen = 0, 0, 0
        while len(ids := nearest.list_next(generation, after, _STEP)):
            for row_ids, vectors in read_rows(tx, generation, ids):
                order = np.argsort(row_ids)
                there = rows.select_ids(row_ids[order])
                seen += len(row_ids)
                wrong += len(row_ids) - len(there)
                expected = vectors[order][np.isin(row_ids[order], there)].astype(np.float32)
                wrong += int((np.abs(rows.vectors_of(there) - expected).max(axis=1, initial=0) > _TIE).sum())
            after = int(ids[-1])
        surplus = len(rows.ids()) - seen
        found = [f"index: {wrong} rows on the server are missing, or their vectors are others"] if wrong else []
        return [*found, f"index: the server holds {surplus} rows too many"] if surplus > 0 else found

    def erase(self, tx: Transaction, accept: Accept, *, wait_s: float) -> list[str]:
        """Drop what this process has in memory; rows on the server went with their entries."""
        with self._lock:
            self._held = None
        return []

    def snapshots(self) -> list[tuple[int, Path]]:
        """Return the last change that the index knows, as if it were a snapshot: the log must reach back to it."""
        generation = self._generation
        if generation is None:
            return []
        with self._database.read() as tx:
            state = _get(tx).read_state(generation)
        return [] if state is None else [(state.seq, self.folder)]

    def release(self) -> None:
        """Do nothing: no file is mapped."""

    def discard_newer(self, tx: Transaction, found: Sequence[tuple[int, Path]]) -> None:
        """Do nothing: the index is in the same database."""

    def discard_outdated(self, tx: Transaction) -> None:
        """Do nothing: what was forgotten went out of the index in the same transaction."""

    def stats(self) -> IndexStats | None:
        """Return facts about the index, or None before the first recall."""
        from agent_memory.index import IndexStats, Plan

        held, generation = self._held, self._generation
        if held is None or generation is None:
            return None
        state, coarse = held.state, choose_coarse(generation)
        plan = Plan(
            layout="server" if state.candidates else "server, exact",
            coarse_candidates=state.candidates,
            main_candidates=state.candidates,
            recall=state.recall,
            measured_rows=state.rows,
        )
        return IndexStats(
            rows=state.rows + (0 if held.fresh is None else len(held.fresh)),
            tombstones=0,
            tail=0 if held.fresh is None else len(held.fresh),
            dimension=generation.dimension,
            tiers=generation.tiers,
            plan=plan,
            coarse_bytes=2 * coarse if state.candidates else 0,
            coarse_dimension=coarse,
            coarse_lists=0,
            ram_bytes_per_row=8 * len(held.extras) / max(state.rows, 1),
            disk_bytes_per_row=0.0,
            maintenance_due=state.rows >= EXACT_BELOW and not state.candidates,
        )


def _get(tx: Transaction) -> Nearest:
    nearest = tx.nearest
    if nearest is None:
        raise InvalidInputError("Config(index='server') is for a memory on PostgreSQL; use Config(index='local')")
    return nearest


def _make_view(nearest: Nearest, generation: Generation, held: _Held) -> ServedView:
    fresh = None if held.fresh is None else held.fresh.view()
    return ServedView(nearest, generation, held.state, held.changed, fresh)


def _take_in(held: _Held, tx: Transaction, generation: Generation, seq: int, options: IndexOptions) -> _Held:
    """Return what is known at a later change."""
    from agent_memory.index import TieredIndex

    if seq == held.seq:
        return held
    changed = tx.changes.ids_since(held.seq)
    fresh = held.fresh
    if fresh is None:
        fresh = TieredIndex(generation.dimension, generation.tiers, dtype=generation.dtype, options=options)
    former = held.extras[np.isin(entries_of(held.extras), changed)]
    rows = read_rows(tx, generation, changed)
    fresh.remove(np.concatenate([changed, former]))
    for ids, vectors in rows:
        fresh.add(ids, vectors)
    return replace(
        held,
        seq=seq,
        changed=np.union1d(held.changed, changed),
        fresh=fresh,
        extras=replace_extras(held.extras, former, [ids for ids, _ in rows]),
    )


def _step(tx: Transaction, generation: Generation) -> tuple[bool, bool]:
    """Take some entries into the index; returns whether there are more, and whether it has become complete."""
    nearest = _get(tx)
    state = nearest.read_state(generation)
    if state is None or not tx.changes.reach_back_to(state.seq):
        state = NearestState(seq=tx.changes.last_seq())
        nearest.begin(generation, state)
    changes = tx.changes.list_since(state.seq, _STEP)
    if changes:
        changed = np.unique(np.array([entry_id for _, entry_id, _ in changes], np.int64))
        added = nearest.put(generation, changed, _convert(read_rows(tx, generation, changed)))
        nearest.record(generation, replace(state, seq=changes[-1][0], rows=state.rows + added))
        return True, False
    if state.complete:
        return False, False
    ids = nearest.list_next(generation, state.filled, _STEP)
    if len(ids):
        added = nearest.put(generation, ids, _convert(read_rows(tx, generation, ids)))
        nearest.record(generation, replace(state, filled=int(ids[-1]), rows=state.rows + added))
        return True, False
    nearest.record(generation, replace(state, complete=True))
    return False, True


def _convert(rows: Sequence[Rows]) -> list[NearestRows]:
    return [NearestRows(ids=ids, entries=entries_of(ids), vectors=vectors) for ids, vectors in rows if len(ids)]


def _measure(nearest: Nearest, generation: Generation, target: float) -> tuple[int, float]:
    """Return how few candidates find the wanted share of the exact ten, and the share; 0 and 1 if none do.

    The questions are halfway between two stored vectors, as those by which the tiers of a process are measured.
    """
    ids = nearest.read_ids(generation)
    random = np.random.default_rng(7)
    pairs = nearest.read_vectors(generation, random.choice(ids, min(2 * _SAMPLE, len(ids)), replace=False))
    questions: FloatArray = pairs[0::2][: len(pairs) // 2] + pairs[1::2][: len(pairs) // 2]
    questions /= np.maximum(np.linalg.norm(questions, axis=1, keepdims=True), 1e-6)
    none = np.empty(0, np.int64)

    def ask(candidates: int) -> list[FloatArray]:
        found = nearest.search(generation, questions, _K, candidates=candidates, allowed=None, without=none)
        return [one.scores[:_K] for one in found]

    truth, recall = ask(0), 1.0
    for candidates in _CANDIDATES:
        hits = [float((mine >= best[-1] - _TIE).mean()) for mine, best in zip(ask(candidates), truth, strict=True)]
        recall = float(np.mean(hits))
        if recall >= target:
            return candidates, recall
    _log.info("the approximate index finds %.3f of the nearest, wanted %.3f: all rows are compared", recall, target)
    return 0, 1.0
