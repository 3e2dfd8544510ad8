"""What a store writes is for its owner alone whatever the umask, and killed processes leave nothing for long."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys

import pytest
from support import WordEncoder, python

from agent_memory import Config, Memory
from agent_memory.files import clean_parts, make_folder, write_beside

USE = """
import os, sys
from pathlib import Path
from support import WordEncoder
from agent_memory import Config, Memory
os.umask(int(sys.argv[2], 8))
base = Path(sys.argv[1])
config = Config(snapshot_every=10)
with Memory(base / "new" / "deep" / "store", encoder=WordEncoder(), config=config) as memory:
    for part in range(4):
        memory.add_many({"text": f"text {part} {number}"} for number in range(40))
        memory.recall("text")
        memory.save_snapshot()
    memory.backup(base / "backups" / "deep" / "monday.db")
    memory.export(base / "export.jsonl")
    memory.run_job("backup", options={"folder": str(base / "jobs" / "daily")})
    print("open")
    sys.stdin.readline()
Memory.restore(base / "backups" / "deep" / "monday.db", base / "restored" / "deep")
Memory.restore(base / "backups" / "deep" / "monday.db", base / "restored" / "deep", replace=True)
with Memory(base / "restored" / "deep", encoder=WordEncoder()) as memory:
    memory.add("one more")
"""


def modes(base):
    return {path: stat.S_IMODE(path.lstat().st_mode) for path in base.rglob("*")}


def check_private(base):
    found = modes(base)
    assert found
    assert {path: oct(mode) for path, mode in found.items() if mode != (0o700 if path.is_dir() else 0o600)} == {}
    return found


@pytest.mark.parametrize("umask", ["000", "022", "077", "277", "777"])
def test_files_and_folders_are_private_whatever_the_umask(tmp_path, umask):
    child = python(USE, tmp_path, umask, stdin=subprocess.PIPE)
    assert child.stdout.readline() == "open\n", child.stderr.read()
    while_open = check_private(tmp_path)
    assert {path.name for path in while_open} >= {"memory.db", "memory.db-wal", "memory.db-shm", "monday.db"}
    assert any(path.lstat().st_nlink > 1 for path in while_open) or any("rows" in path.name for path in while_open)
    _, errors = child.communicate("\n", timeout=60)
    assert child.returncode == 0, errors
    check_private(tmp_path)


def test_a_row_file_that_a_former_version_left_readable_is_private_once_it_is_linked(tmp_path):
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.add_many({"text": f"text {number}"} for number in range(200))
        memory.save_snapshot()
        (rows,) = (tmp_path / "store" / "index").rglob("native-0.rows")
        rows.chmod(0o644)
        inode = rows.stat().st_ino
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.add("one more")
        memory.save_snapshot()
        (rows,) = (tmp_path / "store" / "index").rglob("native-0.rows")
        assert (rows.stat().st_ino, stat.S_IMODE(rows.stat().st_mode)) == (inode, 0o600)


def test_a_folder_that_exists_keeps_the_mode_its_owner_gave_it(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o750)
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add("one")
        memory.backup(folder / "copy.db")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    make_folder(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    with pytest.raises(FileExistsError):
        make_folder(folder / "copy.db")


KILLED = """
import sys
from support import WordEncoder
from agent_memory import Memory
what, store, file = sys.argv[1:]
if what == "restore":
    Memory.restore(file, store, replace=True)
else:
    memory = Memory(store, encoder=WordEncoder())
    if what == "backup":
        memory.backup(file)
    else:
        def die(done, total):
            import os, signal
            os.kill(os.getpid(), signal.SIGKILL)
        memory.export(file + ".jsonl", progress=die)
"""


def kill(what, store, file, point):
    child = python(KILLED, what, store, file, env={"AGENT_MEMORY_FAILPOINT": point})
    _, errors = child.communicate(timeout=60)
    assert child.returncode == -9, errors


def parts(*folders):
    return [path for folder in folders for path in folder.iterdir() if ".part" in path.name]


def test_what_a_killed_run_leaves_is_cleaned_by_the_next(tmp_path):
    store, away = tmp_path / "store", tmp_path / "away"
    away.mkdir()
    with Memory(store, encoder=WordEncoder()) as memory:
        memory.add("SECRETZEBRA", key="one")
        memory.backup(away / "copy.db")
    for follow in ("backup", "export", "restore", "open"):
        kill("backup", store, away / "copy.db", "backup-copied")
        kill("export", store, away / "copy.db", "none")
        kill("restore", store, away / "copy.db", "restore-copied")
        left = parts(store, away)
        assert {path.parent for path in left} == {away, store}, left
        if follow == "restore":
            Memory.restore(away / "copy.db", store, replace=True)
        else:
            with Memory(store, encoder=WordEncoder()) as memory:
                if follow == "backup":
                    memory.backup(away / "other.db")
                elif follow == "export":
                    memory.export(away / "other.jsonl")
        assert not parts(store)
        assert bool(parts(away)) == (follow in ("restore", "open"))
        clean_parts(away)
        assert not parts(away)


def test_what_a_live_process_writes_is_left_alone(tmp_path):
    with write_beside(tmp_path / "a.db") as part:
        part.write_bytes(b"half")
        part.with_name(part.name + "-journal").write_bytes(b"journal")
        code = "import sys; from pathlib import Path; from agent_memory.files import *\n"
        code += "with write_beside(Path(sys.argv[1])) as part: put_in_place(part, Path(sys.argv[1]))"
        subprocess.run([sys.executable, "-c", code, tmp_path / "b.db"], check=True)
        with write_beside(tmp_path / "c.db"):
            assert part.read_bytes() == b"half" and part.with_name(part.name + "-journal").exists()
    assert sorted(os.listdir(tmp_path)) == ["b.db"]


def test_only_unfinished_files_are_cleaned(tmp_path):
    kept = ["notes.part", ".x.part", ".x.0123456789AB.part", "x.0123456789ab.part", ".x.0123456789ab.part.txt"]
    for name in kept:
        (tmp_path / name).write_text("mine")
    (tmp_path / ".x.0123456789ab.part").write_text("left")
    (tmp_path / ".x.0123456789ab.part-wal").write_text("left")
    (tmp_path / ".y.0123456789ab.part-journal").write_text("left, without its database")
    (tmp_path / "outside").write_text("precious")
    (tmp_path / ".z.0123456789ab.part").symlink_to(tmp_path / "outside")
    (tmp_path / ".f.0123456789ab.part").mkdir()
    os.mkfifo(tmp_path / ".p.0123456789ab.part")
    locked = os.open(tmp_path / ".l.0123456789ab.part", os.O_CREAT | os.O_RDWR)
    fcntl.flock(locked, fcntl.LOCK_EX)
    clean_parts(tmp_path)
    stay = {*kept, "outside", ".z.0123456789ab.part", ".f.0123456789ab.part", ".p.0123456789ab.part"}
    assert set(os.listdir(tmp_path)) == stay | {".l.0123456789ab.part"}
    os.close(locked)
    clean_parts(tmp_path)
    assert set(os.listdir(tmp_path)) == stay
    assert (tmp_path / "outside").read_text() == "precious"
    clean_parts(tmp_path / "missing")


def test_an_interrupted_write_leaves_nothing(tmp_path):
    memory = Memory(tmp_path / "store", encoder=WordEncoder(), config=Config(lock_timeout_s=5))
    memory.add("one")

    def interrupt(*_):
        raise KeyboardInterrupt

    for write in (memory.backup, memory.export):
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "file", progress=interrupt)
        assert os.listdir(tmp_path) == ["store"]
    memory.close()
