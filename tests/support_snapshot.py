"""Small indexes, saved and loaded, that the tests of the snapshot format share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent_memory.index import IndexOptions, SearchResult, TieredIndex, planning
from agent_memory.types import FloatArray

OPTIONS = IndexOptions(exact_below=300, sample_queries=32, recall_target=0.9)
TIERS = (64, 128, 192)


def make_rows(count: int, seed: int = 0, dimension: int = 192) -> FloatArray:
    """Return random vectors with a falling spectrum."""
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dimension)) * np.arange(1, dimension + 1) ** -0.5).astype(np.float32)


def build_index(
    count: int = 700, tiers: tuple[int, ...] = TIERS, dtype: str = "float16", *, large: int = 300
) -> TieredIndex:
    """Return an index with the ids 0, 3, 6, …; from ``large`` rows on, its rows are divided into lists."""
    index = TieredIndex(tiers[-1], tiers, dtype=dtype, options=OPTIONS)
    index.add(np.arange(count) * 3, make_rows(count, dimension=tiers[-1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_LARGE", large)
        patch.setattr(planning, "MAX_SCANNED", 1.0)
        index.maintain()
    return index


def load_index(folder: Path, generation: str = "g") -> tuple[TieredIndex, int]:
    """Load the newest snapshot in a folder."""
    return TieredIndex.load(folder, generation=generation, options=OPTIONS)


def search_all_ways(index: TieredIndex, dimension: int = 192) -> list[SearchResult]:
    """Search with the plan, exactly, and with a filter."""
    queries = make_rows(5, seed=1, dimension=dimension)
    return [
        index.search(queries, 7),
        index.search(queries, 7, exact=True),
        index.search(queries, 7, allowed=np.arange(0, 300, 3)),
    ]


def use_everything(folder: Path) -> TieredIndex:
    """Load the newest snapshot in a folder and read every byte of it."""
    index, _ = load_index(folder)
    search_all_ways(index)
    index.verify()
    return index


def assert_same(left: list[SearchResult], right: list[SearchResult]) -> None:
    """Assert that two lists of results are equal, bit for bit."""
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.scores, other.scores)
