"""Windows of long texts and batches of equal work: integers only, no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from agent_memory.types import FloatArray

TOKEN_BUDGET = 1536
"""Tokens of one batch, padding included; the activations of a small model then stay in a core's cache."""


def split_windows(length: int, capacity: int) -> list[slice]:
    """Cut a run of tokens into the fewest windows, of nearly equal length.

    Equal windows rather than full ones and a rest: a rest of three tokens would make a vector of noise.

    Args:
        length: Tokens of the text, without special tokens.
        capacity: Most tokens of one window, without special tokens.

    Returns:
        Slices in text order; one empty slice for an empty text.
    """
    count = max(1, -(-length // capacity))
    edges = [round(i * length / count) for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def plan_batches(lengths: Sequence[int], budget: int = TOKEN_BUDGET) -> Iterator[npt.NDArray[np.intp]]:
    """Group windows of similar length until the padded batch reaches the budget.

    Args:
        lengths: Tokens of each window, special tokens included.
        budget: Most tokens of a batch after padding; a longer single window is a batch of its own.

    Yields:
        Positions in ``lengths``, longest windows first so that memory peaks at once and not at the end.
    """
    sizes = np.asarray(lengths, dtype=np.intp)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        # Sorted descending, so the first window of a batch is its width.
        count = max(1, budget // max(1, int(sizes[order[start]])))
        yield order[start : start + count]
        start += count


def merge_windows(vectors: FloatArray, weights: Sequence[int], counts: Sequence[int]) -> FloatArray:
    """Pool the windows of each text: mean of the unit window vectors weighted by their tokens.

    Args:
        vectors: float32 (windows, d), each row of unit length, the windows of a text side by side.
        weights: Content tokens of each window.
        counts: Windows of each text, at least 1 each.

    Returns:
        float32 (len(counts), d), each row of unit length.
    """
    if len(counts) == len(vectors):
        return vectors
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.intp)
    weighted = vectors * np.maximum(np.asarray(weights, dtype=np.float32), 1)[:, None]
    return normalise(np.add.reduceat(weighted, starts, axis=0))


def normalise(vectors: FloatArray) -> FloatArray:
    """Scale rows to unit length; a row of zeros stays as it is."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
