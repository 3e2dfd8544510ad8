import hashlib
import json
import os

import numpy as np
import pytest
from oracle import search_flat
from support_snapshot import load_index, make_rows, use_everything

from agent_memory.errors import CorruptSnapshotError
from agent_memory.index.snapshot import manifest


def forge_manifest(damaged, change):
    """Rewrite the manifest with a valid checksum, as an attacker could."""
    body = json.loads((damaged / "manifest.json").read_text())
    body.pop("sha256")
    change(body)
    body["sha256"] = manifest._compute_digest(body)
    (damaged / "manifest.json").write_text(json.dumps(body))


def set_value(*keys):
    *path, last, value = keys

    def change(body):
        for key in path:
            body = body[key]
        body[last] = value

    return change


HOSTILE = [
    set_value("rows", 2**31),
    set_value("rows", -1),
    set_value("rows", 1e9),
    set_value("rows", True),
    set_value("rows", "700"),
    set_value("rows", 7),
    set_value("blocks", [2**40]),
    set_value("blocks", [700, 0]),
    set_value("blocks", [-1, 701]),
    set_value("blocks", {}),
    set_value("blocks", [1] * 700),
    set_value("tiers", [64, 128, 2**40]),
    set_value("tiers", [128, 64, 192]),
    set_value("tiers", []),
    set_value("tiers", [192]),
    set_value("tiers", None),
    set_value("tiers", [64, 128, 100]),
    set_value("dtype", "object"),
    set_value("dtype", "float32"),
    set_value("dtype", ["float16"]),
    set_value("dead", 701),
    set_value("dead", 5),
    set_value("seq", -1),
    set_value("seq", 2**70),
    set_value("seq", 1.5),
    set_value("generation", 5),
    set_value("format", "else"),
    set_value("version", 2),
    set_value("unknown", 1),
    set_value("files", []),
    set_value("files", {}),
    set_value("files", "../../etc/passwd", {"size": 1, "sha256": ""}),
    set_value("files", "ids.bin", "size", 2**62),
    set_value("files", "ids.bin", "size", -1),
    set_value("files", "ids.bin", "size", "5600"),
    set_value("files", "ids.bin", "sha256", None),
    set_value("files", "ids.bin", []),
    set_value("coarse", "rows", 701),
    set_value("coarse", "rows", 0),
    set_value("coarse", "code_bytes", 0),
    set_value("coarse", "code_bytes", 31),
    set_value("coarse", "dimension", 10**6),
    set_value("coarse", "dimension", 0),
    set_value("coarse", "lists", 0),
    set_value("coarse", "lists", 15),
    set_value("coarse", "lists", 2**20),
    set_value("coarse", "blocks", 0),
    set_value("coarse", "blocks", 2**40),
    set_value("coarse", "blocks", 20),
    set_value("coarse", "learned_at", 0),
    set_value("coarse", "learned_at", 2**31),
    set_value("coarse", None),
    set_value("coarse", []),
    set_value("coarse", "more", 1),
    set_value("plan", None),
    set_value("plan", {}),
    set_value("plan", "layout", "else"),
    set_value("plan", "layout", "exact"),
    set_value("plan", "coarse_candidates", -5),
    set_value("plan", "coarse_candidates", 2**40),
    set_value("plan", "layout", "cascade"),
    set_value("plan", "reach", -0.1),
    set_value("plan", "reach", 2.1),
    set_value("plan", "reach", 1),
    set_value("plan", "scanned", 1.1),
    set_value("plan", "recall", 2.0),
    set_value("plan", "recall", float("nan")),
    set_value("plan", "recall", None),
    set_value("plan", "more", 1),
]


@pytest.mark.parametrize("change", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_manifests_are_refused(damaged, change):
    forge_manifest(damaged, change)
    with pytest.raises(CorruptSnapshotError):
        load_index(damaged.parent)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{",
        '{"a":' * 100_000,
        "[" * 100_000,
        "9" * 10_000,
        '"' + "x" * (2 << 20) + '"',
        "\xff",
        "{}",
    ],
    ids=range(10),
)
def test_hostile_json_is_refused(damaged, text):
    (damaged / "manifest.json").write_bytes(text.encode("latin1"))
    with pytest.raises(CorruptSnapshotError):
        load_index(damaged.parent)


def forge_file(damaged, name, change):
    """Rewrite a file and its checksum."""
    data = change((damaged / name).read_bytes())
    (damaged / name).write_bytes(data)
    forge_manifest(damaged, set_value("files", name, {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}))


CONTENTS = [
    ("ids.bin", lambda data: data[:8] * (len(data) // 8)),
    ("ids.bin", lambda data: np.full(len(data) // 8, -1, "<i8").tobytes()),
    ("order.bin", lambda data: np.full(len(data) // 8, 2**40, "<i8").tobytes()),
    ("order.bin", lambda data: np.full(len(data) // 8, -1, "<i8").tobytes()),
    ("directions.bin", lambda data: np.full(len(data) // 4, np.nan, "<f4").tobytes()),
    ("directions.bin", lambda data: np.full(len(data) // 4, 1e38, "<f4").tobytes()),
    ("lists.bin", lambda data: b"\xff" * len(data)),
    ("lists.bin", lambda data: bytes(len(data))),
    ("codebook.bin", lambda data: np.full(len(data) // 4, np.nan, "<f4").tobytes()),
    ("codebook.bin", lambda data: np.full(len(data) // 4, 1e38, "<f4").tobytes()),
    ("scales.bin", lambda data: np.full(len(data) // 4, np.inf, "<f4").tobytes()),
    ("alive.bin", lambda data: bytes(len(data))),
    ("native-0.sums", lambda data: data[4:] + data[:4]),
]


@pytest.mark.parametrize(("name", "change"), CONTENTS, ids=range(len(CONTENTS)))
def test_hostile_contents_with_forged_checksums_are_refused(damaged, name, change):
    forge_file(damaged, name, change)
    with pytest.raises(CorruptSnapshotError):
        use_everything(damaged.parent)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("codes.bin", lambda data: os.urandom(len(data))),
        ("sample.bin", lambda data: os.urandom(len(data))),
        ("lists.bin", lambda data: np.frombuffer(data, "<u2")[::-1].tobytes()),
        ("directions.bin", lambda data: bytes(len(data))),
    ],
)
def test_forged_codes_cannot_crash_or_break_the_contract(damaged, name, change):
    forge_file(damaged, name, change)
    index, _ = load_index(damaged.parent)
    result = index.search(make_rows(5, seed=1), 7)
    assert (result.ids >= 0).all()
    np.testing.assert_array_equal(
        index.search(make_rows(5, seed=1), 7, exact=True).ids,
        search_flat(np.arange(700) * 3, make_rows(700), make_rows(5, seed=1), 7)[1],
    )
