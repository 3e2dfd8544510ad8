"""Near-duplicates among many vectors: all of them, without comparing each with each in full."""

from __future__ import annotations

import hashlib

import numpy as np

from agent_memory.types import FloatArray, RowArray

_DIRECTIONS = 64
_SAMPLE = 4096  # rows that the directions are found from
_ROWS, _COLUMNS = 1024, 4096  # of one block of comparisons: 16 MB
_SLACK = 1e-5  # by which sums of float32 may be off


def find_leaders(vectors: FloatArray, threshold: float) -> RowArray:
    """Return the leader of each vector: that of the first one before it that is close enough, or itself.

    Vectors are compared along the few directions that hold most of their length. What the rest could add to a cosine
    is at most the product of its lengths (Cauchy-Schwarz), so that nothing close enough is missed; only pairs that may
    be are compared in full.

    Args:
        vectors: float32 (n, dimension), of unit length.
        threshold: Least cosine.

    Returns:
        Rows, int64 (n,). It takes about 40 MB, and 150 numbers a row.
    """
    digests = [hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in vectors]
    firsts: dict[bytes, int] = {}
    first = np.array([firsts.setdefault(digest, row) for row, digest in enumerate(digests)], np.int64)
    _find_first(vectors, np.flatnonzero(first == np.arange(len(first))), threshold, first)
    leaders = np.arange(len(first))
    for row in np.flatnonzero(first < leaders).tolist():
        leaders[row] = leaders[first[row]]
    return leaders


def _find_first(vectors: FloatArray, rows: RowArray, threshold: float, first: RowArray) -> None:
    """Write into ``first``, for each of some rows, the first of them before it that is close enough."""
    sketches = _sketch(vectors)[rows]
    spread = int(np.argmax(sketches[:, :-1].var(axis=0)))
    order = np.argsort(sketches[:, spread], kind="stable")
    rows, sketches = rows[order], np.ascontiguousarray(sketches[order])
    along = sketches[:, spread]
    reach = float(np.sqrt(2 - 2 * threshold)) + _SLACK  # the farthest apart that two close ones are, in any direction
    for start in range(0, len(rows), _ROWS):
        mine = slice(start, start + _ROWS)
        end = int(np.searchsorted(along, along[mine][-1] + reach, side="right"))
        for column in range(start, end, _COLUMNS):
            theirs = slice(column, min(end, column + _COLUMNS))
            at, other = np.nonzero(sketches[mine] @ sketches[theirs].T >= threshold - _SLACK)
            _compare(vectors, rows[mine][at], rows[theirs][other], threshold, first)


def _sketch(vectors: FloatArray) -> FloatArray:
    """Return the vectors along their main directions, and the length of what is left: float32 (n, directions + 1)."""
    sample = vectors[:: -(-len(vectors) // _SAMPLE)]
    _, directions = np.linalg.eigh(sample.T @ sample)
    main = vectors @ directions[:, -_DIRECTIONS:]
    left = np.einsum("ij,ij->i", vectors, vectors) - np.einsum("ij,ij->i", main, main)
    return np.column_stack([main, np.sqrt(np.maximum(left, 0.0))]).astype(np.float32)


def _compare(vectors: FloatArray, some: RowArray, others: RowArray, threshold: float, first: RowArray) -> None:
    """Note in ``first`` which of some pairs are close enough."""
    earlier, later = np.minimum(some, others), np.maximum(some, others)
    useful = earlier < first[later]
    earlier, later = earlier[useful], later[useful]
    for start in range(0, len(earlier), _COLUMNS):
        part = slice(start, start + _COLUMNS)
        cosines = np.einsum("ij,ij->i", vectors[earlier[part]], vectors[later[part]])
        close = cosines >= threshold
        np.minimum.at(first, later[part][close], earlier[part][close])
