"""``Table``: the sentences of all routes with their vectors; immutable, so that threads may search while it grows."""

from __future__ import annotations

from collections.abc import Iterable
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
    """The best sentence of a route, with its cosine at the native dimension."""

    route: str | None
    score: float
    line: Line


@dataclass(frozen=True, slots=True)
class Table:
    """Sentences and their vectors.

    Attributes:
        lines: The sentences.
        vectors: Their vectors, float32 (n, dimension), of unit length.
        coarse: Prefixes of them, float32 (n, smallest tier), of unit length.
    """

    lines: tuple[Line, ...]
    vectors: FloatArray
    coarse: FloatArray

    @classmethod
    def of(cls, lines: Iterable[Line], vectors: FloatArray, tier: int) -> Table:
        """Return the table of sentences and their vectors, float32 (n, dimension)."""
        return cls(tuple(lines), vectors, shorten(vectors, tier))

    def search(self, query: FloatArray, k: int) -> list[Found]:
        """Return the best routes, best first: the smallest tier finds sentences, the native dimension ranks them.

        Args:
            query: The vector of a text, float32 (dimension,), of unit length.
            k: How many routes are wanted; at least two are returned where there are two.
        """
        if not self.lines:
            return []
        rows = self._find(query, max(_POOL, _POOL_OF_K * k))
        scores = self.vectors[rows] @ query
        best: dict[str | None, Found] = {}
        for place in np.argsort(-scores, kind="stable").tolist():
            line = self.lines[int(rows[place])]
            if line.route not in best:
                best[line.route] = Found(line.route, float(scores[place]), line)
                if len(best) > k + 1:
                    break
        return list(best.values())

    def _find(self, query: FloatArray, pool: int) -> npt.NDArray[np.intp]:
        if len(self.lines) <= pool:
            return np.arange(len(self.lines))
        near = self.coarse @ shorten(query[None], self.coarse.shape[1])[0]
        return np.sort(np.argpartition(near, len(near) - pool)[-pool:])


def shorten(vectors: FloatArray, dimension: int) -> FloatArray:
    """Return prefixes of unit length, float32 (n, dimension); a prefix of zeros stays one."""
    prefixes = np.ascontiguousarray(vectors[:, :dimension], np.float32)
    lengths = np.linalg.norm(prefixes, axis=1, keepdims=True)
    shortened: FloatArray = prefixes / np.maximum(lengths, np.finfo(np.float32).tiny)
    return shortened


def find_best(table: Table, queries: FloatArray) -> FloatArray:
    """Return the best cosine of each of several vectors among the sentences of the routes, float32 (n,)."""
    rows = [row for row, line in enumerate(table.lines) if line.route is not None]
    scores: FloatArray = (queries @ table.vectors[rows].T).max(axis=1)
    return scores
