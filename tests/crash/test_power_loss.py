"""The power fails at any moment: what was acknowledged is there, what was forgotten is not.

``AGENT_MEMORY_POWER_LOSSES`` says how many moments are tried.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import WordEncoder, python, skip_locally
from support_power import Disk, Record, compile_recorder, read_log

from agent_memory import Config, EncoderMismatchError, Memory

LOSSES = int(os.environ.get("AGENT_MEMORY_POWER_LOSSES", "60"))

WORK = """
import hashlib, json, os, random, sys
from support import WordEncoder
from agent_memory import Config, Memory
from agent_memory.storage.sqlite import connections

disk, log, rounds, unsafe = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "unsafe"
if unsafe:
    connections.PRAGMAS["synchronous"] = "OFF"
chance, number = random.Random(7), 0
sizes = {"words": 96, "large": 128}
spec = "words"

def open_store():
    config = Config(snapshot_every=10, batch_size=4)
    return Memory(disk + "/deep/store", encoder=WordEncoder(sizes[spec], name=spec), config=config)

def do(work, states):
    start = os.path.getsize(log)
    work()
    states = {name: hashlib.sha256(open(name, "rb").read()).hexdigest() if state is ... else state
              for name, state in states.items()}
    print(json.dumps({"start": start, "end": os.path.getsize(log), "states": states}))

def text_of(number):
    return f"note{number} " + " ".join(chance.choices(["red", "cat", "paris", "house"], k=chance.choice([3, 30, 2000])))

memory, keys = open_store(), []
for turn in range(rounds):
    for _ in range(4):
        number += 1
        key, text = f"k{number}", text_of(number)
        do(lambda: memory.add(text, key=key, session="s"), {"entry:" + key: text})
        keys.append(key)
    items = []
    for _ in range(10):
        number += 1
        items.append({"key": f"k{number}", "text": text_of(number)})
    do(lambda: memory.add_many(items), {"entry:" + item["key"]: item["text"] for item in items})
    keys += [item["key"] for item in items]
    number += 1
    key, text = chance.choice(keys), text_of(number)
    do(lambda: memory.update(key, text=text), {"entry:" + key: text})
    for _ in range(2):
        key = keys.pop(chance.randrange(len(keys)))
        do(lambda: memory.forget(key), {"entry:" + key: None})
    memory.recall(text[:9000])
    if turn % 3 == 0:
        path = f"{disk}/backups/{'latest' if turn % 2 else turn}.db"
        do(lambda: memory.backup(path), {path: ...})
    if turn % 3 == 1:
        path = f"{disk}/{'latest' if turn % 2 else turn}.jsonl"
        do(lambda: memory.export(path), {path: ...})
    if turn % 5 == 4:
        spec = "large" if spec == "words" else "words"
        do(lambda: memory.reindex(encoder=WordEncoder(sizes[spec], name=spec)), {"encoder": spec})
    if turn % 4 == 2:  # two snapshots with nothing forgotten between them: the second links files of the first
        memory.save_snapshot()
        number += 1
        do(lambda: memory.add(f"note{number}", key=f"k{number}"), {f"entry:k{number}": f"note{number}"})
        keys.append(f"k{number}")
        memory.save_snapshot()
    if turn % 4 == 3:
        memory.close()
        memory = open_store()
memory.close()
"""


@dataclass
class Run:
    """A recorded run: the record and what was acknowledged, as {name: [(start, end, state)]}."""

    root: Path
    records: list[Record]
    acknowledged: dict[str, list[tuple[int, int, str | None]]] = field(default_factory=dict)

    def find_allowed(self, name: str, moment: int) -> set[str | None]:
        """Return the states that may be found at a moment: the last acknowledged one, and one under way."""
        allowed: set[str | None] = {None}
        for start, end, state in self.acknowledged.get(name, []):
            if end <= moment:
                allowed = {state}
            elif start <= moment:
                allowed.add(state)
        return allowed


def record_run(folder: Path, *, rounds: int, durability: str = "safe") -> Run:
    library = compile_recorder(folder)
    if library is None:
        skip_locally("no C compiler: the recorder of writes cannot be built")
    root, log = folder / "disk", folder / "log"
    root.mkdir()
    environment = {"LD_PRELOAD": str(library), "POWER_ROOT": str(root), "POWER_LOG": str(log)}
    child = python(WORK, root, log, rounds, durability, env=environment)
    output, errors = child.communicate(timeout=250)
    assert child.returncode == 0, errors
    run = Run(root, list(read_log(log)))
    for line in output.splitlines():
        said = json.loads(line)
        for name, state in said["states"].items():
            run.acknowledged.setdefault(name, []).append((said["start"], said["end"], state))
    return run


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Run:
    return record_run(tmp_path_factory.mktemp("power"), rounds=12)


def choose_moments(run: Run, count: int, chance: random.Random) -> list[int]:
    """Choose moments: half of them right after something was acknowledged, half anywhere."""
    ends = [end for states in run.acknowledged.values() for _, end, _ in states]
    return sorted(chance.choice(ends) if number % 2 else chance.choice(run.records).end for number in range(count))


def find_lost(run: Run, place: Path, moment: int, chance: random.Random) -> list[str]:
    """Open what the power loss left and return how it differs from what was acknowledged."""
    wrong = []
    for name in run.acknowledged:
        if name.startswith("/"):
            path = place / Path(name).relative_to(run.root)
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else None
            if content not in run.find_allowed(name, moment):
                wrong.append(f"{name} is not whole")
    with open_store(run, place / "deep" / "store", moment) as memory:
        found = {"entry:" + entry.key: entry.text for entry in memory.entries()}
        wrong += [f"{name} came from nowhere" for name in found.keys() - run.acknowledged.keys()]
        for name in run.acknowledged:
            if name.startswith("entry:") and found.get(name) not in run.find_allowed(name, moment):
                wrong.append(f"{name} is {'not what was acknowledged' if name in found else 'lost'}")
        # Long texts of few different words have nearly equal vectors.
        short = sorted(name for name, text in found.items() if len(text) < 40)
        for name in chance.sample(short, min(5, len(short))):
            if memory.recall(found[name][:9000], k=1)[0].entry.text != found[name]:
                wrong.append(f"{name} is not recalled")
        wrong += memory.check().problems
    return wrong


def open_store(run: Run, folder: Path, moment: int) -> Memory:
    """Open a store with an encoder that it may have at that moment."""
    encoders = {None: WordEncoder(96), "words": WordEncoder(96), "large": WordEncoder(128, name="large")}
    for name in run.find_allowed("encoder", moment) - {"large"}:
        with contextlib.suppress(EncoderMismatchError):
            return Memory(folder, encoder=encoders[name], config=Config(snapshot_every=10))
    assert "large" in run.find_allowed("encoder", moment)
    return Memory(folder, encoder=encoders["large"], config=Config(snapshot_every=10))


def try_losses(run: Run, folder: Path, count: int, *, until_lost: bool = False) -> list[str]:
    """Let the power fail at ``count`` moments and return all that was lost."""
    chance, disk, lost, records = random.Random(11), Disk(run.root), [], iter(run.records)
    at = 0
    for number, moment in enumerate(choose_moments(run, count, chance)):
        while at < moment:
            record = next(records)
            disk.play(record)
            at = record.end
        place = folder / "after"
        disk.write_after_loss(place, chance)
        try:
            wrong = find_lost(run, place, moment, chance)
        except Exception as error:
            wrong = [f"{type(error).__name__}: {error}"]
        lost += [f"loss {number} at {moment}: {what}" for what in wrong]
        shutil.rmtree(place)
        if until_lost and lost and lost[-1].endswith("is lost"):
            break
    return lost


def test_the_record_holds_everything_that_was_written(recorded):
    disk = Disk(recorded.root)
    for record in recorded.records:
        disk.play(record)
    there = {
        str(path.relative_to(recorded.root)): path.read_bytes() for path in recorded.root.rglob("*") if path.is_file()
    }
    assert disk.read_now() == there
    assert {record.what for record in recorded.records} == set("CDLRSTUW")


@pytest.mark.timeout(1800)
def test_nothing_acknowledged_is_lost_when_the_power_fails(recorded, tmp_path):
    lost = try_losses(recorded, tmp_path, LOSSES)
    assert not lost, "\n".join(lost)


def test_without_syncs_something_acknowledged_is_lost(tmp_path):
    run = record_run(tmp_path, rounds=4, durability="unsafe")
    lost = try_losses(run, tmp_path, 60, until_lost=True)
    assert any(what.endswith("is lost") for what in lost), lost
