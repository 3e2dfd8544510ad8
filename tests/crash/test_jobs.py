"""Periodic jobs: one worker per store, another takes over if it is killed, and schedules set the times."""

from __future__ import annotations

import signal
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest
from support import WordEncoder, add_expired, python

from agent_memory import InvalidInputError, JobState, Memory, NotFoundError
from agent_memory.reports import Schedule
from agent_memory.upkeep.schedules import find_due_time

NOW = datetime(2026, 3, 4, 12, 0, tzinfo=UTC)

WORKER = """
import signal, sys, threading
from support import WordEncoder
from agent_memory import Memory
stop = threading.Event()
signal.signal(signal.SIGTERM, lambda *_: stop.set())
with Memory(sys.argv[1], encoder=WordEncoder()) as memory:
    print("working")
    memory.work(stop)
print("stopped")
"""


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it never came to pass")


def find_due(trigger, last=None):
    return find_due_time(Schedule(name="x", kind="purge", trigger=trigger, last_run_at=last), NOW)


def test_when_a_schedule_is_due():
    assert find_due("every 1h") == NOW
    assert find_due("every 1h", NOW - timedelta(minutes=20)) == NOW + timedelta(minutes=40)
    assert find_due("every 1h", NOW - timedelta(days=3)) == NOW
    assert find_due("30 3 * * *") == NOW.replace(hour=3, minute=30) + timedelta(days=1)
    assert find_due("30 3 * * *", NOW - timedelta(hours=2)) == NOW.replace(hour=3, minute=30) + timedelta(days=1)
    assert find_due("30 3 * * *", NOW - timedelta(days=2)) == NOW, "one that was missed is made up for, once"
    assert find_due("every 1h", NOW + timedelta(days=300)) == NOW, "the clock was set back"


@pytest.mark.parametrize(
    ("kind", "trigger", "options"),
    [
        ("nonsense", "every 1h", None),
        ("purge", "every 0m", None),
        ("purge", "now and then", None),
        ("purge", "61 * * * *", None),
        ("purge", "every 1h", {"folder": "x"}),
        ("backup", "every 1h", None),
        ("backup", "every 1h", {"folder": "x", "keep": 0}),
    ],
)
def test_unusable_schedules(memory, kind, trigger, options):
    with pytest.raises(InvalidInputError):
        memory.schedule(kind, trigger, options=options)
    assert memory.schedules() == []
    with pytest.raises(NotFoundError):
        memory.pause_schedule("missing")


def test_every_kind_runs(memory, tmp_path):
    add_expired(memory, "old")
    memory.add("new", key="new")
    for kind in ("maintain", "purge", "compact", "retrain", "verify", "snapshot"):
        assert memory.run_job(kind).state is JobState.DONE
    job = memory.run_job("backup", options={"folder": str(tmp_path / "b")})
    assert job.progress["entries"] == 1
    Memory.restore(job.progress["file"], tmp_path / "restored")
    assert [entry.key for entry in memory.entries()] == ["new"]


def test_a_second_worker_waits_and_takes_over_from_a_killed_one(tmp_path):
    folder = tmp_path / "store"
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add("something", key="a")
        memory.schedule("verify", "every 1s")
        first = python(WORKER, folder)
        assert first.stdout.readline() == "working\n"
        wait_for(memory.jobs)
        second = python(WORKER, folder)
        assert second.stdout.readline() == "working\n"
        first.kill()
        first.communicate()
        done = memory.jobs()[0].id
        wait_for(lambda: [job for job in memory.jobs() if job.id > done and job.state is JobState.DONE])
        second.send_signal(signal.SIGTERM)
        output, errors = second.communicate(timeout=60)
        assert (second.returncode, output) == (0, "stopped\n"), errors
        assert all(job.finished_at for job in memory.jobs())


def test_a_job_that_was_killed_is_closed_by_the_next_worker(tmp_path):
    folder = tmp_path / "store"
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.schedule("verify", "every 1s")
        child = python(WORKER, folder, env={"AGENT_MEMORY_FAILPOINT": "job-begun"})
        child.communicate(timeout=60)
        assert child.returncode == -9
        (job,) = memory.jobs()
        assert job.state is JobState.RUNNING
        stop = threading.Event()
        thread = threading.Thread(target=memory.work, args=(stop,))
        thread.start()
        wait_for(lambda: any(job.state is JobState.DONE for job in memory.jobs()))
        stop.set()
        thread.join()
        assert memory.jobs()[-1].state is JobState.FAILED
        assert "killed" in memory.jobs()[-1].error


def test_maintenance_in_the_background(tmp_path, open_memory):
    with Memory(tmp_path / "store", encoder=WordEncoder(), maintenance="background") as memory:
        memory.schedule("purge", "every 1s")
        memory.add("old", expires_at=datetime.now(UTC) + timedelta(milliseconds=300))
        wait_for(lambda: any(job.progress.get("purged") for job in memory.jobs()))
        assert memory.stats().expired == 0
    names = {thread.name for thread in threading.enumerate()}
    assert "agent-memory-jobs" not in names
    with pytest.raises(InvalidInputError):
        open_memory(maintenance="sometimes")
