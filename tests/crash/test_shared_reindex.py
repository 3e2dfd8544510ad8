"""A re-index on PostgreSQL that several processes work on, some of which are killed."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

from support import WordEncoder, python

from agent_memory import InvalidInputError, JobState, Memory, NotFoundError
from agent_memory.upkeep import builder, sharing

TEXTS = [f"note {number} about topic {number % 7}" for number in range(160)]

WORKER = """
import sys, time
from support import WordEncoder
from agent_memory import Memory, NotFoundError
from agent_memory.upkeep import sharing

options = {"join": True} if sys.argv[2] == "help" else {"batch_size": 8}
fail = sharing.failpoint
def act(name):
    if name == "reindex-claimed":
        print("claimed")
        time.sleep(float(sys.argv[3]))
        fail(name)
sharing.failpoint = act
with Memory(sys.argv[1], encoder=WordEncoder(), session_encoder=None) as memory:
    print("ready")
    while True:
        try:
            print(memory.reindex(encoder=WordEncoder(128), **options).encoded)
            break
        except NotFoundError:
            time.sleep(0.02)
"""


@pytest.fixture
def filled(url):
    with Memory(url, encoder=WordEncoder(), session_encoder=None) as memory:
        memory.add_many({"text": text, "key": f"k{number}"} for number, text in enumerate(TEXTS))
        yield memory


def start(url, kind="help", *, slow=0.05, killed_at=None):
    """Start a process that helps, or that begins, and is killed when it has claimed so many ranges."""
    env = {} if killed_at is None else {"AGENT_MEMORY_FAILPOINT": f"reindex-claimed:{killed_at}"}
    child = python(WORKER, url, kind, slow, env=env)
    assert child.stdout.readline() == "ready\n", child.stderr.read()
    return child


def end(child):
    said = child.stdout.read().split()
    child.wait()
    child.stdout.close()
    child.stderr.close()
    return said


def wait_for_claim(monkeypatch, child):
    """Let the one that re-indexes begin with its own ranges only when a helper has claimed one."""
    heard = []

    def wait(*given):
        if not heard:
            heard.append(child.stdout.readline())
        return work(*given)

    work = sharing.work_on_ranges
    monkeypatch.setattr(builder, "work_on_ranges", wait)


def assert_whole(memory):
    with memory._store.read() as tx:
        live = tx.generations.live()
        assert live.dimension == 128
        assert tx.vectors.select_missing(live.id, after=0, limit=None) == []
    assert memory.check().problems == ()
    assert memory.recall("note 7 about topic 0", mode="dense")[0].entry.key == "k7"


def test_helpers_encode_what_nobody_has_claimed_and_nothing_twice(url, filled, monkeypatch):
    child = start(url)
    wait_for_claim(monkeypatch, child)
    encoder = WordEncoder(128)
    report = filled.reindex(encoder=encoder, batch_size=8)
    theirs = int(end(child)[-1])
    mine = len([text for text in encoder.encoded if text in TEXTS])
    assert report.state == JobState.DONE
    assert theirs >= 8
    assert report.encoded == len(TEXTS)
    assert len(TEXTS) <= mine + theirs <= len(TEXTS) + 8  # a few are encoded once more, to verify them
    assert_whole(filled)


def test_the_ranges_of_a_killed_helper_are_taken_over(url, filled, monkeypatch):
    child = start(url, killed_at=1)
    wait_for_claim(monkeypatch, child)
    assert filled.reindex(encoder=WordEncoder(128), batch_size=8).state == JobState.DONE
    end(child)
    assert child.returncode == -9
    assert_whole(filled)


def test_helpers_go_on_when_the_one_that_began_is_killed_and_the_next_ends_it(url, filled):
    first = start(url, "begin", slow=0, killed_at=3)
    end(first)
    assert first.returncode == -9
    helper = start(url, slow=0)
    assert int(end(helper)[-1]) == len(TEXTS) - 16
    encoder = WordEncoder(128)
    assert filled.reindex(encoder=encoder, batch_size=8).state == JobState.DONE
    assert len([text for text in encoder.encoded if text in TEXTS]) <= 8
    assert_whole(filled)


def test_a_helper_that_hangs_is_not_waited_for_for_ever(url, filled, monkeypatch):
    monkeypatch.setattr(builder, "_PATIENCE_S", 0.2)
    monkeypatch.setattr(builder, "_LOOK_S", 0.05)
    child = start(url, slow=60)
    try:
        wait_for_claim(monkeypatch, child)
        assert filled.reindex(encoder=WordEncoder(128), batch_size=8).state == JobState.DONE
        assert_whole(filled)
    finally:
        child.kill()
        end(child)


def test_a_helper_ends_when_the_job_is_cancelled(url, filled):
    child = start(url, slow=0.5)
    done = []
    thread = threading.Thread(
        target=lambda: done.append(filled.reindex(encoder=WordEncoder(128), batch_size=2, max_cpu=0.02))
    )
    thread.start()
    assert child.stdout.readline() == "claimed\n"
    filled.cancel_job(filled.jobs()[0].id)
    thread.join(60)
    assert done[0].state == JobState.CANCELLED
    end(child)
    assert child.returncode == 0
    assert len(filled.generations()) == 1


def test_a_claim_stops_neither_who_deletes_the_generation_nor_who_forgets(url, filled):
    child = start(url, slow=60)
    thread = threading.Thread(target=lambda: filled.reindex(encoder=WordEncoder(128), batch_size=2, max_cpu=0.02))
    thread.start()
    try:
        assert child.stdout.readline() == "claimed\n"
        assert filled.forget("k159").pending == ()
        filled.cancel_job(filled.jobs()[0].id)
        thread.join(60)
        assert len(filled.generations()) == 1
    finally:
        child.kill()
        end(child)


def test_several_workers_need_a_server_an_encoder_that_has_a_name_and_a_job(filled, folder):
    with Memory(folder, encoder=WordEncoder(), session_encoder=None) as memory:
        memory.add("one")
        with pytest.raises(InvalidInputError, match="folder, got 2"):
            memory.reindex(encoder=WordEncoder(128), workers=2)
        with pytest.raises(NotFoundError, match="joined"):
            memory.reindex(join=True)
    with pytest.raises(InvalidInputError, match="object, got 2"):
        filled.reindex(encoder=WordEncoder(128), workers=2)
    for workers in (0, "two", 1_000):
        with pytest.raises(InvalidInputError, match="workers"):
            filled.reindex(encoder=WordEncoder(128), workers=workers)
    assert len(filled.generations()) == 1


def test_the_command_starts_the_processes_that_help(url, caplog, monkeypatch):
    def wait(store, generation, write):
        while True:
            with store.read() as tx:
                if tx.ranges.count(generation.id).entries:
                    return work(store, generation, write)
            time.sleep(0.05)

    work = sharing.work_on_ranges
    monkeypatch.setattr(builder, "work_on_ranges", wait)
    with Memory(url, encoder="minilm") as memory:
        memory.add_many(TEXTS[:40])
        report = memory.reindex(encoder="default", workers=2, batch_size=4)
        assert (report.state, report.encoded) == (JobState.DONE, 40)
        assert memory.check().problems == ()
    assert "helper" not in caplog.text
