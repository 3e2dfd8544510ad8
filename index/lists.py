"""Inverted lists of 4-bit codes (FAISS FastScan), filled and read in the form in which they are scanned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agent_memory.index.codebook import Codebook
from agent_memory.index.faiss_tools import faiss
from agent_memory.types import FloatArray

BLOCK_ROWS = 32
"""FastScan interleaves the codes of this many rows."""


class CodeLists:
    """Codes and row numbers, each row in the list whose direction is nearest to it.

    Args:
        codebook: How rows are encoded.
        directions: float32 (lists, d), unit vectors in the order of the code; a single one takes all rows.
    """

    def __init__(self, codebook: Codebook, directions: FloatArray) -> None:
        lib = faiss()
        count, dimension = directions.shape
        self._codebook, self.directions = codebook, directions
        self._quantizer = lib.IndexFlatIP(dimension)
        self._quantizer.add(directions)
        groups = len(codebook.centroids)
        self.index = lib.IndexIVFPQFastScan(
            self._quantizer, dimension, count, groups, 4, lib.METRIC_INNER_PRODUCT, BLOCK_ROWS
        )
        self.index.by_residual = False
        lib.copy_array_to_vector(codebook.centroids.reshape(-1), self.index.pq.centroids)
        self.index.is_trained = True

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def add(self, arranged: FloatArray, rows: npt.NDArray[np.int64]) -> None:
        """Encode prefixes (m, d), arranged as the code has them, behind those that are there."""
        self.index.add_with_ids(arranged, rows)

    def put(self, number: int, codes: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> None:
        """Fill an empty list with codes that ``codes_of`` returned."""
        self.index.invlists.resize(number, len(rows))
        self.codes_of(number)[:] = codes
        self.rows_of(number)[:] = rows
        self.index.ntotal += len(rows)

    def codes_of(self, number: int) -> npt.NDArray[np.uint8]:
        """Return the codes of a list in blocks of 32 rows, a view."""
        size = packed_bytes(self._codebook.code_bytes, self.index.invlists.list_size(number))
        if not size:
            return np.empty(0, np.uint8)
        view: npt.NDArray[np.uint8] = faiss().rev_swig_ptr(self.index.invlists.get_codes(number), size)
        return view

    def rows_of(self, number: int) -> npt.NDArray[np.int64]:
        """Return the row numbers of a list, ascending if rows were added so, a view."""
        size = self.index.invlists.list_size(number)
        if not size:
            return np.empty(0, np.int64)
        view: npt.NDArray[np.int64] = faiss().rev_swig_ptr(self.index.invlists.get_ids(number), size)
        return view

    def copy(self) -> CodeLists:
        """Return lists of their own memory."""
        twin = CodeLists(self._codebook, self.directions)
        for number in range(len(self.directions)):
            twin.put(number, self.codes_of(number), self.rows_of(number))
        return twin

    def nearest(self, arranged: FloatArray) -> npt.NDArray[np.int64]:
        """Return the list that takes each of these prefixes (m, d)."""
        found: npt.NDArray[np.int64] = self._quantizer.search(arranged, 1)[1][:, 0]
        return found


def packed_bytes(code_bytes: int, count: int) -> int:
    """Bytes of ``count`` codes in FastScan blocks."""
    return -(-count // BLOCK_ROWS) * BLOCK_ROWS * code_bytes
