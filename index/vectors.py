"""Vectors in, vectors stored, vectors compared: the arithmetic that every tier and the oracle share."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from agent_memory.errors import DimensionMismatchError, InvalidInputError
from agent_memory.types import FloatArray

Dtype = Literal["float16", "float32"]

_ALREADY_UNIT = 1e-3
_TINY = np.float32(1e-12)
_HALF_BIAS = np.float32(2.0**112)


def as_ids(ids: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Return ids as int64 (n,), refusing what is not a list of integers in [0, 2**63).

    Raises:
        InvalidInputError: Not one-dimensional, not integers, or negative (-1 marks "no result").
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


def distinct(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the distinct values (m,) in ascending order; quick if they are already so."""
    if values.size < 2 or bool((values[1:] > values[:-1]).all()):
        return values
    values = np.sort(values)
    different: npt.NDArray[np.bool_] = values[1:] != values[:-1]
    kept: npt.NDArray[np.int64] = values[np.append(True, different)]
    return kept


def as_unit_rows(vectors: npt.ArrayLike, dimension: int) -> FloatArray:
    """Return vectors as float32 (n, dimension) of unit length.

    Rows whose length is 1 within 1e-3 are taken as they are, so that a vector read back in half precision
    gives bit for bit the row that the original gave.

    Raises:
        DimensionMismatchError: Another number of dimensions.
        InvalidInputError: Not numbers, not a matrix, NaN, infinite, or a zero vector.
    """
    rows = numeric(vectors)
    if rows.ndim != 2:
        raise InvalidInputError(f"vectors must have two axes, got shape {rows.shape}")
    if rows.shape[1] != dimension:
        raise DimensionMismatchError(dimension, rows.shape[1])
    if len(rows) == 1 and abs(float(rows[0].dot(rows[0])) - 1) <= 2 * _ALREADY_UNIT:
        return rows
    with np.errstate(over="ignore", invalid="ignore"):
        squared = np.vecdot(rows, rows)
    odd = np.flatnonzero(~(np.abs(squared - 1) <= 2 * _ALREADY_UNIT))
    if odd.size:
        rows = rows.copy()
        rows[odd] = _scaled_to_unit(rows[odd], odd)
    return rows


def _scaled_to_unit(rows: FloatArray, numbers: npt.NDArray[np.int64]) -> FloatArray:
    peak = np.abs(rows).max(axis=1)
    bad = np.flatnonzero(~np.isfinite(peak))
    if bad.size:
        raise InvalidInputError(f"row {numbers[bad[0]]} has NaN or infinite numbers")
    if not peak.all():
        zero = numbers[np.flatnonzero(peak == 0)[0]]
        raise InvalidInputError(f"row {zero} is a zero vector, it has no direction")
    rows = rows / peak[:, None]
    unit: FloatArray = rows / np.sqrt((rows * rows).sum(axis=1))[:, None]
    return unit


def numeric(vectors: npt.ArrayLike) -> FloatArray:
    """Return real numbers as a contiguous float32 array."""
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


def as_queries(queries: npt.ArrayLike, dimension: int) -> FloatArray:
    """Return one query (d,) or many (nq, d) as float32 (nq, d) of unit length; raises as ``as_unit_rows``."""
    array = numeric(queries)
    return as_unit_rows(array[None, :] if array.ndim == 1 else array, dimension)


def widen(rows: npt.NDArray[Any]) -> FloatArray:
    """Return stored rows, float16 or float32, as float32 of the same shape.

    Half precision is widened with integer operations, which NumPy vectorises, unlike its own conversion:
    the bits are moved in place and the exponent is put right by one multiplication. Exact for every finite
    half.
    """
    if rows.dtype == np.float32:
        return rows
    bits = rows.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= np.int32(-0x70000001)
    wide = bits.view(np.float32)
    wide *= _HALF_BIAS
    return wide


def scores_of(rows: npt.NDArray[Any], query: FloatArray) -> FloatArray:
    """Inner product of each stored row (n, d) with one query (d,): float32 (n,).

    Products are summed pairwise row by row, so equal rows get equal scores wherever they stand in memory.
    BLAS does not promise that, its sums depend on alignment.
    """
    products = widen(rows) * query
    scores: FloatArray = np.add.reduce(products, axis=1)
    return scores


def rough_scores_of(rows: npt.NDArray[Any], query: FloatArray) -> FloatArray:
    """The same, faster, and right to the last few bits only."""
    scores: FloatArray = np.vecdot(widen(rows), query)
    return scores


def quantize(prefixes: FloatArray) -> tuple[npt.NDArray[np.int8], FloatArray]:
    """Return int8 codes (n, d) and the float32 scale (n,) of each row: ``unit prefix = code * scale``.

    Prefixes are brought to unit length, which finds more of the true neighbours than raw ones. The scale
    has the row's own peak, so that codes never depend on other rows and never change.
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
    """Return what ``quantize`` does, bit for bit, without the overhead of a matrix: rows often come singly."""
    sizes = np.abs(prefix)
    peak = max(sizes[sizes.argmax()], _TINY)
    length = max(np.float32(math.sqrt(np.vecdot(prefix, prefix))), _TINY)
    np.multiply(prefix, 127 / peak, out=sizes)
    codes = np.rint(sizes, out=sizes).astype(np.int8)
    return codes[None], np.array([peak / (127 * length)], np.float32)


def best(scores: FloatArray, count: int) -> npt.NDArray[np.int64]:
    """Positions of the ``count`` highest scores, in no order; all of them if there are fewer."""
    if count >= scores.size:
        return np.arange(scores.size)
    return np.argpartition(scores, scores.size - count)[scores.size - count :]


def ordered(scores: FloatArray, ids: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Positions of the ``count`` best, highest score first, equal scores by ascending id."""
    return np.lexsort((ids, -scores))[:count]
