"""Choosing the layout and its candidate counts by measuring them on the index's own vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agent_memory.index.cascade import GATHER_SHARE
from agent_memory.index.coarse import CoarseTier
from agent_memory.index.codebook import Codebook, divided, train
from agent_memory.index.faiss_tools import faiss, one_call
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
"""Share of the allowed loss kept in reserve."""
_CODE_BYTES, _CODE_BYTES_LARGE, _LARGE = 32, 40, 300_000
_WIDEST_SPAN = 256
_ROWS_PER_LIST = 64
"""Rows that the direction of a list is learned from."""
_REACHES = [place / 50 for place in range(4, 40)]
_ROUTING_SHARE = 0.5
"""Share of the allowed loss that may come from lists that are not scanned."""
MOST_SCANNED = 0.6
"""Lists of which more than this share is scanned in the mean are no faster than one list."""
_OPPOSITE = np.float32(1e-3)
_LOST = -2
"""Stands for a neighbour in a list that is not scanned; -1 for none."""


def prefixes(state: State, start: int, stop: int, dimension: int) -> Iterator[FloatArray]:
    """Yield the leading dimensions of rows [start, stop) in batches, float32 (m, dimension)."""
    for _, rows in state.native.chunks(start, stop, _BATCH):
        yield unit_prefixes(rows, dimension)


def unit_prefixes(rows: npt.NDArray[np.generic], dimension: int) -> FloatArray:
    """Return the leading dimensions of stored rows, brought to unit length, float32 (m, dimension)."""
    parts = widen(np.ascontiguousarray(rows[:, :dimension]))
    unit: FloatArray = parts / np.maximum(np.sqrt(np.vecdot(parts, parts)), np.float32(1e-12))[:, None]
    return unit


def learn(state: State, tiers: tuple[int, ...], options: IndexOptions) -> Codebook:
    """Train the coarse codebook on a sample of the live rows; it divides the rows of a large index."""
    wanted = _CODE_BYTES if state.live < _LARGE else _CODE_BYTES_LARGE
    widest = tiers[-2] if len(tiers) == 3 else tiers[-1]
    groups = min(2 * wanted, widest - widest % 2)
    span = min(widest, _WIDEST_SPAN) // groups * groups
    rows = sample(state, options.train_rows, options.seed)
    vectors = unit_prefixes(state.native.take(rows), span)
    codebook = train(vectors, groups // 2, state.live, threads=options.threads, seed=options.seed)
    if state.live < _LARGE:
        return codebook
    lists = 2 ** round(math.log2(math.sqrt(state.live) / 2))
    vectors = unit_prefixes(state.native.take(sample(state, _ROWS_PER_LIST * lists, options.seed)), span)
    return divided(codebook, vectors, lists, threads=options.threads, seed=options.seed)


def sample(state: State, count: int, seed: int) -> RowArray:
    """Return up to ``count`` live rows in ascending order, drawn without repetition."""
    live = np.flatnonzero(state.alive[: state.count])
    if len(live) <= count:
        return live
    return np.sort(np.random.default_rng(seed).choice(live, count, replace=False))


def measure(state: State, coarse: CoarseTier, tiers: tuple[int, ...], options: IndexOptions) -> Plan:
    """Find the cheapest candidate counts that reach the recall target on a sample of the index's own vectors.

    What lies midway between two sampled vectors plays the query, and these two are not counted as its neighbours.
    Single vectors have closer neighbours than questions have, and lose less: counts measured with them promised
    .989 and found .926 of the neighbours of real questions.

    Args:
        state: Rows to measure on; ``coarse`` covers all of them.
        coarse: The coarse tier.
        tiers: Tier dimensions.
        options: Target, sample size, seed and threads.
    """
    pairs = _pairs(state, options.sample_queries, options.seed + 1)
    queries = _midpoints(state, pairs)
    truth = _neighbours(state, queries, pairs, options.threads)
    goal = options.recall_target + _MARGIN * (1 - options.recall_target)
    gaps, lists = coarse.gaps(queries, state.alive_bits), coarse.lists()
    behind, reach = _behind(gaps, lists, truth), EVERYWHERE
    if coarse.codebook.lists > 1:
        filtered = _behind_a_filter(state, coarse, lists, queries, pairs, options)
        reach = _reach([behind, filtered], 1 - _ROUTING_SHARE * (1 - goal))
    scanned = ((gaps <= reach) @ np.bincount(lists, minlength=coarse.codebook.lists)).mean() / len(coarse)
    ranks = _Ranks(state, coarse, tiers, options).of(queries, pairs, np.where(behind <= reach, truth, _LOST))
    cheapest, fallback = None, None
    for coarse_count, per_main in ranks.items():
        for main_count, (recall, error) in per_main.items():
            plan = Plan(
                layout=coarse.codebook.layout,
                coarse_candidates=coarse_count,
                main_candidates=main_count,
                reach=reach,
                scanned=float(scanned),
                recall=recall,
                recall_error=error,
                measured_rows=state.live,
            )
            cost = coarse_count * _COARSE_US + main_count * _MAIN_US
            if recall - error >= goal and (cheapest is None or cost < cheapest[0]):
                cheapest = (cost, plan)
            if fallback is None or recall > fallback.recall:
                fallback = plan
    return cheapest[1] if cheapest else fallback or Plan()


def _behind(gaps: FloatArray, lists: npt.NDArray[np.uint16], rows: RowArray) -> FloatArray:
    """Return the gap (nq, lists) of the list (n,) of each row (nq, m), minus infinity for row -1."""
    return np.where(rows >= 0, np.take_along_axis(gaps, lists[rows].astype(np.int64), 1), -np.inf)


def _behind_a_filter(
    state: State,
    coarse: CoarseTier,
    lists: npt.NDArray[np.uint16],
    queries: FloatArray,
    but: RowArray,
    options: IndexOptions,
) -> FloatArray:
    """Return the gap of the list of each neighbour among the rows that pass the narrowest filter that is scanned.

    They lie further out than neighbours among all rows, as do those that a search for many wants. Of the rows,
    ``but`` (nq, 2) are not counted.
    """
    passing = np.random.default_rng(options.seed + 2).random(state.count) * GATHER_SHARE < 1
    passing &= state.alive[: state.count]
    part = replace(state, alive=passing, dead=int(np.count_nonzero(~passing)))
    rows = _neighbours(part, queries, but, options.threads)
    return _behind(coarse.gaps(queries, part.alive_bits), lists, rows)


def _reach(behind: list[FloatArray], goal: float) -> float:
    """Return the smallest reach that takes in this share of each (nq, m), less its standard error."""
    for reach in _REACHES:
        shares = [(gaps <= reach).mean(axis=1) for gaps in behind]
        if all(share.mean() - share.std() / np.sqrt(len(share)) >= goal for share in shares):
            return reach
    return EVERYWHERE


def _pairs(state: State, count: int, seed: int) -> RowArray:
    """Return up to ``count`` pairs of live rows, (n, 2), no row twice."""
    rows = np.random.default_rng(seed).permutation(sample(state, 2 * count, seed))
    return rows[: len(rows) // 2 * 2].reshape(-1, 2)


def _midpoints(state: State, pairs: RowArray) -> FloatArray:
    """Return the unit vector midway between the two rows of each pair, or the first row if they are opposite."""
    first, second = (widen(state.native.take(rows)) for rows in pairs.T)
    middle = first + second
    length = np.sqrt(np.vecdot(middle, middle))[:, None]
    return np.where(length > _OPPOSITE, middle / np.maximum(length, _OPPOSITE), first)


def _neighbours(state: State, queries: FloatArray, but: RowArray, threads: int) -> RowArray:
    """Exact nearest live rows of each query but those in its row of ``but`` (nq, 2): (nq, TRUTH), padded with -1."""
    width = TRUTH + 2
    scores = np.full((len(queries), width), -np.inf, np.float32)
    found = np.full((len(queries), width), -1, np.int64)
    for start, chunk in state.native.chunks(0, state.count, _BATCH):
        places = np.flatnonzero(state.alive[start : start + len(chunk)])
        if not places.size:
            continue
        part = chunk if len(places) == len(chunk) else chunk[places]
        with one_call(threads):
            new, near = faiss().knn(queries, widen(part), min(width, len(places)), metric=faiss().METRIC_INNER_PRODUCT)
        scores = np.concatenate([scores, new], axis=1)
        found = np.concatenate([found, start + places[near]], axis=1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :width]
        scores, found = np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)
    scores[(found[:, :, None] == but[:, None]).any(axis=2)] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :TRUTH]
    return np.take_along_axis(found, order, 1)


@dataclass(frozen=True, slots=True)
class _Ranks:
    """Recall as a function of both candidate counts."""

    state: State
    coarse: CoarseTier
    tiers: tuple[int, ...]
    options: IndexOptions

    def of(self, queries: FloatArray, but: RowArray, truth: RowArray) -> dict[int, dict[int, tuple[float, float]]]:
        """Return {K1: {K2: (recall, standard error)}}; the rows ``but`` (nq, 2) are not counted."""
        limit = min(_COARSE_GRID[-1], len(self.coarse))
        _, candidates = self.coarse.search(queries, limit + 2, self.state.alive_bits, threads=self.options.threads)
        grid = [count for count in _COARSE_GRID if count < limit] + [limit]
        ranks = np.full((len(grid), *truth.shape), np.iinfo(np.int32).max, np.int32)
        for number, query in enumerate(queries):
            mine = candidates[number]
            mine = mine[(mine >= 0) & ~np.isin(mine, but[number])]
            ranks[:, number] = self._of_query(query, mine, truth[number], grid)
        counted = np.maximum((truth != -1).sum(axis=1), 1)
        result: dict[int, dict[int, tuple[float, float]]] = {}
        for place, coarse_count in enumerate(grid):
            options = (coarse_count,) if self.state.main is None else _MAIN_GRID
            result[coarse_count] = {}
            for main_count in options:
                share = (ranks[place] < main_count).sum(axis=1) / counted
                error = float(share.std() / np.sqrt(len(share)))
                result[coarse_count][main_count] = (float(share.mean()), error)
        return result

    def _of_query(
        self, query: FloatArray, candidates: RowArray, truth: RowArray, grid: list[int]
    ) -> npt.NDArray[np.int32]:
        """Rank of each true neighbour at the main tier among the first K1 candidates, (len(grid), TRUTH)."""
        lost = np.iinfo(np.int32).max
        hits = candidates[None, :] == truth[:, None]
        places = np.where(hits.any(axis=1), hits.argmax(axis=1), lost)
        out = np.full((len(grid), len(truth)), lost, np.int32)
        state = self.state
        if state.main is None:
            out[:] = places
            return out
        codes = state.main.take(candidates).astype(np.float32)
        scores = np.vecdot(codes, query[: self.tiers[-2]]) * state.scales[candidates]
        for row, count in enumerate(grid):
            for column in np.flatnonzero(places < count):
                out[row, column] = (scores[:count] > scores[places[column]]).sum()
        return out
