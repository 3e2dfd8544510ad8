"""What an index is at one moment, as a value, and how the next value is made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from agent_memory.index.coarse import CoarseTier
from agent_memory.index.idmap import IdMap
from agent_memory.index.records import Plan
from agent_memory.index.rows import Rows
from agent_memory.index.vectors import Dtype, as_unit_rows, numeric, quantize
from agent_memory.types import FloatArray, IdArray, RowArray

Scalar = TypeVar("Scalar", bound=np.generic)

_COPY_ROWS = 4096


@dataclass(eq=False)
class State:
    """All that a search reads; replaced as a whole, never assigned to.

    Attributes:
        native: Stored rows at the native dimension.
        main: int8 rows of the main tier, None with fewer than three tiers.
        scales: float32, factor of each main row; at least as long as there are rows.
        alive: Set where a row was not removed; at least as long as there are rows.
        dead: Rows that were removed.
        ids: Both directions of the naming of rows.
        coarse: Codes of the first rows, None before the first ``maintain`` of a large index.
        plan: How to search.
    """

    native: Rows
    main: Rows | None
    scales: FloatArray
    alive: npt.NDArray[np.bool_]
    dead: int
    ids: IdMap
    coarse: CoarseTier | None
    plan: Plan

    @property
    def count(self) -> int:
        """Rows, removed ones included."""
        return self.native.count

    @property
    def live(self) -> int:
        """Rows that were not removed."""
        return self.native.count - self.dead

    @property
    def live_rows(self) -> RowArray:
        """Rows that were not removed, ascending."""
        return np.flatnonzero(self.alive[: self.count])

    @cached_property
    def live_ids(self) -> IdArray:
        """Ids of the live rows in order of arrival."""
        return self.ids.ids(self.count)[self.alive[: self.count]]

    @cached_property
    def alive_bits(self) -> npt.NDArray[np.uint8] | None:
        """Bitmap of live rows, None if all are."""
        return np.packbits(self.alive[: self.count], bitorder="little") if self.dead else None

    def rows_of(self, names: IdArray) -> RowArray:
        """Return the live rows of those ids that have one."""
        if len(names) == 1:
            row = self.ids.row_of(int(names[0]), self.count)
            return np.array([row]) if row >= 0 and self.alive[row] else np.empty(0, np.int64)
        rows = self.ids.rows_of(names, self.count)
        if rows.size and rows.min() < 0:
            rows = rows[rows >= 0]
        return rows[self.alive[rows]] if self.dead else rows


def empty_state(tiers: tuple[int, ...], dtype: Dtype) -> State:
    """Return the state without rows."""
    return State(
        native=Rows(tiers[-1], dtype),
        main=Rows(tiers[-2], np.int8) if len(tiers) == 3 else None,
        scales=np.empty(0, np.float32),
        alive=np.empty(0, bool),
        dead=0,
        ids=IdMap(),
        coarse=None,
        plan=Plan(),
    )


Stored = tuple[npt.NDArray[Any], npt.NDArray[np.int8] | None, FloatArray | None]
"""Rows as they are kept: native, int8 codes of the main tier, their scales."""


def stored(vectors: npt.ArrayLike, tiers: tuple[int, ...], dtype: Dtype) -> list[Stored]:
    """Check vectors (n, d) and bring them into the form they are kept in, a piece at a time."""
    array = vectors if isinstance(vectors, np.ndarray) else numeric(vectors)
    if array.ndim != 2 or len(array) <= _COPY_ROWS:
        return [_stored(array, tiers, dtype)]
    return [_stored(array[at : at + _COPY_ROWS], tiers, dtype) for at in range(0, len(array), _COPY_ROWS)]


def _stored(vectors: npt.ArrayLike, tiers: tuple[int, ...], dtype: Dtype) -> Stored:
    rows = as_unit_rows(vectors, tiers[-1])
    codes, scales = quantize(rows[:, : tiers[-2]]) if len(tiers) == 3 else (None, None)
    # A single row is rounded where it is put.
    return rows if len(rows) == 1 else rows.astype(dtype), codes, scales


def with_rows(
    state: State,
    names: IdArray,
    native: npt.NDArray[np.generic],
    codes: npt.NDArray[np.int8] | None,
    scales: FloatArray | None,
) -> State:
    """Append stored rows; the columns are shared with ``state``, which does not see the new rows."""
    start, stop = state.count, state.count + len(names)
    alive = _room(state.alive, start, stop)
    alive[start:stop] = True
    main, factors = state.main, state.scales
    if main is not None and codes is not None and scales is not None:
        main = main.append(codes)
        factors = _room(factors, start, stop)
        factors[start:stop] = scales
    rows = state.native.append(native)
    state.ids.append(names)
    return State(rows, main, factors, alive, state.dead, state.ids, state.coarse, state.plan)


def without_rows(state: State, rows: RowArray) -> State:
    """Mark live rows as removed, in a new bitmap."""
    alive = state.alive.copy()
    alive[rows] = False
    return replace(state, alive=alive, dead=state.dead + len(rows))


def with_copied(state: State, source: State, rows: RowArray) -> State:
    """Append rows of another state, bit for bit."""
    names = source.ids.ids(source.count)
    for at in range(0, len(rows), _COPY_ROWS):
        piece = rows[at : at + _COPY_ROWS]
        codes, scales = None, None
        if source.main is not None:
            codes, scales = source.main.take(piece), source.scales[piece]
        state = with_rows(state, names[piece], source.native.take(piece), codes, scales)
    return state


def _room(array: npt.NDArray[Scalar], used: int, needed: int) -> npt.NDArray[Scalar]:
    """Return ``array`` or a longer copy that has ``needed`` places."""
    if needed <= len(array):
        return array
    grown = np.empty(max(2 * len(array), needed, 256), array.dtype)
    grown[:used] = array[:used]
    return grown
