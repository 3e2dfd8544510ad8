"""Brute-force search in NumPy: the reference that every index is compared with."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agent_memory.index.vectors import Dtype, check_ids, normalise_queries, normalise_rows
from agent_memory.types import FloatArray, IdArray


def search_flat(
    ids: npt.ArrayLike,
    vectors: npt.ArrayLike,
    queries: npt.ArrayLike,
    k: int,
    *,
    allowed: npt.ArrayLike | None = None,
    dtype: Dtype = "float16",
) -> tuple[FloatArray, IdArray]:
    """Score every allowed vector against every query and sort.

    Args:
        ids: int64 (n,), unique.
        vectors: (n, d), normalised and rounded to ``dtype`` here, as an index does it.
        queries: (nq, d) or (d,).
        k: Results per query.
        allowed: Ids that may be returned, all if None.
        dtype: Precision in which vectors are stored.

    Returns:
        float32 scores (nq, k) padded with -inf and int64 ids (nq, k) padded with -1, best first, equal
        scores in ascending order of id.
    """
    matrix = np.asarray(vectors)
    names = check_ids(ids)
    rows = normalise_rows(matrix, matrix.shape[1]).astype(dtype).astype(np.float32)
    if allowed is not None:
        keep = np.isin(names, np.asarray(allowed))
        names, rows = names[keep], rows[keep]
    wanted = normalise_queries(queries, matrix.shape[1])
    scores = np.full((len(wanted), k), -np.inf, np.float32)
    found = np.full((len(wanted), k), -1, np.int64)
    for number, query in enumerate(wanted):
        products = (rows * query).sum(axis=1)
        order = np.lexsort((names, -products))[:k]
        scores[number, : len(order)] = products[order]
        found[number, : len(order)] = names[order]
    return scores, found
