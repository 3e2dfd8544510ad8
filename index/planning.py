"""Choosing the layout and its candidate counts by measuring them on the index's own vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from agent_memory.index.cascade import GATHER_SHARE
from agent_memory.index.coarse import CoarseTier, ListNumbers
from agent_memory.index.codebook import CENTROIDS, Codebook, learn_lists, train_codebook
from agent_memory.index.faiss_tools import limit_threads, load_faiss
from agent_memory.index.records import EVERYWHERE, IndexOptions, Plan
from agent_memory.index.state import State
from agent_memory.index.vectors import widen
from agent_memory.types import FloatArray, RowArray

TRUTH = 10
"""Recall is measured at this many neighbours."""

_COARSE_GRID = (50, 75, 100, 150, 200, 250, 300, 400, 500, 600, 700, 800, 1000, 1200, 1600, 2400, 3200, 6400)
_MAIN_GRID = (50, 75, 100, 150, 200, 400)
_COARSE_US, _MAIN_US = 0.2, 0.6
_BATCH = 4096
_MARGIN = 0.25
"""Share of the permitted loss that is kept in reserve."""
_CODE_BYTES, _CODE_BYTES_LARGE, _LARGE = 32, 40, 300_000
_WIDEST_SPAN = 256
_ROWS_PER_LIST = 64
"""Sampled rows per list that the list directions are learned from."""
_REACHES = [place / 50 for place in range(4, 40)]
_ROUTING_SHARE = 0.5
"""Share of the permitted loss that may come from lists that are not scanned."""
MAX_SCANNED = 0.6
"""If a larger mean share of the rows is scanned, lists are no faster than a single list."""
_RETRAIN_GROWTH, _RETRAIN_SHRINKAGE = 2, 4
# An index is saved by every process that has changed it; measuring takes most of a second at 10,000 rows.
_PLAN_GROWTH = 1.25
_OPPOSITE = np.float32(1e-3)
_LOST = -2
"""Stands for a neighbour in a list that is not scanned; -1 stands for no neighbour."""

_RecallGrid: TypeAlias = dict[int, dict[int, tuple[float, float]]]
"""{K1: {K2: (recall, standard error)}}"""


def needs_cascade(state: State, tiers: tuple[int, ...], options: IndexOptions) -> bool:
    """Return whether an index of this size and these tiers is searched through a coarse tier."""
    small = state.live < max(options.exact_below, CENTROIDS)
    return not small and len(tiers) > 1 and tiers[0] >= 8


def fits(codebook: Codebook, live: int) -> bool:
    """Return whether the codebook was learned when the index had about this many live rows."""
    return codebook.learned_at <= _RETRAIN_SHRINKAGE * live and live <= _RETRAIN_GROWTH * codebook.learned_at


def holds(plan: Plan, live: int) -> bool:
    """Return whether a plan was measured when the index had about this many live rows."""
    return plan.measured_rows <= _PLAN_GROWTH * live and live <= _PLAN_GROWTH * plan.measured_rows


def iter_prefixes(state: State, start: int, stop: int, dimension: int) -> Iterator[FloatArray]:
    """Yield the leading dimensions of rows [start, stop) in batches, float32 (m, dimension) of unit length."""
    for _, rows in state.native.iter_chunks(start, stop, _BATCH):
        yield normalise_prefixes(rows, dimension)


def normalise_prefixes(rows: npt.NDArray[np.generic], dimension: int) -> FloatArray:
    """Return the leading dimensions of stored rows, scaled to unit length, float32 (m, dimension)."""
    parts = widen(np.ascontiguousarray(rows[:, :dimension]))
    unit: FloatArray = parts / np.maximum(np.sqrt(np.vecdot(parts, parts)), np.float32(1e-12))[:, None]
    return unit


def learn_codebook(state: State, tiers: tuple[int, ...], options: IndexOptions) -> Codebook:
    """Train the coarse codebook on a sample of the live rows; in a large index it divides rows into lists."""
    large = state.live >= _LARGE
    widest = tiers[-2] if len(tiers) == 3 else tiers[-1]
    groups = min(2 * (_CODE_BYTES_LARGE if large else _CODE_BYTES), widest - widest % 2)
    span = min(widest, _WIDEST_SPAN) // groups * groups
    threads, seed = options.threads, options.seed
    vectors = _sample_prefixes(state, options.train_rows, span, seed)
    codebook = train_codebook(vectors, groups // 2, state.live, threads=threads, seed=seed)
    if not large:
        return codebook
    lists = 2 ** round(math.log2(math.sqrt(state.live) / 2))
    vectors = _sample_prefixes(state, _ROWS_PER_LIST * lists, span, seed)
    return learn_lists(codebook, vectors, lists, threads=threads, seed=seed)


def _sample_prefixes(state: State, count: int, dimension: int, seed: int) -> FloatArray:
    return normalise_prefixes(state.native.take(_sample(state, count, seed)), dimension)


def _sample(state: State, count: int, seed: int) -> RowArray:
    """Return up to ``count`` live rows in ascending order, drawn without repetition."""
    live = np.flatnonzero(state.alive[: state.count])
    if len(live) <= count:
        return live
    return np.sort(np.random.default_rng(seed).choice(live, count, replace=False))


def measure_plan(state: State, coarse: CoarseTier, tiers: tuple[int, ...], options: IndexOptions) -> Plan:
    """Find the cheapest candidate counts that reach the recall target on a sample of the index's own vectors.

    The point midway between two sampled vectors serves as a query, and these two are not counted as its neighbours.
    A single stored vector would be too easy a query, because it has closer neighbours than a question has: counts
    measured with such queries promised a recall of .989, and found .926 of the neighbours of real questions.

    Args:
        state: Rows to measure on; ``coarse`` covers all of them.
        coarse: The coarse tier.
        tiers: Dimensions of the tiers.
        options: Target, sample size, seed and threads.
    """
    pairs = _draw_pairs(state, options.sample_queries, options.seed + 1)
    queries = _compute_midpoints(state, pairs)
    truth = _find_neighbours(state, queries, pairs, options.threads)
    goal = options.recall_target + _MARGIN * (1 - options.recall_target)
    gaps, lists = coarse.measure_gaps(queries, state.alive_bits), coarse.export_lists()
    needed, reach = _look_up_gaps(gaps, lists, truth), EVERYWHERE
    if coarse.codebook.lists > 1:
        filtered = _measure_filtered_gaps(state, coarse, lists, queries, pairs, options)
        reach = _choose_reach([needed, filtered], 1 - _ROUTING_SHARE * (1 - goal))
    scanned = ((gaps <= reach) @ np.bincount(lists, minlength=coarse.codebook.lists)).mean() / len(coarse)
    reachable = np.where(needed <= reach, truth, _LOST)
    grid = _RecallMeter(state, coarse, tiers, options).measure(queries, pairs, reachable)
    coarse_count, main_count = _choose_counts(grid, goal)
    recall, error = grid[coarse_count][main_count]
    return Plan(
        layout=coarse.codebook.layout,
        coarse_candidates=coarse_count,
        main_candidates=main_count,
        reach=reach,
        scanned=float(scanned),
        recall=recall,
        recall_error=error,
        measured_rows=state.live,
    )


def _choose_counts(grid: _RecallGrid, goal: float) -> tuple[int, int]:
    """Return the cheapest K1 and K2 that reach the goal, or those with the highest recall if none do."""
    cells = [(k1, k2, *cell) for k1, row in grid.items() for k2, cell in row.items()]
    good = [(k1, k2) for k1, k2, recall, error in cells if recall - error >= goal]
    if good:
        return min(good, key=lambda counts: counts[0] * _COARSE_US + counts[1] * _MAIN_US)
    best = max(cells, key=lambda cell: cell[2])
    return best[0], best[1]


def _look_up_gaps(gaps: FloatArray, lists: ListNumbers, rows: RowArray) -> FloatArray:
    """Return the gap of the list that each row (nq, m) lies in, (nq, m), minus infinity for row -1."""
    return np.where(rows >= 0, np.take_along_axis(gaps, lists[rows].astype(np.int64), 1), -np.inf)


def _measure_filtered_gaps(
    state: State,
    coarse: CoarseTier,
    lists: ListNumbers,
    queries: FloatArray,
    excluded: RowArray,
    options: IndexOptions,
) -> FloatArray:
    """Return the gap of the list of each neighbour among the rows that pass the narrowest filter that is scanned.

    Such neighbours lie further out than neighbours among all rows, as do the later ones of a search for many. The
    rows ``excluded`` (nq, 2) are not counted.
    """
    passing = np.random.default_rng(options.seed + 2).random(state.count) * GATHER_SHARE < 1
    passing &= state.alive[: state.count]
    part = replace(state, alive=passing, dead=int(np.count_nonzero(~passing)))
    rows = _find_neighbours(part, queries, excluded, options.threads)
    return _look_up_gaps(coarse.measure_gaps(queries, part.alive_bits), lists, rows)


def _choose_reach(needed: list[FloatArray], goal: float) -> float:
    """Return the smallest reach that covers this share of the gaps in each (nq, m), less its standard error."""
    for reach in _REACHES:
        shares = [(gaps <= reach).mean(axis=1) for gaps in needed]
        if all(share.mean() - share.std() / np.sqrt(len(share)) >= goal for share in shares):
            return reach
    return EVERYWHERE


def _draw_pairs(state: State, count: int, seed: int) -> RowArray:
    """Return up to ``count`` pairs of live rows, (n, 2), no row twice."""
    rows = np.random.default_rng(seed).permutation(_sample(state, 2 * count, seed))
    return rows[: len(rows) // 2 * 2].reshape(-1, 2)


def _compute_midpoints(state: State, pairs: RowArray) -> FloatArray:
    """Return the unit vector midway between the two rows of each pair, or the first row if they are opposite."""
    first, second = (widen(state.native.take(rows)) for rows in pairs.T)
    middle = first + second
    length = np.sqrt(np.vecdot(middle, middle))[:, None]
    return np.where(length > _OPPOSITE, middle / np.maximum(length, _OPPOSITE), first)


def _find_neighbours(state: State, queries: FloatArray, excluded: RowArray, threads: int) -> RowArray:
    """Return the nearest live rows of each query, (nq, TRUTH) padded with -1, without those ``excluded`` (nq, 2)."""
    faiss = load_faiss()
    width = TRUTH + excluded.shape[1]
    scores = np.full((len(queries), width), -np.inf, np.float32)
    found = np.full((len(queries), width), -1, np.int64)
    for start, chunk in state.native.iter_chunks(0, state.count, _BATCH):
        places = np.flatnonzero(state.alive[start : start + len(chunk)])
        if not places.size:
            continue
        part = chunk if len(places) == len(chunk) else chunk[places]
        with limit_threads(threads):
            new, near = faiss.knn(queries, widen(part), min(width, len(places)), metric=faiss.METRIC_INNER_PRODUCT)
        scores = np.concatenate([scores, new], axis=1)
        found = np.concatenate([found, start + places[near]], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
        scores, found = np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
    scores[(found[:, :, None] == excluded[:, None]).any(axis=2)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TRUTH]
    return np.take_along_axis(found, order, 1)


@dataclass(frozen=True, slots=True)
class _RecallMeter:
    """Measures recall as a function of both candidate counts."""

    state: State
    coarse: CoarseTier
    tiers: tuple[int, ...]
    options: IndexOptions

    def measure(self, queries: FloatArray, excluded: RowArray, truth: RowArray) -> _RecallGrid:
        """Return the recall at each pair of candidate counts; the rows ``excluded`` (nq, 2) are not counted."""
        limit = min(_COARSE_GRID[-1], len(self.coarse))
        bitmap, threads = self.state.alive_bits, self.options.threads
        _, candidates = self.coarse.search(queries, limit + excluded.shape[1], bitmap, threads=threads)
        coarse_counts = [count for count in _COARSE_GRID if count < limit] + [limit]
        ranks = np.full((len(coarse_counts), *truth.shape), np.iinfo(np.int32).max, np.int32)
        for number, query in enumerate(queries):
            mine = candidates[number]
            mine = mine[(mine >= 0) & ~np.isin(mine, excluded[number])]
            ranks[:, number] = self._rank_truth(query, mine, truth[number], coarse_counts)
        counted = np.maximum((truth != -1).sum(axis=1), 1)
        grid: _RecallGrid = {}
        for place, coarse_count in enumerate(coarse_counts):
            grid[coarse_count] = {}
            for main_count in (coarse_count,) if self.state.main is None else _MAIN_GRID:
                share = (ranks[place] < main_count).sum(axis=1) / counted
                error = float(share.std() / np.sqrt(len(share)))
                grid[coarse_count][main_count] = (float(share.mean()), error)
        return grid

    def _rank_truth(
        self, query: FloatArray, candidates: RowArray, truth: RowArray, coarse_counts: list[int]
    ) -> npt.NDArray[np.int32]:
        """Return the rank of each true neighbour at the main tier among the first K1 candidates, (K1s, TRUTH)."""
        lost = np.iinfo(np.int32).max
        hits = candidates[None, :] == truth[:, None]
        places = np.where(hits.any(axis=1), hits.argmax(axis=1), lost)
        out = np.full((len(coarse_counts), len(truth)), lost, np.int32)
        state = self.state
        if state.main is None:
            out[:] = places
            return out
        codes = state.main.take(candidates).astype(np.float32)
        scores = np.vecdot(codes, query[: self.tiers[-2]]) * state.scales[candidates]
        for row, count in enumerate(coarse_counts):
            for column in np.flatnonzero(places < count):
                out[row, column] = (scores[:count] > scores[places[column]]).sum()
        return out
