"""The manifest of a snapshot: what it contains, how large its files are, and their hashes.

``manifest.json`` is one JSON object of at most 1 MiB, with exactly these keys:

    format       "agent-memory index"
    version      3 (in 2, codes were one list and had no sample)
    generation   text: what the vectors belong to
    seq          integer >= 0: the last change that the rows contain
    tiers        1 to 3 ascending integers, the last is the native dimension
    dtype        "float16" or "float32": the native rows
    rows, dead   integers: number of rows, and how many of them are tombstones
    blocks       list of row counts: how the rows are divided into row files
    coarse       null, or the fields of ``CoarseShape``
    plan         the fields of ``records.Plan``
    files        {name: {"size": bytes, "sha256": hex}} of every file except the row files
    sha256       of the other keys, as JSON with sorted keys and no spaces

All numbers in files are little-endian. File names are fixed; none is taken from the manifest:

    ids.bin          int64 (rows,)
    alive.bin        bitmap of rows, lowest bit first
    scales.bin       float32 (rows,); with three tiers only
    codes.bin        FastScan blocks of 32 rows, one list after the other; this file and the next five exist with a
                     coarse tier only
    lists.bin        uint16 (coarse rows,): the list of each row; a list has its rows in ascending order
    directions.bin   float32 (lists, dimension)
    sample.bin       FastScan blocks of the codes of every 32nd row
    codebook.bin     float32 (2 * code_bytes, 16, dimension / (2 * code_bytes))
    order.bin        int64 (dimension,)
    native-I.rows    4,096 zero bytes, then block I of the native rows
    native-I.sums    uint32: CRC-32 of the head, then of each group of ``rows_per_checksum`` rows
    main-I.rows, main-I.sums     the same for the int8 rows of the main tier; with three tiers only

Row files are hashed in small groups, outside of the manifest, so that opening a snapshot need not read them: each
group is verified before its first use.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent_memory.errors import CorruptSnapshotError
from agent_memory.index.coarse import SAMPLE_STEP
from agent_memory.index.codebook import CENTROIDS, MAX_LISTS
from agent_memory.index.lists import BLOCK_ROWS, count_packed_bytes
from agent_memory.index.records import EVERYWHERE, MAX_ROWS, Plan
from agent_memory.index.rows import HEAD_BYTES, count_rows_per_checksum

MANIFEST_NAME = "manifest.json"
MAX_MANIFEST_BYTES = 1 << 20
FORMAT, VERSION = "agent-memory index", 3
_MAX_DIMENSION = 1 << 16


class CoarseShape(NamedTuple):
    """Shape of the coarse tier.

    Attributes:
        dimension: Leading dimensions that a code covers.
        code_bytes: Bytes of one code.
        rows: Number of encoded rows.
        lists: Number of inverted lists.
        blocks: Number of blocks of 32 codes in all lists.
        learned_at: ``Codebook.learned_at``.
    """

    dimension: int
    code_bytes: int
    rows: int
    lists: int
    blocks: int
    learned_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A parsed manifest; the module describes each field."""

    generation: str
    seq: int
    tiers: tuple[int, ...]
    dtype: str
    rows: int
    dead: int
    blocks: tuple[int, ...]
    coarse: CoarseShape | None
    plan: Plan
    files: dict[str, tuple[int, str]]

    @property
    def columns(self) -> list[tuple[str, int, np.dtype[Any]]]:
        """(name, width, dtype) of each tier that is stored as rows."""
        native = ("native", self.tiers[-1], np.dtype(self.dtype))
        main = [("main", self.tiers[-2], np.dtype(np.int8))] if len(self.tiers) == 3 else []
        return [native, *main]

    @property
    def sizes(self) -> dict[str, int]:
        """Size that each file except the row files must have, in bytes."""
        sizes = {"ids.bin": 8 * self.rows, "alive.bin": -(-self.rows // 8)}
        if len(self.tiers) == 3:
            sizes["scales.bin"] = 4 * self.rows
        if self.coarse:
            dimension, code_bytes, rows, lists, blocks, _ = self.coarse
            sizes["codes.bin"] = blocks * BLOCK_ROWS * code_bytes
            sizes["sample.bin"] = count_packed_bytes(code_bytes, -(-rows // SAMPLE_STEP))
            sizes["lists.bin"] = 2 * rows
            sizes["codebook.bin"] = 4 * CENTROIDS * dimension
            sizes["order.bin"] = 8 * dimension
            sizes["directions.bin"] = 4 * lists * dimension
        for number, count in enumerate(self.blocks):
            for name, width, dtype in self.columns:
                groups = -(-count // count_rows_per_checksum(width * dtype.itemsize))
                sizes[f"{name}-{number}.sums"] = 4 * (1 + groups)
        return sizes

    @property
    def row_sizes(self) -> dict[str, int]:
        """Size of each row file in bytes."""
        return {
            f"{name}-{number}.rows": HEAD_BYTES + count * width * dtype.itemsize
            for number, count in enumerate(self.blocks)
            for name, width, dtype in self.columns
        }


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the bytes of ``manifest.json``."""
    body = asdict(manifest)
    body["coarse"] = None
    if manifest.coarse:
        body["coarse"] = manifest.coarse._asdict()
    body["files"] = {name: {"size": size, "sha256": digest} for name, (size, digest) in manifest.files.items()}
    body |= {"format": FORMAT, "version": VERSION}
    body["sha256"] = _compute_digest(body)
    return json.dumps(body, sort_keys=True, indent=1).encode()


def _compute_digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def decode_manifest(data: bytes, path: Path) -> Manifest:
    """Parse and check a manifest.

    Args:
        data: The bytes of ``manifest.json``.
        path: Where they were read from, for the error.

    Raises:
        CorruptSnapshotError: Something in it is not as the module describes.
    """
    try:
        if len(data) > MAX_MANIFEST_BYTES:
            raise ValueError("too large")
        body = json.loads(data)
        _require(isinstance(body, dict), "not an object")
        _require(body.pop("sha256", None) == _compute_digest(body), "checksum does not match")
        _require(body.get("format") == FORMAT and body.get("version") == VERSION, "another format or version")
        return _parse_body(body)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CorruptSnapshotError(path, f"bad manifest: {error}") from error


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise ValueError(reason)


def _check_integer(value: object, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{value!r:.40} is not an integer from {low} to {high}")
    return value


def _parse_body(body: dict[str, Any]) -> Manifest:
    expected = {field.name for field in fields(Manifest)} | {"format", "version"}
    _require(set(body) == expected, "unknown or missing keys")
    _require(isinstance(body["generation"], str), "generation is not text")
    _require(isinstance(body["tiers"], list) and 1 <= len(body["tiers"]) <= 3, "one to three tiers are needed")
    tiers = tuple(_check_integer(tier, 1, _MAX_DIMENSION) for tier in body["tiers"])
    _require(tuple(sorted(set(tiers))) == tiers, "tiers do not ascend")
    _require(body["dtype"] in ("float16", "float32"), "unknown dtype")
    rows = _check_integer(body["rows"], 0, MAX_ROWS)
    _require(isinstance(body["blocks"], list), "blocks is not a list")
    blocks = tuple(_check_integer(count, 1, MAX_ROWS) for count in body["blocks"])
    _require(sum(blocks) == rows, "blocks do not add up to rows")
    manifest = Manifest(
        generation=body["generation"],
        seq=_check_integer(body["seq"], 0, 2**63 - 1),
        tiers=tiers,
        dtype=body["dtype"],
        rows=rows,
        dead=_check_integer(body["dead"], 0, rows),
        blocks=blocks,
        coarse=_parse_coarse(body["coarse"], tiers, rows),
        plan=_parse_plan(body["plan"]),
        files={
            name: (_check_integer(entry["size"], 0, 2**63 - 1), str(entry["sha256"]))
            for name, entry in body["files"].items()
        },
    )
    _require({n: s for n, (s, _) in manifest.files.items()} == manifest.sizes, "files do not fit the counts")
    return manifest


def _parse_coarse(value: object, tiers: tuple[int, ...], rows: int) -> CoarseShape | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != set(CoarseShape._fields):
        raise ValueError("bad coarse tier")
    code_bytes = _check_integer(value["code_bytes"], 1, 4096)
    dimension = _check_integer(value["dimension"], 1, tiers[-1])
    _require(dimension % (2 * code_bytes) == 0, "coarse dimensions do not divide into groups")
    covered, lists = _check_integer(value["rows"], 1, rows), _check_integer(value["lists"], 1, MAX_LISTS)
    blocks = _check_integer(value["blocks"], 1, covered // BLOCK_ROWS + lists)
    learned_at = _check_integer(value["learned_at"], 1, MAX_ROWS)
    return CoarseShape(dimension, code_bytes, covered, lists, blocks, learned_at)


def _parse_plan(value: object) -> Plan:
    if not isinstance(value, dict) or set(value) != {field.name for field in fields(Plan)}:
        raise ValueError("bad plan")
    _require(value["layout"] in ("exact", "cascade", "routed"), "unknown layout")
    for name in ("coarse_candidates", "main_candidates", "measured_rows"):
        _check_integer(value[name], 0, MAX_ROWS)
    for name, most in (("recall", 1), ("recall_error", 1), ("scanned", 1), ("reach", EVERYWHERE)):
        _require(type(value[name]) is float and 0 <= value[name] <= most, f"{name} is not from 0 to {most}")
    return Plan(**value)
