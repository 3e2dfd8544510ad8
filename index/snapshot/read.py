"""Opening snapshots without trusting a byte of them; ``manifest`` describes the files."""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.errors import CorruptSnapshotError, StaleGenerationError
from agent_memory.index.coarse import CoarseTier, Codes
from agent_memory.index.codebook import CENTROIDS, Codebook
from agent_memory.index.idmap import IdMap
from agent_memory.index.lists import BLOCK_ROWS
from agent_memory.index.rows import HEAD_BYTES, Block, Checksums, Rows
from agent_memory.index.snapshot.manifest import (
    MANIFEST_NAME,
    MAX_MANIFEST_BYTES,
    CoarseShape,
    Manifest,
    decode_manifest,
)
from agent_memory.index.state import State
from agent_memory.index.vectors import Dtype, deduplicate

SNAPSHOT_NAME = re.compile(r"snapshot-[0-9]{20}-[0-9a-f]{8}")

_RETRIES = 3


def read_snapshot(folder: Path, *, generation: str) -> tuple[State, tuple[int, ...], Dtype, int]:
    """Open the newest valid snapshot of a generation; see ``TieredIndex.load``."""
    failure: CorruptSnapshotError | None = None
    stale = None
    for _ in range(_RETRIES):
        failure, stale = None, None
        paths = _list_newest_first(folder)
        for path in paths:
            try:
                manifest = read_manifest(path)
                if manifest.generation != generation:
                    stale = stale or manifest.generation
                    continue
                dtype: Dtype = "float16" if manifest.dtype == "float16" else "float32"
                return _read_state(path, manifest), manifest.tiers, dtype, manifest.seq
            except CorruptSnapshotError as error:
                failure = failure or error
        if _list_newest_first(folder) == paths:
            break
    if failure:
        raise failure
    if stale is not None:
        raise StaleGenerationError(f"{folder} has generation {stale!r}, not {generation!r}")
    raise CorruptSnapshotError(folder, "no snapshot")


def snapshots(folder: Path) -> list[tuple[int, Path]]:
    """Return (seq, path) of everything in a folder that is named like a snapshot, newest first, unverified."""
    return [(int(path.name.split("-")[1]), path) for path in _list_newest_first(folder)]


def _list_newest_first(folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if SNAPSHOT_NAME.fullmatch(path.name)]
    except OSError:
        return []
    return sorted(found, reverse=True)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the snapshot in this folder.

    Raises:
        CorruptSnapshotError: The folder or the file is a link, or the manifest is damaged or missing.
    """
    if path.is_symlink():
        raise CorruptSnapshotError(path, "is a link")
    file = path / MANIFEST_NAME
    with open_file(file) as handle:
        if os.fstat(handle.fileno()).st_size > MAX_MANIFEST_BYTES:
            raise CorruptSnapshotError(file, "too large")
        return decode_manifest(handle.read(MAX_MANIFEST_BYTES + 1), file)


def open_file(path: Path, size: int | None = None) -> Any:  # noqa: ANN401 - a raw binary file
    """Open a regular file, but not through a link, and check its size."""
    try:
        handle = open(path, "rb", buffering=0, opener=_open_without_following)
    except OSError as error:
        raise CorruptSnapshotError(path, f"cannot be opened: {error.strerror}") from error
    facts = os.fstat(handle.fileno())
    if not stat.S_ISREG(facts.st_mode) or (size is not None and facts.st_size != size):
        handle.close()
        raise CorruptSnapshotError(path, f"not a regular file of {size} bytes (it has {facts.st_size})")
    return handle


def _open_without_following(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _read_array(path: Path, manifest: Manifest, name: str, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Read a small file whose size and hash are in the manifest."""
    size, digest = manifest.files[name]
    array = np.empty(size, np.uint8)
    try:
        with open_file(path / name, size) as handle:
            done = 0
            while done < size:
                got = handle.readinto(array.data[done:])
                if not got:
                    break
                done += got
    except OSError as error:
        raise CorruptSnapshotError(path / name, f"cannot be read: {error}") from error
    if done != size or hashlib.sha256(array.data).hexdigest() != digest:
        raise CorruptSnapshotError(path / name, "checksum does not match")
    return array.view(dtype)


def map_rows(path: Path, manifest: Manifest, name: str) -> tuple[Block, ...]:
    """Map the row files of one tier; their bytes are verified when they are used.

    Args:
        path: Folder of the snapshot.
        manifest: Its manifest.
        name: ``native`` or ``main``.

    Raises:
        CorruptSnapshotError: A file is missing, is not a regular file, or has another size.
    """
    width, dtype = next((w, d) for n, w, d in manifest.columns if n == name)
    sizes = manifest.row_sizes
    blocks, start = [], 0
    for number, count in enumerate(manifest.blocks):
        file = path / f"{name}-{number}.rows"
        sums = _read_array(path, manifest, f"{name}-{number}.sums", "<u4")
        with open_file(file, sizes[file.name]) as handle:
            try:
                memory = mmap.mmap(handle.fileno(), sizes[file.name], access=mmap.ACCESS_COPY)
            except (OSError, ValueError) as error:
                raise CorruptSnapshotError(file, f"cannot be mapped: {error}") from error
        if hasattr(memory, "madvise"):
            memory.madvise(mmap.MADV_RANDOM)
        raw = np.frombuffer(memory, np.uint8)
        array = raw[HEAD_BYTES:].view(dtype).reshape(count, width)
        if zlib.crc32(raw[:HEAD_BYTES].data) != sums[0]:
            raise CorruptSnapshotError(file, "checksum of the head does not match")
        checksums = Checksums(file, memory, width * dtype.itemsize, sums)
        blocks.append(Block(start, array, raw, array, array, file, checksums))
        start += count
    return tuple(blocks)


def _read_state(path: Path, manifest: Manifest) -> State:
    rows = manifest.rows
    columns = {name: Rows(width, dtype, map_rows(path, manifest, name)) for name, width, dtype in manifest.columns}
    bits = _read_array(path, manifest, "alive.bin", np.uint8)
    alive = np.unpackbits(bits, count=rows, bitorder="little").astype(bool)
    ids = _read_array(path, manifest, "ids.bin", "<i8")
    if int((~alive).sum()) != manifest.dead or (rows and int(ids.min()) < 0):
        raise CorruptSnapshotError(path, "ids or tombstones do not fit the manifest")
    live = np.flatnonzero(alive)
    id_map = IdMap(ids)
    if len(deduplicate(ids[live])) != len(live):
        raise CorruptSnapshotError(path / "ids.bin", "an id is live twice")
    id_map.index_rows(live)
    scales = np.empty(0, np.float32)
    if "main" in columns:
        scales = _read_array(path, manifest, "scales.bin", "<f4")
        if not np.isfinite(scales).all():
            raise CorruptSnapshotError(path / "scales.bin", "not all scales are finite")
    coarse = _read_coarse(path, manifest, manifest.coarse) if manifest.coarse else None
    if manifest.plan.layout != (coarse.codebook.layout if coarse else "exact"):
        raise CorruptSnapshotError(path / MANIFEST_NAME, "plan and coarse tier do not fit")
    return State(
        native=columns["native"],
        main=columns.get("main"),
        scales=scales,
        alive=alive,
        dead=manifest.dead,
        ids=id_map,
        coarse=coarse,
        plan=manifest.plan,
    )


def _read_coarse(path: Path, manifest: Manifest, shape: CoarseShape) -> CoarseTier:
    order = _read_array(path, manifest, "order.bin", "<i8")
    if not np.array_equal(np.sort(order), np.arange(shape.dimension)):
        raise CorruptSnapshotError(path / "order.bin", "not a permutation")
    centroids = _read_array(path, manifest, "codebook.bin", "<f4").reshape(2 * shape.code_bytes, CENTROIDS, -1)
    directions = _read_array(path, manifest, "directions.bin", "<f4").reshape(shape.lists, -1)
    for name, array in (("codebook.bin", centroids), ("directions.bin", directions)):
        if not np.isfinite(array).all() or np.abs(array).max() > 16:
            raise CorruptSnapshotError(path / name, "not those of unit vectors")
    lists = _read_array(path, manifest, "lists.bin", "<u2")
    sizes = np.bincount(lists, minlength=shape.lists)
    if len(sizes) != shape.lists or int((-(-sizes // BLOCK_ROWS)).sum()) != shape.blocks:
        raise CorruptSnapshotError(path / "lists.bin", "lists do not fit the manifest")
    packed, sample = (_read_array(path, manifest, name, np.uint8) for name in ("codes.bin", "sample.bin"))
    return CoarseTier(Codebook(centroids, order, directions, shape.learned_at), Codes(packed, lists, sample))
