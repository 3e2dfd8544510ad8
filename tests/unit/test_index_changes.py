import threading

import numpy as np
import pytest
from oracle import search_flat
from support_index import assert_same, build_index, make_vectors, measure_recall

from agent_memory.index import TieredIndex, planning, tiered


def test_growth_and_shrinkage_retrain_the_codes():
    index, ids, _ = build_index(1000, (64, 256, 384))
    assert not index.maintain().trained
    index.add(np.arange(1500) + 10**6, make_vectors(1500, 384, seed=2))
    assert index.stats().maintenance_due
    assert index.maintain().trained
    assert not index.stats().maintenance_due
    index.remove(np.concatenate([ids, np.arange(910) + 10**6]))
    assert index.stats().maintenance_due
    assert index.maintain().trained
    assert len(index) == 590


def test_growth_in_small_steps_retrains_the_codes_too(monkeypatch):
    """No single step makes maintenance due, yet an index that has become large divides its rows."""
    monkeypatch.setattr(planning, "_LARGE", 3500)
    index, _, _ = build_index(1000, (64, 256, 384))
    trained = []
    for step in range(9):
        index.add(np.arange(500) + 10**6 * (step + 1), make_vectors(500, 384, seed=step))
        trained.append(index.maintain().trained)
    assert trained == [False, False, True, False, False, False, False, False, True]
    assert index.stats().plan.layout == "routed"


def test_an_added_id_replaces_the_row_it_had():
    index, ids, rows = build_index(2000, (64, 256, 384))
    fresh = make_vectors(30, 384, seed=5)
    index.add(ids[:30], fresh)
    assert len(index) == 2000
    rows = np.concatenate([fresh, rows[30:]])
    assert_same(index.search(fresh[:9], 10, exact=True), search_flat(ids, rows, fresh[:9], 10))
    assert index.search(fresh[:9], 1).ids[:, 0].tolist() == ids[:9].tolist()


def test_new_rows_are_found_before_maintenance():
    index, ids, _ = build_index(2000, (64, 256, 384))
    late = make_vectors(700, 384, seed=6)
    index.add(np.arange(700) + 10**15, late)
    assert index.stats().tail == 700
    assert (index.search(late[::50], 1).ids[:, 0] >= 10**15).all()
    report = index.maintain()
    assert (report.folded, index.stats().tail) == (700, 0)
    assert (index.search(late[::50], 1).ids[:, 0] >= 10**15).all()
    assert len(ids) + 700 == len(index)


def test_a_long_tail_is_folded_without_maintenance():
    index, _, _ = build_index(2000, (64, 256, 384))
    late = make_vectors(tiered._SMALLEST_TAIL + 1, 384, seed=6)
    index.add(np.arange(len(late)) + 10**6, late)
    assert index.stats().tail == 0
    assert index.search(late[5], 1).ids[0, 0] == 10**6 + 5


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_rows_added_one_by_one_are_stored_like_rows_added_together(dtype):
    tiers = (64, 256, 384)
    rows = np.concatenate([make_vectors(300, 384), np.eye(384, dtype=np.float32)[250:300]])
    together, singly = (TieredIndex(384, tiers, dtype=dtype) for _ in range(2))
    together.add(np.arange(350), rows)
    for number in range(350):
        singly.add([number], rows[number : number + 1])
    for one, other in ((together._state.native, singly._state.native), (together._state.main, singly._state.main)):
        np.testing.assert_array_equal(one.read_span(0, 350), other.read_span(0, 350))
    np.testing.assert_array_equal(together._state.scales[:350], singly._state.scales[:350])


def test_removed_rows_are_gone_and_compacted():
    index, ids, rows = build_index(6000, (64, 256, 384))
    assert index.remove(ids[::2]) == 3000
    assert index.remove(ids[::2]) == 0
    assert index.remove([12345678]) == 0
    assert len(index) == 3000
    queries = make_vectors(20, 384, seed=1)
    expected = search_flat(ids[1::2], rows[1::2], queries, 10)
    assert not set(index.search(queries, 10).ids.ravel().tolist()) & set(ids[::2].tolist())
    assert_same(index.search(queries, 10, exact=True), expected)
    assert index.stats().maintenance_due
    assert index.maintain().compacted == 3000
    stats = index.stats()
    assert (stats.rows, stats.tombstones, stats.tail) == (3000, 0, 0)
    assert_same(index.search(queries, 10, exact=True), expected)
    assert measure_recall(index.search(queries, 10), expected) >= 0.85
    assert sorted(index.ids().tolist()) == ids[1::2].tolist()


def test_an_index_that_shrinks_becomes_exact_again():
    index, ids, _ = build_index(2000, (64, 256, 384))
    index.remove(ids[100:])
    index.maintain()
    assert index.stats().plan.layout == "exact"
    assert len(index) == 100


def test_a_view_never_changes():
    index, ids, rows = build_index(3000, (64, 256, 384))
    view = index.view()
    queries = np.concatenate([make_vectors(5, 384, seed=1), make_vectors(3, 384, seed=9)])
    allowed = ids[::3]
    before = [view.search(queries, 10), view.search(queries, 10, allowed=allowed)]
    index.add(ids[:100], make_vectors(100, 384, seed=9))
    index.add(ids[:50], make_vectors(50, 384, seed=10))
    index.remove(ids[100:1500])
    index.add(ids[100:200], make_vectors(100, 384, seed=11))
    after = [view.search(queries, 10), view.search(queries, 10, allowed=allowed)]
    index.maintain()
    later = [view.search(queries, 10), view.search(queries, 10, allowed=allowed)]
    for a, b, c in zip(before, after, later, strict=True):
        np.testing.assert_array_equal(a.ids, b.ids)
        np.testing.assert_array_equal(a.ids, c.ids)
        np.testing.assert_array_equal(a.scores, c.scores)
    assert len(view) == 3000
    np.testing.assert_array_equal(view.ids(), ids)
    assert_same(view.search(queries, 10, exact=True), search_flat(ids, rows, queries, 10))


def test_searches_run_during_writes_and_maintenance():
    index, ids, _ = build_index(3000, (64, 256, 384))
    stop, errors = threading.Event(), []

    def search_until_stopped():
        queries = make_vectors(2, 384, seed=1)
        while not stop.is_set():
            try:
                view = index.view()
                result = view.search(queries, 10)
                assert np.isin(result.ids, view.ids()).all()
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=search_until_stopped) for _ in range(2)]
    for thread in threads:
        thread.start()
    for turn in range(6):
        index.add(np.arange(400) + 10**6 * (turn + 1), make_vectors(400, 384, seed=turn))
        index.remove(ids[turn * 400 : turn * 400 + 400])
        index.maintain()
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(index) == 3000


def test_the_plan_is_measured_again_only_when_the_index_has_grown_or_shrunk():
    index, ids, _ = build_index(4000, (64, 256, 384))
    measured = index.maintain().plan
    index.add([10**6], make_vectors(1, 384, seed=3))
    assert index.maintain().plan is measured
    index.add(np.arange(1200) + 2 * 10**6, make_vectors(1200, 384, seed=4))
    assert index.maintain().plan.measured_rows == 5201
    index.remove(ids[:1100])
    assert index.maintain().plan.measured_rows == 4101
