"""What an index is at one moment, as a value, and how the next value is made from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from agent_memory.index.coarse import CoarseTier
from agent_memory.index.idmap import IdMap
from agent_memory.index.records import Plan
from agent_memory.index.rows import Bitmap, Rows
from agent_memory.index.vectors import Dtype, cast_to_float32, normalise_rows, quantize
from agent_memory.types import FloatArray, IdArray, RowArray

Scalar = TypeVar("Scalar", bound=np.generic)

_PIECE_ROWS = 4096


@dataclass(eq=False)
class State:
    """Everything that a search reads; replaced as a whole, never assigned to.

    Attributes:
        native: Stored rows at the native dimension.
        main: int8 rows of the main tier, None with fewer than three tiers.
        scales: float32, scale of each main row; may be longer than there are rows.
        alive: Set where a row was not removed; may be longer than there are rows.
        dead: Number of tombstones.
        ids: Which row has which id.
        coarse: Codes of the first rows; None until ``maintain`` has run on a large index.
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
        """Number of rows, tombstones included."""
        return self.native.count

    @property
    def live(self) -> int:
        """Number of live rows."""
        return self.native.count - self.dead

    @property
    def tail(self) -> int:
        """Number of rows that are not in the coarse tier."""
        return self.native.count - (0 if self.coarse is None else len(self.coarse))

    @property
    def live_rows(self) -> RowArray:
        """Live rows, ascending."""
        return np.flatnonzero(self.alive[: self.count])

    @cached_property
    def live_ids(self) -> IdArray:
        """Ids of the live rows in order of arrival."""
        return self.ids.read_ids(self.count)[self.alive[: self.count]]

    @cached_property
    def alive_bits(self) -> Bitmap | None:
        """Bitmap of the live rows, None if all are alive."""
        return np.packbits(self.alive[: self.count], bitorder="little") if self.dead else None

    def find_rows(self, ids: IdArray) -> RowArray:
        """Return the live rows of these ids; ids without one are left out."""
        if len(ids) == 1:
            row = self.ids.find_row(int(ids[0]), self.count)
            return np.array([row]) if row >= 0 and self.alive[row] else np.empty(0, np.int64)
        rows = self.ids.find_rows(ids, self.count)
        if rows.size and rows.min() < 0:
            rows = rows[rows >= 0]
        return rows[self.alive[rows]] if self.dead else rows

    def count_bytes(self) -> tuple[int, int]:
        """Return the bytes held in RAM, and those of rows in memory-mapped files."""
        columns = [self.native, *([self.main] if self.main is not None else [])]
        mapped = sum(column.mapped * column.row_bytes for column in columns)
        held = sum(block.raw.nbytes for column in columns for block in column.blocks if block.path is None)
        held += self.ids.nbytes + self.alive.nbytes + self.scales.nbytes
        return held + (self.coarse.nbytes if self.coarse else 0), mapped


def make_state(tiers: tuple[int, ...], dtype: Dtype) -> State:
    """Return a state without rows."""
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


PreparedRows: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[np.int8] | None, FloatArray | None]
"""Rows in the form in which they are stored: native, int8 codes of the main tier, scales of the codes."""


def prepare_rows(vectors: npt.ArrayLike, tiers: tuple[int, ...], dtype: Dtype) -> list[PreparedRows]:
    """Check vectors (n, d) and convert them, one piece at a time, to the form in which they are stored."""
    array = vectors if isinstance(vectors, np.ndarray) else cast_to_float32(vectors)
    if array.ndim != 2 or len(array) <= _PIECE_ROWS:
        return [_prepare_piece(array, tiers, dtype)]
    starts = range(0, len(array), _PIECE_ROWS)
    return [_prepare_piece(array[at : at + _PIECE_ROWS], tiers, dtype) for at in starts]


def _prepare_piece(vectors: npt.ArrayLike, tiers: tuple[int, ...], dtype: Dtype) -> PreparedRows:
    rows = normalise_rows(vectors, tiers[-1])
    codes, scales = quantize(rows[:, : tiers[-2]]) if len(tiers) == 3 else (None, None)
    # A single row is rounded where it is stored.
    return rows if len(rows) == 1 else rows.astype(dtype), codes, scales


def append_rows(
    state: State,
    ids: IdArray,
    native: npt.NDArray[np.generic],
    codes: npt.NDArray[np.int8] | None,
    scales: FloatArray | None,
) -> State:
    """Return the state with prepared rows appended; columns are shared, but ``state`` does not see the new rows."""
    start, stop = state.count, state.count + len(ids)
    alive = _grow(state.alive, start, stop)
    alive[start:stop] = True
    main, factors = state.main, state.scales
    if main is not None and codes is not None and scales is not None:
        main = main.append(codes)
        factors = _grow(factors, start, stop)
        factors[start:stop] = scales
    rows = state.native.append(native)
    state.ids.append(ids)
    return State(rows, main, factors, alive, state.dead, state.ids, state.coarse, state.plan)


def remove_rows(state: State, rows: RowArray) -> State:
    """Return the state with live rows marked as removed, in a new bitmap."""
    alive = state.alive.copy()
    alive[rows] = False
    return replace(state, alive=alive, dead=state.dead + len(rows))


def copy_rows(state: State, source: State, rows: RowArray) -> State:
    """Return the state with rows of another state appended, bit for bit."""
    ids = source.ids.read_ids(source.count)
    for at in range(0, len(rows), _PIECE_ROWS):
        piece = rows[at : at + _PIECE_ROWS]
        codes, scales = None, None
        if source.main is not None:
            codes, scales = source.main.take(piece), source.scales[piece]
        state = append_rows(state, ids[piece], source.native.take(piece), codes, scales)
    return state


def _grow(array: npt.NDArray[Scalar], used: int, needed: int) -> npt.NDArray[Scalar]:
    """Return ``array``, or a longer copy if it has fewer than ``needed`` places."""
    if needed <= len(array):
        return array
    grown = np.empty(max(2 * len(array), needed, 256), array.dtype)
    grown[:used] = array[:used]
    return grown
