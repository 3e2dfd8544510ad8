"""How values are spelled in the database: vectors, JSON, checksums of text. The same for every back end."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.errors import InvalidInputError
from agent_memory.types import FloatArray

DTYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype("<f2"), "float32": np.dtype("<f4")}
"""Stored number formats by name, little-endian."""

_JSON = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True)


def encode_vectors(matrix: FloatArray, dtype: str) -> npt.NDArray[Any]:
    """Return vectors in a stored number format, little-endian, in the same shape."""
    return matrix.astype(DTYPES[dtype])


def decode_vector(blob: bytes, dtype: str) -> FloatArray:
    """Return the vector of bytes in a stored number format, shape (dimension,)."""
    return np.frombuffer(blob, DTYPES[dtype]).astype(np.float32)


def canonical_json(value: object) -> str:
    """Return the one JSON spelling that metadata is stored and compared in: minified, keys sorted.

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
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError("a string is not valid Unicode (lone surrogate)") from error
    return value


def content_hash(text: str) -> bytes:
    """Return the 16 bytes by which duplicate text is found."""
    return hashlib.sha256(text.encode()).digest()[:16]
