"""A memory on PostgreSQL that reads from a standby: its own writes at once, and no former state."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

import psycopg
from support import WordEncoder
from support_postgres import Server

from agent_memory import Config, InvalidInputError, Memory
from agent_memory.storage.postgres import replica


@pytest.fixture(scope="module")
def standby(postgres):
    server = Server(postgres)
    yield server
    server.stop()


@pytest.fixture
def opened(url, standby, monkeypatch):
    monkeypatch.setattr(replica, "RETRY_S", 0.05)
    with open_store(url, standby) as memory:
        yield memory


def open_store(url, server, **options):
    return Memory(f"{url}&read_from={server.folder}", encoder=WordEncoder(), session_encoder=None, **options)


def reads_from_standby(memory):
    with memory._store.read() as tx:
        return tx.connection.raw.raw.execute("SELECT pg_is_in_recovery()").fetchone()[0]


def wait_for_standby(memory):
    deadline = time.monotonic() + 30
    while not reads_from_standby(memory):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def run(server, statement):
    with psycopg.connect(server.url(), autocommit=True) as connection:
        done = connection.execute(statement)
        return done.fetchone() if done.description else None


def test_recalls_go_to_the_standby_and_hold_what_was_written_just_before(opened):
    for number in range(25):
        opened.add(f"word{number} was said", key=f"k{number}", metadata={"n": number})
        assert opened.recall(f"word{number}")[0].entry.key == f"k{number}"
        if number % 5 == 0:
            opened.update(f"k{number}", text=f"word{number} was said again")
            assert opened.get(f"k{number}").text.endswith("again")
            opened.forget(f"k{number}")
            assert opened.get_many([f"k{number}"]) == {}
    wait_for_standby(opened)
    assert len(opened.recall("said", k=50)) == 20
    assert opened.check().problems == ()


def test_while_the_standby_is_behind_the_primary_is_read_and_nothing_goes_backwards(opened, standby):
    opened.add("the first thing", key="a")
    wait_for_standby(opened)
    assert len(opened.recall("thing")) == 1
    run(standby, "SELECT pg_wal_replay_pause()")
    try:
        opened.add("the second thing", key="b")
        for _ in range(5):
            assert {hit.entry.key for hit in opened.recall("thing")} == {"a", "b"}
            assert not reads_from_standby(opened)
    finally:
        run(standby, "SELECT pg_wal_replay_resume()")
    wait_for_standby(opened)
    assert {hit.entry.key for hit in opened.recall("thing")} == {"a", "b"}


def test_what_others_have_seen_does_not_matter_but_what_they_wrote_comes(opened, url):
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as other:
        other.add("said elsewhere", key="a")
        deadline = time.monotonic() + 30
        while not opened.recall("elsewhere"):
            assert time.monotonic() < deadline
        other.reindex(encoder=WordEncoder(128))
    opened.reindex(encoder=WordEncoder())
    assert opened.recall("elsewhere")[0].entry.key == "a"


@pytest.fixture
def apart(postgres, url, monkeypatch):
    """A standby of the test's own, and a memory that reads from it and has seen its first entry there."""
    monkeypatch.setattr(replica, "RETRY_S", 0.05)
    server = Server(postgres)
    try:
        with open_store(url, server) as memory:
            memory.add("the boats lay still", key="a")
            wait_for_standby(memory)
            yield server, memory
    finally:
        server.stop()


def test_a_standby_that_fails_is_left_alone_until_it_is_back(apart, caplog):
    server, memory = apart
    server.kill()
    for number in range(5):
        assert len(memory.recall("boats", k=9)) == number + 1
        memory.add("more boats", key=f"b{number}")
    assert any("reading from the primary" in record.getMessage() for record in caplog.records)
    server.start()
    wait_for_standby(memory)
    assert len(memory.recall("boats", k=9)) == 6


@pytest.mark.parametrize("other", ["primary", "stranger"])
def test_what_is_no_standby_of_this_server_is_not_read(postgres, url, caplog, other):
    stranger = None if other == "primary" else Server(fsync="off")
    try:
        with open_store(url, postgres if stranger is None else stranger) as memory:
            memory.add("the boats lay still", key="a")
            assert memory.recall("boats")[0].entry.key == "a"
        assert any("reading from the primary" in record.getMessage() for record in caplog.records)
    finally:
        if stranger is not None:
            stranger.stop()


def test_the_index_on_the_server_is_read_from_the_standby_too(opened, postgres, url, standby):
    run(postgres, "CREATE EXTENSION IF NOT EXISTS vector")
    with open_store(url, standby, config=Config(index="server")) as memory:
        for number in range(10):
            memory.add(f"word{number} was said", key=f"k{number}")
        wait_for_standby(memory)
        assert memory.recall("word3", mode="dense")[0].entry.key == "k3"
        memory.reindex(encoder=WordEncoder(128))
        assert memory.recall("word3", mode="dense")[0].entry.key == "k3"
        wait_for_standby(memory)
        assert memory.recall("word4", mode="dense")[0].entry.key == "k4"


def test_it_is_said_at_open_whether_a_commit_waits_for_standbys(postgres, url, standby, caplog):
    with open_store(url, standby):
        assert any("synchronous_standby_names is empty" in record.getMessage() for record in caplog.records)
    run(postgres, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (walreceiver)'")
    run(postgres, "SELECT pg_reload_conf()")
    try:
        caplog.clear()
        caplog.set_level(logging.WARNING)
        time.sleep(0.2)
        with open_store(url, standby) as memory:
            memory.add("the boats lay still")
            assert memory.stats().database.endswith("commits wait for ANY 1 (walreceiver)")
        assert not any("synchronous_standby_names" in record.getMessage() for record in caplog.records)
    finally:
        run(postgres, "ALTER SYSTEM RESET synchronous_standby_names")
        run(postgres, "SELECT pg_reload_conf()")


@pytest.mark.parametrize("place", ["", "db 2", "db2:port", "db2,db3", "user@db2", "db2:5432&read_from=db3", "db2/x"])
def test_addresses_of_standbys_that_cannot_be_used_are_refused(url, place):
    with pytest.raises(InvalidInputError, match="read_from"):
        Memory(f"{url}&read_from={place}", encoder=WordEncoder())


@pytest.mark.parametrize(
    "place", ["db2.example", "db2.example:5433", "[2001:db8::1]:5433", "10.0.0.2", "/run/postgresql", "/run/pg:5433"]
)
def test_a_standby_is_reached_as_the_primary_is(place):
    from agent_memory.storage.postgres.address import parse_address

    address = parse_address(f"postgresql://me@127.0.0.1:7000/agents?schema=a&read_from={place}")
    assert "sslmode" not in address.options
    standby = address.standby
    assert (standby.options["user"], standby.options["dbname"], standby.schema) == ("me", "agents", "a")
    assert standby.options["port"] == ("5433" if place.endswith("5433") else "5432")
    assert standby.options.get("sslmode") == (None if place.startswith("/") else "require")


def test_a_standby_that_stops_answering_holds_up_nobody_for_long(apart):
    server, memory = apart
    memory.get("a")
    server.freeze()
    try:
        for call in (lambda: memory.get("a"), lambda: memory.add("more boats"), lambda: memory.recall("boats")):
            with ThreadPoolExecutor(1) as pool:
                assert pool.submit(call).result(60)
    finally:
        server.freeze(frozen=False)
    wait_for_standby(memory)


def test_a_standby_that_begins_again_from_an_earlier_place_is_not_read_from(apart, url):
    server, memory = apart
    run(server, "CHECKPOINT")
    memory.add("the harbour was quiet", key="b")
    wait_for_standby(memory)
    assert memory.get("b").key == "b"
    server.kill()
    server.settings["recovery_min_apply_delay"] = "1h"
    server.start()
    assert run(server, f"SELECT count(*) FROM {url.rpartition('=')[2]}.entries WHERE key = 'b'")[0] == 0
    for _ in range(5):
        assert memory.get("b").key == "b"
        assert {hit.entry.key for hit in memory.recall("harbour boats")} == {"a", "b"}
