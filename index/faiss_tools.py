"""FAISS, imported on first use, with bounded threads and shared arrays."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from agent_memory.errors import IndexStateError
from agent_memory.files import import_whole, new_lock
from agent_memory.index.rows import HEAD_BYTES, Bitmap, Block
from agent_memory.types import FloatArray, RowArray

_header_lock = new_lock()


@cache
def load_faiss() -> Any:  # noqa: ANN401 - FAISS has no type information
    """Return the FAISS module, imported on first use.

    Before the OpenMP runtime starts, its waiting threads are told to sleep: spinning ones slow down other busy
    processes thirtyfold.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    return import_whole("faiss")


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Bound the threads of the FAISS calls in this block, and wrap their errors.

    Raises:
        IndexStateError: FAISS raised an error.
    """
    faiss = load_faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        yield
    except RuntimeError as error:
        raise IndexStateError(f"FAISS refused the call: {error}") from error
    finally:
        faiss.omp_set_num_threads(before)


@cache
def _make_header(width: int, half: bool) -> bytes:
    """Return the bytes of an empty FAISS index of float16 or float32 rows."""
    faiss = load_faiss()
    if half:
        index = faiss.IndexScalarQuantizer(width, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexFlatIP(width)
    return bytes(faiss.serialize_index(index))


def scan_block(block: Block, query: FloatArray, count: int, bitmap: Bitmap | None) -> tuple[FloatArray, RowArray]:
    """Score all rows of a native block with FAISS' vectorised kernels, without copying them.

    A FAISS header is written into the free space before the rows, and FAISS reads this "file" from memory: its
    index then points at our rows. Header and rows are ours, so nothing from disk is parsed.

    Args:
        block: float16 or float32 rows.
        query: float32 (1, d).
        count: Number of results, at most the rows of the block.
        bitmap: Rows of the block that may be returned; None for all.

    Returns:
        Scores and row numbers within the block, (count,), best first, padded with row -1.
    """
    faiss = load_faiss()
    rows, width = block.array.shape
    half = block.array.dtype == np.float16
    empty = _make_header(width, half)
    size = block.array.nbytes
    length = size if half else size // 4
    header = empty[:8] + rows.to_bytes(8, "little") + empty[16:-8] + length.to_bytes(8, "little")
    start = HEAD_BYTES - len(header)
    with _header_lock:
        block.raw[start:HEAD_BYTES] = np.frombuffer(header, np.uint8)
        reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(block.raw[start:]), len(header) + size)
        index = faiss.read_index(reader)
    options = None if bitmap is None else faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bitmap))
    with limit_threads(1):
        scores, found = index.search(query, count, params=options)
    return scores[0], found[0]


def _use_one_thread() -> None:
    """Let a forked child search in its own thread alone: the parent's OpenMP threads do not exist there."""
    faiss = sys.modules.get("faiss")
    if faiss is not None and hasattr(faiss, "omp_set_num_threads"):
        faiss.omp_set_num_threads(1)


os.register_at_fork(after_in_child=_use_one_thread)
