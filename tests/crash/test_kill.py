"""A writer is killed: every entry it had acknowledged is stored once and recalled."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest
from support import WordEncoder, python

from agent_memory import Config, Memory

ROUNDS = 100

WRITER = """
import sys
from support import WordEncoder
from agent_memory import Config, Memory

folder, name = sys.argv[1], sys.argv[2]
memory = Memory(folder, encoder=WordEncoder(), config=Config(snapshot_every=10, batch_size=4))
if name[-1] in "13579":  # the others may be killed in their first write
    memory.add(f"w{name} begins", session=name)
    memory.recall("begins")
print("ready")
for number in range(100_000):
    text = f"w{name}n{number} says"
    if number % 3 == 0:
        texts = [f"{text} w{name}n{number}p{part}" for part in range(6)]
        for entry in memory.add_many(texts, session=name):
            print("kept", entry.key)
    else:
        key = memory.add(text, session=name).key
        print("kept", key)
    if number % 5 == 0:
        memory.recall(text)
    if number % 7 == 6:
        print("forgetting", key if number % 3 else entry.key)
        memory.forget(key if number % 3 else entry.key)
        print("forgotten", key if number % 3 else entry.key)
    if number == int(sys.argv[3]):
        memory.close()
        break
"""


class Ledger:
    """What killed writers had said before they died."""

    def __init__(self) -> None:
        self.kept: set[str] = set()
        self.uncertain: set[str] = set()

    def read(self, lines: str) -> None:
        for line in lines.splitlines():
            # The last line may be torn in the middle by the kill; a full key has 32 digits.
            word, _, key = line.partition(" ")
            if len(key) != 32:
                continue
            if word == "kept":
                self.kept.add(key)
            elif word == "forgetting":
                self.kept.discard(key)
                self.uncertain.add(key)
            elif word == "forgotten":
                self.uncertain.discard(key)

    def verify(self, folder: Path, sample: int = 40) -> None:
        with Memory(folder, encoder=WordEncoder(), config=Config(lock_timeout_s=10)) as memory:
            entries = memory.entries()
            stored = {entry.key: entry for entry in entries}
            assert len(stored) == len(entries)
            assert self.kept <= stored.keys()
            for key in random.Random(len(stored)).sample(sorted(self.kept), min(sample, len(self.kept))):
                assert memory.recall(stored[key].text, k=1)[0].entry.key == key
            report = memory.check()
            assert report.ok, report.problems


def run(folder: Path, name: object, *, last: int = -1, **environment: str) -> tuple[int, str]:
    child = python(WRITER, folder, name, last, env=environment)
    output, errors = child.communicate(timeout=60)
    assert child.returncode in (0, -9), errors
    return child.returncode, output


def test_killed_at_random_moments(tmp_path):
    ledger = Ledger()
    moments = random.Random(5)
    for number in range(ROUNDS):
        folder = tmp_path / str(number // 25)
        if number % 25 == 0:
            ledger = Ledger()
        child = python(WRITER, folder, number, -1)
        assert child.stdout.readline() == "ready\n", child.stderr.read()
        time.sleep(moments.uniform(0, 0.25))
        child.kill()
        output, _ = child.communicate()
        ledger.read(output)
        if number % 5 == 4:
            ledger.verify(folder)
        else:
            with Memory(folder, encoder=WordEncoder()) as memory:
                assert ledger.kept <= {entry.key for entry in memory.entries()}
    assert len(ledger.kept) > 100


@pytest.mark.parametrize(
    "point",
    [
        "before-commit",
        "after-commit",
        "snapshot-mid-write",
        "snapshot-before-rename",
        "snapshot-after-rename",
    ],
)
def test_killed_at_named_points(tmp_path, point):
    folder = tmp_path / "store"
    ledger = Ledger()
    code, output = run(folder, "first", last=40)
    assert code == 0
    ledger.read(output)
    ledger.verify(folder)
    for number in range(3):
        code, output = run(folder, number, AGENT_MEMORY_FAILPOINT=point)
        assert code == -9, f"the writer never came to {point}"
        ledger.read(output)
        ledger.verify(folder)
