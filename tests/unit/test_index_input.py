import numpy as np
import pytest
from support_index import make_vectors

from agent_memory.errors import DimensionMismatchError, IndexStateError, InvalidInputError
from agent_memory.index import IndexOptions, TieredIndex, tiered

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


def test_extreme_but_valid_vectors_are_normalised():
    index = TieredIndex(4, (4,))
    index.add([1, 2], np.array([[3e38, 0, 0, 0], [0, 1e-38, 0, 0]], np.float32))
    result = index.search([[1e-30, 0, 0, 0]], 2)
    assert result.ids.tolist() == [[1, 2]]
    np.testing.assert_allclose(result.scores, [[1, 0]])


def test_the_number_of_rows_is_limited(monkeypatch):
    monkeypatch.setattr(tiered, "MAX_ROWS", 5)
    index = TieredIndex(4, (4,))
    index.add([1, 2, 3], np.eye(4)[:3])
    with pytest.raises(IndexStateError, match="at most 5"):
        index.add([4, 5, 6], np.eye(4)[:3])
    assert index.ids().tolist() == [1, 2, 3]


def test_half_precision_survives_a_second_rounding():
    rows = make_vectors(200, 384)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = TieredIndex(384, (384,)), TieredIndex(384, (384,))
    first.add(np.arange(200), rows)
    second.add(np.arange(200), rows.astype(np.float16))
    query = make_vectors(1, 384, seed=3)
    np.testing.assert_array_equal(first.search(query, 9).scores, second.search(query, 9).scores)
