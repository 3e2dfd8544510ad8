import numpy as np

from agent_memory.index.idmap import IdMap


def test_ids_map_to_their_newest_row_below_a_count():
    names = IdMap()
    names.append(np.array([5, 9, 2**62]))
    names.append(np.array([9, 7]))
    names.append(np.array([9]))
    wanted = np.array([9, 5, 7, 2**62, 4, 2**40])
    assert names.rows_of(wanted, 6).tolist() == [5, 0, 4, 2, -1, -1]
    assert names.rows_of(wanted, 5).tolist() == [3, 0, 4, 2, -1, -1]
    assert names.rows_of(wanted, 3).tolist() == [1, 0, -1, 2, -1, -1]
    assert names.rows_of(wanted, 0).tolist() == [-1] * 6
    assert names.ids(6).tolist() == [5, 9, 2**62, 9, 7, 9]


def test_dense_ids_stay_in_a_direct_table_until_a_sparse_one_comes():
    names = IdMap()
    names.append(np.arange(5000)[::-1].copy())
    names.append(np.array([7, 4999]))
    assert names._table[1]
    wanted = np.array([0, 7, 4999, 5000, 2**40])
    assert names.rows_of(wanted, 5002).tolist() == [4999, 5000, 5001, -1, -1]
    assert names.rows_of(wanted, 5000).tolist() == [4999, 4992, 0, -1, -1]
    names.append(np.array([2**40, 3]))
    assert not names._table[1]
    assert names.rows_of(wanted, 5004).tolist() == [4999, 5000, 5001, -1, 5002]
    assert names.rows_of(wanted, 5000).tolist() == [4999, 4992, 0, -1, -1]


def test_a_large_map_agrees_with_a_dictionary():
    rng = np.random.default_rng(0)
    names, model, count = IdMap(), {}, 0
    for _ in range(30):
        ids = np.unique(rng.integers(0, 2**40 if rng.random() < 0.5 else 3000, 700))
        rng.shuffle(ids)
        names.append(ids)
        model.update(zip(ids.tolist(), range(count, count + len(ids)), strict=True))
        count += len(ids)
    wanted = np.array([*model, 2**50, 2**51])
    expected = [model.get(entry, -1) for entry in wanted.tolist()]
    assert names.rows_of(wanted, count).tolist() == expected


def test_ids_that_hash_alike_are_kept_apart():
    inverse = pow(0x9E3779B97F4A7C15, -1, 2**64)
    alike = np.array([(place * inverse) % 2**63 for place in range(300)], np.int64)
    alike = np.unique(alike)
    names = IdMap()
    names.append(alike)
    assert names.rows_of(alike, len(alike)).tolist() == list(range(len(alike)))


def test_ids_added_one_by_one_are_mapped_like_a_batch():
    together, singly = IdMap(), IdMap()
    ids = np.array([4, 2, 4, 3000, 2**50, 2, 2**50, 4, 3000])
    for name in ids:
        together.append(np.array([name]))
        singly.append(np.array([name]))
    for count in range(len(ids) + 1):
        wanted = np.unique(np.append(ids, [0, 2**60]))
        expected = together.rows_of(wanted, count).tolist()
        assert [singly.row_of(name, count) for name in wanted.tolist()] == expected
        newest = {name: row for row, name in enumerate(ids[:count].tolist())}
        assert expected == [newest.get(name, -1) for name in wanted.tolist()]
