"""The index over tiers of one vector: it grows and shrinks while it is searched."""

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
from agent_memory.index.records import MAX_ROWS, IndexOptions, IndexStats, MaintenanceReport, Plan, SearchResult
from agent_memory.index.state import State, append_rows, copy_rows, make_state, prepare_rows, remove_rows
from agent_memory.index.vectors import Dtype, check_ids, deduplicate
from agent_memory.index.view import IndexView
from agent_memory.types import IdArray

_SMALLEST_TAIL = 2048
_TAIL_SHARE = 256


class TieredIndex:
    """Nearest neighbours by inner product of unit vectors, through prefixes of growing length.

    Rows are numbered in order of arrival and keep their numbers until compaction. All methods may be called from
    several threads; ``view`` and ``search`` never wait for ``maintain`` or ``save``.

    Args:
        dimension: Native dimension.
        tiers: One to three ascending prefix dimensions, the last of them native: coarse, main, native.
        dtype: Precision in which native rows are stored.
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
        self._maintenance_lock = threading.Lock()
        self._state = make_state(tiers, dtype)

    def __len__(self) -> int:
        return self._state.live

    def add(self, ids: npt.ArrayLike, vectors: npt.ArrayLike) -> None:
        """Add rows, replacing rows whose id is present; every view taken afterwards sees them.

        Args:
            ids: int64 (n,), not negative, unique.
            vectors: (n, dimension), normalised here.

        Raises:
            DimensionMismatchError: Vectors of another dimension.
            InvalidInputError: Unusable ids or vectors; nothing was changed.
            IndexStateError: More rows than 2**31 - 1; nothing was changed.
        """
        new = check_ids(ids)
        pieces = prepare_rows(vectors, self.tiers, self.dtype)
        count = sum([len(native) for native, _, _ in pieces])
        if len(new) != count:
            raise InvalidInputError(f"got {len(new)} ids for {count} vectors")
        if len(deduplicate(new)) != len(new):
            raise InvalidInputError("an id is given twice in one call")
        if not len(new):
            return
        with self._lock:
            if self._state.count + len(new) > MAX_ROWS:
                raise IndexStateError(f"an index holds at most {MAX_ROWS} rows, tombstones included")
            replaced = self._state.find_rows(new)
            state = remove_rows(self._state, replaced) if replaced.size else self._state
            at = 0
            for native, codes, scales in pieces:
                state = append_rows(state, new[at : at + len(native)], native, codes, scales)
                at += len(native)
            self._state = state
            self._fold_long_tail()

    def remove(self, ids: npt.ArrayLike) -> int:
        """Remove rows by id and return how many were present; unknown ids are ignored.

        Raises:
            InvalidInputError: Ids that are not integers, or negative.
        """
        gone = deduplicate(check_ids(ids))
        with self._lock:
            rows = self._state.find_rows(gone)
            if rows.size:
                self._state = remove_rows(self._state, rows)
            return len(rows)

    def _fold_long_tail(self) -> None:
        """Encode the tail once it slows searches down; copying the codes then costs microseconds per added row."""
        state = self._state
        if state.coarse is not None and state.tail > max(_SMALLEST_TAIL, state.count // _TAIL_SHARE):
            self._state = replace(state, coarse=self._fold(state, state.coarse))

    def _fold(self, state: State, coarse: CoarseTier) -> CoarseTier:
        """Return the coarse tier extended to all rows."""
        batches = planning.iter_prefixes(state, len(coarse), state.count, coarse.codebook.dimension)
        return coarse.extend(batches, threads=self.options.threads)

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
        """Return sizes, the plan, and whether maintenance is due."""
        state, rows = self._state, max(self._state.count, 1)
        codebook = state.coarse.codebook if state.coarse else None
        held, mapped = state.count_bytes()
        return IndexStats(
            rows=state.live,
            tombstones=state.dead,
            tail=state.tail,
            dimension=self.dimension,
            tiers=self.tiers,
            plan=state.plan,
            coarse_bytes=codebook.code_bytes if codebook else 0,
            coarse_dimension=codebook.dimension if codebook else 0,
            coarse_lists=codebook.lists if codebook else 0,
            ram_bytes_per_row=held / rows,
            disk_bytes_per_row=mapped / rows,
            maintenance_due=self._is_maintenance_due(state),
        )

    def _needs_compaction(self, state: State) -> bool:
        return state.dead > self.options.compact_above * state.count

    def _is_maintenance_due(self, state: State) -> bool:
        coarse, live, measured = state.coarse, state.live, state.plan.measured_rows
        needs_coarse = planning.needs_cascade(state, self.tiers, self.options)
        if self._needs_compaction(state) or needs_coarse != (coarse is not None):
            return True
        in_range = measured / 2 <= live <= measured * 2
        return coarse is not None and not (in_range and planning.fits(coarse.codebook, live))

    def maintain(self) -> MaintenanceReport:
        """Adapt the index to its size: fold the tail, compact, train, measure.

        Searches and adds continue meanwhile. Takes seconds for a million rows when it trains, compacts or measures;
        call it when ``stats().maintenance_due`` is set, or when the process is idle. The plan is measured after
        training, after compaction, and where the rows have become a quarter more or a fifth fewer since.
        """
        began = time.perf_counter()
        with self._maintenance_lock:
            compacted = self._compact() if self._needs_compaction(self._state) else 0
            state = self._state
            coarse, plan, trained, folded = None, Plan(), False, 0
            if planning.needs_cascade(state, self.tiers, self.options):
                coarse, trained = self._make_coarse(state)
                folded = len(coarse) - (len(state.coarse) if state.coarse and not trained else 0)
                if trained or compacted or not planning.holds(state.plan, state.live):
                    plan = planning.measure_plan(state, coarse, self.tiers, self.options)
                else:
                    plan = state.plan
                if trained and coarse.codebook.lists > 1 and plan.scanned > planning.MAX_SCANNED:
                    coarse = self._fold(state, CoarseTier(coarse.codebook.merge_lists()))
                    plan = planning.measure_plan(state, coarse, self.tiers, self.options)
            with self._lock:
                self._state = replace(self._state, coarse=coarse, plan=plan)
        return MaintenanceReport(
            folded=folded,
            compacted=compacted,
            trained=trained,
            plan=plan,
            seconds=time.perf_counter() - began,
        )

    def _make_coarse(self, state: State) -> tuple[CoarseTier, bool]:
        """Return a coarse tier over all rows, and whether it was retrained because the index has another size now."""
        if state.coarse and planning.fits(state.coarse.codebook, state.live):
            return self._fold(state, state.coarse), False
        codebook = planning.learn_codebook(state, self.tiers, self.options)
        return self._fold(state, CoarseTier(codebook)), True

    def purge(self) -> int:
        """Rewrite all rows without the removed ones, in RAM, and let go of files that hold these; returns how many.

        Views taken before still hold them.
        """
        with self._maintenance_lock:
            return self._compact() if self._state.dead else 0

    @property
    def is_mapped(self) -> bool:
        """Whether rows are read from files."""
        state = self._state
        return any(block.path for column in (state.native, state.main) if column is not None for block in column.blocks)

    def _compact(self) -> int:
        """Rewrite all rows without the removed ones, then catch up with what changed meanwhile."""
        old = self._state
        kept = np.flatnonzero(old.alive[: old.count])
        fresh = copy_rows(make_state(self.tiers, self.dtype), old, kept)
        if old.coarse:
            fresh = replace(fresh, coarse=self._fold(fresh, CoarseTier(old.coarse.codebook)), plan=old.plan)
        with self._lock:
            now = self._state
            fresh = remove_rows(fresh, np.flatnonzero(~now.alive[kept]))
            late = old.count + np.flatnonzero(now.alive[old.count : now.count])
            self._state = copy_rows(fresh, now, late)
        return old.dead

    def save(self, folder: Path, *, generation: str, seq: int) -> Path:
        """Write a snapshot below ``folder``, and serve the rows from its files from then on.

        Rows that an earlier snapshot already holds are linked instead of being written again.

        Args:
            folder: Where snapshots are kept; created if missing.
            generation: What the vectors belong to; ``load`` must be given the same.
            seq: The last change that the index contains, at least 0.

        Returns:
            The folder of the snapshot.

        Raises:
            InvalidInputError: An unusable generation or seq.
            IndexStateError: It could not be written, e.g. because the disk is full; earlier snapshots are unchanged.
        """
        from agent_memory.index.snapshot.write import write_snapshot

        with self._maintenance_lock:
            state = self._state
            written = write_snapshot(Path(folder), state, self.tiers, self.dtype, generation=generation, seq=seq)
            with self._lock:
                now = self._state
                native = now.native.replace_prefix(written.native)
                main = now.main.replace_prefix(written.main) if now.main is not None else None
                self._state = replace(now, native=native, main=main)
        return written.path

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        generation: str,
        options: IndexOptions = IndexOptions(),  # noqa: B008 - frozen
    ) -> tuple[TieredIndex, int]:
        """Open the newest valid snapshot below ``folder``.

        All small files are verified now, rows when they are first used: searching a damaged file raises
        ``CorruptSnapshotError`` instead of returning an answer.

        Args:
            folder: Where snapshots are kept.
            generation: What the vectors must belong to.
            options: Recall target, thresholds, threads, seed.

        Returns:
            The index and the seq that it was saved with.

        Raises:
            CorruptSnapshotError: There is no snapshot, or none that passes verification.
            StaleGenerationError: There are snapshots of another generation only.
        """
        from agent_memory.index.snapshot.read import read_snapshot

        state, tiers, dtype, seq = read_snapshot(Path(folder), generation=generation)
        index = cls(tiers[-1], tiers, dtype=dtype, options=options)
        index._state = state
        return index, seq

    def verify(self) -> None:
        """Verify every byte of the mapped files.

        Raises:
            CorruptSnapshotError: A mapped file was damaged since it was saved.
        """
        state = self._state
        for column in (state.native, state.main):
            for block in column.blocks if column is not None else ():
                if block.checksums:
                    block.checksums.verify_span(0, len(block.array))
