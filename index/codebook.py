"""What turns a prefix into a 4-bit product code and assigns a row to an inverted list; both are learned."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from agent_memory.index.faiss_tools import limit_threads, load_faiss
from agent_memory.types import FloatArray

CENTROIDS = 16
MAX_LISTS = 1 << 16
"""The list number of a row is stored in 16 bits."""

_KMEANS_ROUNDS = 10


@dataclass(frozen=True, slots=True, eq=False)
class Codebook:
    """How the coarse tier encodes rows and divides them among lists.

    Attributes:
        centroids: float32 (m, 16, d / m), those of each group of d / m dimensions.
        order: int64 (d,), the prefix dimension at each position before grouping.
        directions: float32 (lists, d) in that order: a row belongs to the list with the greatest inner product.
        learned_at: Number of live rows in the index when all this was learned.
    """

    centroids: FloatArray
    order: npt.NDArray[np.int64]
    directions: FloatArray
    learned_at: int

    @property
    def dimension(self) -> int:
        """Leading dimensions of a vector that a code covers."""
        return len(self.order)

    @property
    def code_bytes(self) -> int:
        """Bytes of one code."""
        return len(self.centroids) // 2

    @property
    def lists(self) -> int:
        """Number of inverted lists; 1 if rows are not divided."""
        return len(self.directions)

    @property
    def layout(self) -> str:
        """The layout of a plan that searches such codes."""
        return "cascade" if self.lists == 1 else "routed"

    def arrange(self, vectors: FloatArray) -> FloatArray:
        """Return the prefixes of (n, >= d) vectors in the order of the code, (n, d)."""
        return np.ascontiguousarray(vectors[:, self.order])

    def merge_lists(self) -> Codebook:
        """Return the codebook with a single list for all rows."""
        return replace(self, directions=make_single_list(self.dimension))


def balance_dimensions(dimension: int, groups: int) -> npt.NDArray[np.int64]:
    """Deal dimensions out to groups so that each gets an equal share of a falling spectrum.

    Group i takes i, 2g-1-i, 2g+i, 4g-1-i, …: back and forth, the allocation that parametric OPQ makes for a
    spectrum in falling order (Ge et al., "Optimized Product Quantization", TPAMI 2014).
    """
    rounds = np.arange(dimension).reshape(-1, groups)
    rounds[1::2] = rounds[1::2, ::-1]
    return rounds.T.reshape(-1).astype(np.int64)


def train_codebook(prefixes: FloatArray, code_bytes: int, rows: int, *, threads: int, seed: int) -> Codebook:
    """Learn a codebook with a single list.

    Args:
        prefixes: float32 (n, d), a sample; d is a multiple of ``2 * code_bytes``.
        code_bytes: Bytes of one code.
        rows: Number of live rows that the sample was drawn from.
        threads: Threads to use.
        seed: Seed of the training.
    """
    groups = 2 * code_bytes
    order = balance_dimensions(prefixes.shape[1], groups)
    faiss = load_faiss()
    quantizer = faiss.ProductQuantizer(prefixes.shape[1], groups, 4)
    quantizer.cp.seed = seed
    quantizer.cp.min_points_per_centroid = 1
    with limit_threads(threads):
        quantizer.train(np.ascontiguousarray(prefixes[:, order]))
    centroids = faiss.vector_to_array(quantizer.centroids).reshape(groups, CENTROIDS, -1)
    return Codebook(centroids.astype(np.float32), order, make_single_list(len(order)), rows)


def make_single_list(dimension: int) -> FloatArray:
    """Return the directions of a codebook that does not divide rows."""
    return np.zeros((1, dimension), np.float32)


def learn_lists(codebook: Codebook, prefixes: FloatArray, lists: int, *, threads: int, seed: int) -> Codebook:
    """Return the codebook with list directions learned from a sample (n, d) of unit prefixes by spherical k-means."""
    kmeans = load_faiss().Kmeans(
        codebook.dimension,
        lists,
        niter=_KMEANS_ROUNDS,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=len(prefixes),
    )
    with limit_threads(threads):
        kmeans.train(codebook.arrange(prefixes))
    return replace(codebook, directions=kmeans.centroids)
