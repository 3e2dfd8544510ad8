"""FAISS, loaded on first use, with its threads bounded and its arrays shared."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.errors import IndexStateError
from agent_memory.files import new_lock
from agent_memory.index.rows import HEAD_BYTES, Block

_header_lock = new_lock()


@cache
def faiss() -> Any:  # noqa: ANN401 - FAISS has no type information
    """Return the FAISS module, imported on first use.

    Waiting OpenMP threads are told to sleep before the runtime starts: spinning ones slow a busy neighbour
    down thirty times.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import faiss as module

    return module


@contextmanager
def one_call(threads: int) -> Iterator[None]:
    """Bound the threads of FAISS calls made by this thread, and turn its errors into ours."""
    lib = faiss()
    before = lib.omp_get_max_threads()
    lib.omp_set_num_threads(threads)
    try:
        yield
    except RuntimeError as error:
        raise IndexStateError(f"FAISS refused the call: {error}") from error
    finally:
        lib.omp_set_num_threads(before)


@cache
def _empty_header(width: int, half: bool) -> bytes:
    lib = faiss()
    if half:
        index = lib.IndexScalarQuantizer(width, lib.ScalarQuantizer.QT_fp16, lib.METRIC_INNER_PRODUCT)
    else:
        index = lib.IndexFlatIP(width)
    return bytes(lib.serialize_index(index))


def scan_block(
    block: Block,
    query: npt.NDArray[np.float32],
    count: int,
    bitmap: npt.NDArray[np.uint8] | None,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Score all rows of a native block with FAISS' vectorised kernels, without copying them.

    A FAISS header is written into the free space before the rows, and FAISS reads "the file" from memory: its
    index then points at our rows. Header and rows are ours, so nothing from disk is parsed.

    Args:
        block: float16 or float32 rows.
        query: float32 (1, d).
        count: Results wanted, at most the rows of the block.
        bitmap: Bit per row of the block, set where it may be returned.

    Returns:
        Scores and row numbers within the block, (count,), padded with row -1.
    """
    lib = faiss()
    rows, width = block.array.shape
    half = block.array.dtype == np.float16
    empty = _empty_header(width, half)
    size = block.array.nbytes
    length = size if half else size // 4
    header = empty[:8] + rows.to_bytes(8, "little") + empty[16:-8] + length.to_bytes(8, "little")
    start = HEAD_BYTES - len(header)
    with _header_lock:
        block.raw[start:HEAD_BYTES] = np.frombuffer(header, np.uint8)
        reader = lib.ZeroCopyIOReader(lib.swig_ptr(block.raw[start:]), len(header) + size)
        index = lib.read_index(reader)
    options = None if bitmap is None else lib.SearchParameters(sel=lib.IDSelectorBitmap(bitmap))
    with one_call(1):
        scores, found = index.search(query, count, params=options)
    return scores[0], found[0]


def _use_one_thread() -> None:
    """Let a forked child search in its own thread alone: the parent's OpenMP threads do not exist there."""
    faiss = sys.modules.get("faiss")
    if faiss is not None and hasattr(faiss, "omp_set_num_threads"):
        faiss.omp_set_num_threads(1)


os.register_at_fork(after_in_child=_use_one_thread)
