"""Windows and batches, checked against what they must add up to."""

import numpy as np
import pytest

from agent_memory.encoders.static.windows import batch_windows, merge_windows, normalise, split_windows


@pytest.mark.parametrize("length", [0, 1, 9, 10, 11, 25, 1000])
def test_windows_cover_the_text_once(length):
    cuts = split_windows(length, 10)
    covered = [i for cut in cuts for i in range(cut.start, cut.stop)]
    sizes = [cut.stop - cut.start for cut in cuts]
    assert covered == list(range(length))
    assert max(sizes) <= 10
    assert max(sizes) - min(sizes) <= 1


def test_batches_hold_every_window_once_within_the_budget():
    rng = np.random.default_rng(0)
    lengths = [int(n) for n in rng.integers(1, 90, 500)] + [5000]
    batches = list(batch_windows(lengths, budget=256))
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        width = max(lengths[i] for i in batch)
        assert len(batch) == 1 or width * len(batch) <= 256
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)
    assert padded < 1.1 * sum(lengths)


def test_merged_vector_is_the_token_weighted_mean():
    vectors = normalise(np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32))
    merged = merge_windows(vectors, weights=[5, 3, 1], counts=[1, 2])
    expected = vectors[1] * 3 + vectors[2]
    np.testing.assert_allclose(merged[0], vectors[0], atol=1e-6)
    np.testing.assert_allclose(merged[1], expected / np.linalg.norm(expected), atol=1e-6)
