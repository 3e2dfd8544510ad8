import numpy as np
import pytest

from agent_memory.index import IndexOptions, TieredIndex, coarse
from agent_memory.index.coarse import CoarseTier

ROWS, COUNT = 6000, 400
SMALL = IndexOptions(exact_below=500, sample_queries=64)


def vectors(count, dimension, seed=0):
    """Clustered unit vectors whose spectrum falls."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dimension + 1) ** -0.5
    centres = np.random.default_rng(9).standard_normal((20, dimension)) * scale
    rows = centres[rng.integers(0, 20, count)] + rng.standard_normal((count, dimension)) * scale
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def tier():
    index = TieredIndex(384, (64, 256, 384), options=SMALL)
    index.add(np.arange(ROWS), vectors(ROWS, 384))
    index.maintain()
    return index._state.coarse


def bits(mask):
    return np.packbits(mask, bitorder="little")


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_threshold_brings_up_about_the_best_rows(tier, share):
    mask = np.random.default_rng(2).random(ROWS) < (share or 1)
    bitmap = None if share is None else bits(mask)
    queries = vectors(50, 384, seed=1)
    best, order = tier.search(queries, 2 * COUNT, bitmap, threads=1)
    found = tier.candidates(queries, COUNT, bitmap, ranked=True)
    sizes = [len(rows) for _, rows in found]
    assert min(sizes) >= COUNT / 2
    assert max(sizes) <= 2 * COUNT
    assert COUNT * 0.8 < np.mean(sizes) < COUNT * 1.4
    for (scores, rows), mine, places in zip(found, best, order, strict=True):
        assert mask[rows].all()
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, mine[: len(rows)], atol=0.02)
        assert np.isin(places[: int(0.9 * len(rows))], rows).all()


def test_many_queries_bring_up_what_single_ones_do(tier):
    queries = vectors(70, 384, seed=3)
    for ranked in (False, True):
        together = tier.candidates(queries, COUNT, None, ranked=ranked)
        for number, (scores, rows) in enumerate(together):
            one = tier.candidates(queries[number : number + 1], COUNT, None, ranked=ranked)[0]
            np.testing.assert_array_equal(one[1], rows)
            np.testing.assert_array_equal(one[0], scores)


@pytest.mark.parametrize("allowed", [0, 5, 300])
def test_where_no_threshold_can_be_guessed_the_best_are_found_after_all(tier, allowed):
    mask = np.zeros(ROWS, bool)
    mask[1 : 2 * allowed : 2] = True  # none of which is in the sample
    for _, rows in tier.candidates(vectors(3, 384, seed=4), COUNT, bits(mask), ranked=False):
        assert set(rows[rows >= 0].tolist()) == set(np.flatnonzero(mask).tolist())


def test_a_query_opposite_to_all_rows_finds_the_best_after_all():
    rows = vectors(ROWS, 384)
    rows[:, 0] += 2
    index = TieredIndex(384, (64, 256, 384), options=SMALL)
    index.add(np.arange(ROWS), rows)
    index.maintain()
    queries = np.stack([-np.eye(384, dtype=np.float32)[0], vectors(1, 384)[0]])
    best, order = index._state.coarse.search(queries, COUNT, None, threads=1)
    assert best[0, 0] < 0 < best[1, COUNT - 1]
    first, second = index._state.coarse.candidates(queries, COUNT, None, ranked=False)
    np.testing.assert_array_equal(first[1], order[0])
    assert np.isin(order[1, : COUNT // 2], second[1]).all()


def test_equal_rows_do_not_flood_the_next_tier():
    rows = vectors(64, 384)[np.random.default_rng(0).integers(0, 3, ROWS)]
    index = TieredIndex(384, (64, 256, 384), options=SMALL)
    index.add(np.arange(ROWS), rows)
    index.maintain()
    found = index._state.coarse.candidates(rows[:4], COUNT, None, ranked=False)
    assert [len(places) for _, places in found] == [COUNT] * 4


def test_the_sample_is_the_same_however_the_tier_came_about(tier):
    rows = vectors(ROWS, 384)[:, :256]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    grown = CoarseTier(tier.codebook)
    for start, stop in ((0, 1), (1, 33), (33, 64), (64, 64), (64, 1000), (1000, ROWS)):
        grown = grown.extended([rows[start:stop]], threads=1)
    opened = CoarseTier(tier.codebook, grown.packed(), ROWS)
    size = -(-ROWS // coarse._SAMPLE_STEP)
    one, other = (coarse._codes_of(made._sample[0], tier.codebook, size) for made in (grown, opened))
    np.testing.assert_array_equal(one, other)
    again = CoarseTier(tier.codebook).extended([rows[:: coarse._SAMPLE_STEP]], threads=1)
    np.testing.assert_array_equal(one, again.packed())
