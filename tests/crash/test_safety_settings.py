"""Every safety setting of SQLite is needed: with it the promise holds, without it the same check fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import WordEncoder, python, skip_locally

from agent_memory import Config, Memory, StorageError
from agent_memory.storage.sqlite import connections as settings
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.driver import sqlite3

SHIM = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>
static int count(long number, int file) {
    int log = open(getenv("COUNT_SYNCS"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (write(log, ".", 1) != 1) abort();
    close(log);
    return (int)syscall(number, file);
}
int fsync(int file) { return count(SYS_fsync, file); }
int fdatasync(int file) { return count(SYS_fdatasync, file); }
"""


def open_(folder):
    return Memory(folder, encoder=WordEncoder(), config=Config(lock_timeout_s=1))


def count(folder, table):
    connection = sqlite3.connect(folder / "memory.db")
    found = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    connection.close()
    return found


def forgotten_entries_take_their_vectors_along(folder):
    with open_(folder) as memory:
        memory.add("one", key="one")
        memory.add("two", key="two")
        memory.forget("one")
    assert count(folder, "vectors") == 1


def every_acknowledged_write_is_synced(folder):
    log = Path(os.environ["COUNT_SYNCS"])
    with open_(folder) as memory:
        for number in range(20):
            before = log.stat().st_size
            memory.add(f"note {number}")
            assert log.stat().st_size > before


def forgotten_text_is_overwritten(folder):
    with open_(folder) as memory:
        for number in range(20):
            text = f"note {number}" if number % 2 else f"the launch code {number} is xylophone"
            memory.add(text, key=str(number), metadata={"where": "here" if number % 2 else "under the doormat"})
        for number in range(0, 20, 2):
            memory.forget(str(number))
    data = (folder / "memory.db").read_bytes()
    assert b"the launch code" not in data and b"doormat" not in data


def the_schema_calls_no_functions(folder):
    folder.mkdir()
    connection = sqlite3.connect(folder / "memory.db")
    connection.execute("CREATE VIEW evil AS SELECT act()")
    connection.close()
    acted = []
    connections = Connections(folder / "memory.db", lock_timeout_s=1)
    try:
        with connections.outside() as raw:
            raw.create_function("act", 0, lambda: acted.append(1))
            raw.execute("SELECT * FROM evil").fetchall()
    except StorageError as error:
        assert "unsafe use" in str(error)
    finally:
        connections.close()
    assert not acted


def a_damaged_page_is_not_half_believed(folder):
    with open_(folder) as memory:
        memory.add_many({"text": f"note {number} " + "x" * 300, "key": str(number)} for number in range(200))
    data = bytearray((folder / "memory.db").read_bytes())
    # A leaf of the table of entries: its last row is lost, another one is asked for.
    start = next(
        at for at in range(0, len(data), 8192) if data[at] == 0x0D and data[at : at + 8192].count(b"note ") > 9
    )
    cells = int.from_bytes(data[start + 3 : start + 5], "big")
    place = start + 8 + 2 * ((cells - 1) // 2)
    cell = start + int.from_bytes(data[place : place + 2], "big")
    assert data[cell] > 0x7F and data[cell + 1] < 0x80, "a payload of two bytes' length, then the id"
    wanted = data[cell + 2] if data[cell + 2] < 0x80 else (data[cell + 2] & 0x7F) << 7 | data[cell + 3]
    last = start + 8 + 2 * (cells - 1)
    data[last : last + 2] = (8190).to_bytes(2, "big")
    (folder / "memory.db").write_bytes(data)
    connections = Connections(folder / "memory.db", lock_timeout_s=1)
    refused = False
    try:
        with connections.outside() as raw:
            raw.execute("SELECT text FROM entries WHERE id = ?", (wanted,)).fetchone()
    except StorageError as error:
        refused = "malformed" in str(error)
    finally:
        connections.close()
    assert refused


def a_log_that_grew_is_cut(folder):
    with open_(folder) as memory:
        memory.add("one")
        connections = memory._store.database.connections
        with connections.write() as connection:
            connection.exec_driver_sql(
                "INSERT INTO queries (namespace, asked_at, k, fingerprint, dtype, vector) "
                f"VALUES ('', 0, 1, '', 'float16', randomblob({settings.LOG_BYTES + (4 << 20)}))"
            )
        assert connections.log_bytes() > settings.LOG_BYTES
        for number in range(3):
            memory.add(f"later {number}")
        assert connections.log_bytes() <= settings.LOG_BYTES


def readers_do_not_keep_writers_waiting(folder):
    with open_(folder) as memory, open_(folder) as reader:
        memory.add("one", key="one")
        with reader._store.read() as tx:
            assert tx.changes.last_seq() == 1
            try:
                memory.add("two", key="two")
            except StorageError as error:
                raise AssertionError("a reader kept a writer waiting") from error
            assert tx.changes.last_seq() == 1


CHECKS = {
    "foreign_keys": ("OFF", forgotten_entries_take_their_vectors_along),
    "synchronous": ("NORMAL", every_acknowledged_write_is_synced),
    "secure_delete": ("OFF", forgotten_text_is_overwritten),
    "trusted_schema": ("ON", the_schema_calls_no_functions),
    "cell_size_check": ("OFF", a_damaged_page_is_not_half_believed),
    "journal_size_limit": ("-1", a_log_that_grew_is_cut),
    "journal_mode": ("DELETE", readers_do_not_keep_writers_waiting),
}
"""What must fail without a setting, and the value that takes it away."""

RUN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_safety_settings as tests
from agent_memory.storage.sqlite import connections, migrate
name, folder, value = sys.argv[2], Path(sys.argv[3]), sys.argv[4]
if value and name == "journal_mode":
    assert callable(migrate.enable_log), "renamed: the setting would not be taken away"
    migrate.enable_log = lambda connections: None
elif value:
    assert connections.PRAGMAS[name] != value
    connections.PRAGMAS[name] = value
tests.CHECKS[name][1](folder)
"""


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """Return an environment in which every fsync leaves a byte in a file."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        skip_locally("counting fsync takes a C compiler on Linux")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", folder / "shim.so", folder / "shim.c"]
    subprocess.run(command, check=True)
    (folder / "log").touch()
    return {"LD_PRELOAD": str(folder / "shim.so"), "COUNT_SYNCS": str(folder / "log")}


def run(request, tmp_path, name, value):
    environment = request.getfixturevalue("counted") if name == "synchronous" else {}
    child = python(RUN, Path(__file__).parent, name, tmp_path / "store", value, env=environment)
    _, errors = child.communicate(timeout=120)
    return child.returncode, errors


@pytest.mark.parametrize("name", CHECKS)
def test_the_promise_of_a_setting_holds(request, tmp_path, name):
    code, errors = run(request, tmp_path, name, "")
    assert code == 0, errors


@pytest.mark.parametrize("name", CHECKS)
def test_the_promise_does_not_hold_without_the_setting(request, tmp_path, name):
    code, errors = run(request, tmp_path, name, CHECKS[name][0])
    assert code == 1 and "AssertionError" in errors and f"in {CHECKS[name][1].__name__}" in errors, errors


def test_every_setting_has_a_check():
    assert set(CHECKS) == {*settings.PRAGMAS, "journal_mode"}
