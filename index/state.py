"""What an index is at one moment, as a value, and how the next value is made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from agent_memory.index.coarse import CoarseTier
from agent_memory.index.idmap import IdMap
from agent_memory.index.records import IdArray, Plan
from agent_memory.index.rows import Rows
from agent_memory.index.vectors import Dtype, FloatArray, quantize

Scalar = TypeVar("Scalar", bound=np.generic)
RowArray = npt.NDArray[np.int64]

_COPY_ROWS = 8192


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
        return len(self.native)

    @property
    def live(self) -> int:
        """Rows that were not removed."""
        return len(self.native) - self.dead

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
        rows = self.ids.rows_of(names, self.count)
        rows = rows[rows >= 0]
        return rows[self.alive[rows]]


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


def with_vectors(state: State, names: IdArray, vectors: FloatArray) -> State:
    """Append unit vectors (m, d); the columns are shared with ``state``, which does not see the new rows."""
    codes, scales = None, None
    if state.main is not None:
        codes, scales = quantize(vectors[:, : state.main.width])
    return with_rows(state, names, vectors.astype(state.native.dtype), codes, scales)


def with_rows(
    state: State,
    names: IdArray,
    native: npt.NDArray[np.generic],
    codes: npt.NDArray[np.int8] | None,
    scales: FloatArray | None,
) -> State:
    """Append rows as they are stored."""
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
