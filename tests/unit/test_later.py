"""Entries without a vector, and entries whose vector is encoded in the background."""

from __future__ import annotations

import pytest
from support import WordEncoder, python
from support_cancel import HoldingEncoder

from agent_memory import InvalidInputError
from agent_memory.storage.records import Condition


@pytest.fixture
def encoder():
    encoder = HoldingEncoder()
    yield encoder
    encoder.barrier.free.set()


def texts(hits):
    return [hit.text for hit in hits]


# --- without a vector ------------------------------------------------------------------------------------


def test_an_entry_without_a_vector_is_found_by_its_words_and_by_filters(open_memory):
    encoder = WordEncoder()
    memory = open_memory(encoder=encoder)
    memory.add("the lamp is red", metadata={"n": 1})
    memory.add("call lookup for a zebra", vector=False, metadata={"n": 2}, session="s")
    assert encoder.encoded == ["the lamp is red"]
    assert texts(memory.recall("zebra lookup", k=1)) == ["call lookup for a zebra"]
    assert texts(memory.recall("zebra", k=5, mode="lexical")) == ["call lookup for a zebra"]
    assert texts(memory.recall("zebra", k=5, mode="dense")) == ["the lamp is red"]
    assert [entry.text for entry in memory.entries(where={"n": 2}, session="s")] == ["call lookup for a zebra"]
    assert memory.vectors([entry.key for entry in memory.entries()]).keys() == {memory.entries(where={"n": 1})[0].key}
    assert memory.check().ok


def test_a_recall_by_other_words_does_not_return_it_and_why_says_so(memory):
    memory.add("the lamp is red")
    memory.add("call lookup for a zebra", vector=False, key="call")
    assert texts(memory.recall("red lamp", k=5)) == ["the lamp is red"]
    trace = memory.why("red lamp", "call")
    assert (trace.returned, trace.stage) == (False, "words") and "without a vector" in trace.reason
    assert memory.why("zebra", "call").returned


@pytest.mark.parametrize("options", [{"diversity": 0.5}, {"collapse": True}, {"diversity": 0.3, "collapse": True}])
def test_it_is_like_no_other_entry(memory, options):
    memory.add_many(["a zebra in the zoo", "a zebra in a zoo"])
    memory.add_many([{"text": f"zebra call {number}", "vector": False} for number in range(2)])
    assert {"zebra call 0", "zebra call 1"} <= set(texts(memory.recall("zebra call", k=4, **options)))


def test_a_store_of_nothing_else_works(open_memory, folder):
    memory = open_memory()
    memory.add("zebra", vector=False, session="s")
    assert texts(memory.recall("zebra")) == ["zebra"]
    assert memory.recall("zebra", mode="dense") == []
    memory.close()
    assert texts(open_memory().recall("zebra", session="s")) == ["zebra"]


def test_it_may_gain_and_lose_a_vector(memory):
    memory.add("zebra", key="k", session="s", vector=False)
    memory.add("zebra crossing", key="k", session="s")
    assert texts(memory.recall("zebra", mode="dense")) == ["zebra crossing"]
    memory.add("zebra again", key="k", session="s", vector=False)
    assert memory.recall("zebra", mode="dense") == []
    memory.update("k", metadata={"n": 1})
    assert memory.recall("zebra", mode="dense") == []
    memory.update("k", text="a lion")
    assert texts(memory.recall("lion", mode="dense")) == ["a lion"]
    assert memory.check().ok
    assert memory.forget("k") == 1


@pytest.mark.parametrize("sessions", [None, "auto"])
def test_a_session_is_evolved_as_if_it_were_not_there(tmp_path, open_memory, sessions):
    """The default encoders: an entry without a vector is no segment of its session."""
    said = ["I would like something", "Running shoes", "For your birthday then", "Good"]
    with_calls, without = (
        open_memory(path=tmp_path / name, encoder=None, session_encoder=sessions) for name in ("with", "without")
    )
    without.add_many(said, session="s")
    calls = [{"text": f"call {number}", "vector": False} for number in range(8)]
    with_calls.add_many([said[0], calls[0], said[1]], session="s")
    with_calls.add_many(calls[1:], session="s")
    with_calls.add_many(said[2:], session="s")
    found = [
        [(hit.text, round(hit.score, 5)) for hit in each.recall("what for the birthday?", session="s", mode="dense")]
        for each in (with_calls, without)
    ]
    assert found[0] == found[1]
    with_calls.forget(with_calls.entries(session="s")[0].key)
    assert with_calls.check().ok


def test_a_reindex_leaves_it_without_one(memory):
    memory.add_many(["one", {"text": "two", "vector": False}, "three"])
    narrower = WordEncoder(64, name="narrower")
    memory.reindex(encoder=narrower)
    assert set(narrower.encoded) == {"one", "three"}
    assert memory.recall("two", mode="dense", k=5) and "two" not in texts(memory.recall("two", mode="dense", k=5))
    assert texts(memory.recall("two", k=1)) == ["two"]
    memory.rollback()
    assert memory.check().ok


@pytest.mark.parametrize("wrong", [True, "soon", "", b"", 0])
def test_other_values_are_no_vector(memory, wrong):
    with pytest.raises(InvalidInputError):
        memory.add("one", vector=wrong)
    assert memory.entries() == []


# --- later -----------------------------------------------------------------------------------------------


def test_what_is_encoded_later_is_there_at_once_by_its_words(open_memory, encoder):
    memory = open_memory(encoder=encoder)
    memory.add("the lamp is red")
    memory.add_many([{"text": f"held zebra {number}", "vector": "later", "session": "s"} for number in range(3)])
    encoder.barrier.reached.wait(30)
    assert len(memory.entries(session="s")) == 3
    assert "held zebra 1" in texts(memory.recall("zebra 1", k=3))
    assert texts(memory.recall("zebra", mode="dense")) == ["the lamp is red"]
    assert "not encoded yet" in memory.why("lamp", memory.entries(session="s")[0].key).reason
    assert memory.check().ok
    encoder.barrier.free.set()
    memory.close()
    again = open_memory()
    assert len(again.recall("zebra", mode="dense")) == 4 and again.check().ok


def test_a_burst_is_encoded_together(open_memory, encoder):
    memory = open_memory(encoder=encoder)
    memory.add("held first", vector="later")
    encoder.barrier.reached.wait(30)
    for number in range(50):
        memory.add(f"text {number}", vector="later")
    calls = []
    real = encoder.encode_documents
    encoder.encode_documents = lambda given, **named: (calls.append(len(given)), real(given, **named))[1]
    encoder.barrier.free.set()
    memory.close()
    assert calls == [50]


def test_what_was_changed_or_forgotten_meanwhile_is_not_brought_back(open_memory, encoder):
    memory = open_memory(encoder=encoder)
    for key in ("changed", "forgotten", "kept"):
        memory.add(f"held {key}", vector="later", key=key, session="s")
    encoder.barrier.reached.wait(30)
    memory.add("a lion", key="changed", session="s")
    memory.forget("forgotten")
    encoder.barrier.free.set()
    memory.close()
    again = open_memory()
    assert {entry.text for entry in again.entries()} == {"a lion", "held kept"}
    assert texts(again.recall("lion", mode="dense", k=1)) == ["a lion"]
    assert len(again.recall("held", mode="dense")) == 2 and again.check().ok


def test_a_reindex_encodes_what_waits(open_memory, encoder):
    memory = open_memory(encoder=encoder)
    memory.add_many(["one", {"text": "held", "vector": "later"}])
    encoder.barrier.reached.wait(30)
    memory.reindex(encoder=WordEncoder(64, name="narrower"))
    encoder.barrier.free.set()
    assert len(memory.recall("held", mode="dense")) == 2
    memory.close()
    assert open_memory(encoder=WordEncoder(64, name="narrower")).check().ok


def test_an_encoder_that_fails_leaves_the_entries_for_the_next_process(open_memory, caplog):
    broken = WordEncoder()
    broken.encode_documents = lambda given, **named: (_ for _ in ()).throw(ValueError("out of order"))
    memory = open_memory(encoder=broken)
    memory.add("a zebra", vector="later")
    memory.close()
    assert "found by their words alone" in caplog.text
    memory = open_memory()
    memory._later.finish()
    assert texts(memory.recall("zebra", mode="dense")) == ["a zebra"]


KILLED = """
import os, sys
sys.path.insert(0, sys.argv[2])
from support_cancel import HoldingEncoder
from agent_memory import Memory
memory = Memory(sys.argv[1], encoder=HoldingEncoder())
memory.add_many([{"text": f"held {number}", "vector": "later", "session": "s"} for number in range(5)])
os._exit(9)
"""


def test_what_a_killed_process_has_left_is_encoded_by_the_next(open_memory, folder):
    from support import TESTS

    with python(KILLED, folder, TESTS) as process:
        assert process.wait(60) == 9
    memory = open_memory()
    memory._later.finish()
    assert len(memory.recall("held", mode="dense", k=9)) == 5 and memory.check().ok
    with memory._store.read() as tx:
        assert not tx.vectors.is_awaiting()


def test_when_all_that_waits_is_forgotten_nothing_is_awaited(open_memory, encoder):
    memory = open_memory(encoder=encoder)
    memory.add("the lamp is red", session="s")
    memory.add_many([{"text": f"held {number}", "vector": "later", "session": "s"} for number in range(3)])
    memory.add("a call", vector=False, session="s", key="call")
    encoder.barrier.reached.wait(30)
    receipt = memory.forget(session="s")
    assert (receipt, receipt.rows, receipt.vectors, receipt.pending) == (5, 5, 1, ())
    with memory._store.read() as tx:
        assert not tx.vectors.is_awaiting()
    encoder.barrier.free.set()
    memory.close()
    again = open_memory()
    with again._store.read() as tx:
        assert tx.entries.count(Condition(state="any")) == 0
        assert tx.connection.exec_driver_sql("SELECT count(*) FROM vectors").scalar() == 0
    assert again.check().ok


def test_forgetting_one_of_those_that_wait_leaves_the_others_waiting(open_memory, encoder):
    memory = open_memory(encoder=encoder)
    memory.add_many([{"text": f"held {number}", "vector": "later", "key": str(number)} for number in range(2)])
    encoder.barrier.reached.wait(30)
    memory.forget("0")
    with memory._store.read() as tx:
        assert tx.vectors.is_awaiting()
    encoder.barrier.free.set()
    memory.close()
    assert texts(open_memory().recall("held", mode="dense")) == ["held 1"]


@pytest.mark.parametrize("vector", [False, "later"])
def test_a_session_with_entries_without_a_vector_is_evolved_again_when_one_is_forgotten(tmp_path, open_memory, vector):
    """What is left is what a store would hold that never knew the forgotten entry, former versions included."""
    said = ["I would like something", "Running shoes", "For your birthday then", "Good"]
    turns = [{"text": text, "key": text, "session": "s"} for text in said]
    turns.insert(2, {"text": "call lookup", "key": "call", "session": "s", "vector": vector})
    stores = [open_memory(path=tmp_path / name, encoder=None) for name in ("forgets", "never knew")]
    for memory, left in zip(stores, (turns, turns[1:]), strict=True):
        for turn in left:
            memory.add(**turn)
            memory._later.finish()
        memory.add("For your wedding", key="For your birthday then", session="s")
        memory.supersede("Good", "call")
    assert stores[0].forget(said[0]) == 1
    found = []
    for memory in stores:
        with memory._store.read() as tx:
            found.append(
                tx.connection.exec_driver_sql(
                    "SELECT text, superseded_at IS NULL, hex(static), hex(evolved), "
                    "CASE WHEN superseded_at IS NULL THEN hex(latents) END "
                    "FROM entries JOIN vectors ON id = entry_id ORDER BY text"
                ).all()
            )
        assert memory.check().ok
    assert found[0] == found[1]
