import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from oracle import search_flat
from support_index import SHAPES, SMALL, assert_same, build_index, make_vectors, measure_recall

from agent_memory.errors import IndexStateError
from agent_memory.index import IndexOptions, TieredIndex, cascade, faiss_tools, planning


def test_importing_the_index_loads_no_faiss():
    code = "import sys, agent_memory.index; sys.exit('faiss' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("tiers", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("maintain", [False, True])
def test_exact_search_equals_brute_force(tiers, dtype, maintain):
    index, ids, rows = build_index(900, tiers, dtype=dtype, maintain=maintain)
    queries = make_vectors(20, tiers[-1], seed=1)
    assert_same(index.search(queries, 10, exact=True), search_flat(ids, rows, queries, 10, dtype=dtype))
    assert_same(index.search(queries, 1000, exact=True), search_flat(ids, rows, queries, 1000, dtype=dtype))
    for step in (2, 50):
        allowed = ids[::step]
        expected = search_flat(ids, rows, queries, 10, allowed=allowed, dtype=dtype)
        assert_same(index.search(queries, 10, exact=True, allowed=allowed), expected)


@pytest.mark.parametrize("tiers", SHAPES[1:])
def test_the_cascade_reaches_its_target(tiers):
    index, ids, rows = build_index(6000, tiers)
    plan = index.stats().plan
    assert plan.layout == "cascade"
    assert plan.recall >= SMALL.recall_target
    queries = make_vectors(50, tiers[-1], seed=1)
    assert measure_recall(index.search(queries, 10), search_flat(ids, rows, queries, 10)) >= 0.85


def test_large_indexes_get_larger_codes(monkeypatch):
    monkeypatch.setattr(planning, "_LARGE", 1000)
    index, ids, rows = build_index(3000, (64, 256, 384))
    assert (index.stats().coarse_bytes, index.stats().coarse_dimension) == (40, 240)
    queries = make_vectors(30, 384, seed=1)
    assert measure_recall(index.search(queries, 10), search_flat(ids, rows, queries, 10)) >= 0.85


def test_faiss_threads_are_limited_and_then_restored():
    index, _, _ = build_index(1000, (64, 256, 384))
    lib = faiss_tools.load_faiss()
    before = lib.omp_get_max_threads()
    with faiss_tools.limit_threads(1):
        assert lib.omp_get_max_threads() == 1
    with pytest.raises(IndexStateError, match="refused"), faiss_tools.limit_threads(1):
        raise RuntimeError("boom")
    index.search(np.ones(384), 3)
    assert lib.omp_get_max_threads() == before


def test_scores_are_cosines_of_the_stored_rows():
    index, ids, rows = build_index(6000, (64, 256, 384))
    query = make_vectors(1, 384, seed=2)[0]
    result = index.search(query, 5)
    scores, found = search_flat(ids, rows, query, 6000)
    by_id = dict(zip(found[0].tolist(), scores[0].tolist(), strict=True))
    assert [by_id[entry] for entry in result.ids[0].tolist()] == result.scores[0].tolist()
    assert result.scores.dtype == np.float32
    assert result.ids.dtype == np.int64


def test_equal_scores_are_ordered_by_id():
    index = TieredIndex(8, (8,))
    index.add([9, 2, 5, 7], np.ones((4, 8)))
    index.add([1], -np.ones((1, 8)))
    assert index.search(np.ones(8), 6).ids.tolist() == [[2, 5, 7, 9, 1, -1]]
    assert index.search(np.ones(8), 2, exact=True).ids.tolist() == [[2, 5]]


def test_many_duplicates_do_not_hide_a_tie():
    index = TieredIndex(16, (16,))
    index.add(np.arange(3000)[::-1].copy(), np.ones((3000, 16)))
    assert index.search(np.ones(16), 5).ids.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("tiers", SHAPES)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("share", [None, 0.02, 0.3])
def test_a_batch_gives_the_same_answers_as_its_queries_one_by_one(monkeypatch, tiers, exact, share):
    monkeypatch.setattr(cascade, "_GATHER_LIMIT", 100)
    index, ids, rows = build_index(3000, tiers)
    index.add(np.arange(50), np.concatenate([rows[:30], rows[:20]]))
    index.remove(ids[::9])
    allowed = None if share is None else np.random.default_rng(3).permutation(ids)[: int(share * len(ids))]
    queries = np.concatenate([make_vectors(140, tiers[-1], seed=1), rows[:10]])
    together = index.search(queries, 10, allowed=allowed, exact=exact)
    singly = [index.search(query, 10, allowed=allowed, exact=exact) for query in queries]
    np.testing.assert_array_equal(together.ids, np.concatenate([one.ids for one in singly]))
    np.testing.assert_array_equal(together.scores, np.concatenate([one.scores for one in singly]))


def test_a_batch_among_equal_rows_equals_brute_force():
    rows = np.repeat(make_vectors(40, 64), 100, axis=0)
    index = TieredIndex(64, (64,), options=SMALL)
    index.add(np.arange(4000), rows)
    queries = make_vectors(30, 64, seed=1)
    assert_same(index.search(queries, 10), search_flat(np.arange(4000), rows, queries, 10))


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("removed", [0, 3])
def test_a_filtered_search_returns_as_many_rows_as_match(share, removed):
    options = IndexOptions(exact_below=500, sample_queries=64, recall_target=0.98)
    index, ids, rows = build_index(12000, (64, 256, 384), options)
    if removed:
        index.remove(ids[::removed])
        keep = np.arange(len(ids)) % removed != 0
        ids, rows = ids[keep], rows[keep]
    rng = np.random.default_rng(3)
    queries = make_vectors(30, 384, seed=1)
    allowed = rng.permutation(ids)[: max(1, int(len(ids) * share))]
    expected = search_flat(ids, rows, queries, 20, allowed=allowed)
    noisy = np.concatenate([allowed, allowed[:3], [10**12, 1]])
    result = index.search(queries, 20, allowed=noisy)
    assert ((result.ids >= 0).sum(axis=1) == min(20, len(allowed))).all()
    assert np.isin(result.ids[result.ids >= 0], allowed).all()
    assert measure_recall(result, expected) >= 0.95
    assert_same(index.search(queries, 20, allowed=noisy, exact=True), expected)
    everything = index.search(queries[:2], len(allowed) + 5, allowed=noisy)
    assert ((everything.ids >= 0).sum(axis=1) == len(allowed)).all()


def test_an_empty_filter_and_an_empty_index():
    index, _, _ = build_index(600, (64, 128))
    query = np.ones(128)
    for result in (index.search(query, 3, allowed=[]), TieredIndex(128, (64, 128)).search(query, 3)):
        assert result.ids.tolist() == [[-1, -1, -1]]
        assert np.isneginf(result.scores).all()
    assert index.search(np.empty((0, 128)), 3).ids.shape == (0, 3)
    empty = TieredIndex(128, (64, 128))
    assert (len(empty), empty.ids().tolist(), empty.remove([1])) == (0, [], 0)
    empty.maintain()


def test_k_may_exceed_the_index():
    index, ids, _ = build_index(2000, (64, 256, 384))
    result = index.search(make_vectors(2, 384, seed=1), 5000)
    assert ((result.ids >= 0).sum(axis=1) == 2000).all()
    assert sorted(result.ids[0, :2000].tolist()) == ids.tolist()


def test_explain_says_which_tier_dropped_an_id():
    index, ids, _ = build_index(6000, (64, 256, 384))
    queries = make_vectors(3, 384, seed=1)
    result = index.search(queries, 5, explain=True)
    plain = index.search(queries, 5)
    np.testing.assert_array_equal(result.ids, plain.ids)
    assert [tier.tier for tier in result.traces[0]] == [64, 256, 384]
    for number, traces in enumerate(result.traces):
        coarse, main, native = traces
        assert coarse.kept == len(coarse.ids) >= len(main.ids[: main.kept])
        assert set(native.ids.tolist()) == set(main.ids[: main.kept].tolist())
        assert native.ids[: native.kept].tolist() == result.ids[number].tolist()
        assert [native.rank(int(entry)) for entry in result.ids[number]] == [0, 1, 2, 3, 4]
        absent = next(int(entry) for entry in ids if entry not in coarse.ids)
        assert main.rank(absent) is None
        for tier in traces:
            assert (np.diff(tier.scores) <= 0).all()


def test_a_budget_of_zero_still_returns_results():
    index, _, _ = build_index(6000, (64, 256, 384))
    index.add([10**9], make_vectors(1, 384, seed=4))
    queries = make_vectors(4, 384, seed=1)
    hurried = index.search(queries, 5, budget_ms=0)
    assert hurried.tier_reached == 64
    assert (hurried.ids >= 0).all()
    patient = index.search(queries, 5, budget_ms=1e6)
    assert patient.tier_reached == 384
    np.testing.assert_array_equal(patient.ids, index.search(queries, 5).ids)
    assert (hurried.scores <= patient.scores).all()


def test_threads_do_not_change_answers():
    index, ids, rows = build_index(6000, (64, 256, 384))
    many = TieredIndex(384, (64, 256, 384), options=IndexOptions(threads=3, exact_below=500, recall_target=0.9))
    many.add(ids, rows)
    many.maintain()
    queries = make_vectors(17, 384, seed=1)
    assert_same(many.search(queries, 10, exact=True), search_flat(ids, rows, queries, 10))
    assert measure_recall(many.search(queries, 10), search_flat(ids, rows, queries, 10)) > 0.85
    assert index.search(queries, 10).ids.shape == many.search(queries, 10).ids.shape


def test_counts_are_measured_with_queries_that_lie_between_rows():
    index, _, _ = build_index(4000, (64, 256, 384), replace(SMALL, sample_queries=200, recall_target=0.95))
    plan = index.stats().plan
    middle = make_vectors(100, 384, seed=5) + make_vectors(100, 384, seed=6)
    exact = index.search(middle, 10, exact=True)
    assert measure_recall(index.search(middle, 10), (exact.scores, exact.ids)) >= 0.95
    assert plan.recall >= 0.95
    assert plan.main_candidates >= 50


def test_counts_are_measured_where_rows_are_opposite():
    rows = make_vectors(600, 64)[:1].repeat(600, axis=0)
    rows[::2] *= -1
    index = TieredIndex(64, (16, 64), options=SMALL)
    index.add(np.arange(600), rows)
    assert index.maintain().plan.layout == "cascade"
    assert np.isfinite(planning._compute_midpoints(index._state, planning._draw_pairs(index._state, 64, 1))).all()
