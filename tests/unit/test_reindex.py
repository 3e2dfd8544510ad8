"""A new generation is built beside the live one and swapped in."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import numpy as np
import pytest
from support import WordEncoder, python

from agent_memory import (
    EncoderMismatchError,
    GenerationState,
    InvalidInputError,
    JobState,
    LeaseHeldError,
    Memory,
    ModelNotFoundError,
    NotFoundError,
)
from agent_memory.storage.sqlite.driver import sqlite3

TEXTS = [f"note {number} about topic {number % 7}" for number in range(300)]


def make_other_encoder(dimension=128):
    return WordEncoder(dimension, name="others")


def fill(memory, texts=TEXTS):
    memory.add_many({"text": text, "key": str(number)} for number, text in enumerate(texts))


def finds(memory, texts=TEXTS, step=29):
    for number in range(0, len(texts), step):
        assert memory.recall(texts[number], k=1, mode="dense")[0].entry.key == str(number)


def list_states(memory):
    return [generation.state for generation in memory.generations()]


def test_another_encoder(memory, open_memory):
    fill(memory)
    memory.update("5", text="a former version stays readable")
    seen = []
    report = memory.reindex(encoder=make_other_encoder(), progress=lambda done, total: seen.append((done, total)))
    assert (report.state, report.source, report.entries, report.encoded) == ("done", "encode", 301, 301)
    assert report.recall >= 0.98 and seen[-1][0] == 301
    assert memory.encoder.spec.name == "others"
    assert list_states(memory) == ["former", "live"]
    memory.add("written afterwards", key="after")
    assert memory.recall("written afterwards", k=1)[0].entry.key == "after"
    finds(memory)
    assert memory.check().ok
    assert memory.jobs()[0].state is JobState.DONE
    with pytest.raises(EncoderMismatchError):
        open_memory()
    finds(open_memory(encoder=make_other_encoder()))


def test_only_the_layout_changes_without_encoding(memory, open_memory):
    fill(memory)
    before = memory.vectors(["3"])["3"]
    encoded = len(memory.encoder.encoded)
    report = memory.reindex(tiers=(48, 96))
    assert (report.source, report.encoded) == ("copy", 0)
    assert len(memory.encoder.encoded) == encoded
    assert memory.stats().tiers == (48, 96)
    np.testing.assert_array_equal(memory.vectors(["3"])["3"], before)
    finds(memory)
    assert memory.check().ok
    finds(open_memory())


def test_a_rotation_is_fitted_and_found_again(memory, open_memory):
    fill(memory)
    encoded = len(memory.encoder.encoded)
    report = memory.reindex(rotation="fit")
    assert (report.source, report.encoded) == ("rotate", 0)
    assert len(memory.encoder.encoder.encoded) == encoded
    finds(memory)
    finds(open_memory())
    energy = np.mean([np.square(row[:32]).sum() for row in memory.vectors([str(n) for n in range(50)]).values()])
    assert energy > 0.9
    memory.add("a new word enters", key="new")
    assert memory.recall("a new word enters", k=1)[0].score > 0.99
    again = memory.reindex(rotation="fit")
    assert again.source == "rotate"
    finds(memory)
    assert memory.check().ok
    finds(open_memory())
    memory.rollback()
    finds(memory)


def test_the_default_encoder_is_found_by_its_name_and_rotation(tmp_path):
    with Memory(tmp_path / "store") as memory:
        memory.add_many([f"The number {number} lives in street {number * 7}." for number in range(30)])
        memory.reindex(rotation="fit")
    with Memory(tmp_path / "store") as memory:
        assert "rotation" in memory.encoder.spec.pipeline
        assert memory.recall("Who lives in street 49?", k=1)[0].text == "The number 7 lives in street 49."


def test_rolling_back_brings_what_was_written_since(memory):
    fill(memory)
    memory.reindex(encoder=make_other_encoder())
    memory.add("written in the new space", key="late")
    memory.update("3", text="changed in the new space")
    memory.forget("4")
    report = memory.rollback()
    assert (report.state, report.encoded) == ("done", 2)
    assert memory.encoder.spec.name == "words"
    assert list_states(memory) == ["live", "former"]
    assert memory.recall("written in the new space", k=1)[0].entry.key == "late"
    assert memory.recall("changed in the new space", k=1)[0].entry.key == "3"
    assert memory.check().ok
    memory.rollback()
    assert memory.encoder.spec.name == "others"
    assert memory.recall("changed in the new space", k=1)[0].entry.key == "3"


def test_former_generations_are_collected_after_their_grace(memory):
    fill(memory)
    memory.recall("note")
    memory.save_snapshot()
    memory.reindex(encoder=make_other_encoder())
    assert len(list((memory.path / "index").glob("snapshot-*"))) == 2
    assert memory.collect_generations() == 0
    assert memory.collect_generations(grace=timedelta(0)) == 1
    assert list_states(memory) == [GenerationState.LIVE]
    assert len(list((memory.path / "index").glob("snapshot-*"))) == 1, "files of the former one stay behind"
    with pytest.raises(NotFoundError):
        memory.rollback()
    finds(memory)
    assert memory.check().ok


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({}, "already"),
        ({"tiers": (96,), "encoder": "nonsense/model"}, "nonsense"),
        ({"tiers": (10, 20)}, "ascending"),
        ({"tiers": ("a",)}, "dimensions"),
        ({"rotation": "none"}, "rotation"),
        ({"session_encoder": "evo"}, "session_encoder"),
        ({"tiers": (96,), "batch_size": 0}, "batch_size"),
        ({"tiers": (96,), "max_cpu": 0}, "max_cpu"),
    ],
)
def test_unusable_arguments_change_nothing(memory, wish, message):
    fill(memory, TEXTS[:5])
    with pytest.raises((InvalidInputError, ModelNotFoundError), match=message):
        memory.reindex(**wish)
    assert list_states(memory) == ["live"]
    finds(memory, TEXTS[:5])


def test_an_empty_store_has_nothing_to_reindex(memory):
    with pytest.raises(InvalidInputError, match="empty"):
        memory.reindex(encoder=make_other_encoder())


def test_a_dry_run_writes_nothing(memory):
    fill(memory)
    report = memory.reindex(encoder=make_other_encoder(), dry_run=True)
    assert (report.state, report.encoded, report.job) == ("planned", 300, None)
    assert 0 < report.agreement <= 1 and report.seconds > 0 and report.added_bytes >= 300 * 256
    assert memory.reindex(tiers=(48, 96), dry_run=True).agreement == 1
    assert list_states(memory) == ["live"] and memory.jobs() == []


def test_vectors_that_the_caller_gave_survive_a_layout_change_and_a_rollback(memory):
    fill(memory, TEXTS[:40])
    given = memory.encoder.encode_documents(["something else"])[0]
    memory.add("text", key="given", vector=given)
    for wish in ({"tiers": (48, 96)}, {"encoder": make_other_encoder()}):
        memory.reindex(**wish)
        memory.rollback()
        np.testing.assert_allclose(memory.vectors(["given"])["given"], given, atol=1e-3)
    assert memory.recall(given, k=1)[0].entry.key == "given"


class Slow(WordEncoder):
    """Lets the test act between batches."""

    def __init__(self, act):
        super().__init__(128, name="slow")
        self.act = act
        self.calls = 0

    def encode_documents(self, texts, **options):
        self.calls += 1
        self.act(self.calls)
        return super().encode_documents(texts, **options)


def test_writes_during_a_reindex_are_caught_up_with(memory, open_memory):
    fill(memory)
    writer = open_memory()

    def act(call):
        if call <= 12:
            writer.add(f"meanwhile {call}", key=f"m{call}")
            writer.update(str(call), text=f"changed meanwhile {call}")
            writer.forget(str(100 + call))
            assert writer.recall(f"meanwhile {call}", k=1)[0].entry.key == f"m{call}"

    memory.reindex(encoder=Slow(act), batch_size=32)
    assert len(memory.entries()) == 300
    for call in range(1, 13):
        assert memory.recall(f"meanwhile {call}", k=1)[0].entry.key == f"m{call}"
        assert memory.recall(f"changed meanwhile {call}", k=1)[0].entry.key == str(call)
    assert memory.check().ok
    with pytest.raises(EncoderMismatchError):
        writer.add("in the old space")
    with pytest.raises(EncoderMismatchError):
        writer.recall("anything")


def test_pause_resume_and_cancel(memory, open_memory):
    fill(memory)
    helper = open_memory()
    paused, done = threading.Event(), []

    def act(call):
        if call == 2:
            helper.pause_job(helper.jobs()[0].id)
            paused.set()

    encoder = Slow(act)
    thread = threading.Thread(target=lambda: done.append(memory.reindex(encoder=encoder, batch_size=32)))
    thread.start()
    assert paused.wait(30)
    with pytest.raises(LeaseHeldError):
        helper.reindex(tiers=(96,))
    job = helper.jobs()[0]
    assert job.state is JobState.PAUSED and not done
    helper.resume_job(job.id)
    thread.join(60)
    assert done[0].state == "done"
    with pytest.raises(InvalidInputError):
        memory.cancel_job(job.id)

    cancelling = Slow(lambda call: call == 3 and memory.cancel_job(memory.jobs()[0].id))
    cancelling._spec = WordEncoder(64, name="cancelled").spec
    report = memory.reindex(encoder=cancelling, batch_size=32)
    assert report.state == "cancelled"
    assert list_states(memory) == ["former", "live"]
    finds(memory)
    assert memory.check().ok


FOLLOWER = """
import sys
from agent_memory import Memory
with Memory(sys.argv[1]) as memory:
    memory.add("Alice lives in Berlin.", key="a")
    memory.recall("Alice")
    print("ready", memory.encoder.spec.name)
    sys.stdin.readline()
    print(memory.recall("Where does Alice live?", k=1)[0].entry.key, memory.encoder.spec.name)
    memory.add("Bob likes tea.", key="b")
    print(memory.recall("tea", k=1)[0].entry.key)
"""


def test_a_process_opened_without_an_encoder_follows(tmp_path):
    import subprocess

    child = python(FOLLOWER, tmp_path / "store", stdin=subprocess.PIPE)
    first = child.stdout.readline()
    assert first.startswith("ready"), child.stderr.read()
    with Memory(tmp_path / "store") as memory:
        memory.reindex(encoder="minilm")
    output, errors = child.communicate("go\n", timeout=120)
    assert output == "a minilm\nb\n", errors


def test_entries_that_change_during_a_reindex_are_encoded_again(tmp_path):
    with Memory(tmp_path / "store") as memory:
        memory.add("Alice lives in Berlin.", key="a")
        with Memory(tmp_path / "store") as follower:
            memory.reindex(encoder="minilm")
            follower.add_many([{"text": "Bob likes tea.", "key": "b"}])
            assert follower.encoder.spec.name == "minilm"
            assert follower.recall("Who likes tea?", k=1, mode="dense")[0].entry.key == "b"
        assert memory.check().ok


def test_throttling_sleeps(memory, monkeypatch):
    fill(memory, TEXTS[:64])
    slept = []
    real = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (slept.append(seconds), real(min(seconds, 0.01))))
    memory.reindex(encoder=Slow(lambda call: real(0.02)), batch_size=16, max_cpu=0.2)
    assert sum(seconds >= 0.08 for seconds in slept) >= 4


def test_equal_entries_do_not_spoil_the_verification(memory):
    memory.add_many(["the same text"] * 400)
    assert memory.reindex(encoder=make_other_encoder()).recall == 1


@pytest.mark.parametrize(
    "outdated", ["fingerprint = 'former'", "session_encoder = json_set(session_encoder, '$.fingerprint', 'former')"]
)
@pytest.mark.parametrize("options", [{}, {"encoder": "default"}, {"rotation": "fit"}])
def test_a_store_of_former_weights_opens_for_a_reindex(tmp_path, outdated, options):
    """As after an upgrade of the package, when the weights that it was written with are gone."""
    with Memory(tmp_path) as memory:
        memory.add("Alice moved to Berlin.", key="a", session="s")
        memory.add_many([f"Something else, {n}." for n in range(5)])
    with sqlite3.connect(tmp_path / "memory.db") as connection:
        connection.execute(f"UPDATE generations SET {outdated}")
    connection.close()
    with Memory(tmp_path) as memory:
        assert memory.get("a").text == "Alice moved to Berlin."
        for refused in (lambda: memory.recall("Where does Alice live?"), lambda: memory.add("more")):
            with pytest.raises(EncoderMismatchError, match=r"reindex\("):
                refused()
        report = memory.reindex(**options)
        assert report.encoded == (0 if outdated.startswith("session_encoder") else 6)
        assert memory.recall("Where does Alice live?", session="s", k=1)[0].entry.key == "a"
    with pytest.raises(EncoderMismatchError):
        Memory(tmp_path, encoder="minilm", session_encoder=None)
