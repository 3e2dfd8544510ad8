"""Vectors of other frameworks' embedding models, which may have no direction."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent_memory.types import FloatArray


def direction(vector: Sequence[float] | FloatArray | None) -> FloatArray | None:
    """Return a vector, shape (dimension,); None for none and for one that is all zeros, which is close to nothing."""
    if vector is None:
        return None
    array = np.asarray(vector, dtype=np.float32)
    return array if array.any() else None


def anywhere(dimension: int) -> FloatArray:
    """Return the vector of shape (dimension,) that an entry gets whose own says nothing; it is never ranked by it."""
    vector = np.zeros(dimension, dtype=np.float32)
    vector[0] = 1
    return vector
