"""Inverted lists of 4-bit codes (FAISS FastScan), read and written in the layout in which they are scanned."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from agent_memory.index.codebook import Codebook
from agent_memory.index.faiss_tools import load_faiss
from agent_memory.types import FloatArray, RowArray

BLOCK_ROWS = 32
"""FastScan interleaves the codes of this many rows."""


class CodeLists:
    """Codes and row numbers, each row in the list whose direction is nearest to it.

    Args:
        codebook: How rows are encoded.
        directions: float32 (lists, d), unit vectors in the order of the code; a single one takes all rows.
    """

    def __init__(self, codebook: Codebook, directions: FloatArray) -> None:
        faiss = load_faiss()
        count, dimension = directions.shape
        self._codebook, self.directions = codebook, directions
        self._quantizer = faiss.IndexFlatIP(dimension)
        self._quantizer.add(directions)
        groups = len(codebook.centroids)
        self.index = faiss.IndexIVFPQFastScan(
            self._quantizer, dimension, count, groups, 4, faiss.METRIC_INNER_PRODUCT, BLOCK_ROWS
        )
        self.index.by_residual = False
        faiss.copy_array_to_vector(codebook.centroids.reshape(-1), self.index.pq.centroids)
        self.index.is_trained = True

    def __len__(self) -> int:
        return int(self.index.ntotal)

    def add(self, arranged: FloatArray, rows: RowArray) -> None:
        """Encode prefixes (m, d), arranged in the order of the code, and append them to their lists."""
        self.index.add_with_ids(arranged, rows)

    def fill(self, number: int, codes: npt.NDArray[np.uint8], rows: RowArray) -> None:
        """Fill an empty list with codes that ``view_codes`` returned."""
        self.index.invlists.resize(number, len(rows))
        self.view_codes(number)[:] = codes
        self.view_rows(number)[:] = rows
        self.index.ntotal += len(rows)

    def view_codes(self, number: int) -> npt.NDArray[np.uint8]:
        """Return the codes of a list in blocks of 32 rows, a view."""
        size = count_packed_bytes(self._codebook.code_bytes, self.index.invlists.list_size(number))
        if not size:
            return np.empty(0, np.uint8)
        view: npt.NDArray[np.uint8] = load_faiss().rev_swig_ptr(self.index.invlists.get_codes(number), size)
        return view

    def view_rows(self, number: int) -> RowArray:
        """Return the row numbers of a list, a view; they ascend if rows were added in ascending order."""
        size = self.index.invlists.list_size(number)
        if not size:
            return np.empty(0, np.int64)
        view: RowArray = load_faiss().rev_swig_ptr(self.index.invlists.get_ids(number), size)
        return view

    def copy(self) -> CodeLists:
        """Return the same lists in memory of their own."""
        twin = CodeLists(self._codebook, self.directions)
        for number in range(len(self.directions)):
            twin.fill(number, self.view_codes(number), self.view_rows(number))
        return twin

    def find_lists(self, arranged: FloatArray) -> npt.NDArray[np.int64]:
        """Return the list that each of these prefixes (m, d) belongs to."""
        found: npt.NDArray[np.int64] = self._quantizer.search(arranged, 1)[1][:, 0]
        return found


def count_packed_bytes(code_bytes: int, count: int) -> int:
    """Return the bytes of ``count`` codes in FastScan blocks."""
    return -(-count // BLOCK_ROWS) * BLOCK_ROWS * code_bytes
