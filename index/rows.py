"""The rows of one tier, in order of arrival: in RAM while new, memory-mapped once saved.

A ``Rows`` is a value: appending returns a new one, and the old one answers as before, because existing rows are
never overwritten. Only the newest ``Rows`` of a line may be appended to; the index makes sure of that.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from agent_memory.errors import CorruptSnapshotError
from agent_memory.types import RowArray

Bitmap: TypeAlias = npt.NDArray[np.uint8]
"""One bit per row, lowest bit first, set where the row may be returned."""

HEAD_BYTES = 4096
"""Free space before the rows of a block; a FAISS header is written there to search the rows without copying them."""

_CHECKSUM_BYTES = 8192
_SMALLEST_BLOCK = 256
_READ_AHEAD_GROUPS = 1024


def count_rows_per_checksum(row_bytes: int) -> int:
    """Return how many rows share one checksum: about 8 KiB, a compromise between first touch and table size."""
    return max(1, _CHECKSUM_BYTES // row_bytes)


def compute_checksums(rows: memoryview, row_bytes: int) -> npt.NDArray[np.uint32]:
    """Return the CRC-32 of each group of rows that share a checksum; the rows are given as bytes."""
    step = count_rows_per_checksum(row_bytes) * row_bytes
    return np.array([zlib.crc32(rows[at : at + step]) for at in range(0, len(rows), step)], np.uint32)


class Checksums:
    """Verifies the bytes of a mapped block, each group of rows when it is first used.

    Args:
        path: The mapped file.
        memory: Its mapping.
        row_bytes: Bytes of one row.
        sums: uint32, CRC-32 of the head, then of each group of rows.
    """

    def __init__(self, path: Path, memory: mmap.mmap, row_bytes: int, sums: npt.NDArray[np.uint32]) -> None:
        self.path, self.sums, self._memory = path, sums, memory
        self._raw = np.frombuffer(memory, np.uint8)
        self._rows = count_rows_per_checksum(row_bytes)
        self._step = self._rows * row_bytes
        self._good = np.zeros(len(sums) - 1, bool)

    def verify_rows(self, rows: RowArray) -> None:
        """Verify the groups of these rows, which are numbered within the block.

        Raises:
            CorruptSnapshotError: The bytes are not those that were saved.
        """
        groups = rows // self._rows
        unseen = groups[~self._good[groups]]
        if unseen.size:
            wanted = np.zeros(len(self._good), bool)
            wanted[unseen] = True
            self._verify_groups(np.flatnonzero(wanted))

    def verify_span(self, start: int, stop: int) -> None:
        """Verify rows [start, stop); raises as ``verify_rows``."""
        first, last = start // self._rows, -(-stop // self._rows)
        if not self._good[first:last].all():
            if last - first >= _READ_AHEAD_GROUPS:
                self._memory.madvise(mmap.MADV_WILLNEED)
            self._verify_groups(first + np.flatnonzero(~self._good[first:last]))

    def _verify_groups(self, groups: npt.NDArray[np.int64]) -> None:
        view = self._raw.data
        for group in groups.tolist():
            at = HEAD_BYTES + group * self._step
            if zlib.crc32(view[at : at + self._step]) != self.sums[group + 1]:
                raise CorruptSnapshotError(self.path, f"checksum of rows from {group * self._rows} does not match")
            self._good[group] = True


@dataclass(slots=True, eq=False)
class Block:
    """Consecutive rows of a tier; a value, never assigned to.

    Attributes:
        start: Number of the first row.
        array: (count, width), the rows.
        raw: uint8, ``HEAD_BYTES`` bytes followed by those of ``space``.
        space: (capacity, width), ``array`` and the free rows after it.
        frozen: ``space``, read-only.
        path: The mapped file, None in RAM.
        checksums: Verification of the mapped file on first use, None in RAM.
    """

    start: int
    array: npt.NDArray[Any]
    raw: npt.NDArray[np.uint8]
    space: npt.NDArray[Any]
    frozen: npt.NDArray[Any]
    path: Path | None = None
    checksums: Checksums | None = None

    @property
    def stop(self) -> int:
        """Number of the row after the last."""
        return self.start + len(self.array)


class Rows:
    """Rows 0 to n of one tier, as a tuple of blocks.

    Args:
        width: Numbers per row.
        dtype: float16, float32 or int8.
        blocks: Consecutive blocks from row 0.

    Attributes:
        count: Number of rows.
    """

    __slots__ = ("blocks", "count", "dtype", "width")

    def __init__(self, width: int, dtype: npt.DTypeLike, blocks: tuple[Block, ...] = ()) -> None:
        self.width = width
        self.dtype = np.dtype(dtype)
        self.blocks = blocks
        self.count = blocks[-1].stop if blocks else 0

    def __len__(self) -> int:
        return self.count

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return self.width * self.dtype.itemsize

    @property
    def rows_per_checksum(self) -> int:
        """Number of rows that share a checksum in a file."""
        return count_rows_per_checksum(self.row_bytes)

    @property
    def mapped(self) -> int:
        """Number of rows in memory-mapped files."""
        return sum(len(block.array) for block in self.blocks if block.path is not None)

    def append(self, new: npt.NDArray[Any]) -> Rows:
        """Return these rows followed by ``new`` (m, width)."""
        blocks = self.blocks
        if not blocks or blocks[-1].path is not None:
            blocks = (*blocks, self._allocate_block(self.count, 0))
        last = blocks[-1]
        used = len(last.array)
        count = used + len(new)
        if count > len(last.space):
            longer = self._allocate_block(last.start, max(2 * used, count, _SMALLEST_BLOCK))
            longer.space[:used] = last.array
            last = longer
        last.space[used:count] = new
        grown = Block(last.start, last.frozen[:count], last.raw, last.space, last.frozen)
        return Rows(self.width, self.dtype, (*blocks[:-1], grown))

    def replace_prefix(self, mapped: tuple[Block, ...]) -> Rows:
        """Return the same rows, the first ones served from ``mapped`` and the rest copied into RAM."""
        stop = mapped[-1].stop if mapped else 0
        rows = Rows(self.width, self.dtype, mapped)
        return rows.append(self.read_span(stop, len(self))) if len(self) > stop else rows

    def _allocate_block(self, start: int, capacity: int) -> Block:
        raw = np.empty(HEAD_BYTES + capacity * self.row_bytes, np.uint8)
        space = raw[HEAD_BYTES:].view(self.dtype).reshape(capacity, self.width)
        frozen = space[:]
        frozen.flags.writeable = False
        return Block(start, frozen[:0], raw, space, frozen)

    def take(self, rows: RowArray) -> npt.NDArray[Any]:
        """Return a copy of the given rows (m,) as (m, width).

        Raises:
            CorruptSnapshotError: A mapped file was damaged since it was saved.
        """
        if len(self.blocks) == 1:
            return _take(self.blocks[0], rows)
        out = np.empty((len(rows), self.width), self.dtype)
        for block in self.blocks:
            places = np.flatnonzero((rows >= block.start) & (rows < block.stop))
            if places.size:
                out[places] = _take(block, rows[places] - block.start)
        return out

    def read_span(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return rows [start, stop) as one array, copied only if they span several blocks; raises as ``take``."""
        pieces = [piece for _, piece in self.iter_chunks(start, stop, max(stop - start, 1))]
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate(pieces) if pieces else np.empty((0, self.width), self.dtype)

    def iter_chunks(self, start: int, stop: int, size: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Yield (first row, rows) over [start, stop) in chunks of up to ``size`` rows; raises as ``take``."""
        for block in self.blocks:
            low, high = max(start, block.start), min(stop, block.stop)
            for begin in range(low, high, size):
                end = min(begin + size, high)
                if block.checksums:
                    block.checksums.verify_span(begin - block.start, end - block.start)
                yield begin, block.array[begin - block.start : end - block.start]


def _take(block: Block, rows: RowArray) -> npt.NDArray[Any]:
    if block.checksums:
        block.checksums.verify_rows(rows)
    return block.array.take(rows, axis=0)
