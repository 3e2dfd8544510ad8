"""The index over tiers of one vector that grows, shrinks, and is searched meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent_memory.errors import IndexStateError, InvalidInputError
from agent_memory.index import planning
from agent_memory.index.coarse import CoarseTier
from agent_memory.index.codebook import CENTROIDS
from agent_memory.index.records import MAX_ROWS, IndexOptions, IndexStats, MaintenanceReport, Plan, SearchResult
from agent_memory.index.state import State, empty_state, stored, with_copied, with_rows, without_rows
from agent_memory.index.vectors import Dtype, as_ids, distinct
from agent_memory.index.view import IndexView
from agent_memory.types import IdArray

_SMALLEST_TAIL = 2048
_TAIL_SHARE = 256
_RETRAIN_GROWTH, _RETRAIN_SHRINKAGE = 2, 4


class TieredIndex:
    """Nearest neighbours by inner product of unit vectors, through prefixes of growing length.

    Rows get numbers in order of arrival and keep them until compaction. All methods may be called from
    several threads; ``view`` and ``search`` never wait for ``maintain`` or ``save``.

    Args:
        dimension: Native dimension.
        tiers: One to three ascending prefix dimensions, the last of them native: coarse, main, native.
        dtype: How native rows are stored.
        options: Recall target, thresholds, threads, seed.

    Raises:
        InvalidInputError: Tiers that do not ascend to ``dimension``, or an unknown dtype.
    """

    def __init__(
        self,
        dimension: int,
        tiers: Sequence[int],
        *,
        dtype: Dtype = "float16",
        options: IndexOptions = IndexOptions(),  # noqa: B008 - frozen
    ) -> None:
        tiers = tuple(int(tier) for tier in tiers)
        ascending = tuple(sorted(set(tiers))) == tiers
        if not 1 <= len(tiers) <= 3 or not ascending or tiers[0] < 1 or tiers[-1] != dimension:
            raise InvalidInputError(
                f"tiers must be one to three ascending dimensions that end at {dimension}, got {tiers}"
            )
        if dtype not in ("float16", "float32"):
            raise InvalidInputError(f"dtype must be float16 or float32, got {dtype!r}")
        self.dimension, self.tiers, self.dtype, self.options = int(dimension), tiers, dtype, options
        self._lock = threading.Lock()
        self._upkeep = threading.Lock()
        self._state = empty_state(tiers, dtype)

    def __len__(self) -> int:
        return self._state.live

    def add(self, ids: npt.ArrayLike, vectors: npt.ArrayLike) -> None:
        """Add rows, or replace those whose id is present; visible to every view taken afterwards.

        Args:
            ids: int64 (n,), none negative, none twice.
            vectors: (n, dimension), normalised here.

        Raises:
            DimensionMismatchError: Vectors of another dimension.
            InvalidInputError: Unusable ids or vectors; nothing was changed.
            IndexStateError: More rows than 2**31 - 1; nothing was changed.
        """
        names = as_ids(ids)
        pieces = stored(vectors, self.tiers, self.dtype)
        given = sum([len(native) for native, _, _ in pieces])
        if len(names) != given:
            raise InvalidInputError(f"got {len(names)} ids for {given} vectors")
        if len(distinct(names)) != len(names):
            raise InvalidInputError("an id is given twice in one call")
        if not len(names):
            return
        with self._lock:
            if self._state.count + len(names) > MAX_ROWS:
                raise IndexStateError(f"an index holds at most {MAX_ROWS} rows, tombstones included")
            replaced = self._state.rows_of(names)
            state = without_rows(self._state, replaced) if replaced.size else self._state
            at = 0
            for native, codes, scales in pieces:
                state = with_rows(state, names[at : at + len(native)], native, codes, scales)
                at += len(native)
            self._state = state
            self._fold_long_tail()

    def remove(self, ids: npt.ArrayLike) -> int:
        """Remove rows by id and return how many there were; unknown ids are ignored."""
        names = distinct(as_ids(ids))
        with self._lock:
            rows = self._state.rows_of(names)
            if rows.size:
                self._state = without_rows(self._state, rows)
            return len(rows)

    def _fold_long_tail(self) -> None:
        """Encode the tail once it slows searches; copying the codes then costs microseconds per row added."""
        state = self._state
        if state.coarse is None:
            return
        tail = state.count - len(state.coarse)
        if tail > max(_SMALLEST_TAIL, state.count // _TAIL_SHARE):
            self._state = replace(state, coarse=self._folded(state, state.coarse))

    def _folded(self, state: State, coarse: CoarseTier) -> CoarseTier:
        batches = planning.prefixes(state, len(coarse), state.count, coarse.codebook.dimension)
        return coarse.extended(batches, threads=self.options.threads)

    def view(self) -> IndexView:
        """Return the index as it is now; later changes never show in it."""
        return IndexView(self._state, self.tiers, self.options)

    def search(
        self,
        queries: npt.ArrayLike,
        k: int,
        *,
        allowed: npt.ArrayLike | None = None,
        exact: bool = False,
        budget_ms: float | None = None,
        explain: bool = False,
    ) -> SearchResult:
        """Search a view taken now; see ``IndexView.search``."""
        return self.view().search(queries, k, allowed=allowed, exact=exact, budget_ms=budget_ms, explain=explain)

    def ids(self) -> IdArray:
        """Return the live ids, int64 (n,), in order of arrival."""
        return self.view().ids()

    def stats(self) -> IndexStats:
        """Return sizes, plan and whether maintenance is due."""
        state = self._state
        rows = max(state.count, 1)
        columns = [state.native, *([state.main] if state.main is not None else [])]
        mapped = sum(column.mapped * column.row_bytes for column in columns)
        held = sum(block.raw.nbytes for column in columns for block in column.blocks if block.path is None)
        held += state.ids.nbytes + state.alive.nbytes + state.scales.nbytes
        held += state.coarse.nbytes if state.coarse else 0
        return IndexStats(
            rows=state.live,
            tombstones=state.dead,
            tail=state.count - (len(state.coarse) if state.coarse else 0),
            dimension=self.dimension,
            tiers=self.tiers,
            plan=state.plan,
            coarse_bytes=state.coarse.codebook.code_bytes if state.coarse else 0,
            coarse_dimension=state.coarse.codebook.dimension if state.coarse else 0,
            coarse_lists=state.coarse.codebook.lists if state.coarse else 0,
            ram_bytes_per_row=held / rows,
            disk_bytes_per_row=mapped / rows,
            maintenance_due=self._due(state),
        )

    def _wants_cascade(self, state: State) -> bool:
        small = state.live < max(self.options.exact_below, CENTROIDS)
        return not small and len(self.tiers) > 1 and self.tiers[0] >= 8

    def _too_dead(self, state: State) -> bool:
        return state.dead > self.options.compact_above * state.count

    def _due(self, state: State) -> bool:
        if self._too_dead(state) or self._wants_cascade(state) != (state.coarse is not None):
            return True
        live, measured = state.live, state.plan.measured_rows
        return state.coarse is not None and not (measured / 2 <= live <= measured * 2 and _suits(state.coarse, live))

    def maintain(self) -> MaintenanceReport:
        """Bring the index into the shape that suits its size: fold the tail, compact, train, measure.

        Searches and adds go on meanwhile. Costs seconds at a million rows when it trains or compacts; call it
        when ``stats().maintenance_due``, or when the process is idle.
        """
        began = time.perf_counter()
        with self._upkeep:
            compacted = self._compact() if self._too_dead(self._state) else 0
            state = self._state
            coarse, plan, trained, folded = None, Plan(), False, 0
            if self._wants_cascade(state):
                coarse, trained = self._suitable(state)
                folded = len(coarse) - (len(state.coarse) if state.coarse and not trained else 0)
                plan = planning.measure(state, coarse, self.tiers, self.options)
                if trained and coarse.codebook.lists > 1 and plan.scanned > planning.MOST_SCANNED:
                    coarse = self._folded(state, CoarseTier(coarse.codebook.undivided()))
                    plan = planning.measure(state, coarse, self.tiers, self.options)
            with self._lock:
                self._state = replace(self._state, coarse=coarse, plan=plan)
        return MaintenanceReport(
            folded=folded,
            compacted=compacted,
            trained=trained,
            plan=plan,
            seconds=time.perf_counter() - began,
        )

    def _suitable(self, state: State) -> tuple[CoarseTier, bool]:
        """Return a coarse tier over all rows, trained anew if the present one was for another size of index."""
        if state.coarse and _suits(state.coarse, state.live):
            return self._folded(state, state.coarse), False
        codebook = planning.learn(state, self.tiers, self.options)
        return self._folded(state, CoarseTier(codebook)), True

    def _compact(self) -> int:
        """Rewrite all rows without the removed ones, then catch up with what changed meanwhile."""
        old = self._state
        kept = np.flatnonzero(old.alive[: old.count])
        fresh = with_copied(empty_state(self.tiers, self.dtype), old, kept)
        if old.coarse:
            fresh = replace(fresh, coarse=self._folded(fresh, CoarseTier(old.coarse.codebook)), plan=old.plan)
        with self._lock:
            now = self._state
            fresh = without_rows(fresh, np.flatnonzero(~now.alive[kept]))
            late = old.count + np.flatnonzero(now.alive[old.count : now.count])
            self._state = with_copied(fresh, now, late)
        return old.dead

    def save(self, folder: Path, *, generation: str, seq: int) -> Path:
        """Write a snapshot below ``folder`` and serve the rows from its files from then on.

        Rows that an earlier snapshot already holds are linked, not written again.

        Args:
            folder: Where snapshots live; made if missing.
            generation: What the vectors belong to; ``load`` asks for the same.
            seq: The last change that the index contains, at least 0.

        Returns:
            The folder of the snapshot.

        Raises:
            InvalidInputError: An unusable generation or seq.
            IndexStateError: It could not be written, e.g. the disk is full; earlier snapshots are untouched.
        """
        from agent_memory.index.snapshot import write as snapshot

        with self._upkeep:
            state = self._state
            saved = snapshot.write(Path(folder), state, self.tiers, self.dtype, generation=generation, seq=seq)
            with self._lock:
                now = self._state
                native = now.native.replace_prefix(saved.native)
                main = now.main.replace_prefix(saved.main) if now.main is not None else None
                self._state = replace(now, native=native, main=main)
        return saved.path

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        generation: str,
        options: IndexOptions = IndexOptions(),  # noqa: B008 - frozen
    ) -> tuple[TieredIndex, int]:
        """Open the newest valid snapshot below ``folder``.

        All small files are verified now, rows when they are first used: a search of a damaged file raises
        ``CorruptSnapshotError`` instead of answering.

        Returns:
            The index and the seq it was saved with.

        Raises:
            CorruptSnapshotError: No snapshot, or none that passes verification.
            StaleGenerationError: Only snapshots of another generation.
        """
        from agent_memory.index.snapshot import read as snapshot_reading

        state, tiers, dtype, seq = snapshot_reading.read(Path(folder), generation=generation)
        index = cls(tiers[-1], tiers, dtype=dtype, options=options)
        index._state = state
        return index, seq

    def verify(self) -> None:
        """Verify every byte of the mapped files; raises ``CorruptSnapshotError`` at the first damage."""
        state = self._state
        for column in (state.native, state.main):
            for block in column.blocks if column is not None else ():
                if block.checks:
                    block.checks.ensure_span(0, len(block.array))


def _suits(coarse: CoarseTier, live: int) -> bool:
    learned_at = coarse.codebook.learned_at
    return learned_at <= _RETRAIN_SHRINKAGE * live and live <= _RETRAIN_GROWTH * learned_at
