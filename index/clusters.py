"""Groups vectors by spherical k-means; the same vectors always give the same groups."""

from __future__ import annotations

import numpy as np

from agent_memory.index.faiss_tools import limit_threads, load_faiss
from agent_memory.types import FloatArray, RowArray

_SEED = 7
_ROUNDS = 25
_TRIES = 3
_MOST_TRAINED = 50_000  # rows that the centres are found from; all are assigned


def group_vectors(vectors: FloatArray, k: int, *, threads: int = 1) -> tuple[RowArray, FloatArray]:
    """Return the group of each vector and the groups' centres.

    Args:
        vectors: float32 (n, dimension), of unit length.
        k: Number of groups, from 1 to n.
        threads: Maximum number of threads.

    Returns:
        Numbers of groups, int64 (n,), and centres of unit length, float32 (k, dimension). A group may be empty.

    Raises:
        IndexStateError: FAISS raised an error.
    """
    faiss, rows = load_faiss(), np.ascontiguousarray(vectors, np.float32)
    step = -(-len(rows) // _MOST_TRAINED)
    with limit_threads(threads):
        kmeans = faiss.Kmeans(
            rows.shape[1],
            k,
            niter=_ROUNDS,
            nredo=_TRIES,
            seed=_SEED,
            spherical=True,
            min_points_per_centroid=1,
            max_points_per_centroid=len(rows),
        )
        kmeans.train(rows[::step])
        centres: FloatArray = np.asarray(kmeans.centroids, np.float32).reshape(k, -1).copy()
    assigned: RowArray = (rows @ centres.T).argmax(axis=1).astype(np.int64)
    return assigned, centres
