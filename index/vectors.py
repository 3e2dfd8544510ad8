"""The arithmetic of vectors that all tiers share: check, store, score, select."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agent_memory.errors import DimensionMismatchError, InvalidInputError
from agent_memory.types import FloatArray, IdArray, RowArray

Dtype = Literal["float16", "float32"]

_UNIT_TOLERANCE = 1e-3
_TINY = np.float32(1e-12)
_HALF_BIAS = np.float32(2.0**112)


def check_ids(ids: npt.ArrayLike) -> IdArray:
    """Return ids as int64 (n,).

    Raises:
        InvalidInputError: Not one-dimensional, not integers, or outside of [0, 2**63); -1 means "no result".
    """
    array = np.asarray(ids)
    if array.size == 0 and array.ndim == 1:
        return np.empty(0, np.int64)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InvalidInputError(f"ids must be one-dimensional integers, got {array.dtype} of shape {array.shape}")
    if array.dtype.kind == "u" and array.max() > np.iinfo(np.int64).max:
        raise InvalidInputError(f"ids must be below 2**63, got {array.max()}")
    array = array.astype(np.int64, copy=False)
    lowest = array[0] if array.size == 1 else array.min()
    if lowest < 0:
        raise InvalidInputError(f"ids must not be negative, got {lowest}")
    return array


def deduplicate(values: IdArray) -> IdArray:
    """Return the distinct values (m,) in ascending order; fast if they already are."""
    if values.size < 2 or bool((values[1:] > values[:-1]).all()):
        return values
    values = np.sort(values)
    different: npt.NDArray[np.bool_] = values[1:] != values[:-1]
    kept: IdArray = values[np.append(True, different)]
    return kept


def normalise_rows(vectors: npt.ArrayLike, dimension: int) -> FloatArray:
    """Return vectors as float32 (n, dimension) of unit length.

    Rows whose length is 1 within 1e-3 are not scaled, so that a vector read back in half precision gives bit for
    bit the same row as the original.

    Raises:
        DimensionMismatchError: Another number of dimensions.
        InvalidInputError: Not a matrix of numbers, or a vector that is NaN, infinite or zero.
    """
    rows = cast_to_float32(vectors)
    if rows.ndim != 2:
        raise InvalidInputError(f"vectors must have two axes, got shape {rows.shape}")
    if rows.shape[1] != dimension:
        raise DimensionMismatchError(dimension, rows.shape[1])
    if len(rows) == 1 and abs(float(rows[0].dot(rows[0])) - 1) <= 2 * _UNIT_TOLERANCE:
        return rows
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.vecdot(rows, rows)
    odd = np.flatnonzero(~(np.abs(squared - 1) <= 2 * _UNIT_TOLERANCE))
    if odd.size:
        rows = rows.copy()
        rows[odd] = _scale_to_unit(rows[odd], odd)
    return rows


def _scale_to_unit(rows: FloatArray, numbers: RowArray) -> FloatArray:
    peak = np.abs(rows).max(axis=1)
    bad = np.flatnonzero(~np.isfinite(peak))
    if bad.size:
        raise InvalidInputError(f"row {numbers[bad[0]]} has NaN or infinite numbers")
    if not peak.all():
        zero = numbers[np.flatnonzero(peak == 0)[0]]
        raise InvalidInputError(f"row {zero} is a zero vector, which has no direction")
    rows = rows / peak[:, None]
    unit: FloatArray = rows / np.sqrt((rows * rows).sum(axis=1))[:, None]
    return unit


def cast_to_float32(vectors: npt.ArrayLike) -> FloatArray:
    """Return real numbers as a contiguous float32 array.

    Raises:
        InvalidInputError: Not real numbers, or rows of different lengths.
    """
    if isinstance(vectors, np.ndarray) and vectors.dtype == np.float32 and vectors.flags.c_contiguous:
        return vectors
    try:
        array = np.asarray(vectors)
        if array.dtype.kind not in "fiu":
            raise TypeError(f"got {array.dtype}")
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(array, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInputError(f"vectors must be a matrix of real numbers: {error}") from error


def normalise_queries(queries: npt.ArrayLike, dimension: int) -> FloatArray:
    """Return one query (d,) or several (nq, d) as float32 (nq, d) of unit length; raises as ``normalise_rows``."""
    array = cast_to_float32(queries)
    return normalise_rows(array[None, :] if array.ndim == 1 else array, dimension)


def widen(rows: npt.NDArray[Any]) -> FloatArray:
    """Return stored rows, float16 or float32, as float32 of the same shape.

    Half precision is widened by integer operations: NumPy vectorises these, but not its own conversion. The bits
    are shifted into place, and one multiplication corrects the exponent. Exact for every finite half.
    """
    if rows.dtype == np.float32:
        return rows
    bits = rows.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70000001)
    wide = bits.view(np.float32)
    wide *= _HALF_BIAS
    return wide


def score_rows(rows: npt.NDArray[Any], query: FloatArray) -> FloatArray:
    """Return the inner product of each stored row (n, d) with one query (d,), float32 (n,).

    Products are summed pairwise, row by row, so that equal rows get equal scores wherever they lie in memory. BLAS
    does not guarantee that: its sums depend on alignment.
    """
    products = widen(rows) * query
    scores: FloatArray = np.add.reduce(products, axis=1)
    return scores


def score_rows_roughly(rows: npt.NDArray[Any], query: FloatArray) -> FloatArray:
    """Return what ``score_rows`` does, faster, but exact only up to the last few bits."""
    scores: FloatArray = np.vecdot(widen(rows), query)
    return scores


def quantize(prefixes: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return int8 codes (n, d) and the float32 scale (n,) of each row: ``unit prefix = code * scale``.

    Prefixes are scaled to unit length, which finds more of the true neighbours than raw ones. The scale depends on
    the peak of its own row alone, so a row's code never changes when other rows are added.
    """
    if len(prefixes) == 1:
        return _quantize_one(prefixes[0])
    peak = np.abs(prefixes).max(axis=1)
    length = np.sqrt(np.vecdot(prefixes, prefixes))
    np.maximum(peak, _TINY, out=peak)
    np.maximum(length, _TINY, out=length)
    codes = np.rint(prefixes * (127 / peak)[:, None]).astype(np.int8)
    return codes, peak / (127 * length)


def _quantize_one(prefix: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return what ``quantize`` does, bit for bit, but faster: rows are often added one at a time."""
    sizes = np.abs(prefix)
    peak = max(sizes[sizes.argmax()], _TINY)
    length = max(np.float32(math.sqrt(np.vecdot(prefix, prefix))), _TINY)
    np.multiply(prefix, 127 / peak, out=sizes)
    codes = np.rint(sizes, out=sizes).astype(np.int8)
    return codes[None], np.array([peak / (127 * length)], np.float32)


def select_best(scores: FloatArray, count: int) -> RowArray:
    """Return the positions of the ``count`` highest scores, unordered; all positions if there are fewer."""
    if count >= scores.size:
        return np.arange(scores.size)
    return np.argpartition(scores, scores.size - count)[scores.size - count :]


def sort_best(scores: FloatArray, ids: IdArray, count: int) -> RowArray:
    """Return the positions of the ``count`` highest scores, best first, equal scores in ascending order of id."""
    return np.lexsort((ids, -scores))[:count]
