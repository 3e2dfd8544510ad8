"""Cuts long texts into windows, groups windows into batches, and pools their vectors. Needs no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from agent_memory.encoders.base import TokenArray
from agent_memory.types import FloatArray

TOKEN_BUDGET = 1536
"""Tokens of one batch, padding included; small enough that a small model's activations stay in a core's cache."""


def split_windows(length: int, capacity: int) -> list[slice]:
    """Cut a text into as few windows as possible, of nearly equal length.

    Full windows would leave a remainder: one of three tokens has a vector that is mostly noise.

    Args:
        length: Tokens of the text, without special tokens.
        capacity: Maximum tokens of one window, without special tokens.

    Returns:
        Slices in the order of the text; one empty slice for an empty text.
    """
    count = max(1, -(-length // capacity))
    edges = [round(i * length / count) for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def batch_windows(lengths: Sequence[int], budget: int = TOKEN_BUDGET) -> Iterator[npt.NDArray[np.intp]]:
    """Group windows of similar length into batches that stay within a token budget.

    Args:
        lengths: Tokens of each window, special tokens included.
        budget: Maximum tokens of a batch, padding included; a longer window forms a batch of its own.

    Yields:
        Positions in ``lengths``, longest windows first, so that memory use peaks at the beginning.
    """
    sizes = np.asarray(lengths, dtype=np.intp)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        # Lengths descend, so the first window of a batch determines its width.
        count = max(1, budget // max(1, int(sizes[order[start]])))
        yield order[start : start + count]
        start += count


def pad_rows(rows: Sequence[Sequence[int]], pad: int) -> tuple[TokenArray, TokenArray]:
    """Pad rows of token ids on the right to equal length.

    Args:
        rows: Token ids of each row; at least one row.
        pad: Token id of padding.

    Returns:
        Ids and mask, int64 (len(rows), width); the mask is 1 for tokens and 0 for padding.
    """
    width = max(1, max(len(row) for row in rows))
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def merge_windows(vectors: FloatArray, weights: Sequence[int], counts: Sequence[int]) -> FloatArray:
    """Pool the windows of each text into the mean of their unit vectors, weighted by tokens.

    Args:
        vectors: float32 (windows, d), each row of unit length, the windows of a text in adjacent rows.
        weights: Content tokens of each window.
        counts: Number of windows of each text, at least 1.

    Returns:
        float32 (len(counts), d), each row of unit length.
    """
    if len(counts) == len(vectors):
        return vectors
    starts = np.concatenate(([0], np.cumsum(counts)[:-1])).astype(np.intp)
    weighted = vectors * np.maximum(np.asarray(weights, dtype=np.float32), 1)[:, None]
    return normalise(np.add.reduceat(weighted, starts, axis=0))


def normalise(vectors: FloatArray) -> FloatArray:
    """Scale rows to unit length; rows of zeros are unchanged."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.maximum(norms, 1e-12), dtype=np.float32)
