"""Snapshots of the words tier: immutable folders, written whole or not at all, like those of the vectors.

A snapshot is a folder ``snapshot-SEQ-RANDOM`` with these files:

    manifest.json    one JSON object: format, version, rules (what made terms of texts), seq (the last change in it),
                     segments (the fields of ``_Shape`` of each), sha256 (of the rest, with sorted keys and no spaces)
    I.words          segment I: its arrays one after the other, each on a multiple of 64 bytes, little-endian:
                     ids int64, starts int64, ends of terms int64, rows uint32, lengths uint32, counts uint32 (m, 2),
                     pairs uint16 or uint32, terms in UTF-8
    I.alive          bitmap of the rows that are current, lowest bit first; missing if all are

A segment's file is linked into the next snapshot as long as the segment is part of the tier. All is read and checked
when a snapshot is opened: nothing that a file says can lead outside of an array.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import secrets
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.errors import CorruptSnapshotError, IndexStateError, StaleGenerationError
from agent_memory.files import (
    create_file,
    failpoint,
    make_folder,
    make_scratch,
    put_in_place,
    remove_folder,
    sync_folder,
)
from agent_memory.index.snapshot.read import open_file, snapshots
from agent_memory.index.vectors import deduplicate
from agent_memory.index.words.segment import MAX_ROWS, Segment, Stored, Vocabulary
from agent_memory.index.words.view import Piece

_FORMAT, _VERSION = "agent-memory words", 1
_MANIFEST = "manifest.json"
_TRIES = 5  # times that the folder is listed, if what was listed has gone
_MOST_BYTES = 1 << 20
_ALIGN = 64
_PIECE_BYTES = 1 << 22
_MOST = 2**40


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a manifest says of a segment.

    Attributes:
        entries: Number of its rows.
        alive: Number of those that are current.
        terms: Number of its terms.
        term_bytes: Bytes of them.
        postings: Number of its postings.
        pairs: Number of its pairs.
        checksum: CRC-32 of its file.
        alive_checksum: CRC-32 of its bitmap; 0 if it has none.
    """

    entries: int
    alive: int
    terms: int
    term_bytes: int
    postings: int
    pairs: int
    checksum: int
    alive_checksum: int

    @property
    def arrays(self) -> list[tuple[npt.DTypeLike, int]]:
        """(dtype, number of values) of each array of the file."""
        return [
            ("<i8", self.entries),
            ("<i8", self.terms + 1),
            ("<i8", self.terms),
            ("<u4", self.postings),
            ("<u4", self.entries),
            ("<u4", 2 * self.pairs),
            ("<u2" if self.pairs <= 1 << 16 else "<u4", self.postings),
            ("u1", self.term_bytes),
        ]

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return sum(_pad(count * np.dtype(dtype).itemsize) for dtype, count in self.arrays)


def _pad(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


# --- writing -------------------------------------------------------------------------------------------------


def write_words(folder: Path, pieces: Sequence[Piece], *, rules: str, seq: int) -> tuple[Path, list[Stored]]:
    """Write a snapshot, and delete older ones.

    Args:
        folder: Where snapshots are kept.
        pieces: What to write.
        rules: What made terms of texts.
        seq: The last change in it.

    Returns:
        Its folder, and where each segment is now.

    Raises:
        IndexStateError: It cannot be written.
    """
    try:
        make_folder(folder)
        with make_scratch(folder, ".tmp-") as work:
            shapes = [_write_piece(work, number, piece) for number, piece in enumerate(pieces)]
            failpoint("words-mid-write")
            body: dict[str, Any] = {"format": _FORMAT, "version": _VERSION, "rules": rules, "seq": seq}
            body["segments"] = [asdict(shape) for shape in shapes]
            body["sha256"] = _digest(body)
            _write_file(work / _MANIFEST, [json.dumps(body, sort_keys=True, indent=1).encode()])
            sync_folder(work)
            final = folder / f"snapshot-{seq:020d}-{secrets.token_hex(4)}"
            failpoint("words-before-rename")
            put_in_place(work, final)
        failpoint("words-after-rename")
        for other_seq, path in snapshots(folder):
            if path != final and other_seq <= seq and not path.is_symlink():
                remove_folder(path)
    except OSError as error:
        raise IndexStateError(f"cannot write a snapshot below {folder}: {error}") from error
    stored = [Stored(final / f"{at}.words", shape.checksum, shape.size) for at, shape in enumerate(shapes)]
    return final, stored


def _write_piece(work: Path, number: int, piece: Piece) -> _Shape:
    segment, bitmap = piece.segment, None
    if piece.alive is not None and piece.count < len(segment):
        bitmap = np.packbits(piece.alive, bitorder="little").tobytes()
        _write_file(work / f"{number}.alive", [bitmap])
    path = work / f"{number}.words"
    checksum = _link(segment.stored, path)
    if checksum is None:
        checksum = _write_file(path, _iter_bytes(segment))
    return _Shape(
        entries=len(segment),
        alive=piece.count,
        terms=len(segment.vocabulary),
        term_bytes=len(segment.vocabulary.blob),
        postings=len(segment.rows),
        pairs=len(segment.counts),
        checksum=checksum,
        alive_checksum=0 if bitmap is None else zlib.crc32(bitmap),
    )


def _link(stored: Stored | None, path: Path) -> int | None:
    """Link a segment's file to another name; returns its checksum, or None if that is impossible."""
    if stored is None:
        return None
    try:
        if stored.path.is_symlink() or stored.path.stat().st_size != stored.size:
            return None
        os.link(stored.path, path, follow_symlinks=False)
    except OSError:
        return None
    return stored.checksum


def _iter_bytes(segment: Segment) -> Iterator[memoryview | bytes]:
    words = segment.vocabulary
    blob = np.frombuffer(words.blob, np.uint8)
    arrays = (segment.ids, segment.starts, words.ends, segment.rows, segment.lengths, segment.counts, segment.pairs)
    for array in (*arrays, blob):
        plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        data = plain.reshape(-1).view(np.uint8).data if plain.size else memoryview(b"")
        for at in range(0, len(data), _PIECE_BYTES):
            yield data[at : at + _PIECE_BYTES]
        yield bytes(_pad(len(data)) - len(data))


def _write_file(path: Path, pieces: Sequence[bytes] | Iterator[memoryview | bytes]) -> int:
    """Write a file to disk; returns its CRC-32."""
    checksum = 0
    with open(create_file(path), "wb") as file:
        for piece in pieces:
            checksum = zlib.crc32(piece, checksum)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())
    return checksum


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# --- reading -------------------------------------------------------------------------------------------------


def load_words(folder: Path, *, rules: str) -> tuple[list[Piece], int]:
    """Open the newest valid snapshot, all of which is checked; returns its pieces and the last change in it.

    Args:
        folder: Where snapshots are kept.
        rules: What made terms of texts.

    Raises:
        CorruptSnapshotError: There is none that is sound.
        StaleGenerationError: Texts were made into terms by other rules.
    """
    failure, is_gone, tries = None, True, 0
    while is_gone and tries < _TRIES:
        failure, is_gone, tries = None, False, tries + 1
        for _, path in snapshots(folder):
            try:
                return _read_snapshot(path, rules)
            except CorruptSnapshotError as error:
                failure = failure or error
                is_gone = is_gone or not path.exists()  # another process has just put a newer one in its place
    raise failure or CorruptSnapshotError(folder, "no snapshot")


def _read_snapshot(path: Path, rules: str) -> tuple[list[Piece], int]:
    theirs, seq, shapes = _read_manifest(path)
    if theirs != rules:
        raise StaleGenerationError(f"{path} has the words of {theirs!r}, not {rules!r}")
    pieces = [_read_piece(path, number, shape) for number, shape in enumerate(shapes)]
    _check_ids(path, pieces)
    return pieces, seq


def _read_manifest(path: Path) -> tuple[str, int, list[_Shape]]:
    if path.is_symlink():
        raise CorruptSnapshotError(path, "is a link")
    file = path / _MANIFEST
    with open_file(file) as handle:
        data = handle.read(_MOST_BYTES + 1)
    try:
        _require(len(data) <= _MOST_BYTES, "too large")
        body = json.loads(data)
        _require(isinstance(body, dict), "not an object")
        _require(body.pop("sha256", None) == _digest(body), "checksum does not match")
        _require(set(body) == {"format", "version", "rules", "seq", "segments"}, "unknown or missing keys")
        _require((body["format"], body["version"]) == (_FORMAT, _VERSION), "another format or version")
        _require(isinstance(body["rules"], str) and isinstance(body["segments"], list), "of another type")
        return body["rules"], _check(body["seq"], 2**63 - 1), [_parse_shape(one) for one in body["segments"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptSnapshotError(file, f"bad manifest: {error}") from error


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def _check(value: object, most: int) -> int:
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{value!r:.40} is not an integer from 0 to {most}")
    return value


def _parse_shape(value: object) -> _Shape:
    names = [field.name for field in fields(_Shape)]
    if not isinstance(value, dict) or sorted(value) != sorted(names):
        raise ValueError("bad segment")
    shape = _Shape(**{name: _check(value[name], _MOST) for name in names})
    _require(shape.entries <= MAX_ROWS and shape.alive <= shape.entries, "too many entries")
    return shape


def _read_piece(path: Path, number: int, shape: _Shape) -> Piece:
    file = path / f"{number}.words"
    ids, starts, ends, rows, lengths, counts, pairs, blob = _map_arrays(file, shape)
    segment = Segment(
        ids=ids,
        lengths=lengths,
        vocabulary=Vocabulary(blob.data, ends),
        starts=starts,
        rows=rows,
        pairs=pairs,
        counts=counts.reshape(-1, 2),
        stored=Stored(file, shape.checksum, shape.size),
    )
    _check_segment(file, segment)
    alive = None
    if shape.alive < shape.entries:
        with open_file(path / f"{number}.alive", -(-shape.entries // 8)) as handle:
            bitmap = handle.read()
        if zlib.crc32(bitmap) != shape.alive_checksum:
            raise CorruptSnapshotError(path / f"{number}.alive", "checksum does not match")
        alive = np.unpackbits(np.frombuffer(bitmap, np.uint8), count=shape.entries, bitorder="little").astype(bool)
        if int(alive.sum()) != shape.alive:
            raise CorruptSnapshotError(path / f"{number}.alive", "does not fit the manifest")
    terms = lengths if alive is None else lengths[alive]
    return Piece(segment, alive, shape.alive, int(terms.sum(dtype=np.int64)))


def _map_arrays(file: Path, shape: _Shape) -> list[npt.NDArray[Any]]:
    with open_file(file, shape.size) as handle:
        try:
            memory = mmap.mmap(handle.fileno(), shape.size, access=mmap.ACCESS_COPY)
        except (OSError, ValueError) as error:
            raise CorruptSnapshotError(file, f"cannot be mapped: {error}") from error
    raw = np.frombuffer(memory, np.uint8)
    if zlib.crc32(raw.data) != shape.checksum:
        raise CorruptSnapshotError(file, "checksum does not match")
    arrays, at = [], 0
    for dtype, count in shape.arrays:
        size = count * np.dtype(dtype).itemsize
        arrays.append(raw[at : at + size].view(dtype))
        at += _pad(size)
    return arrays


def _check_segment(file: Path, segment: Segment) -> None:
    starts, ends, blob = segment.starts, segment.vocabulary.ends, segment.vocabulary.blob
    postings, pairs = len(segment.rows), len(segment.counts)
    sound = (
        int(starts[0]) == 0
        and int(starts[-1]) == postings
        and bool((np.diff(starts) > 0).all())
        and bool((np.diff(ends, prepend=0) > 0).all())
        and (int(ends[-1]) if len(ends) else 0) == len(blob)
        and int(segment.rows.max(initial=0)) < max(1, len(segment))
        and int(segment.pairs.max(initial=0)) < max(1, pairs)
        and bool((segment.counts >= 1).all())
        and bool((segment.ids >= 1).all())
        and (postings == 0 or (pairs > 0 and len(segment) > 0))
    )
    if not sound or int(segment.counts[segment.pairs, 0].sum(dtype=np.int64)) != int(
        segment.lengths.sum(dtype=np.int64)
    ):
        raise CorruptSnapshotError(file, "its arrays do not fit one another")


def _check_ids(path: Path, pieces: Sequence[Piece]) -> None:
    live = [piece.segment.ids if piece.alive is None else piece.segment.ids[piece.alive] for piece in pieces]
    ids = np.concatenate([np.empty(0, np.int64), *live])
    if len(deduplicate(ids)) != len(ids):
        raise CorruptSnapshotError(path, "an entry is in it twice")
