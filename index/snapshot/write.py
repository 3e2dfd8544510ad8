"""Snapshots of an index on disk: immutable folders, written whole or not at all.

A snapshot is ``snapshot-SEQ-RANDOM``, SEQ in twenty digits. It is written as ``.tmp-RANDOM`` under a file
lock that dies with its writer, every file and the folder are flushed to disk, then it is renamed. Row
files of an earlier snapshot are linked into the next one; only new rows are written, and small blocks are
merged into larger ones on the way, so that there are never more than a dozen. ``manifest`` describes the
content.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent_memory.errors import IndexStateError, InvalidInputError
from agent_memory.files import PRIVATE, create_file, failpoint, make_folder, sync_folder
from agent_memory.index.lists import BLOCK_ROWS
from agent_memory.index.rows import HEAD_BYTES, Block, Rows, check_sums
from agent_memory.index.snapshot import manifest as manifests
from agent_memory.index.snapshot.manifest import CoarseShape, Manifest
from agent_memory.index.snapshot.read import map_rows, name_pattern
from agent_memory.index.state import State

_MERGE_RATIO = 4
_WRITE_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Saved:
    """A written snapshot, and its row files mapped in place of the rows they hold."""

    path: Path
    native: tuple[Block, ...]
    main: tuple[Block, ...]


def write(folder: Path, state: State, tiers: tuple[int, ...], dtype: str, *, generation: str, seq: int) -> Saved:
    """Write ``state``; see ``TieredIndex.save``."""
    if not isinstance(generation, str) or len(generation) > 1000:
        raise InvalidInputError("generation must be text of at most 1000 characters")
    if isinstance(seq, bool) or not isinstance(seq, (int, np.integer)) or not 0 <= seq < 2**63:
        raise InvalidInputError(f"seq must be an integer in [0, 2**63), got {seq!r}")
    try:
        make_folder(folder)
        _clean(folder)
        with _temporary(folder) as work:
            saved = _write_files(work, state, tiers, dtype, generation, int(seq))
            final = folder / f"snapshot-{int(seq):020d}-{secrets.token_hex(4)}"
            failpoint("snapshot-before-rename")
            os.rename(work, final)
        failpoint("snapshot-after-rename")
        sync_folder(folder)
        blocks = [map_rows(final, saved, name) for name in ("native", "main")[: len(saved.columns())]]
        _prune(folder, final, generation)
    except OSError as error:
        raise IndexStateError(f"cannot write a snapshot below {folder}: {error}") from error
    return Saved(final, blocks[0], blocks[1] if len(blocks) == 2 else ())


@contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """Make a locked folder; it is gone afterwards unless it was renamed."""
    while True:
        work = folder / f".tmp-{secrets.token_hex(8)}"
        make_folder(work)
        handle = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(handle, fcntl.LOCK_EX)
        if work.exists():
            break
        os.close(handle)
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        os.close(handle)


def _clean(folder: Path) -> None:
    """Delete temporary folders whose writer is dead: its lock is free."""
    for work in folder.glob(".tmp-*"):
        if work.is_symlink() or not work.is_dir():
            continue
        try:
            handle = os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(work, ignore_errors=True)
        except BlockingIOError:
            pass
        finally:
            os.close(handle)


def _prune(folder: Path, newest: Path, generation: str) -> None:
    """Delete other snapshots of the generation that are not newer; readers keep what they have mapped."""
    for path in folder.iterdir():
        match = name_pattern.fullmatch(path.name)
        if not match or path.is_symlink() or path == newest or path.name[:29] > newest.name[:29]:
            continue
        try:
            data = (path / manifests.NAME).read_bytes()[: manifests.MAX_BYTES + 1]
            if manifests.decode(data, path).generation != generation:
                continue
        except (OSError, IndexStateError):
            pass
        shutil.rmtree(path, ignore_errors=True)


def discard_others(folder: Path, generations: Collection[str]) -> int:
    """Delete the snapshots of generations that are not among the given; returns how many. Unreadable ones stay."""
    gone = 0
    if folder.is_symlink() or not folder.is_dir():
        return gone
    for path in folder.iterdir():
        if not name_pattern.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            data = (path / manifests.NAME).read_bytes()[: manifests.MAX_BYTES + 1]
            if manifests.decode(data, path).generation in generations:
                continue
        except (OSError, IndexStateError):
            continue
        shutil.rmtree(path, ignore_errors=True)
        gone += 1
    return gone


def _write_files(work: Path, state: State, tiers: tuple[int, ...], dtype: str, generation: str, seq: int) -> Manifest:
    files: dict[str, tuple[int, str]] = {}

    def put(name: str, array: npt.NDArray[np.generic]) -> None:
        data = np.ascontiguousarray(array).data.cast("B") if array.size else b""
        _write(work / name, [data])
        files[name] = (len(data), hashlib.sha256(data).hexdigest())

    count = state.count
    coarse, shape = state.coarse, None
    columns = [("native", state.native), *([("main", state.main)] if state.main is not None else [])]
    blocks = _division(state.native)
    for name, rows in columns:
        start = 0
        for number, size in enumerate(blocks):
            put(f"{name}-{number}.sums", _put_rows(work / f"{name}-{number}.rows", rows, start, start + size))
            start += size
    put("ids.bin", state.ids.ids(count).astype("<i8", copy=False))
    put("alive.bin", np.packbits(state.alive[:count], bitorder="little"))
    if state.main is not None:
        put("scales.bin", state.scales[:count])
    failpoint("snapshot-mid-write")
    if coarse:
        codes, book = coarse.codes(), coarse.codebook
        put("codes.bin", codes.packed)
        put("lists.bin", codes.lists.astype("<u2", copy=False))
        put("directions.bin", book.directions)
        put("sample.bin", codes.sample)
        put("codebook.bin", book.centroids)
        put("order.bin", book.order)
        blocks_of_codes = len(codes.packed) // (BLOCK_ROWS * book.code_bytes)
        shape = CoarseShape(book.dimension, book.code_bytes, len(coarse), book.lists, blocks_of_codes, book.learned_at)
    manifest = Manifest(
        generation=generation,
        seq=seq,
        tiers=tiers,
        dtype=dtype,
        rows=count,
        dead=state.dead,
        blocks=blocks,
        coarse=shape,
        plan=state.plan,
        files=files,
    )
    _write(work / manifests.NAME, [manifests.encode(manifest)])
    sync_folder(work)
    return manifest


def _division(rows: Rows) -> tuple[int, ...]:
    """Row counts of the files to write: old files stay while what follows them is a quarter of their size."""
    sizes = [len(block.array) for block in rows.blocks if len(block.array)]
    while len(sizes) > 1 and sizes[-2] < _MERGE_RATIO * sizes[-1]:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return tuple(sizes)


def _put_rows(path: Path, rows: Rows, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """Link the file that holds exactly these rows, or write one; return its checksums."""
    for block in rows.blocks:
        if block.checks and block.path and (block.start, block.stop) == (start, stop):
            try:
                os.link(block.path, path, follow_symlinks=False)
            except OSError:
                break
            with suppress(OSError):
                os.chmod(path, PRIVATE)  # a former version left it readable to others
            return block.checks.sums
    digests = [np.empty(0, np.uint32)]

    def pieces() -> Iterator[bytes | memoryview]:
        yield bytes(HEAD_BYTES)
        step = _WRITE_ROWS - _WRITE_ROWS % rows.rows_per_check
        for at in range(start, stop, step):
            data = np.ascontiguousarray(rows.span(at, min(at + step, stop))).data.cast("B")
            digests.append(check_sums(data, rows.row_bytes))
            yield data

    _write(path, pieces())
    return np.concatenate([check_sums(memoryview(bytes(HEAD_BYTES)), HEAD_BYTES), *digests])


def _write(path: Path, pieces: Iterator[bytes | memoryview] | list[bytes | memoryview]) -> None:
    with open(create_file(path), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
