import numpy as np
import pytest

from agent_memory.index import IndexOptions, TieredIndex, cascade, coarse, planning
from agent_memory.index.coarse import CoarseTier
from agent_memory.index.flat import flat_search
from agent_memory.index.records import EVERYWHERE

ROWS, COUNT = 6000, 400
SMALL = IndexOptions(exact_below=500, sample_queries=64, recall_target=0.95)


def vectors(count, dimension, seed=0):
    """Clustered unit vectors whose spectrum falls."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dimension + 1) ** -0.5
    centres = np.random.default_rng(9).standard_normal((20, dimension)) * scale
    rows = centres[rng.integers(0, 20, count)] + rng.standard_normal((count, dimension)) * scale
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def indexed(rows, *, large=10**6):
    index = TieredIndex(384, (64, 256, 384), options=SMALL)
    index.add(np.arange(len(rows)), rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_LARGE", large)
        index.maintain()
    return index


@pytest.fixture(scope="module")
def routed():
    return indexed(vectors(ROWS, 384), large=1000)


@pytest.fixture(scope="module", params=["one list", "lists"])
def tier(request, routed):
    index = routed if request.param == "lists" else indexed(vectors(ROWS, 384))
    return index._state.coarse


def bits(mask):
    return np.packbits(mask, bitorder="little")


@pytest.mark.parametrize("share", [None, 0.5])
def test_a_threshold_selects_about_the_best_rows(tier, share):
    mask = np.random.default_rng(2).random(ROWS) < (share or 1)
    bitmap = None if share is None else bits(mask)
    queries = vectors(50, 384, seed=1)
    best, order = tier.search(queries, 2 * COUNT, bitmap, threads=1)
    found = tier.candidates(queries, COUNT, bitmap, reach=EVERYWHERE, ranked=True)
    sizes = [len(rows) for _, rows in found]
    assert min(sizes) >= COUNT / 2
    assert max(sizes) <= 2 * COUNT
    assert COUNT * 0.8 < np.mean(sizes) < COUNT * 1.4
    for (scores, rows), mine, places in zip(found, best, order, strict=True):
        assert mask[rows].all()
        assert (np.diff(scores) <= 0).all()
        np.testing.assert_allclose(scores, mine[: len(rows)], atol=0.02)
        assert np.isin(places[: int(0.9 * len(rows))], rows).all()


def test_a_batch_of_queries_finds_what_single_queries_find(tier):
    queries = vectors(70, 384, seed=3)
    for ranked in (False, True):
        together = tier.candidates(queries, COUNT, None, reach=EVERYWHERE, ranked=ranked)
        for number, (scores, rows) in enumerate(together):
            one = tier.candidates(queries[number : number + 1], COUNT, None, reach=EVERYWHERE, ranked=ranked)[0]
            np.testing.assert_array_equal(one[1], rows)
            np.testing.assert_array_equal(one[0], scores)


@pytest.mark.parametrize("allowed", [0, 5, 300])
def test_the_best_are_found_where_no_threshold_can_be_guessed(tier, allowed):
    mask = np.zeros(ROWS, bool)
    mask[1 : 2 * allowed : 2] = True  # none of which is in the sample
    for _, rows in tier.candidates(vectors(3, 384, seed=4), COUNT, bits(mask), reach=EVERYWHERE, ranked=False):
        assert set(rows[rows >= 0].tolist()) == set(np.flatnonzero(mask).tolist())


def test_a_query_opposite_to_all_rows_finds_the_best():
    rows = vectors(ROWS, 384)
    rows[:, 0] += 2
    index = indexed(rows)
    queries = np.stack([-np.eye(384, dtype=np.float32)[0], vectors(1, 384)[0]])
    best, order = index._state.coarse.search(queries, COUNT, None, threads=1)
    assert best[0, 0] < 0 < best[1, COUNT - 1]
    first, second = index._state.coarse.candidates(queries, COUNT, None, reach=EVERYWHERE, ranked=False)
    np.testing.assert_array_equal(first[1], order[0])
    assert np.isin(order[1, : COUNT // 2], second[1]).all()


def test_equal_rows_do_not_flood_the_next_tier():
    rows = vectors(64, 384)[np.random.default_rng(0).integers(0, 3, ROWS)]
    index = indexed(rows)
    found = index._state.coarse.candidates(rows[:4], COUNT, None, reach=EVERYWHERE, ranked=False)
    assert [len(places) for _, places in found] == [COUNT] * 4


def test_codes_do_not_depend_on_how_the_tier_was_built(tier):
    rows = vectors(ROWS, 384)[:, : tier.codebook.dimension]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    grown = CoarseTier(tier.codebook)
    for start, stop in ((0, 1), (1, 33), (33, 64), (64, 64), (64, 1000), (1000, ROWS)):
        grown = grown.extended([rows[start:stop]], threads=1)
    opened = CoarseTier(tier.codebook, grown.codes())
    again = CoarseTier(tier.codebook).extended([rows[:: coarse.SAMPLE_STEP]], threads=1)
    for name in ("packed", "lists", "sample"):
        np.testing.assert_array_equal(getattr(opened.codes(), name), getattr(grown.codes(), name))
    np.testing.assert_array_equal(grown.codes().lists[:: coarse.SAMPLE_STEP], again.codes().lists)
    for queries in (vectors(3, 384, seed=5), vectors(1, 384, seed=6)):
        np.testing.assert_array_equal(opened.gaps(queries, None), grown.gaps(queries, None))


@pytest.mark.parametrize("reach", [0.02, 0.1, 0.2])
@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize("count", [100, COUNT])
def test_candidates_are_those_of_the_lists_within_reach(routed, reach, share, count):
    tier, queries = routed._state.coarse, vectors(40, 384, seed=7)
    bitmap = None if share is None else bits(np.random.default_rng(2).random(ROWS) < share)
    near = tier.gaps(queries, bitmap) <= reach
    lists = tier.lists()
    everywhere = tier.candidates(queries, count, bitmap, reach=EVERYWHERE, ranked=False)
    within = tier.candidates(queries, count, bitmap, reach=reach, ranked=False)
    fewer = 0
    for mine, (_, rows), (_, some) in zip(near, everywhere, within, strict=True):
        some = some[some >= 0]
        assert mine[lists[some]].all()
        assert np.isin(rows[mine[lists[rows]]], some).all()
        fewer += len(some) < len(rows) or not np.isin(rows, some).all()
    assert fewer > 10


def recall(index, queries, allowed=None, k=10):
    rows = vectors(ROWS, 384)
    truth = flat_search(np.arange(ROWS), rows, queries, k, allowed=allowed)[1]
    found = index.search(queries, k, allowed=allowed).ids
    return np.mean([np.isin(one, other).mean() for one, other in zip(truth, found, strict=True)])


def test_a_routed_index_scans_some_lists_and_reaches_its_target(routed, monkeypatch):
    stats = routed.stats()
    assert (stats.plan.layout, stats.coarse_lists) == ("routed", 32)
    assert stats.plan.recall >= SMALL.recall_target
    assert 0 < stats.plan.scanned < planning.MOST_SCANNED
    counts, probes = [], CoarseTier._probes

    def look(*arguments):
        answer = probes(*arguments)
        counts.extend(answer[0].tolist())
        return answer

    monkeypatch.setattr(CoarseTier, "_probes", look)
    assert recall(routed, vectors(100, 384, seed=1)) >= SMALL.recall_target
    assert len(counts) == 100
    assert 1 <= min(counts) < np.mean(counts) < 0.7 * 32


@pytest.mark.parametrize("share", [0.1, 0.5])
def test_a_routed_index_reaches_its_target_under_a_filter(routed, share, monkeypatch):
    monkeypatch.setattr(cascade, "_GATHER_LIMIT", 0)
    allowed = np.flatnonzero(np.random.default_rng(1).random(ROWS) < share)
    assert recall(routed, vectors(60, 384, seed=1), allowed) >= SMALL.recall_target


def test_lists_are_chosen_around_the_rows_that_may_be_returned(routed, monkeypatch):
    """A filter may leave nothing in the lists that a query is nearest to."""
    monkeypatch.setattr(cascade, "_GATHER_LIMIT", 0)
    tier, queries = routed._state.coarse, vectors(60, 384, seed=1)
    far = np.argsort(np.bincount(tier.gaps(queries, None).argmin(axis=1), minlength=32))[:8]
    mask = np.isin(tier.lists(), far)
    gaps = tier.gaps(queries, bits(mask))
    assert (gaps[:, far].min(axis=1) <= 0).all()
    assert gaps.min() < -0.3
    assert recall(routed, queries, np.flatnonzero(mask)) >= SMALL.recall_target


def test_more_results_and_fewer_allowed_rows_come_from_more_lists(routed):
    def reach(k, allowed=None):
        one = cascade.Cascade(routed._state, routed.tiers, allowed, k, exact=False, deadline=None, explain=False)
        return one.reach

    measured = routed.stats().plan.reach
    assert reach(10) == reach(240) == reach(10, np.arange(0, ROWS, 24)) == measured
    assert measured < reach(500) < reach(1000) < 1.3 * measured
    assert reach(100, np.arange(0, ROWS, 10)) == pytest.approx(reach(1000))
    assert reach(10**4) == reach(10, np.arange(0)) == EVERYWHERE
    assert recall(routed, vectors(20, 384, seed=1), k=400) >= 0.9


def test_removed_rows_are_not_found_in_lists(routed):
    index = indexed(vectors(ROWS, 384), large=1000)
    gone = np.arange(0, ROWS, 3)
    index.remove(gone)
    queries = vectors(50, 384, seed=1)
    assert not np.isin(index.search(queries, 10).ids, gone).any()
    assert recall(routed, queries, np.setdiff1d(np.arange(ROWS), gone)) >= SMALL.recall_target


def test_rows_that_lists_do_not_divide_stay_in_one():
    rows = np.random.default_rng(0).standard_normal((ROWS, 384))
    index = indexed(rows, large=1000)
    stats = index.stats()
    assert (stats.plan.layout, stats.coarse_lists, stats.plan.scanned, stats.plan.reach) == (
        "cascade",
        1,
        1,
        EVERYWHERE,
    )
    assert index.search(rows[:50], 1).ids[:, 0].tolist() == list(range(50))


def test_no_list_is_left_out_where_no_sampled_row_may_be_returned(routed):
    tier = routed._state.coarse
    queries, nowhere = vectors(3, 384, seed=4), bits(np.zeros(ROWS, bool))
    assert np.isneginf(tier.gaps(queries, nowhere)).all()
    everywhere = tier.gaps(queries, None)
    assert (everywhere.min(axis=1) <= 0).all()
    assert (everywhere.max(axis=1) < EVERYWHERE).all()
