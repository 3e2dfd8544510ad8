"""Comparing a query with every row at the native dimension, one query at a time or many at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent_memory.index.faiss_tools import faiss, one_call, scan_block
from agent_memory.index.records import ScoreArray
from agent_memory.index.state import State
from agent_memory.index.vectors import rough_scores_of, widen
from agent_memory.types import FloatArray, RowArray

_CHUNK = 1024
_ROUNDING = 1e-4
"""Twice the worst error of a float32 inner product of unit vectors of 800 dimensions."""
_SPARE = 16
"""Rows found beyond k, so that those that only rounding keeps out of the first k are seen."""
_TOGETHER = 20
"""From so many queries on FAISS makes a matrix product of them, which is worth widening the rows for."""


@dataclass(frozen=True, slots=True)
class ExactScan:
    """What is compared.

    Attributes:
        state: The rows.
        rows: Rows that may be returned, unique; None for all live ones.
        mask: Set where a row may be returned, None if that is everywhere.
        k: Results per query.
    """

    state: State
    rows: RowArray | None
    mask: npt.NDArray[np.bool_] | None
    k: int

    def best_of_many(self, queries: FloatArray) -> list[RowArray]:
        """Return for each query (nq, d) rows that certainly include the best k, ties at the end included."""
        if len(queries) < _TOGETHER or self._allowed_count() <= self.k:
            return [self.best(query) for query in queries]
        scores, rows, unseen = self._multiplied(queries, self.k + _SPARE)
        answers = []
        for query, mine, places, missed in zip(queries, scores, rows, unseen.tolist(), strict=True):
            floor = _kth(mine, self.k) - _ROUNDING
            answers.append(places[mine >= floor] if missed < floor else self.best(query))
        return answers

    def best(self, query: FloatArray) -> RowArray:
        """Return rows that certainly include the best k of one query (d,), ties at the end included."""
        state = self.state
        if self._allowed_count() <= self.k:
            return self._allowed()
        if self.rows is not None and 8 * len(self.rows) < state.count:
            scores = self._gathered(query, self.rows)
            return self.rows[scores >= _kth(scores, self.k) - _ROUNDING]
        count = self.k + _SPARE
        while True:
            scores, rows, unseen = self._scanned(query, count)
            floor = _kth(scores, self.k) - _ROUNDING if scores.size >= self.k else -np.inf
            if unseen < floor:
                return rows[scores >= floor]
            count *= 4

    def _allowed(self) -> RowArray:
        return self.state.live_rows if self.rows is None else self.rows

    def _allowed_count(self) -> int:
        return self.state.live if self.rows is None else len(self.rows)

    def _gathered(self, query: FloatArray, rows: RowArray) -> ScoreArray:
        """Rough native scores of any number of rows, some at a time."""
        scores = np.empty(len(rows), np.float32)
        for at in range(0, len(rows), _CHUNK):
            piece = rows[at : at + _CHUNK]
            scores[at : at + _CHUNK] = rough_scores_of(self.state.native.take(piece), query)
        return scores

    def _scanned(self, query: FloatArray, count: int) -> tuple[ScoreArray, RowArray, float]:
        """Return the best ``count`` of each block together, and the most that any other row can score."""
        scores, rows, unseen = [np.empty(0, np.float32)], [np.empty(0, np.int64)], -np.inf
        for block in self.state.native.blocks:
            size = len(block.array)
            if not size:
                continue
            if block.checks:
                block.checks.ensure_span(0, size)
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

    def _multiplied(self, queries: FloatArray, count: int) -> tuple[ScoreArray, RowArray, ScoreArray]:
        """Return the best ``count`` of each query (nq, <= count), and the most that any other row can score (nq,)."""
        lib = faiss()
        scores = np.empty((len(queries), 0), np.float32)
        rows = np.empty((len(queries), 0), np.int64)
        unseen = np.full(len(queries), -np.inf, np.float32)
        for numbers, piece in self._pieces():
            with one_call(1):
                new, places = lib.knn(queries, piece, min(count, len(piece)), metric=lib.METRIC_INNER_PRODUCT)
            if count < len(piece):
                unseen = np.maximum(unseen, new[:, -1])
            scores, rows = np.hstack([scores, new]), np.hstack([rows, numbers[places]])
            if (surplus := scores.shape[1] - count) > 0:
                order = np.argpartition(scores, surplus, axis=1)
                unseen = np.maximum(unseen, np.take_along_axis(scores, order[:, :surplus], 1).max(axis=1))
                scores = np.take_along_axis(scores, order[:, surplus:], 1)
                rows = np.take_along_axis(rows, order[:, surplus:], 1)
        return scores, rows, unseen

    def _pieces(self) -> Iterator[tuple[RowArray, FloatArray]]:
        """Yield the numbers of some allowed rows and the rows themselves, widened, until there are no more."""
        native = self.state.native
        if self.mask is None and self.rows is None:
            for start, chunk in native.chunks(0, self.state.count, _CHUNK):
                yield np.arange(start, start + len(chunk)), widen(chunk)
            return
        allowed = self._allowed()
        for at in range(0, len(allowed), _CHUNK):
            numbers = allowed[at : at + _CHUNK]
            yield numbers, widen(native.take(numbers))


def _kth(scores: ScoreArray, k: int) -> float:
    """The k-th highest score."""
    return float(np.partition(scores, scores.size - k)[scores.size - k])
