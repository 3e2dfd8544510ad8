"""The primary is killed while many write, and a standby takes its place: nothing that was acknowledged is lost."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

import psycopg
from support import WordEncoder
from support_postgres import USER, Server

from agent_memory import AgentMemoryError, Config, Memory
from agent_memory.errors import StorageError
from agent_memory.live import columns, words

ROUNDS = int(os.environ.get("FAILOVERS", "1"))
WRITERS = 6


class Writer(threading.Thread):
    """Adds entries, each with a key of its own; what raises may be there or not."""

    def __init__(self, place, number, over):
        super().__init__()
        self.place, self.number, self.over = place, number, over
        self.acknowledged, self.open_, self.unexpected = [], [], []

    def run(self):
        config = Config(lock_timeout_s=5)
        with Memory(self.place, encoder=WordEncoder(), session_encoder=None, config=config) as memory:
            count = 0
            while not self.over.is_set():
                key, count = f"w{self.number}-{count}", count + 1
                try:
                    memory.add(f"{key} was said", key=key, session=f"s{self.number % 2}")
                    self.acknowledged.append(key)
                except AgentMemoryError:
                    self.open_.append(key)
                    time.sleep(0.02)
                except BaseException as error:
                    self.unexpected.append(error)
                    raise


class Follower(threading.Thread):
    """Follows the log of changes, as the caches of a process do; what it reads has happened, each change once."""

    def __init__(self, place, over):
        super().__init__()
        self.place, self.over, self.seen = place, over, []

    def run(self):
        with Memory(self.place, encoder=WordEncoder(), session_encoder=None) as memory:
            while not self.over.is_set():
                self.follow(memory)
                time.sleep(0.005)
            self.follow(memory)

    def follow(self, memory):
        last = self.seen[-1][0] if self.seen else 0
        try:
            with memory._store.read() as tx:
                self.seen += tx.changes.list_since(last, 100_000)
        except AgentMemoryError:
            time.sleep(0.02)


def find_farthest(standbys):
    """Return the standby that has received most: what any one of them has acknowledged, it has."""
    return max(standbys, key=lambda one: run(one, "SELECT pg_last_wal_receive_lsn() - '0/0'::pg_lsn")[0])


def run(server, statement):
    with psycopg.connect(server.url(), autocommit=True) as connection:
        return connection.execute(statement).fetchone()


@pytest.mark.parametrize("number", range(ROUNDS))
def test_what_was_acknowledged_outlives_the_primary_and_is_there_once(number):
    generator = random.Random(number)
    primary = Server()
    standbys = []
    try:
        standbys += [Server(primary), Server(primary)]
        with psycopg.connect(primary.url(), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (walreceiver)'")
            connection.execute("SELECT pg_reload_conf()")
        hosts = ",".join(str(server.folder) for server in (primary, *standbys))
        place = f"postgresql://{USER}@/postgres?host={hosts}&target_session_attrs=read-write"
        with Memory(place, encoder=WordEncoder(), session_encoder=None) as memory:
            memory.add("the first", key="first")
        over, quiet = threading.Event(), threading.Event()
        writers = [Writer(place, number, over) for number in range(WRITERS)]
        follower = Follower(place, quiet)
        for thread in (*writers, follower):
            thread.start()
        while sum(len(writer.acknowledged) for writer in writers) < 12:
            time.sleep(0.01)
        time.sleep(generator.uniform(0.1, 1.5))
        primary.kill()
        killed_at = [len(writer.acknowledged) for writer in writers]
        run(find_farthest(standbys), "SELECT pg_promote()")
        deadline = time.monotonic() + 60
        while any(len(writer.acknowledged) < count + 3 for writer, count in zip(writers, killed_at, strict=True)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        over.set()
        for writer in writers:
            writer.join(60)
        quiet.set()
        follower.join(60)
        assert [error for writer in writers for error in writer.unexpected] == []
        with Memory(place, encoder=WordEncoder(), session_encoder=None) as memory:
            held = [entry.key for entry in memory.entries()]
            assert len(held) == len(set(held))
            acknowledged = {key for writer in writers for key in writer.acknowledged}
            assert acknowledged - set(held) == set()
            assert set(held) - acknowledged <= {"first"} | {key for writer in writers for key in writer.open_}
            with memory._store.read() as tx:
                changes = tx.changes.list_since(0, 100_000)
            numbers = [change[0] for change in changes]
            assert len(numbers) == len(set(numbers)) >= len(held)
            assert follower.seen == changes
            assert memory.check().problems == ()
    finally:
        for server in (primary, *standbys):
            server.stop()


@pytest.mark.parametrize("index", ["local", "server"])
def test_a_process_that_has_seen_what_a_failover_lost_answers_as_a_new_one(index, monkeypatch):
    for module in (columns, words):
        monkeypatch.setattr(module, "SMALLEST", 1)
    monkeypatch.setattr(columns, "PATIENCE", 0)
    primary = Server(fsync="off")
    standby = None
    try:
        with psycopg.connect(primary.url(), autocommit=True) as connection:
            connection.execute("CREATE EXTENSION vector")
        standby = Server(primary, fsync="off")
        hosts = f"{primary.folder},{standby.folder}"
        place = f"postgresql://{USER}@/postgres?host={hosts}&target_session_attrs=read-write"
        config = Config(index=index)

        def ask(memory):
            found = [memory.recall(f"old{n} new{n}", k=3, mode=mode) for n in range(9) for mode in ("dense", "lexical")]
            found += [memory.recall("said", where={"n": n}) for n in range(9)]
            return [[(hit.entry.key, round(hit.score, 4)) for hit in hits] for hits in found]

        with Memory(place, encoder=WordEncoder(), session_encoder=None, config=config) as memory:
            memory.add("the first was said", key="first", metadata={"n": -1})
            sent = run(primary, "SELECT pg_current_wal_lsn()::text")[0]
            while not run(standby, f"SELECT pg_last_wal_replay_lsn() >= '{sent}'::pg_lsn")[0]:
                time.sleep(0.01)
            standby.kill()
            for number in range(9):
                memory.add(f"old{number} was said", key=f"old{number}", metadata={"n": number})
            ask(memory)
            ask(memory)
            primary.kill()
            standby.start()
            run(standby, "SELECT pg_promote()")
            with Memory(place, encoder=WordEncoder(), session_encoder=None, config=config) as fresh:
                for number in range(9):
                    fresh.add(f"new{number} was said", key=f"new{number}", metadata={"n": number})
                expected = ask(fresh)
            with contextlib.suppress(StorageError):  # of the connections that it had
                memory.get("first")
            assert ask(memory) == expected
            assert memory.check().problems == ()
    finally:
        for server in (primary, standby):
            if server is not None:
                server.stop()
