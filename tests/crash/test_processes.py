"""Several processes on one folder: nothing lost, no error, every write visible to the others' next call."""

from __future__ import annotations

import os
import subprocess
import time

import pytest
from support import WordEncoder, python

from agent_memory import Config, LockTimeoutError, Memory, SchemaTooNewError
from agent_memory.storage.sqlite.driver import sqlite3

CHECKED = 5  # the readers are slower than the writers, and look for one in this many writes
SECONDS = float(os.environ.get("AGENT_MEMORY_PROCESS_TEST_S", "8"))

WRITER = """
import sys, time
from support import WordEncoder
from agent_memory import Config, Memory

folder, name, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
end = time.monotonic() + seconds
number = 0
with Memory(folder, encoder=WordEncoder(), config=Config(snapshot_every=50)) as memory:
    while time.monotonic() < end:
        key = memory.add(f"{name} wrote {number}", key=f"{name}-{number}", session="shared").key
        print(key)
        number += 1
        if number % 20 == 0:
            memory.recall("wrote", k=3)
"""

# Reads acknowledged writes from standard input, and must find each at once.
READER = """
import sys
from support import WordEncoder
from agent_memory import Config, Memory

with Memory(sys.argv[1], encoder=WordEncoder(), config=Config(snapshot_every=50)) as memory:
    print("ready")
    for line in sys.stdin:
        key = line.strip()
        text = key.replace("-", " wrote ")
        hit = memory.recall(text, k=1, session="shared", mode="dense")[0]
        print(key if hit.entry.key == key else f"missed {key}, found {hit.entry.key}")
"""


def follow(writers, readers):
    """Return all that the writers acknowledged; both readers must find what they are shown of it at once."""
    kept, running = [], list(writers)
    while running:
        for writer in list(running):
            line = writer.stdout.readline()
            if not line:
                running.remove(writer)
                continue
            kept.append(line.strip())
            if len(kept) % CHECKED == 0:
                show(line, readers)
    return kept


def show(line, readers):
    for reader in readers:
        reader.stdin.write(line)
        reader.stdin.flush()
    for reader in readers:
        assert reader.stdout.readline() == line


@pytest.mark.timeout(120 + 10 * SECONDS)
def test_two_writers_of_one_session_and_two_readers(tmp_path):
    folder = tmp_path / "store"
    readers = [python(READER, folder, stdin=subprocess.PIPE) for _ in range(2)]
    for reader in readers:
        assert reader.stdout.readline() == "ready\n", reader.stderr.read()
    writers = [python(WRITER, folder, name, SECONDS) for name in ("ann", "bob")]
    kept = follow(writers, readers)
    for process in (*writers, *readers):
        if process.stdin is not None:
            process.stdin.close()
        assert process.wait() == 0, process.stderr.read()
        process.stdout.close()
        process.stderr.close()
    with Memory(folder, encoder=WordEncoder()) as memory:
        assert sorted(entry.key for entry in memory.entries(session="shared")) == sorted(kept)
        assert memory.check().ok
    assert len(kept) > 50


def test_many_processes_create_one_store(tmp_path):
    code = """
import sys
from support import WordEncoder
from agent_memory import Memory
with Memory(sys.argv[1], encoder=WordEncoder()) as memory:
    memory.add(f"hello from {sys.argv[2]}", key=sys.argv[2])
"""
    children = [python(code, tmp_path / "store", number) for number in range(6)]
    for child in children:
        _, errors = child.communicate(timeout=60)
        assert child.returncode == 0, errors
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        assert {entry.key for entry in memory.entries()} == {str(number) for number in range(6)}


def test_lock_timeout_names_the_wait(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder(), config=Config(lock_timeout_s=0.3)) as memory:
        memory.add("x", key="x")
        holder = sqlite3.connect(tmp_path / "memory.db", isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        with pytest.raises(LockTimeoutError, match=r"0\.3 s") as caught:
            memory.add("y")
        assert caught.value.timeout_s == 0.3
        assert time.monotonic() - started < 20
        assert memory.recall("x")[0].entry.key == "x"
        holder.execute("ROLLBACK")
        holder.close()
        memory.add("z", key="z")
        assert [entry.key for entry in memory.entries()] == ["x", "z"]


def test_a_fork_gets_its_own_connections(tmp_path):
    code = """
import os, sys
from support import WordEncoder
from agent_memory import Memory
memory = Memory(sys.argv[1], encoder=WordEncoder())
memory.add("from the parent", key="parent")
memory.recall("parent")
child = os.fork()
if child == 0:
    memory.add("from the child", key="child")
    assert memory.recall("from the child", k=1)[0].entry.key == "child"
    os._exit(0)
_, status = os.waitpid(child, 0)
assert status == 0, status
assert memory.recall("from the child", k=1)[0].entry.key == "child"
memory.add("parent again", key="again")
assert memory.check().ok
memory.close()
print("sound")
"""
    child = python(code, tmp_path / "store")
    output, errors = child.communicate(timeout=60)
    assert output == "sound\n", errors


def test_a_store_of_a_newer_version_is_refused_untouched(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("x")
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = (tmp_path / "memory.db").read_bytes()
    with pytest.raises(SchemaTooNewError, match="9999"):
        Memory(tmp_path, encoder=WordEncoder())
    assert (tmp_path / "memory.db").read_bytes() == before
