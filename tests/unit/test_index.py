import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pytest

from agent_memory.errors import DimensionMismatchError, IndexStateError, InvalidInputError
from agent_memory.index import IndexOptions, TieredIndex, cascade, faiss_tools, planning, tiered
from agent_memory.index.flat import flat_search

SMALL = IndexOptions(exact_below=500, sample_queries=64, recall_target=0.9)
SHAPES = [(6,), (64, 128), (64, 256, 384), (64, 256, 768)]


def vectors(count, dimension, seed=0):
    """Clustered vectors whose spectrum falls, as those of a Matryoshka encoder do."""
    rng = np.random.default_rng(seed)
    scale = np.arange(1, dimension + 1) ** -0.5
    centres = rng.standard_normal((20, dimension)) * scale
    rows = centres[rng.integers(0, 20, count)] + rng.standard_normal((count, dimension)) * scale
    return rows.astype(np.float32)


def built(count, tiers, options=SMALL, *, dtype="float16", maintain=True):
    index = TieredIndex(tiers[-1], tiers, dtype=dtype, options=options)
    ids = np.arange(count) * 7 + 3
    rows = vectors(count, tiers[-1])
    index.add(ids, rows)
    if maintain:
        index.maintain()
    return index, ids, rows


def same(result, expected):
    np.testing.assert_array_equal(result.ids, expected[1])
    np.testing.assert_array_equal(result.scores, expected[0])


def recall(result, expected):
    shares = []
    for mine, truth in zip(result.ids, expected[1], strict=True):
        truth = truth[truth >= 0]
        shares.append(np.isin(truth, mine).mean())
    return np.mean(shares)


def test_importing_the_index_loads_no_faiss():
    code = "import sys, agent_memory.index; sys.exit('faiss' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("tiers", SHAPES)
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("maintain", [False, True])
def test_exact_is_the_oracle(tiers, dtype, maintain):
    index, ids, rows = built(900, tiers, dtype=dtype, maintain=maintain)
    queries = vectors(20, tiers[-1], seed=1)
    same(index.search(queries, 10, exact=True), flat_search(ids, rows, queries, 10, dtype=dtype))
    same(index.search(queries, 1000, exact=True), flat_search(ids, rows, queries, 1000, dtype=dtype))
    for step in (2, 50):
        allowed = ids[::step]
        expected = flat_search(ids, rows, queries, 10, allowed=allowed, dtype=dtype)
        same(index.search(queries, 10, exact=True, allowed=allowed), expected)


@pytest.mark.parametrize("tiers", SHAPES[1:])
def test_the_cascade_reaches_its_target(tiers):
    index, ids, rows = built(6000, tiers)
    plan = index.stats().plan
    assert plan.layout == "cascade"
    assert plan.recall >= SMALL.recall_target
    queries = vectors(50, tiers[-1], seed=1)
    assert recall(index.search(queries, 10), flat_search(ids, rows, queries, 10)) >= 0.85


def test_large_indexes_get_larger_codes(monkeypatch):
    monkeypatch.setattr(planning, "_LARGE", 1000)
    index, ids, rows = built(3000, (64, 256, 384))
    assert (index.stats().coarse_bytes, index.stats().coarse_dimension) == (40, 240)
    queries = vectors(30, 384, seed=1)
    assert recall(index.search(queries, 10), flat_search(ids, rows, queries, 10)) >= 0.85


def test_growth_and_shrinkage_train_the_index_again():
    index, ids, _ = built(1000, (64, 256, 384))
    assert not index.maintain().trained
    index.add(np.arange(1500) + 10**6, vectors(1500, 384, seed=2))
    assert index.stats().maintenance_due
    assert index.maintain().trained
    assert not index.stats().maintenance_due
    index.remove(np.concatenate([ids, np.arange(910) + 10**6]))
    assert index.stats().maintenance_due
    assert index.maintain().trained
    assert len(index) == 590


def test_growth_in_small_steps_trains_the_index_again(monkeypatch):
    """Each step is less than what is due for maintenance by itself, yet a large index divides its rows."""
    monkeypatch.setattr(planning, "_LARGE", 3500)
    index, _, _ = built(1000, (64, 256, 384))
    trained = []
    for step in range(9):
        index.add(np.arange(500) + 10**6 * (step + 1), vectors(500, 384, seed=step))
        trained.append(index.maintain().trained)
    assert trained == [False, False, True, False, False, False, False, False, True]
    assert index.stats().plan.layout == "routed"


def test_faiss_threads_are_bounded_and_given_back():
    index, _, _ = built(1000, (64, 256, 384))
    lib = faiss_tools.faiss()
    before = lib.omp_get_max_threads()
    with faiss_tools.one_call(1):
        assert lib.omp_get_max_threads() == 1
    with pytest.raises(IndexStateError, match="refused"), faiss_tools.one_call(1):
        raise RuntimeError("boom")
    index.search(np.ones(384), 3)
    assert lib.omp_get_max_threads() == before


def test_scores_are_cosines_of_the_stored_rows():
    index, ids, rows = built(6000, (64, 256, 384))
    query = vectors(1, 384, seed=2)[0]
    result = index.search(query, 5)
    scores, found = flat_search(ids, rows, query, 6000)
    by_id = dict(zip(found[0].tolist(), scores[0].tolist(), strict=True))
    assert [by_id[entry] for entry in result.ids[0].tolist()] == result.scores[0].tolist()
    assert result.scores.dtype == np.float32
    assert result.ids.dtype == np.int64


def test_equal_scores_come_by_ascending_id():
    index = TieredIndex(8, (8,))
    index.add([9, 2, 5, 7], np.ones((4, 8)))
    index.add([1], -np.ones((1, 8)))
    assert index.search(np.ones(8), 6).ids.tolist() == [[2, 5, 7, 9, 1, -1]]
    assert index.search(np.ones(8), 2, exact=True).ids.tolist() == [[2, 5]]


def test_many_duplicates_do_not_hide_a_tie():
    index = TieredIndex(16, (16,))
    index.add(np.arange(3000)[::-1].copy(), np.ones((3000, 16)))
    assert index.search(np.ones(16), 5).ids.tolist() == [[0, 1, 2, 3, 4]]


def test_an_added_id_replaces_the_row_it_had():
    index, ids, rows = built(2000, (64, 256, 384))
    fresh = vectors(30, 384, seed=5)
    index.add(ids[:30], fresh)
    assert len(index) == 2000
    rows = np.concatenate([fresh, rows[30:]])
    same(index.search(fresh[:9], 10, exact=True), flat_search(ids, rows, fresh[:9], 10))
    assert index.search(fresh[:9], 1).ids[:, 0].tolist() == ids[:9].tolist()


def test_new_rows_are_found_before_maintenance():
    index, ids, _ = built(2000, (64, 256, 384))
    late = vectors(700, 384, seed=6)
    index.add(np.arange(700) + 10**15, late)
    assert index.stats().tail == 700
    assert (index.search(late[::50], 1).ids[:, 0] >= 10**15).all()
    report = index.maintain()
    assert (report.folded, index.stats().tail) == (700, 0)
    assert (index.search(late[::50], 1).ids[:, 0] >= 10**15).all()
    assert len(ids) + 700 == len(index)


def test_a_long_tail_is_folded_without_maintenance():
    index, _, _ = built(2000, (64, 256, 384))
    late = vectors(tiered._SMALLEST_TAIL + 1, 384, seed=6)
    index.add(np.arange(len(late)) + 10**6, late)
    assert index.stats().tail == 0
    assert index.search(late[5], 1).ids[0, 0] == 10**6 + 5


@pytest.mark.parametrize("tiers", SHAPES)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("share", [None, 0.02, 0.3])
def test_a_batch_is_answered_as_its_queries_one_by_one(monkeypatch, tiers, exact, share):
    monkeypatch.setattr(cascade, "_GATHER_LIMIT", 100)
    index, ids, rows = built(3000, tiers)
    index.add(np.arange(50), np.concatenate([rows[:30], rows[:20]]))
    index.remove(ids[::9])
    allowed = None if share is None else np.random.default_rng(3).permutation(ids)[: int(share * len(ids))]
    queries = np.concatenate([vectors(140, tiers[-1], seed=1), rows[:10]])
    together = index.search(queries, 10, allowed=allowed, exact=exact)
    singly = [index.search(query, 10, allowed=allowed, exact=exact) for query in queries]
    np.testing.assert_array_equal(together.ids, np.concatenate([one.ids for one in singly]))
    np.testing.assert_array_equal(together.scores, np.concatenate([one.scores for one in singly]))


def test_a_batch_among_equal_rows_is_the_oracle():
    rows = np.repeat(vectors(40, 64), 100, axis=0)
    index = TieredIndex(64, (64,), options=SMALL)
    index.add(np.arange(4000), rows)
    queries = vectors(30, 64, seed=1)
    same(index.search(queries, 10), flat_search(np.arange(4000), rows, queries, 10))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_added_one_by_one_are_stored_like_a_batch(dtype):
    tiers = (64, 256, 384)
    rows = np.concatenate([vectors(300, 384), np.eye(384, dtype=np.float32)[250:300]])
    together, singly = (TieredIndex(384, tiers, dtype=dtype) for _ in range(2))
    together.add(np.arange(350), rows)
    for number in range(350):
        singly.add([number], rows[number : number + 1])
    for one, other in ((together._state.native, singly._state.native), (together._state.main, singly._state.main)):
        np.testing.assert_array_equal(one.span(0, 350), other.span(0, 350))
    np.testing.assert_array_equal(together._state.scales[:350], singly._state.scales[:350])


def test_removed_rows_are_gone_and_compacted():
    index, ids, rows = built(6000, (64, 256, 384))
    assert index.remove(ids[::2]) == 3000
    assert index.remove(ids[::2]) == 0
    assert index.remove([12345678]) == 0
    assert len(index) == 3000
    queries = vectors(20, 384, seed=1)
    expected = flat_search(ids[1::2], rows[1::2], queries, 10)
    assert not set(index.search(queries, 10).ids.ravel().tolist()) & set(ids[::2].tolist())
    same(index.search(queries, 10, exact=True), expected)
    assert index.stats().maintenance_due
    assert index.maintain().compacted == 3000
    stats = index.stats()
    assert (stats.rows, stats.tombstones, stats.tail) == (3000, 0, 0)
    same(index.search(queries, 10, exact=True), expected)
    assert recall(index.search(queries, 10), expected) >= 0.85
    assert sorted(index.ids().tolist()) == ids[1::2].tolist()


def test_an_index_that_shrinks_becomes_exact_again():
    index, ids, _ = built(2000, (64, 256, 384))
    index.remove(ids[100:])
    index.maintain()
    assert index.stats().plan.layout == "exact"
    assert len(index) == 100


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("removed", [0, 3])
def test_a_filter_gives_back_all_it_can(share, removed):
    options = IndexOptions(exact_below=500, sample_queries=64, recall_target=0.98)
    index, ids, rows = built(12000, (64, 256, 384), options)
    if removed:
        index.remove(ids[::removed])
        keep = np.arange(len(ids)) % removed != 0
        ids, rows = ids[keep], rows[keep]
    rng = np.random.default_rng(3)
    queries = vectors(30, 384, seed=1)
    allowed = rng.permutation(ids)[: max(1, int(len(ids) * share))]
    expected = flat_search(ids, rows, queries, 20, allowed=allowed)
    noisy = np.concatenate([allowed, allowed[:3], [10**12, 1]])
    result = index.search(queries, 20, allowed=noisy)
    assert ((result.ids >= 0).sum(axis=1) == min(20, len(allowed))).all()
    assert np.isin(result.ids[result.ids >= 0], allowed).all()
    assert recall(result, expected) >= 0.95
    same(index.search(queries, 20, allowed=noisy, exact=True), expected)
    everything = index.search(queries[:2], len(allowed) + 5, allowed=noisy)
    assert ((everything.ids >= 0).sum(axis=1) == len(allowed)).all()


def test_an_empty_filter_and_an_empty_index():
    index, _, _ = built(600, (64, 128))
    query = np.ones(128)
    for result in (index.search(query, 3, allowed=[]), TieredIndex(128, (64, 128)).search(query, 3)):
        assert result.ids.tolist() == [[-1, -1, -1]]
        assert np.isneginf(result.scores).all()
    assert index.search(np.empty((0, 128)), 3).ids.shape == (0, 3)
    empty = TieredIndex(128, (64, 128))
    assert (len(empty), empty.ids().tolist(), empty.remove([1])) == (0, [], 0)
    empty.maintain()


def test_k_may_exceed_the_index():
    index, ids, _ = built(2000, (64, 256, 384))
    result = index.search(vectors(2, 384, seed=1), 5000)
    assert ((result.ids >= 0).sum(axis=1) == 2000).all()
    assert sorted(result.ids[0, :2000].tolist()) == ids.tolist()


def test_a_view_never_changes():
    index, ids, rows = built(3000, (64, 256, 384))
    view = index.view()
    queries = np.concatenate([vectors(5, 384, seed=1), vectors(3, 384, seed=9)])
    allowed = ids[::3]
    before = [view.search(queries, 10), view.search(queries, 10, allowed=allowed)]
    index.add(ids[:100], vectors(100, 384, seed=9))
    index.add(ids[:50], vectors(50, 384, seed=10))
    index.remove(ids[100:1500])
    index.add(ids[100:200], vectors(100, 384, seed=11))
    after = [view.search(queries, 10), view.search(queries, 10, allowed=allowed)]
    index.maintain()
    later = [view.search(queries, 10), view.search(queries, 10, allowed=allowed)]
    for a, b, c in zip(before, after, later, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.ids, c.ids)
        np.testing.assert_array_equal(a.scores, c.scores)
    assert len(view) == 3000
    np.testing.assert_array_equal(view.ids(), ids)
    same(view.search(queries, 10, exact=True), flat_search(ids, rows, queries, 10))


def test_explain_says_which_tier_dropped_an_id():
    index, ids, _ = built(6000, (64, 256, 384))
    queries = vectors(3, 384, seed=1)
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


def test_no_budget_still_answers():
    index, _, _ = built(6000, (64, 256, 384))
    index.add([10**9], vectors(1, 384, seed=4))
    queries = vectors(4, 384, seed=1)
    hurried = index.search(queries, 5, budget_ms=0)
    assert hurried.tier_reached == 64
    assert (hurried.ids >= 0).all()
    patient = index.search(queries, 5, budget_ms=1e6)
    assert patient.tier_reached == 384
    np.testing.assert_array_equal(patient.ids, index.search(queries, 5).ids)
    assert (hurried.scores <= patient.scores).all()


def test_threads_do_not_change_answers():
    index, ids, rows = built(6000, (64, 256, 384))
    many = TieredIndex(384, (64, 256, 384), options=IndexOptions(threads=3, exact_below=500, recall_target=0.9))
    many.add(ids, rows)
    many.maintain()
    queries = vectors(17, 384, seed=1)
    same(many.search(queries, 10, exact=True), flat_search(ids, rows, queries, 10))
    assert recall(many.search(queries, 10), flat_search(ids, rows, queries, 10)) > 0.85
    assert index.search(queries, 10).ids.shape == many.search(queries, 10).ids.shape


def test_searches_run_beside_writes_and_maintenance():
    index, ids, _ = built(3000, (64, 256, 384))
    stop, errors = threading.Event(), []

    def look():
        queries = vectors(2, 384, seed=1)
        while not stop.is_set():
            try:
                view = index.view()
                result = view.search(queries, 10)
                assert np.isin(result.ids, view.ids()).all()
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(6):
        index.add(np.arange(400) + 10**6 * (turn + 1), vectors(400, 384, seed=turn))
        index.remove(ids[turn * 400 : turn * 400 + 400])
        index.maintain()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(index) == 3000


BAD_VECTORS = [
    np.full((1, 8), np.nan),
    np.array([[np.inf, *[0.0] * 7]]),
    np.zeros((1, 8)),
    np.ones((1, 8), complex),
    np.ones(8),
    np.ones((1, 1, 8)),
    [["a"] * 8],
    np.full((1, 8), 1e300),
    [[1.0] * 8, [1.0] * 7],
]


@pytest.mark.parametrize("bad", BAD_VECTORS, ids=range(len(BAD_VECTORS)))
def test_bad_vectors_change_nothing(bad):
    index = TieredIndex(8, (8,))
    index.add([1], np.ones((1, 8)))
    with pytest.raises(InvalidInputError):
        index.add([2], bad)
    with pytest.raises(InvalidInputError):
        index.add([2, 3], np.concatenate([np.ones((1, 8)), np.full((1, 8), np.nan)]))
    assert index.ids().tolist() == [1]


def test_other_bad_input():
    index = TieredIndex(8, (8,))
    with pytest.raises(DimensionMismatchError):
        index.add([1], np.ones((1, 9)))
    for ids in ([1, 1], [-1, 2], [0.5, 1.0], [[1, 2]], [1], np.array([2**63, 1], np.uint64), [None, 1]):
        with pytest.raises(InvalidInputError):
            index.add(ids, np.ones((2, 8)))
    assert len(index) == 0
    with pytest.raises(DimensionMismatchError):
        index.search(np.ones(7), 1)
    for query in (np.zeros(8), np.full(8, np.nan), "text", 3.0):
        with pytest.raises(InvalidInputError):
            index.search(query, 1)
    for k in (0, -1, 1.5, True, None):
        with pytest.raises(InvalidInputError):
            index.search(np.ones(8), k)
    for budget in (-1, float("nan"), "1"):
        with pytest.raises(InvalidInputError):
            index.search(np.ones(8), 1, budget_ms=budget)
    for allowed in ([0.5], "text", [-1]):
        with pytest.raises(InvalidInputError):
            index.search(np.ones(8), 1, allowed=allowed)
    for tiers in ((), (8, 4), (4, 4, 8), (4,), (1, 2, 4, 8), (0, 8)):
        with pytest.raises(InvalidInputError):
            TieredIndex(8, tiers)
    with pytest.raises(InvalidInputError):
        TieredIndex(8, (8,), dtype="int8")
    for options in ({"threads": 0}, {"recall_target": 0}, {"recall_target": 1.5}, {"compact_above": 0}):
        with pytest.raises(InvalidInputError):
            IndexOptions(**options)


def test_extreme_but_sound_vectors_are_normalised():
    index = TieredIndex(4, (4,))
    index.add([1, 2], np.array([[3e38, 0, 0, 0], [0, 1e-38, 0, 0]], np.float32))
    result = index.search([[1e-30, 0, 0, 0]], 2)
    assert result.ids.tolist() == [[1, 2]]
    np.testing.assert_allclose(result.scores, [[1, 0]])


def test_rows_are_numbered_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(tiered, "MAX_ROWS", 5)
    index = TieredIndex(4, (4,))
    index.add([1, 2, 3], np.eye(4)[:3])
    with pytest.raises(IndexStateError, match="at most 5"):
        index.add([4, 5, 6], np.eye(4)[:3])
    assert index.ids().tolist() == [1, 2, 3]


def test_half_precision_survives_a_second_rounding():
    rows = vectors(200, 384)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = TieredIndex(384, (384,)), TieredIndex(384, (384,))
    first.add(np.arange(200), rows)
    second.add(np.arange(200), rows.astype(np.float16))
    query = vectors(1, 384, seed=3)
    np.testing.assert_array_equal(first.search(query, 9).scores, second.search(query, 9).scores)


def test_counts_are_measured_with_queries_that_lie_between_rows():
    index, _, _ = built(4000, (64, 256, 384), replace(SMALL, sample_queries=200, recall_target=0.95))
    plan = index.stats().plan
    middle = vectors(100, 384, seed=5) + vectors(100, 384, seed=6)
    exact = index.search(middle, 10, exact=True)
    assert recall(index.search(middle, 10), (exact.scores, exact.ids)) >= 0.95
    assert plan.recall >= 0.95
    assert plan.main_candidates >= 50


def test_counts_are_measured_where_rows_are_opposite():
    rows = vectors(600, 64)[:1].repeat(600, axis=0)
    rows[::2] *= -1
    index = TieredIndex(64, (16, 64), options=SMALL)
    index.add(np.arange(600), rows)
    assert index.maintain().plan.layout == "cascade"
    assert np.isfinite(planning._midpoints(index._state, planning._pairs(index._state, 64, 1))).all()
