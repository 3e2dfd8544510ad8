"""What turns a prefix into a 4-bit product code, and what divides rows among inverted lists; both are learned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agent_memory.index.faiss_tools import faiss, one_call
from agent_memory.types import FloatArray

CENTROIDS = 16
MOST_LISTS = 1 << 16
"""The list of a row is kept in 16 bits."""

_ROUNDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """How the coarse tier encodes and divides rows.

    Attributes:
        centroids: float32 (m, 16, d / m), of each group of d / m dimensions.
        order: int64 (d,), the prefix dimension that stands at each place before grouping.
        directions: float32 (lists, d) in that order: a row belongs to the list with the greatest inner product.
        learned_at: Live rows of the index when all this was learned.
    """

    centroids: FloatArray
    order: npt.NDArray[np.int64]
    directions: FloatArray
    learned_at: int

    @property
    def dimension(self) -> int:
        """Leading dimensions of a vector that the code describes."""
        return len(self.order)

    @property
    def code_bytes(self) -> int:
        """Bytes of a code."""
        return len(self.centroids) // 2

    @property
    def lists(self) -> int:
        """Inverted lists; 1 if rows are not divided."""
        return len(self.directions)

    @property
    def layout(self) -> str:
        """What a plan that searches such codes calls its layout."""
        return "cascade" if self.lists == 1 else "routed"

    def arranged(self, vectors: FloatArray) -> FloatArray:
        """Return the prefixes of (n, >= d) vectors in the order of the code, (n, d)."""
        return np.ascontiguousarray(vectors[:, self.order])

    def undivided(self) -> Codebook:
        """Return the codebook with one list for all rows."""
        return replace(self, directions=one_list(self.dimension))


def balanced_order(dimension: int, groups: int) -> npt.NDArray[np.int64]:
    """Deal dimensions out to groups so that each gets an equal share of a falling spectrum.

    Group i takes i, 2g-1-i, 2g+i, 4g-1-i, …: forth and back, the allocation that parametric OPQ makes for a
    spectrum in falling order (Ge et al., "Optimized Product Quantization", TPAMI 2014).
    """
    rounds = np.arange(dimension).reshape(-1, groups)
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds.T.reshape(-1).astype(np.int64)


def train(prefixes: FloatArray, code_bytes: int, rows: int, *, threads: int, seed: int) -> Codebook:
    """Learn a codebook with one list from a sample (n, d) of ``rows`` prefixes, d a multiple of ``2 * code_bytes``."""
    groups = 2 * code_bytes
    order = balanced_order(prefixes.shape[1], groups)
    quantizer = faiss().ProductQuantizer(prefixes.shape[1], groups, 4)
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1
    with one_call(threads):
        quantizer.train(np.ascontiguousarray(prefixes[:, order]))
    centroids = faiss().vector_to_array(quantizer.centroids).reshape(groups, CENTROIDS, -1)
    return Codebook(centroids.astype(np.float32), order, one_list(len(order)), rows)


def one_list(dimension: int) -> FloatArray:
    """Return the directions of a codebook that does not divide rows."""
    return np.zeros((1, dimension), np.float32)


def divided(codebook: Codebook, prefixes: FloatArray, lists: int, *, threads: int, seed: int) -> Codebook:
    """Return the codebook with directions learned from a sample (n, d) of unit prefixes by spherical k-means."""
    kmeans = faiss().Kmeans(
        codebook.dimension,
        lists,
        niter=_ROUNDS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(prefixes),
    )
    with one_call(threads):
        kmeans.train(codebook.arranged(prefixes))
    return replace(codebook, directions=kmeans.centroids)
