import os
import shutil

import pytest
from support_snapshot import assert_same, build_index, load_index, search_all_ways, use_everything

from agent_memory.errors import CorruptSnapshotError

FILES = [
    "alive.bin", "codebook.bin", "codes.bin", "directions.bin", "ids.bin", "lists.bin", "main-0.rows", "main-0.sums",
    "manifest.json", "native-0.rows", "native-0.sums", "order.bin", "sample.bin", "scales.bin",
]  # fmt: skip


def test_the_files_of_a_snapshot(tmp_path):
    path = build_index().save(tmp_path, generation="g", seq=5)
    assert sorted(file.name for file in path.iterdir()) == FILES


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
        load_index(damaged.parent)


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_never_reaches_an_answer(damaged, name):
    path = damaged / name
    data = bytearray(path.read_bytes())
    before = search_all_ways(build_index())
    for place in {0, 100, 4095, 4096, len(data) // 2, len(data) - 2} & set(range(len(data))):
        flipped = data.copy()
        flipped[place] ^= 4
        path.write_bytes(flipped)
        with pytest.raises(CorruptSnapshotError):
            use_everything(damaged.parent)
        try:
            assert_same(before, search_all_ways(load_index(damaged.parent)[0]))
        except CorruptSnapshotError:
            continue


def test_an_older_snapshot_replaces_a_damaged_one(tmp_path):
    index = build_index()
    index.save(tmp_path, generation="g", seq=1)
    keep = tmp_path.parent / "keep"
    shutil.copytree(tmp_path, keep)
    newest = index.save(tmp_path, generation="g", seq=2)
    shutil.copytree(keep, tmp_path, dirs_exist_ok=True)
    (newest / "ids.bin").write_bytes(b"")
    assert load_index(tmp_path)[1] == 1


def test_a_linked_snapshot_folder_is_refused(damaged):
    elsewhere = damaged.parent.parent / "elsewhere"
    damaged.rename(elsewhere)
    damaged.symlink_to(elsewhere)
    with pytest.raises(CorruptSnapshotError):
        load_index(damaged.parent)
