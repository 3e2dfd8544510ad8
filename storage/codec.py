"""The stored form of vectors, JSON and text checksums, the same for every back end."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory import inputs
from agent_memory.errors import InvalidInputError
from agent_memory.storage.moments import to_plain
from agent_memory.types import FloatArray

DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
"""Stored number formats by name, little-endian."""

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True, default=to_plain)


def encode_vectors(matrix: FloatArray, dtype: str) -> npt.NDArray[Any]:
    """Return vectors in a stored number format, little-endian, shape unchanged."""
    return matrix.astype(DTYPES[dtype])


def decode_vector(blob: bytes, dtype: str) -> FloatArray:
    """Return the vector that bytes in a stored number format hold, float32 of shape (dimension,)."""
    return np.frombuffer(blob, DTYPES[dtype]).astype(np.float32)


def canonical_json(value: object) -> str:
    """Return the canonical JSON in which metadata is stored and compared: minified, keys sorted.

    NumPy's scalars and arrays become numbers and lists, dates and times texts in ISO 8601.

    Raises:
        InvalidInputError: Not JSON: another type, NaN or infinity, too deep, or invalid Unicode.
    """
    if type(value) is dict and not value:
        return "{}"
    try:
        text = _JSON.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"not plain JSON: {error}") from error
    return check_unicode(text)


def check_unicode(value: str) -> str:
    """Return a string that can be stored; raises InvalidInputError for lone surrogates."""
    return inputs.check_unicode("a string", value)


def content_hash(text: str) -> bytes:
    """Return the 16-byte hash that identifies equal texts."""
    return hashlib.sha256(text.encode()).digest()[:16]
