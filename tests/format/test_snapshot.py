import errno
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support_snapshot import TIERS, assert_same, build_index, load_index, make_rows, search_all_ways

from agent_memory.errors import CorruptSnapshotError, IndexStateError, InvalidInputError, StaleGenerationError
from agent_memory.files import make_scratch
from agent_memory.index import TieredIndex
from agent_memory.index.snapshot import write


@pytest.mark.parametrize("tiers", [(6,), (64, 128), TIERS])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize(("count", "large"), [(0, 300), (1, 300), (250, 300), (700, 300), (700, 10**6)])
def test_what_is_saved_is_loaded(tmp_path, tiers, dtype, count, large):
    index = build_index(count, tiers, dtype, large=large)
    index.remove([0, 6, 12])
    before = search_all_ways(index, tiers[-1])
    path = index.save(tmp_path / "a" / "b", generation="g", seq=41)
    assert path.parent == tmp_path / "a" / "b"
    assert_same(before, search_all_ways(index, tiers[-1]))
    loaded, seq = load_index(tmp_path / "a" / "b")
    assert (seq, len(loaded), loaded.tiers, loaded.dtype) == (41, len(index), tiers, dtype)
    assert loaded.stats().plan == index.stats().plan
    assert_same(before, search_all_ways(loaded, tiers[-1]))
    loaded.verify()


def test_a_loaded_index_can_be_changed_and_saved_again(tmp_path):
    index = build_index()
    for turn in range(6):
        index.add(np.arange(200) + 10**6 * (turn + 1), make_rows(200, seed=turn + 5))
        index.remove(np.arange(30) * 3 + 90 * turn)
        index.save(tmp_path, generation="g", seq=turn)
        before = search_all_ways(index)
        index, seq = load_index(tmp_path)
        assert seq == turn
        assert_same(before, search_all_ways(index))
    assert len(list(tmp_path.iterdir())) == 1
    index.maintain()
    index.save(tmp_path, generation="g", seq=9)
    assert len(load_index(tmp_path)[0]) == 700 + 1200 - 180


def test_old_rows_are_linked_and_small_files_merged(tmp_path):
    index = build_index(4000)
    first = index.save(tmp_path, generation="g", seq=1)
    number = (first / "native-0.rows").stat().st_ino
    index.add(np.arange(100) + 10**6, make_rows(100, seed=3))
    second = index.save(tmp_path, generation="g", seq=2)
    assert not first.exists()
    assert (second / "native-0.rows").stat().st_ino == number
    assert (second / "native-1.rows").exists()
    assert index.stats().disk_bytes_per_row == 128 + 2 * 192
    index.add(np.arange(3000) + 2 * 10**6, make_rows(3000, seed=4))
    third = index.save(tmp_path, generation="g", seq=3)
    assert sorted(path.name for path in third.glob("native-*.rows")) == ["native-0.rows"]
    assert_same(search_all_ways(index), search_all_ways(load_index(tmp_path)[0]))


def test_a_pruned_snapshot_still_serves_readers_that_mapped_it(tmp_path):
    build_index().save(tmp_path, generation="g", seq=1)
    reader, _ = load_index(tmp_path)
    writer, _ = load_index(tmp_path)
    writer.add([10**6], make_rows(1, seed=8))
    writer.save(tmp_path, generation="g", seq=2)
    shutil.rmtree(tmp_path / next(tmp_path.iterdir()).name)
    assert_same(search_all_ways(reader), search_all_ways(build_index()))
    reader.add([10**7], make_rows(1, seed=9))
    reader.save(tmp_path, generation="g", seq=3)
    assert len(load_index(tmp_path)[0]) == 701


def test_only_older_snapshots_of_the_generation_are_pruned(tmp_path):
    index = build_index()
    other = index.save(tmp_path, generation="other", seq=1)
    newer = index.save(tmp_path, generation="g", seq=9)
    older = index.save(tmp_path, generation="g", seq=3)
    assert other.exists()
    assert newer.exists()
    assert older.exists()
    assert load_index(tmp_path)[1] == 9
    latest = index.save(tmp_path, generation="g", seq=10)
    assert sorted(path for path in tmp_path.iterdir()) == sorted([other, latest])


def test_a_snapshot_of_another_generation_is_stale(tmp_path):
    build_index().save(tmp_path, generation="old", seq=1)
    with pytest.raises(StaleGenerationError, match=r"'old'.*'new'"):
        load_index(tmp_path, "new")


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_a_missing_snapshot_is_reported(tmp_path, make):
    folder = tmp_path / "index"
    make(folder)
    with pytest.raises(CorruptSnapshotError, match="no snapshot"):
        load_index(folder)


def test_leftovers_of_dead_writers_are_cleaned(tmp_path):
    dead = tmp_path / ".tmp-0123456789abcdef"
    dead.mkdir()
    (dead / "native-0.rows").write_bytes(b"x" * 100)
    with make_scratch(tmp_path, ".tmp-") as alive:
        build_index().save(tmp_path, generation="g", seq=1)
        assert alive.exists()
        assert not dead.exists()
    assert not alive.exists()


def test_a_full_disk_leaves_the_previous_snapshot(tmp_path, monkeypatch):
    index = build_index()
    index.save(tmp_path, generation="g", seq=1)
    index.add([10**6], make_rows(1, seed=4))
    before = search_all_ways(index)

    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write.os, "fsync", full)
    with pytest.raises(IndexStateError, match="No space left"):
        index.save(tmp_path, generation="g", seq=2)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    assert load_index(tmp_path)[1] == 1
    assert_same(before, search_all_ways(index))
    index.save(tmp_path, generation="g", seq=2)
    assert_same(before, search_all_ways(load_index(tmp_path)[0]))


def test_a_file_in_place_of_the_folder_raises_an_index_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(IndexStateError):
        build_index().save(tmp_path / "file", generation="g", seq=1)


def test_unusable_generations_and_seqs_are_refused(tmp_path):
    index = build_index(10)
    for seq in (-1, 2**63, 1.5, True, "1"):
        with pytest.raises(InvalidInputError):
            index.save(tmp_path, generation="g", seq=seq)
    for generation in (None, 5, "x" * 2000):
        with pytest.raises(InvalidInputError):
            index.save(tmp_path, generation=generation, seq=1)
    index.save(tmp_path, generation="../ü\n", seq=np.int64(2**63 - 1))
    assert load_index(tmp_path, "../ü\n")[1] == 2**63 - 1


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
def test_a_kill_while_saving_leaves_a_valid_snapshot(tmp_path, point, seq):
    def save_in_child(number, name):
        environment = {**os.environ, "AGENT_MEMORY_FAILPOINT": name}
        return subprocess.run(
            [sys.executable, "-c", CRASH, str(tmp_path), str(number)], env=environment, check=False
        ).returncode

    assert save_in_child(1, "") == 0
    assert save_in_child(2, point) == (-9 if point else 0)
    index, found = TieredIndex.load(tmp_path, generation="g")
    assert (found, len(index), int(index.ids()[0])) == (seq, 50, seq)
    index.save(tmp_path, generation="g", seq=3)
    assert len(list(tmp_path.iterdir())) == 1
