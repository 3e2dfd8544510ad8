"""Vectors of other frameworks' embedding models, which may have no direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from agent_memory.formats.names import own_key
from agent_memory.memory import Memory
from agent_memory.records import Hit
from agent_memory.types import FloatArray, Namespace

UNRANKED = own_key("unranked")  # in the metadata of an entry whose vector says nothing


def direction(vector: Sequence[float] | FloatArray | None) -> FloatArray | None:
    """Return a vector, shape (dimension,); None for none and for one that is all zeros, which is close to nothing."""
    if vector is None:
        return None
    array = np.asarray(vector, dtype=np.float64)
    if not array.any():
        return None
    with np.errstate(invalid="ignore"):  # what is not finite stays so, and is refused where it is used
        return np.asarray(array / np.abs(array).max(), dtype=np.float32)  # very small numbers have no float32


def anywhere(dimension: int) -> FloatArray:
    """Return the vector of shape (dimension,) that an entry gets whose own says nothing; it is never ranked by it."""
    vector = np.zeros(dimension, dtype=np.float32)
    vector[0] = 1
    return vector


def closest(
    memory: Memory,
    query: Sequence[float] | FloatArray,
    k: int,
    where: Mapping[str, Any] | None,
    scope: Namespace,
    **options: Any,
) -> list[Hit]:
    """Return the entries closest to a vector, without those marked ``UNRANKED``; none for a vector of zeros.

    Args:
        memory: Where to look.
        query: Shape (dimension,).
        k: How many entries at most; none from 0 down.
        where: Only entries whose metadata match.
        scope: The namespace in full.
        **options: Passed to ``Memory.recall``.
    """
    vector = direction(query)
    if vector is None or k < 1:
        return []
    hits = memory.recall(vector, k=k, where=where, namespace=scope, **options)
    if any(UNRANKED in hit.entry.metadata for hit in hits):
        ranked = {UNRANKED: {"$exists": False}}  # asked for only where it matters: a filter costs time
        hits = memory.recall(vector, k=k, where={"$and": [where or {}, ranked]}, namespace=scope, **options)
    return hits
