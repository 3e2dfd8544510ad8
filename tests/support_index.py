"""Synthetic vectors and small indexes that the tests of the index share."""

from __future__ import annotations

import numpy as np

from agent_memory.index import IndexOptions, SearchResult, TieredIndex
from agent_memory.types import FloatArray, IdArray

SMALL = IndexOptions(exact_below=500, sample_queries=64, recall_target=0.9)
SHAPES = [(6,), (64, 128), (64, 256, 384), (64, 256, 768)]


def make_vectors(count: int, dimension: int, seed: int = 0, *, centre_seed: int | None = None) -> FloatArray:
    """Return clustered vectors with a falling spectrum, like those of a Matryoshka encoder.

    With ``centre_seed``, vectors of different seeds share their clusters.
    """
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dimension + 1) ** -0.5
    centre_rng = rng if centre_seed is None else np.random.default_rng(centre_seed)
    centres = centre_rng.standard_normal((20, dimension)) * scale
    rows = centres[rng.integers(0, 20, count)] + rng.standard_normal((count, dimension)) * scale
    return rows.astype(np.float32)


def build_index(
    count: int,
    tiers: tuple[int, ...],
    options: IndexOptions = SMALL,
    *,
    dtype: str = "float16",
    maintain: bool = True,
) -> tuple[TieredIndex, IdArray, FloatArray]:
    """Return an index, the ids in it, and their vectors."""
    index = TieredIndex(tiers[-1], tiers, dtype=dtype, options=options)
    ids = np.arange(count) * 7 + 3
    rows = make_vectors(count, tiers[-1])
    index.add(ids, rows)
    if maintain:
        index.maintain()
    return index, ids, rows


def assert_same(result: SearchResult, expected: tuple[FloatArray, IdArray]) -> None:
    """Assert that a search returned exactly these scores and ids."""
    np.testing.assert_array_equal(result.ids, expected[1])
    np.testing.assert_array_equal(result.scores, expected[0])


def measure_recall(result: SearchResult, expected: tuple[FloatArray, IdArray]) -> float:
    """Return the mean share of the expected ids that a search returned."""
    shares = []
    for found, truth in zip(result.ids, expected[1], strict=True):
        truth = truth[truth >= 0]
        shares.append(np.isin(truth, found).mean())
    return float(np.mean(shares))
