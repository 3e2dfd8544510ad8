"""Snapshots of an index on disk: immutable folders, written whole or not at all.

A snapshot is a folder ``snapshot-SEQ-RANDOM``, SEQ in twenty digits. It is written as ``.tmp-RANDOM`` under a file
lock that ends with its writer; every file and the folder are flushed to disk before it is renamed. Row files of an
earlier snapshot are linked into the next one; only new rows are written. Small blocks are merged into larger ones
on the way, so that there are never more than a dozen. ``manifest`` describes the content.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent_memory.errors import IndexStateError, InvalidInputError
from agent_memory.files import (
    PRIVATE,
    create_file,
    failpoint,
    make_folder,
    make_scratch,
    put_in_place,
    remove_folder,
    sync_folder,
    wait_for_scratch,
)
from agent_memory.index.coarse import CoarseTier
from agent_memory.index.lists import BLOCK_ROWS
from agent_memory.index.rows import HEAD_BYTES, Block, Rows, compute_checksums
from agent_memory.index.snapshot.manifest import MANIFEST_NAME, CoarseShape, Manifest, encode_manifest
from agent_memory.index.snapshot.read import SNAPSHOT_NAME, map_rows, read_manifest
from agent_memory.index.state import State

_MERGE_RATIO = 4
_WRITE_ROWS = 16_384
_SEQ_CHARS = len("snapshot-") + 20


@dataclass(frozen=True, slots=True)
class WrittenSnapshot:
    """A written snapshot.

    Attributes:
        path: Its folder.
        native: Its native rows, mapped.
        main: Its rows of the main tier, mapped; empty with fewer than three tiers.
    """

    path: Path
    native: tuple[Block, ...]
    main: tuple[Block, ...]


def write_snapshot(
    folder: Path, state: State, tiers: tuple[int, ...], dtype: str, *, generation: str, seq: int
) -> WrittenSnapshot:
    """Write ``state``; see ``TieredIndex.save``."""
    if not isinstance(generation, str) or len(generation) > 1000:
        raise InvalidInputError("generation must be text of at most 1000 characters")
    if isinstance(seq, bool) or not isinstance(seq, (int, np.integer)) or not 0 <= seq < 2**63:
        raise InvalidInputError(f"seq must be an integer in [0, 2**63), got {seq!r}")
    try:
        make_folder(folder)
        with make_scratch(folder, ".tmp-") as work:
            manifest = _write_files(work, state, tiers, dtype, generation, int(seq))
            final = folder / f"snapshot-{int(seq):020d}-{secrets.token_hex(4)}"
            failpoint("snapshot-before-rename")
            put_in_place(work, final)
        failpoint("snapshot-after-rename")
        blocks = [map_rows(final, manifest, name) for name, _, _ in manifest.columns]
        _prune(folder, final, generation)
    except OSError as error:
        raise IndexStateError(f"cannot write a snapshot below {folder}: {error}") from error
    return WrittenSnapshot(final, blocks[0], blocks[1] if len(blocks) == 2 else ())


def _prune(folder: Path, newest: Path, generation: str) -> None:
    """Delete unreadable snapshots and those of the generation, except newer ones; readers keep what they mapped."""
    for path, owner in _iter_snapshots(folder):
        newer = path.name[:_SEQ_CHARS] > newest.name[:_SEQ_CHARS]
        if path != newest and not newer and owner in (None, generation):
            remove_folder(path)


def discard_all(folder: Path, *, keep: Path | None = None, wait_s: float = 0.0) -> None:
    """Delete the snapshots of all generations, unreadable ones included, and wait for those that are being written.

    Args:
        folder: Where snapshots are kept.
        keep: One to keep.
        wait_s: Seconds to wait for their writers.

    Raises:
        IndexStateError: Some could not be deleted, or are still being written.
    """
    if folder.is_symlink() or not folder.is_dir():
        return
    ready = wait_for_scratch(folder, ".tmp-", wait_s)
    gone = []
    for path in folder.iterdir():
        if path != keep and SNAPSHOT_NAME.fullmatch(path.name) and not path.is_symlink():
            remove_folder(path)
            gone.append(path.name)
    left = [path.name for path in folder.iterdir() if path.name in gone]
    if left or not ready:
        raise IndexStateError(f"snapshots below {folder} could not be deleted: {left or 'one is being written'}")


def discard_others(folder: Path, generations: Collection[str]) -> int:
    """Delete the snapshots of all other generations and return how many; unreadable ones are kept.

    Args:
        folder: Where snapshots are kept.
        generations: The generations whose snapshots are kept.
    """
    if folder.is_symlink() or not folder.is_dir():
        return 0
    others = [path for path, owner in _iter_snapshots(folder) if owner is not None and owner not in generations]
    for path in others:
        remove_folder(path)
    return len(others)


def _iter_snapshots(folder: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield (path, generation) of the snapshots in a folder; the generation of an unreadable one is None."""
    for path in folder.iterdir():
        if not SNAPSHOT_NAME.fullmatch(path.name) or path.is_symlink():
            continue
        try:
            generation = read_manifest(path).generation
        except (OSError, IndexStateError):
            generation = None
        yield path, generation


class _FileWriter:
    """Writes the files of a snapshot and collects their sizes and hashes for its manifest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, tuple[int, str]] = {}

    def write_array(self, name: str, array: npt.NDArray[np.generic]) -> None:
        data = np.ascontiguousarray(array).data.cast("B") if array.size else b""
        _write_file(self.folder / name, [data])
        self.files[name] = (len(data), hashlib.sha256(data).hexdigest())

    def write_column(self, name: str, rows: Rows, sizes: tuple[int, ...]) -> None:
        """Write the rows of one tier, divided into files of these sizes, and their checksums."""
        start = 0
        for number, size in enumerate(sizes):
            sums = _link_or_write_rows(self.folder / f"{name}-{number}.rows", rows, start, start + size)
            self.write_array(f"{name}-{number}.sums", sums)
            start += size

    def write_coarse(self, coarse: CoarseTier) -> CoarseShape:
        codes, book = coarse.export_codes(), coarse.codebook
        self.write_array("codes.bin", codes.packed)
        self.write_array("lists.bin", codes.lists.astype("<u2", copy=False))
        self.write_array("directions.bin", book.directions)
        self.write_array("sample.bin", codes.sample)
        self.write_array("codebook.bin", book.centroids)
        self.write_array("order.bin", book.order)
        blocks = len(codes.packed) // (BLOCK_ROWS * book.code_bytes)
        return CoarseShape(book.dimension, book.code_bytes, len(coarse), book.lists, blocks, book.learned_at)


def _write_files(work: Path, state: State, tiers: tuple[int, ...], dtype: str, generation: str, seq: int) -> Manifest:
    writer, count = _FileWriter(work), state.count
    blocks = _divide_rows(state.native)
    writer.write_column("native", state.native, blocks)
    if state.main is not None:
        writer.write_column("main", state.main, blocks)
    writer.write_array("ids.bin", state.ids.read_ids(count).astype("<i8", copy=False))
    writer.write_array("alive.bin", np.packbits(state.alive[:count], bitorder="little"))
    if state.main is not None:
        writer.write_array("scales.bin", state.scales[:count])
    failpoint("snapshot-mid-write")
    shape = writer.write_coarse(state.coarse) if state.coarse else None
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
        files=writer.files,
    )
    _write_file(work / MANIFEST_NAME, [encode_manifest(manifest)])
    sync_folder(work)
    return manifest


def _divide_rows(rows: Rows) -> tuple[int, ...]:
    """Return the row counts of the files to write: a file is kept while what follows is at most a quarter of it."""
    sizes = [len(block.array) for block in rows.blocks if len(block.array)]
    while len(sizes) > 1 and sizes[-2] < _MERGE_RATIO * sizes[-1]:
        sizes[-2:] = [sizes[-2] + sizes[-1]]
    return tuple(sizes)


def _link_or_write_rows(path: Path, rows: Rows, start: int, stop: int) -> npt.NDArray[np.uint32]:
    """Link the file that holds exactly these rows, or write one; return its checksums."""
    for block in rows.blocks:
        if block.checksums and block.path and (block.start, block.stop) == (start, stop):
            try:
                os.link(block.path, path, follow_symlinks=False)
            except OSError:
                break
            with suppress(OSError):
                os.chmod(path, PRIVATE)  # a former version left it readable to others
            return block.checksums.sums
    sums = [compute_checksums(memoryview(bytes(HEAD_BYTES)), HEAD_BYTES)]

    def iter_pieces() -> Iterator[bytes | memoryview]:
        yield bytes(HEAD_BYTES)
        step = _WRITE_ROWS - _WRITE_ROWS % rows.rows_per_checksum
        for at in range(start, stop, step):
            data = np.ascontiguousarray(rows.read_span(at, min(at + step, stop))).data.cast("B")
            sums.append(compute_checksums(data, rows.row_bytes))
            yield data

    _write_file(path, iter_pieces())
    return np.concatenate(sums)


def _write_file(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    with open(create_file(path), "wb") as file:
        for piece in pieces:
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
