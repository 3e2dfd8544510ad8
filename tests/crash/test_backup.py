"""A backup is one state of the store, complete and verified, or it does not exist."""

from __future__ import annotations

import os
import threading

import pytest
from support import WordEncoder, python

from agent_memory import InvalidInputError, Memory, NotFoundError, StorageError

TEXTS = [f"note {number} about topic {number % 7}" for number in range(200)]


def fill(folder, texts=TEXTS):
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add_many({"text": text, "key": str(number)} for number, text in enumerate(texts))
        memory.recall("note")


def verify(folder, texts=TEXTS):
    with Memory(folder, encoder=WordEncoder()) as memory:
        assert {entry.key: entry.text for entry in memory.entries()} == {
            str(number): text for number, text in enumerate(texts)
        }
        assert memory.recall(texts[3], k=1)[0].entry.key == "3"
        assert memory.encoder.encoded == [texts[3]], "restoring must not encode anything"
        memory.add("still writable", key="w")
        memory.forget("w")
        assert memory.check().ok


def test_backup_and_restore(tmp_path):
    fill(tmp_path / "store")
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        seen = []
        assert memory.backup(tmp_path / "deep" / "copy.db", progress=lambda *pages: seen.append(pages)) == 200
        assert seen[-1][0] == seen[-1][1]
        memory.add("after the backup", key="late")
    assert os.listdir(tmp_path / "deep") == ["copy.db"]
    assert Memory.restore(tmp_path / "deep" / "copy.db", tmp_path / "other") == 200
    verify(tmp_path / "other")
    with pytest.raises(InvalidInputError, match="replace"):
        Memory.restore(tmp_path / "deep" / "copy.db", tmp_path / "store")
    Memory.restore(tmp_path / "deep" / "copy.db", tmp_path / "store", replace=True)
    verify(tmp_path / "store")


def test_a_backup_is_one_state_while_others_write(tmp_path):
    fill(tmp_path / "store")
    with (
        Memory(tmp_path / "store", encoder=WordEncoder()) as memory,
        Memory(tmp_path / "store", encoder=WordEncoder()) as writer,
    ):
        stop = threading.Event()

        def write():
            number = 0
            while not stop.is_set():
                writer.add_many([{"text": f"twin {number}", "key": f"{side}{number}"} for side in "ab"])
                number += 1

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for number in range(5):
                memory.backup(tmp_path / f"{number}.db")
        finally:
            stop.set()
            thread.join()
    for number in range(5):
        Memory.restore(tmp_path / f"{number}.db", tmp_path / str(number))
        with Memory(tmp_path / str(number), encoder=WordEncoder()) as memory:
            keys = {entry.key for entry in memory.entries()}
            assert {key[1:] for key in keys if key[0] == "a"} == {key[1:] for key in keys if key[0] == "b"}
            assert memory.check().ok


def test_unusable_backups_change_nothing(tmp_path):
    fill(tmp_path / "store")
    fill(tmp_path / "small", TEXTS[:150])
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.backup(tmp_path / "copy.db")
        with pytest.raises(StorageError, match="in use"):
            Memory.restore(tmp_path / "copy.db", tmp_path / "store", replace=True)
        with pytest.raises(InvalidInputError):
            memory.backup(tmp_path)
        with pytest.raises(InvalidInputError):
            memory.backup(tmp_path / "store" / "memory.db")
        with pytest.raises(StorageError):
            memory.backup("/proc/nowhere/copy.db")
    with pytest.raises(NotFoundError):
        Memory.restore(tmp_path / "missing.db", tmp_path / "new")
    data = bytearray((tmp_path / "copy.db").read_bytes())
    for start in range(3 * 8192, len(data), 3 * 8192):
        data[start : start + 200] = os.urandom(200)
    (tmp_path / "torn.db").write_bytes(data)
    (tmp_path / "short.db").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.db").write_bytes(b"no database" * 1000)
    (tmp_path / "empty.db").write_bytes(b"")
    for name in ("torn", "short", "text", "empty"):
        with pytest.raises(StorageError):
            Memory.restore(tmp_path / f"{name}.db", tmp_path / "small", replace=True)
        verify(tmp_path / "small", TEXTS[:150])
        assert not [path for path in (tmp_path / "small").iterdir() if path.name.endswith(".part")]


CODE = """
import sys
from support import WordEncoder
from agent_memory import Memory
if sys.argv[1] == "backup":
    with Memory(sys.argv[2], encoder=WordEncoder()) as memory:
        memory.backup(sys.argv[3])
else:
    Memory.restore(sys.argv[3], sys.argv[2], replace=True)
"""


@pytest.mark.parametrize(
    ("what", "point"),
    [
        ("backup", "backup-copied"),
        ("backup", "backup-before-rename"),
        ("restore", "restore-copied"),
        ("restore", "restore-before-rename"),
        ("restore", "backup-before-rename"),
    ],
)
def test_killed_while_backing_up_or_restoring(tmp_path, what, point):
    fill(tmp_path / "store", TEXTS[:100])
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.backup(tmp_path / "copy.db")
    former = (tmp_path / "copy.db").read_bytes()
    child = python(CODE, what, tmp_path / "store", tmp_path / "copy.db", env={"AGENT_MEMORY_FAILPOINT": point})
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors
    assert (tmp_path / "copy.db").read_bytes() == former
    verify(tmp_path / "store", TEXTS[:100])
    child = python(CODE, what, tmp_path / "store", tmp_path / "copy.db")
    assert child.wait(60) == 0, child.stderr.read()
    child.stdout.close()
    child.stderr.close()
    verify(tmp_path / "store", TEXTS[:100])


FULL = """
import resource, signal, sys
from support import WordEncoder
from agent_memory import Memory, StorageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Memory(sys.argv[1], encoder=WordEncoder()) as memory:
    memory.recall("note")
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    for work in (lambda: memory.backup(sys.argv[2]), lambda: memory.reindex(encoder=WordEncoder(512, name="large"))):
        try:
            work()
        except StorageError as error:
            print(type(error).__name__)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert len(memory.entries()) == 200
    assert memory.recall("note 3 about topic 3", k=1)[0].entry.key == "3"
    assert memory.check().ok
    memory.reindex(encoder=WordEncoder(512, name="large"))
    assert memory.recall("note 3 about topic 3", k=1)[0].entry.key == "3"
    assert memory.check().ok
"""


def test_a_full_disk_stops_backup_and_reindex_without_harm(tmp_path):
    fill(tmp_path / "store")
    child = python(FULL, tmp_path / "store", tmp_path / "copy.db", 120_000)
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    assert output == "StorageError\nStorageError\n"
    assert not (tmp_path / "copy.db").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]


def test_a_file_that_is_no_backup_is_named_and_leaves_no_folder_behind(tmp_path):
    file = tmp_path / "notes.txt"
    file.write_text("not a backup" * 1_000)
    with pytest.raises(StorageError, match=r"notes\.txt"):
        Memory.restore(file, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
