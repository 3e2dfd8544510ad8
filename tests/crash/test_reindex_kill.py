"""A re-index is killed anywhere: nothing is lost, recall works, and the next re-index continues it."""

from __future__ import annotations

import json
import random
import time

import pytest
from support import WordEncoder, python

from agent_memory import JobState, Memory
from agent_memory.storage.sqlite.driver import sqlite3

TEXTS = [f"note {number} about topic {number % 7}" for number in range(200)]

REINDEX = """
import sys
from datetime import timedelta
from support import WordEncoder
from agent_memory import Memory

others = WordEncoder(128, name="others")
wishes = {
    "encode": {"encoder": others},
    "copy": {"tiers": (48, 96)},
    "rotate": {"rotation": "fit"},
}
with Memory(sys.argv[1], encoder=others if sys.argv[2] == "rollback" else WordEncoder()) as memory:
    memory.recall("note")
    print("ready")
    if sys.argv[2] == "rollback":
        memory.rollback(encoder=WordEncoder())
    elif sys.argv[2] == "collect":
        memory.collect_generations(grace=timedelta(0))
    else:
        memory.reindex(batch_size=16, **wishes[sys.argv[2]])
    print("done")
"""

POINTS = [
    "reindex-begun",
    "reindex-batch",
    "reindex-batch:7",
    "reindex-filled",
    "snapshot-before-rename",
    "reindex-verified",
    "reindex-in-swap",
    "reindex-swapped",
]


def fill(folder):
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add_many({"text": text, "key": str(number)} for number, text in enumerate(TEXTS))
        memory.update("7", text="note 7 has a former version")


def run(folder, what, *, code=0, **environment):
    child = python(REINDEX, folder, what, env=environment)
    output, errors = child.communicate(timeout=120)
    assert child.returncode == code, (output, errors)


def verify(folder, encoder, extra=()):
    with Memory(folder, encoder=encoder) as memory:
        entries = {entry.key: entry.text for entry in memory.entries()}
        assert {str(number) for number in range(len(TEXTS))} | set(extra) == set(entries)
        for key in ("0", "7", "100", "199", *extra):
            assert memory.recall(entries[key], k=1, mode="dense")[0].entry.key == key
        assert memory.history("7")[0].text == TEXTS[7]
        report = memory.check()
        assert report.ok, report.problems
        return memory.jobs(), memory.generations()


def live_encoder(folder):
    """Return the encoder of the live generation, whichever it is."""
    connection = sqlite3.connect(folder / "memory.db")
    (facts,) = connection.execute("SELECT encoder FROM generations WHERE state = 'live'").fetchone()
    connection.close()
    return WordEncoder() if json.loads(facts)["name"] == "words" else WordEncoder(128, name="others")


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("what", ["encode", "copy", "rotate"])
def test_killed_at_every_step_of_a_reindex(tmp_path, what, point):
    folder = tmp_path / "store"
    fill(folder)
    run(folder, what, code=-9, AGENT_MEMORY_FAILPOINT=point)
    encoder = live_encoder(folder)
    verify(folder, encoder)
    with Memory(folder, encoder=encoder) as memory:
        memory.add("written between the two attempts", key="between")
    if point == "reindex-swapped":
        assert encoder.spec.name == ("others" if what == "encode" else "words")
    else:
        run(folder, what)
    jobs, generations = verify(folder, live_encoder(folder), ["between"])
    assert [generation.state for generation in generations] == ["former", "live"]
    assert jobs[0].state is JobState.DONE
    if point in ("reindex-filled", "reindex-verified") and what == "encode":
        assert jobs[0].progress["encoded"] < 201 + 16, "the second attempt encoded again what the first had"


@pytest.mark.parametrize("point", ["reindex-batch", "reindex-filled", "reindex-in-swap", "reindex-swapped"])
def test_killed_at_every_step_of_a_rollback(tmp_path, point):
    folder = tmp_path / "store"
    fill(folder)
    run(folder, "encode")
    with Memory(folder, encoder=WordEncoder(128, name="others")) as memory:
        memory.add("written in the new space", key="late")
    run(folder, "rollback", code=-9, AGENT_MEMORY_FAILPOINT=point)
    verify(folder, live_encoder(folder), ["late"])
    if live_encoder(folder).spec.name == "others":
        run(folder, "rollback")
    assert live_encoder(folder).spec.name == "words"
    verify(folder, WordEncoder(), ["late"])


def test_killed_while_a_generation_is_collected(tmp_path):
    folder = tmp_path / "store"
    fill(folder)
    run(folder, "copy")
    run(folder, "collect", code=-9, AGENT_MEMORY_FAILPOINT="drop-batch")
    verify(folder, WordEncoder())
    run(folder, "collect")
    _, generations = verify(folder, WordEncoder())
    assert [generation.state for generation in generations] == ["live"]


def test_killed_at_random_moments(tmp_path):
    moments = random.Random(11)
    folder = tmp_path / "store"
    fill(folder)
    kept = []
    for number in range(12):
        encoder = live_encoder(folder)
        child = python(REINDEX, folder, "encode" if encoder.spec.name == "words" else "rollback")
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        time.sleep(moments.uniform(0, 0.4))
        child.kill()
        child.communicate()
        encoder = live_encoder(folder)
        with Memory(folder, encoder=encoder) as memory:
            kept.append(memory.add(f"after the kill numbered {number}", key=f"k{number}").key)
        verify(folder, encoder, kept)


def test_a_clock_set_back_does_not_lock_the_store(tmp_path):
    """A lease from the future is not believed, and its holder, if it lives, cannot write any more."""
    folder = tmp_path / "store"
    fill(folder)
    with sqlite3.connect(folder / "memory.db") as connection:
        far = int((time.time() + 10 * 365 * 86400) * 1e6)
        connection.execute("INSERT INTO leases VALUES ('reindex', 'elsewhere:1:00', ?)", (far,))
    connection.close()
    run(folder, "copy")
    verify(folder, WordEncoder())
