"""A full disk and a read-only folder: typed errors, nothing lost."""

from __future__ import annotations

import os
import shutil

import pytest
from support import WordEncoder, python

from agent_memory import Memory

# Limits the size of every file of the process, like a full disk.
FULL = """
import resource, signal, sys
from support import WordEncoder
from agent_memory import Memory, StorageError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
memory = Memory(sys.argv[1], encoder=WordEncoder())
memory.add("before", key="before")
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
kept = ["before"]
try:
    for number in range(10_000):
        key = memory.add(f"number {number} " + "padding " * 50, key=str(number)).key
        kept.append(key)
except StorageError as error:
    print(type(error).__name__, str(error)[-60:])
else:
    raise SystemExit("the disk never filled up")
found = memory.recall("before", k=1)
assert found[0].entry.key == "before", found
assert {entry.key for entry in memory.entries()} == set(kept)
memory.close()
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
memory = Memory(sys.argv[1], encoder=WordEncoder())
assert {entry.key for entry in memory.entries()} == set(kept)
memory.add("room again", key="room")
assert memory.recall("room again", k=1)[0].entry.key == "room"
assert memory.check().ok
memory.close()
print("sound", len(kept))
"""


@pytest.mark.parametrize("limit", [150_000, 400_000, 1_000_000])
def test_full_disk(tmp_path, limit):
    child = python(FULL, tmp_path / "store", limit)
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    first, last = output.splitlines()
    assert first.startswith("StorageError")
    assert last.startswith("sound")


# Root ignores permissions, so the reader becomes nobody once its modules are loaded.
READER = """
import os, sys
from support import WordEncoder
from agent_memory import Memory, StorageError

with Memory(sys.argv[2], encoder=WordEncoder()) as memory:
    memory.add("load every module")
    memory.recall("load every module")
    memory.check()
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
memory = Memory(sys.argv[1], encoder=WordEncoder())
assert memory.recall("three words here", k=1)[0].entry.key == "a"
assert memory.get("a").text == "three words here"
for write in (lambda: memory.add("x"), lambda: memory.forget("a"), lambda: memory.update("a", text="y")):
    try:
        write()
    except StorageError as error:
        assert "read-only" in str(error), error
    else:
        raise SystemExit("a read-only store was written to")
assert memory.check().ok
memory.close()
print("sound")
"""


@pytest.mark.parametrize("snapshot", [True, False], ids=["with-index", "without-index"])
def test_read_only_folder(tmp_path, snapshot):
    folder = tmp_path / "store"
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add("three words here", key="a")
        memory.add("something else", key="b")
        memory.recall("words")
    if not snapshot:
        shutil.rmtree(folder / "index")
    for parent in (tmp_path, *tmp_path.parents[:3]):
        os.chmod(parent, 0o755)
    for path in (folder, *folder.rglob("*")):
        os.chmod(path, 0o555 if path.is_dir() else 0o444)
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    child = python(READER, folder, tmp_path / "other")
    output, errors = child.communicate(timeout=60)
    assert output == "sound\n", errors
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before
    for path in (folder, *folder.rglob("*")):
        os.chmod(path, 0o755)
