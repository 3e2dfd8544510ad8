"""Type aliases and constants that all layers share."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float32]
"""Vectors, float32 of shape (n, dimension) or (dimension,)."""

IdArray: TypeAlias = npt.NDArray[np.int64]
"""Ids of entries, int64 of shape (n,)."""

RowArray: TypeAlias = npt.NDArray[np.int64]
"""Positions of rows within an index, int64 of shape (n,)."""

Namespace: TypeAlias = tuple[str, ...]
"""A tenancy scope, outermost name first; the empty tuple contains all others."""

Address: TypeAlias = tuple[Namespace, str]
"""Where an entry is: its namespace and key."""

INTERNAL = "@internal"
"""A part of namespaces: what lies in or below one that has it is left out of what is asked for without it."""

BM25_K1, BM25_B = 1.2, 0.75
"""Constants of BM25, those of SQLite's FTS5: every back end, and the words tier, must rank alike."""

Time: TypeAlias = datetime | date | str
"""A datetime, a date or an ISO 8601 string; see ``agent_memory.times``. Without a zone, that of ``Config.timezone``."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with (items done, items in all) during long operations."""


def is_internal(namespace: Namespace) -> bool:
    """Return whether a namespace, or one above it, is internal: a feature keeps there what nobody has said."""
    return INTERNAL in namespace
