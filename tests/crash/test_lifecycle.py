"""What is acknowledged is kept, and no other entry is returned for it: while a memory is closed, forked, moved."""

from __future__ import annotations

import asyncio
import gc
import json
import multiprocessing
import os
import shutil
import subprocess
import textwrap
import threading
import time
import weakref

import pytest
from support import WordEncoder, python

from agent_memory import AsyncMemory, ClosedError, Config, Memory, StorageError
from agent_memory.storage.sqlite.driver import sqlite3

QUICK = Config(lock_timeout_s=5)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


def opened(folder, **options):
    return Memory(folder, encoder=WordEncoder(), **{"config": QUICK} | options)


def run(code, *arguments):
    """Run a program in a process of its own; it must end well and soon."""
    child = python(textwrap.dedent(code), *arguments)
    output, errors = child.communicate(timeout=150)
    assert child.returncode == 0, errors[-3000:]
    return output


# --- closing during use ----------------------------------------------------------------------------------


CLOSE = """
    import random, sys, threading, time
    from support import WordEncoder, python
    from agent_memory import ClosedError, Memory

    what, folder = sys.argv[1:]
    for round in range(6):
        memory = Memory(f"{folder}-{round}", encoder=WordEncoder())
        memory.add("red apple", key="apple", session="s")
        kept, wrong = ["apple"], []

        def loop(name):
            for number in range(100_000):
                key = f"{name}-{number}"
                try:
                    if what == "add":
                        memory.add("green pear", key=key, session="s")
                        kept.append(key)
                    elif what == "add_many":
                        memory.add_many([{"text": "a", "key": f"{key}-{i}"} for i in range(3)])
                        kept.extend(f"{key}-{i}" for i in range(3))
                    elif what == "recall":
                        assert memory.recall("apple")[0].entry.key == "apple"
                    elif what == "export":
                        memory.export(f"{folder}-{round}.jsonl")
                    elif what == "backup":
                        memory.backup(f"{folder}-{round}.db")
                    else:
                        memory.entries(), memory.check(), memory.stats()
                except ClosedError:
                    return
                except BaseException as error:
                    wrong.append(repr(error))
                    return

        threads = [threading.Thread(target=loop, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(random.Random(round).uniform(0.005, 0.06))
        closers = [threading.Thread(target=memory.close) for _ in range(2)]
        for thread in closers:
            thread.start()
        memory.close()
        for thread in threads + closers:
            thread.join(60)
        assert not wrong, wrong
        with Memory(f"{folder}-{round}", encoder=WordEncoder()) as again:
            assert set(kept) <= {entry.key for entry in again.entries()}
            assert again.check().ok
    print("survived")
"""


@pytest.mark.parametrize("what", ["add", "add_many", "recall", "export", "backup", "look"])
def test_a_memory_that_is_closed_while_threads_use_it_keeps_what_it_acknowledged(tmp_path, what):
    assert run(CLOSE, what, tmp_path / "store") == "survived\n"


def test_closing_waits_for_a_call_under_way_and_refuses_new_ones(folder):
    began, may_end, found = threading.Event(), threading.Event(), []

    class Slow(WordEncoder):
        def encode_documents(self, texts):
            began.set()
            may_end.wait(20)
            return super().encode_documents(texts)

    memory = Memory(folder, encoder=Slow(), config=QUICK)
    adding = threading.Thread(target=lambda: found.append(memory.add("slow", key="k").key))
    adding.start()
    began.wait(20)
    closing = threading.Thread(target=memory.close)
    closing.start()
    time.sleep(0.1)
    with pytest.raises(ClosedError):
        memory.recall("x")
    assert closing.is_alive() and not found
    may_end.set()
    adding.join(20)
    closing.join(20)
    assert found == ["k"]
    with opened(folder) as again:
        assert again.get("k").text == "slow"


def test_closing_does_not_wait_for_ever_and_says_what_is_still_running(folder):
    began, may_end = threading.Event(), threading.Event()

    class Stuck(WordEncoder):
        def encode_queries(self, texts):
            began.set()
            may_end.wait(30)
            return super().encode_queries(texts)

    memory = Memory(folder, encoder=Stuck(), config=Config(lock_timeout_s=0.3))
    memory.add("x")
    wrong = []

    def ask():
        try:
            memory.recall("x")
        except ClosedError as error:
            wrong.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    began.wait(20)
    with pytest.raises(StorageError, match=r"1 calls were still running after 0.3 s"):
        memory.close()
    memory.close()
    may_end.set()
    asking.join(20)
    assert wrong


def test_a_call_may_close_its_own_memory(folder):
    memory = opened(folder, config=Config(lock_timeout_s=5, batch_size=1))
    with pytest.raises(ClosedError):
        memory.add_many(["one", "two", "three"], progress=lambda done, total: memory.close())
    with opened(folder) as again:
        assert [entry.text for entry in again.entries()] == ["one"]


def test_closing_twice_does_nothing(folder):
    memory = opened(folder)
    memory.add("x")
    memory.close()
    memory.close()
    with pytest.raises(ClosedError):
        memory.add("y")

    async def use():
        memory = await AsyncMemory.open(folder, encoder=WordEncoder())
        await memory.close()
        await memory.close()
        async with AsyncMemory(folder, encoder=WordEncoder()) as memory:
            assert len(await memory.entries()) == 1
        await memory.close()
        with pytest.raises(ClosedError):
            await memory.entries()

    asyncio.run(use())


def test_leaving_an_async_memory_after_a_cancelled_call_is_orderly(tmp_path):
    async def use(folder):
        async with AsyncMemory(folder, encoder=WordEncoder()) as memory:
            await memory.add_many([f"text {number}" for number in range(300)])
            for _ in range(5):
                calls = [memory.recall("text 1"), memory.add("more"), memory.check(), memory.export(folder / "x.jsonl")]
                waiting = (asyncio.wait_for(call, 0.002) for call in calls)
                await asyncio.gather(*waiting, return_exceptions=True)
        with Memory(folder, encoder=WordEncoder()) as memory:
            assert memory.check().ok

    for number in range(4):
        asyncio.run(use(tmp_path / str(number)))


def test_a_memory_that_is_dropped_leaves_no_handle_open(tmp_path):
    def handles():
        return {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _exists(fd)}

    def _exists(fd):
        return os.path.lexists(f"/proc/self/fd/{fd}")

    def use(folder):
        memory = opened(folder)
        memory.add("x", session="s")
        memory.recall("x")
        thread = threading.Thread(target=memory.recall, args=("x",))
        thread.start()
        thread.join()
        return weakref.ref(memory)

    left = [use(tmp_path / str(number)) for number in range(3)]
    gc.collect()
    assert [ref() for ref in left] == [None] * 3
    assert not [name for name in handles() if str(tmp_path) in name]


# --- fork ------------------------------------------------------------------------------------------------


FORKS = """
    import multiprocessing, os, sys, threading
    from support import WordEncoder, python
    from agent_memory import Config, Memory

    memory = Memory(sys.argv[1], encoder=WordEncoder(), config=Config(lock_timeout_s=20))
    memory.add("from the parent", key="parent", session="s")
    memory.recall("parent")
    context = multiprocessing.get_context("fork")
    kept = ["parent"]

    def work(number, pipe):
        keys = []
        for i in range(5):
            keys.append(memory.add(f"child {number} {i}", key=f"{number}-{i}", session="s").key)
            assert memory.recall(f"child {number} {i}", k=1)[0].entry.key
        memory.close()
        pipe.send(keys)

    def busy():
        number = 0
        while not stop.is_set():
            kept.append(memory.add("busy parent", key=f"busy-{threading.get_ident()}-{number}", session="s").key)
            memory.recall("busy")
            number += 1

    for threads in (0, 2):
        stop = threading.Event()
        running = [threading.Thread(target=busy) for _ in range(threads)]
        for thread in running:
            thread.start()
        children = []
        for number in range(6):
            mine, theirs = context.Pipe()
            child = context.Process(target=work, args=(f"{threads}{number}", theirs))
            child.start()
            children.append((child, mine))
        for child, mine in children:
            assert mine.poll(60), "a child hangs"
            kept += mine.recv()
            child.join(30)
            assert child.exitcode == 0
        stop.set()
        for thread in running:
            thread.join(30)
    memory.add("after", key="after")
    memory.close()
    again = Memory(sys.argv[1], encoder=WordEncoder())
    have = {entry.key for entry in again.entries()}
    assert {*kept, "after"} <= have, {*kept} - have
    assert again.check().ok
    print(len(kept))
"""


def test_forked_workers_and_their_parent_lose_nothing(folder):
    assert int(run(FORKS, folder)) >= 61


def test_a_child_that_was_forked_from_within_a_call_gets_a_clear_error(folder):
    memory = opened(folder, config=Config(lock_timeout_s=5, batch_size=1))
    memory.add_many([f"text {number}" for number in range(3)])
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe()

    def look(pipe):
        for use in (lambda: memory.entries(), lambda: opened(folder).entries()):
            try:
                use()
                pipe.send("no error")
            except StorageError as error:
                pipe.send(str(error))

    def fork(*_):
        child = context.Process(target=look, args=(theirs,))
        child.start()
        child.join(30)

    memory.export(folder.parent / "x.jsonl", progress=fork)  # calls it inside of a read transaction
    assert [("forked" in mine.recv(), mine.poll(0)) for _ in range(2)] == [(True, True), (True, False)]
    memory.add("the parent goes on")
    assert memory.check().ok
    memory.close()


ENCODE = """
    import os, signal, sys
    from agent_memory import Memory

    memory = Memory(sys.argv[1])
    memory.add_many([f"Alice moved to Berlin, note {number}. " * 20 for number in range(24)])
    memory.recall("Where does Alice live?")
    for use in (
        lambda: memory.recall("Where does Alice live?"),
        lambda: memory.add("Bob stayed."),
        lambda: Memory(sys.argv[1] + "-own").add("A memory of the child's own."),
    ):
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            use()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0, "a child hangs or failed"
    print(len(memory.entries()))
"""


def test_a_forked_child_can_encode_after_its_parent_has(folder):
    assert run(ENCODE, folder) == "25\n"


# --- moved ground ----------------------------------------------------------------------------------------


def test_a_relative_path_is_the_same_store_after_a_change_of_folder(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    memory = opened("store")
    memory.add("first", key="first")
    monkeypatch.chdir(tmp_path / "b")
    thread = threading.Thread(target=lambda: memory.add("second", key="second"))
    thread.start()
    thread.join()
    memory.backup("copy.db")  # a path of the caller's: of today's folder
    memory.close()
    assert sorted(os.listdir(tmp_path / "b")) == ["copy.db"]
    with opened(tmp_path / "a" / "store") as again:
        assert {entry.key for entry in again.entries()} == {"first", "second"}


def _delete(folder):
    shutil.rmtree(folder)


def _rename(folder):
    folder.rename(folder.with_name("elsewhere"))


def _replace(folder):
    shutil.copytree(folder, folder.with_name("copy"))
    folder.rename(folder.with_name("elsewhere"))
    folder.with_name("copy").rename(folder)


def _replace_file(folder):
    shutil.copy(folder / "memory.db", folder / "copy.db")
    os.replace(folder / "copy.db", folder / "memory.db")


def _delete_file(folder):
    (folder / "memory.db").unlink()


def _delete_log(folder):
    (folder / "memory.db-wal").unlink()


def _delete_shared_memory(folder):
    (folder / "memory.db-shm").unlink()


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize(
    "move", [_delete, _rename, _replace, _replace_file, _delete_file, _delete_log, _delete_shared_memory]
)
def test_nothing_is_acknowledged_into_a_store_that_was_moved_away(folder, move, in_thread):
    memory = opened(folder)
    memory.add("before", key="before")
    memory.recall("before")
    move(folder)
    outcome = []

    def write():
        for call in (lambda: memory.add("after"), lambda: memory.forget("before"), lambda: memory.recall("before")):
            try:
                call()
                outcome.append("acknowledged")
            except StorageError as error:
                outcome.append(type(error).__name__)

    if in_thread:
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    else:
        write()
    assert outcome == ["StorageError"] * 3
    memory.close()


# --- restore ---------------------------------------------------------------------------------------------


OPENER = """
    import sys
    from support import WordEncoder, python
    from agent_memory import Config, Memory

    print("ready", flush=True)
    memory = Memory(sys.argv[1], encoder=WordEncoder(), config=Config(lock_timeout_s=30))
    print(memory.add("precious", key="precious").key, flush=True)
    memory.close()
"""


def test_a_process_that_opens_the_store_during_a_restore_waits_and_loses_nothing(folder, tmp_path, monkeypatch):
    with opened(folder) as memory:
        memory.add_many([{"text": f"old {number}", "key": f"old-{number}"} for number in range(300)])
        memory.backup(tmp_path / "copy.db")
        memory.add_many([{"text": f"new {number}", "key": f"new-{number}"} for number in range(900)])
    from agent_memory.storage.sqlite import copying

    child = None

    def open_meanwhile(name):
        nonlocal child
        if name == "restore-before-rename":
            child = python(textwrap.dedent(OPENER), folder)
            assert child.stdout.readline() == "ready\n"
            time.sleep(1.0)

    monkeypatch.setattr(copying, "failpoint", open_meanwhile)
    Memory.restore(tmp_path / "copy.db", folder, replace=True)
    assert child.communicate(timeout=60)[0] == "precious\n"
    with opened(folder) as memory:
        keys = {entry.key for entry in memory.entries()}
        assert keys == {*(f"old-{number}" for number in range(300)), "precious"}
        assert memory.check().ok


def test_a_store_that_somebody_has_open_is_not_replaced(folder, tmp_path):
    with opened(folder) as memory:
        memory.add("x", key="x")
        memory.backup(tmp_path / "copy.db")
        with pytest.raises(StorageError, match="in use"):
            Memory.restore(tmp_path / "copy.db", folder, replace=True)
        memory.add("y", key="y")
    Memory.restore(tmp_path / "copy.db", folder, replace=True)
    with opened(folder) as memory:
        assert [entry.key for entry in memory.entries()] == ["x"]


# --- a reader that may not write -------------------------------------------------------------------------


READER = """
    import json, os, sys
    from support import WordEncoder, python
    from agent_memory import Memory

    warm = Memory(sys.argv[2], encoder=WordEncoder())
    warm.add("warm")
    warm.recall("warm"), warm.check()
    os.setgid(65534), os.setuid(65534)
    memory = Memory(sys.argv[1], encoder=WordEncoder())
    for line in sys.stdin:
        keys = sorted(entry.key for entry in memory.entries())
        found = [hit.entry.key for hit in memory.recall("secret of alice", k=1)]
        print(json.dumps([keys, found]), flush=True)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody who may read and not write")
def test_a_reader_without_the_right_to_write_sees_what_is_added_and_forgotten(tmp_path):
    folder = tmp_path / "store"
    for parent in (*tmp_path.parents, tmp_path):
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    (tmp_path / "warm").mkdir()
    with opened(folder) as memory:
        memory.add("secret of alice", key="secret")
        memory.recall("x")
    for path in (folder, *folder.rglob("*")):  # as an owner may who shares a store
        path.chmod(0o755 if path.is_dir() else 0o644)
    reader = python(textwrap.dedent(READER), folder, tmp_path / "warm", stdin=subprocess.PIPE)

    def ask():
        reader.stdin.write("\n")
        reader.stdin.flush()
        return json.loads(reader.stdout.readline())

    assert ask() == [["secret"], ["secret"]]
    with opened(folder) as memory:
        memory.forget("secret")
        memory.add("news of bob", key="news")
        assert ask() == [["news"], ["news"]]  # while the writer has it open
    assert ask() == [["news"], ["news"]]
    with opened(folder) as memory:
        memory.add("more of bob", key="more")
    assert ask()[0] == ["more", "news"]
    with reader:  # closes its pipes
        reader.stdin.close()
        assert reader.wait(30) == 0


# --- SQLite ----------------------------------------------------------------------------------------------


def test_the_sqlite_in_use_has_no_wal_reset_bug_and_is_named(folder):
    assert sqlite3.sqlite_version_info >= (3, 51, 3)
    with opened(folder) as memory:
        assert memory.stats().database.startswith(f"SQLite {sqlite3.sqlite_version}")


OLD = """
    import logging, sqlite3 as stock, sys
    sys.modules["pysqlite3"] = sys.modules["pysqlite3.dbapi2"] = None
    logging.basicConfig(format="%(message)s")
    if stock.sqlite_version_info >= (3, 51, 3):
        print("new enough")
        raise SystemExit
    import numpy as np
    from support import WordEncoder, python
    from agent_memory import Memory
    from agent_memory.storage.sqlite import connections, driver

    assert driver.SERIALISE and driver.sqlite3 is stock
    connections.LOG_BYTES = 1 << 20
    memory = Memory(sys.argv[1], encoder=WordEncoder())
    for number in range(40):
        memory.add("x" * 100_000, key=str(number), vector=np.ones(96, np.float32))
    assert memory._store.database.connections.log_bytes() < 3 << 20, "the log was never moved into the database"
    memory.close()
    again = Memory(sys.argv[1], encoder=WordEncoder())
    assert len(again.entries()) == 40 and again.check().ok
    print("served")
"""


def test_an_older_sqlite_is_used_with_a_warning_and_serialised_checkpoints(folder):
    child = python(textwrap.dedent(OLD), folder)
    output, errors = child.communicate(timeout=120)
    assert child.returncode == 0, errors
    if output == "served\n":
        assert "WAL-reset bug" in errors and "pip install pysqlite3" in errors
    else:
        assert output == "new enough\n"
