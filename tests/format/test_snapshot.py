import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from oracle import search_flat

from agent_memory.errors import CorruptSnapshotError, IndexStateError, InvalidInputError, StaleGenerationError
from agent_memory.index import IndexOptions, TieredIndex, planning
from agent_memory.index.snapshot import manifest
from agent_memory.index.snapshot import write as snapshot

OPTIONS = IndexOptions(exact_below=300, sample_queries=32, recall_target=0.9)
TIERS = (64, 128, 192)


def vectors(count, seed=0, dimension=192):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, dimension)) * np.arange(1, dimension + 1) ** -0.5).astype(np.float32)


def built(count=700, tiers=TIERS, dtype="float16", *, large=300):
    index = TieredIndex(tiers[-1], tiers, dtype=dtype, options=OPTIONS)
    index.add(np.arange(count) * 3, vectors(count, dimension=tiers[-1]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "_LARGE", large)
        patch.setattr(planning, "MAX_SCANNED", 1.0)
        index.maintain()
    return index


def load(folder, generation="g"):
    return TieredIndex.load(folder, generation=generation, options=OPTIONS)


def answers(index, dimension=192):
    queries = vectors(5, seed=1, dimension=dimension)
    return [
        index.search(queries, 7),
        index.search(queries, 7, exact=True),
        index.search(queries, 7, allowed=np.arange(0, 300, 3)),
    ]


def same(left, right):
    for one, other in zip(left, right, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.scores, other.scores)


@pytest.mark.parametrize("tiers", [(6,), (64, 128), TIERS])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("count", "large"), [(0, 300), (1, 300), (250, 300), (700, 300), (700, 10**6)])
def test_what_is_saved_is_loaded(tmp_path, tiers, dtype, count, large):
    index = built(count, tiers, dtype, large=large)
    index.remove([0, 6, 12])
    before = answers(index, tiers[-1])
    path = index.save(tmp_path / "a" / "b", generation="g", seq=41)
    assert path.parent == tmp_path / "a" / "b"
    same(before, answers(index, tiers[-1]))
    loaded, seq = load(tmp_path / "a" / "b")
    assert (seq, len(loaded), loaded.tiers, loaded.dtype) == (41, len(index), tiers, dtype)
    assert loaded.stats().plan == index.stats().plan
    same(before, answers(loaded, tiers[-1]))
    loaded.verify()


def test_a_loaded_index_goes_on(tmp_path):
    index = built()
    for turn in range(6):
        index.add(np.arange(200) + 10**6 * (turn + 1), vectors(200, seed=turn + 5))
        index.remove(np.arange(30) * 3 + 90 * turn)
        index.save(tmp_path, generation="g", seq=turn)
        before = answers(index)
        index, seq = load(tmp_path)
        assert seq == turn
        same(before, answers(index))
    assert len(list(tmp_path.iterdir())) == 1
    index.maintain()
    index.save(tmp_path, generation="g", seq=9)
    assert len(load(tmp_path)[0]) == 700 + 1200 - 180


def test_old_rows_are_linked_and_small_files_merged(tmp_path):
    index = built(4000)
    first = index.save(tmp_path, generation="g", seq=1)
    number = (first / "native-0.rows").stat().st_ino
    index.add(np.arange(100) + 10**6, vectors(100, seed=3))
    second = index.save(tmp_path, generation="g", seq=2)
    assert not first.exists()
    assert (second / "native-0.rows").stat().st_ino == number
    assert (second / "native-1.rows").exists()
    assert index.stats().disk_bytes_per_row == 128 + 2 * 192
    index.add(np.arange(3000) + 2 * 10**6, vectors(3000, seed=4))
    third = index.save(tmp_path, generation="g", seq=3)
    assert sorted(path.name for path in third.glob("native-*.rows")) == ["native-0.rows"]
    same(answers(index), answers(load(tmp_path)[0]))


def test_a_pruned_snapshot_serves_those_who_mapped_it(tmp_path):
    built().save(tmp_path, generation="g", seq=1)
    reader, _ = load(tmp_path)
    writer, _ = load(tmp_path)
    writer.add([10**6], vectors(1, seed=8))
    writer.save(tmp_path, generation="g", seq=2)
    shutil.rmtree(tmp_path / next(tmp_path.iterdir()).name)
    same(answers(reader), answers(built()))
    reader.add([10**7], vectors(1, seed=9))
    reader.save(tmp_path, generation="g", seq=3)
    assert len(load(tmp_path)[0]) == 701


def test_only_older_snapshots_of_the_generation_are_pruned(tmp_path):
    index = built()
    other = index.save(tmp_path, generation="other", seq=1)
    newer = index.save(tmp_path, generation="g", seq=9)
    older = index.save(tmp_path, generation="g", seq=3)
    assert other.exists()
    assert newer.exists()
    assert older.exists()
    assert load(tmp_path)[1] == 9
    latest = index.save(tmp_path, generation="g", seq=10)
    assert sorted(path for path in tmp_path.iterdir()) == sorted([other, latest])


def test_a_foreign_generation_is_stale(tmp_path):
    built().save(tmp_path, generation="old", seq=1)
    with pytest.raises(StaleGenerationError, match=r"'old'.*'new'"):
        load(tmp_path, "new")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_no_snapshot(tmp_path, make):
    folder = tmp_path / "index"
    make(folder)
    with pytest.raises(CorruptSnapshotError, match="no snapshot"):
        load(folder)


def names(tmp_path):
    return sorted(path.name for path in built().save(tmp_path, generation="g", seq=5).iterdir())


def use_all(folder):
    index, _ = load(folder)
    answers(index)
    index.verify()
    return index


FILES = [
    "alive.bin", "codebook.bin", "codes.bin", "directions.bin", "ids.bin", "lists.bin", "main-0.rows", "main-0.sums",
    "manifest.json", "native-0.rows", "native-0.sums", "order.bin", "sample.bin", "scales.bin",
]  # fmt: skip


def test_the_files_of_a_snapshot(tmp_path):
    assert names(tmp_path) == FILES


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("snapshots")
    built().save(folder, generation="g", seq=5)
    return folder


@pytest.fixture
def damaged(original, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(original, folder)
    return next(folder.iterdir())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("how", ["truncate", "extend", "empty", "missing", "link", "folder", "fifo", "swap"])
def test_damaged_files_are_refused_at_opening(damaged, name, how):
    path = damaged / name
    data = path.read_bytes()
    path.unlink()
    if how == "truncate":
        path.write_bytes(data[:-1])
    elif how == "extend":
        path.write_bytes(data + b"\0")
    elif how == "empty":
        path.touch()
    elif how == "link":
        (damaged.parent.parent / "outside").write_bytes(data)
        path.symlink_to(damaged.parent.parent / "outside")
    elif how == "folder":
        path.mkdir()
    elif how == "fifo":
        os.mkfifo(path)
    elif how == "swap":
        path.write_bytes((damaged / FILES[FILES.index(name) - 1]).read_bytes())
    with pytest.raises(CorruptSnapshotError):
        load(damaged.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_never_reaches_an_answer(damaged, name):
    path = damaged / name
    data = bytearray(path.read_bytes())
    before = answers(built())
    for place in {0, 100, 4095, 4096, len(data) // 2, len(data) - 2} & set(range(len(data))):
        wrong = data.copy()
        wrong[place] ^= 4
        path.write_bytes(wrong)
        with pytest.raises(CorruptSnapshotError):
            use_all(damaged.parent)
        try:
            same(before, answers(load(damaged.parent)[0]))
        except CorruptSnapshotError:
            continue


def test_an_older_snapshot_answers_for_a_damaged_one(tmp_path):
    index = built()
    index.save(tmp_path, generation="g", seq=1)
    keep = tmp_path.parent / "keep"
    shutil.copytree(tmp_path, keep)
    newest = index.save(tmp_path, generation="g", seq=2)
    shutil.copytree(keep, tmp_path, dirs_exist_ok=True)
    (newest / "ids.bin").write_bytes(b"")
    assert load(tmp_path)[1] == 1


def forged(damaged, change):
    """Rewrite the manifest with a valid checksum, as an attacker could."""
    body = json.loads((damaged / "manifest.json").read_text())
    body.pop("sha256")
    change(body)
    body["sha256"] = manifest._compute_digest(body)
    (damaged / "manifest.json").write_text(json.dumps(body))


def put(*keys):
    *path, last, value = keys

    def change(body):
        for key in path:
            body = body[key]
        body[last] = value

    return change


HOSTILE = [
    put("rows", 2**31),
    put("rows", -1),
    put("rows", 1e9),
    put("rows", True),
    put("rows", "700"),
    put("rows", 7),
    put("blocks", [2**40]),
    put("blocks", [700, 0]),
    put("blocks", [-1, 701]),
    put("blocks", {}),
    put("blocks", [1] * 700),
    put("tiers", [64, 128, 2**40]),
    put("tiers", [128, 64, 192]),
    put("tiers", []),
    put("tiers", [192]),
    put("tiers", None),
    put("tiers", [64, 128, 100]),
    put("dtype", "object"),
    put("dtype", "float32"),
    put("dtype", ["float16"]),
    put("dead", 701),
    put("dead", 5),
    put("seq", -1),
    put("seq", 2**70),
    put("seq", 1.5),
    put("generation", 5),
    put("format", "else"),
    put("version", 2),
    put("unknown", 1),
    put("files", []),
    put("files", {}),
    put("files", "../../etc/passwd", {"size": 1, "sha256": ""}),
    put("files", "ids.bin", "size", 2**62),
    put("files", "ids.bin", "size", -1),
    put("files", "ids.bin", "size", "5600"),
    put("files", "ids.bin", "sha256", None),
    put("files", "ids.bin", []),
    put("coarse", "rows", 701),
    put("coarse", "rows", 0),
    put("coarse", "code_bytes", 0),
    put("coarse", "code_bytes", 31),
    put("coarse", "dimension", 10**6),
    put("coarse", "dimension", 0),
    put("coarse", "lists", 0),
    put("coarse", "lists", 15),
    put("coarse", "lists", 2**20),
    put("coarse", "blocks", 0),
    put("coarse", "blocks", 2**40),
    put("coarse", "blocks", 20),
    put("coarse", "learned_at", 0),
    put("coarse", "learned_at", 2**31),
    put("coarse", None),
    put("coarse", []),
    put("coarse", "more", 1),
    put("plan", None),
    put("plan", {}),
    put("plan", "layout", "else"),
    put("plan", "layout", "exact"),
    put("plan", "coarse_candidates", -5),
    put("plan", "coarse_candidates", 2**40),
    put("plan", "layout", "cascade"),
    put("plan", "reach", -0.1),
    put("plan", "reach", 2.1),
    put("plan", "reach", 1),
    put("plan", "scanned", 1.1),
    put("plan", "recall", 2.0),
    put("plan", "recall", float("nan")),
    put("plan", "recall", None),
    put("plan", "more", 1),
]


@pytest.mark.parametrize("change", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_manifests_are_refused(damaged, change):
    forged(damaged, change)
    with pytest.raises(CorruptSnapshotError):
        load(damaged.parent)


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
        load(damaged.parent)


def replace(damaged, name, change):
    """Rewrite a file and its checksum."""
    data = change((damaged / name).read_bytes())
    (damaged / name).write_bytes(data)
    forged(damaged, put("files", name, {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}))


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
    replace(damaged, name, change)
    with pytest.raises(CorruptSnapshotError):
        use_all(damaged.parent)


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
    replace(damaged, name, change)
    index, _ = load(damaged.parent)
    result = index.search(vectors(5, seed=1), 7)
    assert (result.ids >= 0).all()
    np.testing.assert_array_equal(
        index.search(vectors(5, seed=1), 7, exact=True).ids,
        search_flat(np.arange(700) * 3, vectors(700), vectors(5, seed=1), 7)[1],
    )


def test_a_linked_snapshot_folder_is_refused(damaged):
    elsewhere = damaged.parent.parent / "elsewhere"
    damaged.rename(elsewhere)
    damaged.symlink_to(elsewhere)
    with pytest.raises(CorruptSnapshotError):
        load(damaged.parent)


def test_leftovers_of_dead_writers_are_cleaned(tmp_path):
    dead = tmp_path / ".tmp-0123456789abcdef"
    dead.mkdir()
    (dead / "native-0.rows").write_bytes(b"x" * 100)
    with snapshot._make_temporary_folder(tmp_path) as alive:
        built().save(tmp_path, generation="g", seq=1)
        assert alive.exists()
        assert not dead.exists()
    assert not alive.exists()


def test_a_full_disk_leaves_the_previous_snapshot(tmp_path, monkeypatch):
    index = built()
    index.save(tmp_path, generation="g", seq=1)
    index.add([10**6], vectors(1, seed=4))
    before = answers(index)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(snapshot.os, "fsync", full)
    with pytest.raises(IndexStateError, match="No space left"):
        index.save(tmp_path, generation="g", seq=2)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    assert load(tmp_path)[1] == 1
    same(before, answers(index))
    index.save(tmp_path, generation="g", seq=2)
    same(before, answers(load(tmp_path)[0]))


def test_a_file_in_the_way_is_a_clean_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexStateError):
        built().save(tmp_path / "file", generation="g", seq=1)


def test_unusable_names_and_numbers(tmp_path):
    index = built(10)
    for seq in (-1, 2**63, 1.5, True, "1"):
        with pytest.raises(InvalidInputError):
            index.save(tmp_path, generation="g", seq=seq)
    for generation in (None, 5, "x" * 2000):
        with pytest.raises(InvalidInputError):
            index.save(tmp_path, generation=generation, seq=1)
    index.save(tmp_path, generation="../ü\n", seq=np.int64(2**63 - 1))
    assert load(tmp_path, "../ü\n")[1] == 2**63 - 1


CRASH = """
import sys, numpy as np, pathlib
from agent_memory.index import TieredIndex
index = TieredIndex(8, (8,))
index.add(np.arange(50) + int(sys.argv[2]), np.random.default_rng(0).standard_normal((50, 8)))
index.save(pathlib.Path(sys.argv[1]), generation="g", seq=int(sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("point", "seq"),
    [("snapshot-mid-write", 1), ("snapshot-before-rename", 1), ("snapshot-after-rename", 2), ("", 2)],
)
def test_killed_while_saving(tmp_path, point, seq):
    def run(number, name):
        environment = {**os.environ, "AGENT_MEMORY_FAILPOINT": name}
        return subprocess.run(
            [sys.executable, "-c", CRASH, str(tmp_path), str(number)], env=environment, check=False
        ).returncode

    assert run(1, "") == 0
    assert run(2, point) == (-9 if point else 0)
    index, found = TieredIndex.load(tmp_path, generation="g")
    assert (found, len(index), int(index.ids()[0])) == (seq, 50, seq)
    index.save(tmp_path, generation="g", seq=3)
    assert len(list(tmp_path.iterdir())) == 1
