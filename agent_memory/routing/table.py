"""``Table``: the sentences of all routes with their vectors; immutable, so that threads may search while it grows."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from agent_memory.types import FloatArray

_POOL = 64  # sentences that the coarse tier hands on, at least
_POOL_OF_K = 8


class Line(NamedTuple):
    """A sentence of a route.

    Attributes:
        route: Name of the route; None for a text that is for none.
        text: The sentence.
        learned: Whether a correction brought it.
    """

    route: str | None
    text: str
    learned: bool


class Found(NamedTuple):
    """The best sentence of a route, with its score at the native dimension; see ``Table``."""

    route: str | None
    score: float
    line: Line


@dataclass(frozen=True, slots=True)
class Table:
    """Sentences and their vectors.

    A sentence of a description scores its cosine, a learned text the square of it: texts that people ask are closer to
    each other than to descriptions, and a correction must count for what is nearly the same text, not for all others.

    Attributes:
        lines: The sentences.
        vectors: Their vectors, float32 (n, dimension), of unit length.
        coarse: Prefixes of them, float32 (n, smallest tier), of unit length.
        learned: Which sentences were learned, bool (n,).
    """

    lines: tuple[Line, ...]
    vectors: FloatArray
    coarse: FloatArray
    learned: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, lines: Iterable[Line], vectors: FloatArray, tier: int) -> Table:
        """Return the table of sentences and their vectors, float32 (n, dimension)."""
        kept = tuple(lines)
        return cls(kept, vectors, shorten(vectors, tier), np.array([line.learned for line in kept], bool))

    def search(self, query: FloatArray, k: int, among: Collection[str] | None = None) -> list[Found]:
        """Return the best routes, best first: the smallest tier finds sentences, the native dimension ranks them.

        Args:
            query: The vector of a text, float32 (dimension,), of unit length.
            k: How many routes are wanted; at least two are returned where there are two.
            among: Names of the routes to choose from, beside what is for none; None for all.
        """
        if not self.lines:
            return []
        rows = self._find(query, max(_POOL, _POOL_OF_K * k), among)
        scores = _score(self.vectors[rows] @ query, self.learned[rows])
        best: dict[str | None, Found] = {}
        for place in np.argsort(-scores, kind="stable").tolist():
            line = self.lines[int(rows[place])]
            if line.route not in best:
                best[line.route] = Found(line.route, float(scores[place]), line)
                if len(best) > k + 1:
                    break
        return list(best.values())

    def _find(self, query: FloatArray, pool: int, among: Collection[str] | None) -> npt.NDArray[np.intp]:
        rows = np.arange(len(self.lines))
        if among is not None:
            names = {None, *among}
            rows = rows[[line.route in names for line in self.lines]]
        if len(rows) <= pool:
            return rows
        coarse, learned = (self.coarse, self.learned) if among is None else (self.coarse[rows], self.learned[rows])
        near = _score(coarse @ shorten(query[None], coarse.shape[1])[0], learned)
        return rows[np.sort(np.argpartition(near, len(near) - pool)[-pool:])]


def shorten(vectors: FloatArray, dimension: int) -> FloatArray:
    """Return prefixes of unit length, float32 (n, dimension); a prefix of zeros stays one."""
    prefixes = np.ascontiguousarray(vectors[:, :dimension], np.float32)
    lengths = np.linalg.norm(prefixes, axis=1, keepdims=True)
    shortened: FloatArray = prefixes / np.maximum(lengths, np.finfo(np.float32).tiny)
    return shortened


def find_best(table: Table, queries: FloatArray) -> FloatArray:
    """Return the best score of each of several vectors among the sentences of the routes, float32 (n,)."""
    rows = [row for row, line in enumerate(table.lines) if line.route is not None]
    scores: FloatArray = _score(queries @ table.vectors[rows].T, table.learned[rows]).max(axis=1)
    return scores


def _score(cosines: FloatArray, learned: npt.NDArray[np.bool_]) -> FloatArray:
    """Return the scores of sentences, whose cosines are the last axis."""
    scores: FloatArray = np.where(learned, cosines * np.abs(cosines), cosines)
    return scores
