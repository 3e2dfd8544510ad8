"""Comparing queries with every row at the native dimension, one query at a time or many at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent_memory.index.faiss_tools import limit_threads, load_faiss, scan_block
from agent_memory.index.state import State
from agent_memory.index.vectors import score_rows_roughly, widen
from agent_memory.types import FloatArray, RowArray

_CHUNK = 1024
ROUNDING = 1e-4
"""Twice the largest error of a float32 inner product of unit vectors of 800 dimensions."""
_SPARE = 16
"""Rows fetched beyond k, so that rows that rounding alone keeps out of the first k are found."""
_BATCH = 20
"""FAISS switches to a matrix product at this batch size, which makes widening the rows worthwhile."""


@dataclass(frozen=True, slots=True)
class ExactScan:
    """An exact search: what is compared, and how many results are wanted.

    Attributes:
        state: The rows.
        rows: Rows that may be returned, unique; None for all live ones.
        mask: Set where a row may be returned; None if every row may.
        k: Results per query.
    """

    state: State
    rows: RowArray | None
    mask: npt.NDArray[np.bool_] | None
    k: int

    def shortlist_many(self, queries: FloatArray) -> list[RowArray]:
        """Return for each query (nq, d) rows that are certain to include the best k and all ties with the last."""
        if len(queries) < _BATCH or self._count_allowed() <= self.k:
            return [self.shortlist(query) for query in queries]
        scores, rows, unseen = self._multiply(queries, self.k + _SPARE)
        answers = []
        for query, mine, places, missed in zip(queries, scores, rows, unseen.tolist(), strict=True):
            floor = find_kth(mine, self.k) - ROUNDING
            answers.append(places[mine >= floor] if missed < floor else self.shortlist(query))
        return answers

    def shortlist(self, query: FloatArray) -> RowArray:
        """Return rows that are certain to include the best k of one query (d,) and all ties with the last."""
        state = self.state
        if self._count_allowed() <= self.k:
            return self._list_allowed()
        if self.rows is not None and 8 * len(self.rows) < state.count:
            scores = score_roughly(state, self.rows, query)
            return self.rows[scores >= find_kth(scores, self.k) - ROUNDING]
        count = self.k + _SPARE
        while True:
            scores, rows, unseen = self._scan_blocks(query, count)
            floor = find_kth(scores, self.k) - ROUNDING if scores.size >= self.k else -np.inf
            if unseen < floor:
                return rows[scores >= floor]
            count *= 4

    def _list_allowed(self) -> RowArray:
        return self.state.live_rows if self.rows is None else self.rows

    def _count_allowed(self) -> int:
        return self.state.live if self.rows is None else len(self.rows)

    def _scan_blocks(self, query: FloatArray, count: int) -> tuple[FloatArray, RowArray, float]:
        """Return scores and rows of the best ``count`` of every block, and an upper bound on all other scores."""
        scores, rows, unseen = [np.empty(0, np.float32)], [np.empty(0, np.int64)], -np.inf
        for block in self.state.native.blocks:
            size = len(block.array)
            if not size:
                continue
            if block.checksums:
                block.checksums.verify_span(0, size)
            bits = None
            if self.mask is not None:
                bits = np.packbits(self.mask[block.start : block.stop], bitorder="little")
            found, places = scan_block(block, query[None, :], min(count, size), bits)
            kept = places >= 0
            if count < size and kept.all():
                unseen = max(unseen, float(found[-1]))
            scores.append(found[kept])
            rows.append(places[kept] + block.start)
        return np.concatenate(scores), np.concatenate(rows), unseen

    def _multiply(self, queries: FloatArray, count: int) -> tuple[FloatArray, RowArray, FloatArray]:
        """Return scores and rows (nq, <= count) of the best, and an upper bound (nq,) on all other scores."""
        faiss = load_faiss()
        scores = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        unseen = np.full(len(queries), -np.inf, np.float32)
        for numbers, piece in self._iter_pieces():
            with limit_threads(1):
                new, places = faiss.knn(queries, piece, min(count, len(piece)), metric=faiss.METRIC_INNER_PRODUCT)
            if count < len(piece):
                unseen = np.maximum(unseen, new[:, -1])
            scores, rows = np.hstack([scores, new]), np.hstack([rows, numbers[places]])
            if (surplus := scores.shape[1] - count) > 0:
                order = np.argpartition(scores, surplus, axis=1)
                unseen = np.maximum(unseen, np.take_along_axis(scores, order[:, :surplus], 1).max(axis=1))
                scores = np.take_along_axis(scores, order[:, surplus:], 1)
                rows = np.take_along_axis(rows, order[:, surplus:], 1)
        return scores, rows, unseen

    def _iter_pieces(self) -> Iterator[tuple[RowArray, FloatArray]]:
        """Yield (row numbers, widened rows) until all allowed rows were seen."""
        native = self.state.native
        if self.mask is None and self.rows is None:
            for start, chunk in native.iter_chunks(0, self.state.count, _CHUNK):
                yield np.arange(start, start + len(chunk)), widen(chunk)
            return
        allowed = self._list_allowed()
        for at in range(0, len(allowed), _CHUNK):
            numbers = allowed[at : at + _CHUNK]
            yield numbers, widen(native.take(numbers))


def score_roughly(state: State, rows: RowArray, query: FloatArray) -> FloatArray:
    """Return native scores (m,) of rows (m,) for one query (d,), off by less than ``ROUNDING``; a chunk at a time."""
    scores = np.empty(len(rows), np.float32)
    for at in range(0, len(rows), _CHUNK):
        piece = rows[at : at + _CHUNK]
        scores[at : at + _CHUNK] = score_rows_roughly(state.native.take(piece), query)
    return scores


def find_kth(scores: FloatArray, k: int) -> float:
    """Return the k-th highest score."""
    return float(np.partition(scores, scores.size - k)[scores.size - k])
