from __future__ import annotations

import re
import threading
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from support import WordEncoder, add_expired

from agent_memory import (
    AgentMemoryError,
    ClosedError,
    Config,
    DimensionMismatchError,
    EncoderError,
    EncoderMismatchError,
    InvalidInputError,
    Memory,
    NewEntry,
    NotFoundError,
)

NOW = datetime.now(UTC)


def test_add_returns_what_get_returns(memory):
    given = {"topic": "home", "tags": ["a", "b"], "deep": {"x": 1.5}}
    entry = memory.add(
        "Alice moved to Berlin.",
        session="chat-7",
        speaker="alice",
        key="k1",
        metadata=given,
        event_time="2025-05-01T10:00:00+02:00",
        importance=0.5,
    )
    assert memory.get("k1") == entry
    assert entry.metadata == given
    assert entry.event_time == datetime(2025, 5, 1, 8, tzinfo=UTC)
    assert (entry.session, entry.speaker, entry.importance) == ("chat-7", "alice", 0.5)


def test_recall_ranks_by_similarity_and_numbers_the_hits(memory):
    memory.add_many(["the cat sleeps", "the dog runs far", "taxes are due in april"])
    hits = memory.recall("when are taxes due", k=2)
    assert hits[0].text == "taxes are due in april"
    assert [hit.rank for hit in hits] == [1, 2]
    assert hits[0].score > hits[1].score


def test_empty_store_recalls_nothing(memory):
    assert memory.recall("anything") == []
    assert memory.entries() == []
    assert memory.sessions() == []
    assert memory.stats().entries == 0
    assert memory.check().ok


def test_same_key_replaces_and_keeps_created_at(memory):
    first = memory.add("tea is green", key="drink", metadata={"a": 1}, session="s1")
    second = memory.add("coffee is black", key="drink")
    assert second.created_at == first.created_at
    assert second.updated_at >= first.updated_at
    assert second.metadata == {} and second.session is None
    assert [hit.text for hit in memory.recall("tea is green")] == ["coffee is black"]
    assert memory.sessions() == []


def test_same_key_twice_in_a_batch_ends_as_the_last(memory):
    entries = memory.add_many([{"text": "one", "key": "k"}, {"text": "two", "key": "k"}])
    assert [entry.text for entry in entries] == ["two", "two"]
    assert [entry.text for entry in memory.entries()] == ["two"]


def test_duplicate_text_is_kept_and_reported(memory):
    first = memory.add("I like tea", key="a")
    second = memory.add("I like tea", key="b")
    other = memory.add("I like tea", key="c", namespace=("elsewhere",))
    assert (first.duplicate_of, second.duplicate_of, other.duplicate_of) == (None, "a", None)
    assert memory.add("I like tea", key="a").duplicate_of is None
    batch = memory.add_many(["new text", "new text"])
    assert batch[0].duplicate_of is None and batch[1].duplicate_of == batch[0].key
    assert memory.stats().duplicates == 2


def test_update_changes_only_what_is_given(memory):
    memory.add("old words", key="k", metadata={"n": 1}, importance=0.2, session="s")
    entry = memory.update("k", text="entirely new content")
    assert (entry.metadata, entry.importance, entry.session) == ({"n": 1}, 0.2, "s")
    assert memory.recall("entirely new content", mode="dense")[0].score == pytest.approx(1, abs=1e-3)
    assert memory.update("k", metadata=None, importance=None).importance is None
    assert memory.get("k").metadata == {}
    with pytest.raises(NotFoundError):
        memory.update("missing", text="x")
    with pytest.raises(InvalidInputError):
        memory.update("k", text=None)


def test_update_without_new_text_encodes_nothing(open_memory):
    encoder = WordEncoder()
    memory = open_memory(encoder=encoder)
    memory.add("some words", key="k")
    memory.update("k", importance=1)
    assert encoder.encoded == ["some words"]


def test_forget_by_key_filter_session_and_everything(memory):
    memory.add("a", key="a", session="s1", metadata={"n": 1})
    memory.add("b", key="b", session="s1", metadata={"n": 2})
    memory.add("c", key="c", session="s2", metadata={"n": 3})
    memory.add("d", key="d")
    assert memory.forget("a") == 1
    assert memory.forget("a") == 0
    assert memory.forget(where={"n": {"$gte": 3}}) == 1
    assert memory.forget(session="s1") == 1
    assert memory.sessions() == []
    assert memory.forget(everything=True) == 1
    assert memory.recall("d") == []
    for nothing in ({}, {"where": {}}, {"key": "a", "everything": True}, {"key": "a", "session": "s"}):
        with pytest.raises(InvalidInputError):
            memory.forget(**nothing)


def test_expired_entries_are_never_returned_and_can_be_purged(memory):
    add_expired(memory, "stale news", key="old")
    memory.add("fresh news", key="new", expires_at=NOW + timedelta(days=1))
    assert [hit.entry.key for hit in memory.recall("stale news")] == ["new"]
    assert [entry.key for entry in memory.entries()] == ["new"]
    with pytest.raises(NotFoundError):
        memory.get("old")
    stats = memory.stats()
    assert (stats.entries, stats.expired) == (1, 1)
    assert memory.purge_expired() == 1
    assert memory.stats().expired == 0


def test_a_key_that_expired_counts_as_new(memory):
    past = add_expired(memory, "v1", key="k")
    again = memory.add("v2", key="k")
    assert again.created_at >= past.created_at and again.expires_at is None
    assert memory.get("k").text == "v2"


def test_namespaces_are_scopes(open_memory):
    root = open_memory()
    acme = open_memory(namespace=("acme",))
    user = open_memory(namespace=("acme", "user-42"))
    other = open_memory(namespace=("acme2",))
    for scope in (root, acme, user, other):
        scope.add("shared key text", key="same")
    assert len(root.recall("shared key text")) == 4
    assert {hit.entry.namespace for hit in acme.recall("shared", k=9)} == {("acme",), ("acme", "user-42")}
    assert len(user.recall("shared")) == len(other.recall("shared")) == 1
    assert user.get("same").namespace == ("acme", "user-42")
    assert acme.forget("same") == 1
    assert user.get("same").text == "shared key text"
    assert len(acme.recall("shared", namespace=("acme", "user-42"))) == 1
    for outside in (("acme",), (), ("other",)):
        with pytest.raises(InvalidInputError):
            user.recall("shared", namespace=outside)
    assert acme.forget(everything=True) == 1
    assert len(root.recall("shared key text")) == 2


def test_sessions_speakers_and_times_filter(memory):
    for day in range(1, 6):
        memory.add(
            f"note {day}",
            key=str(day),
            session=f"s{day % 2}",
            speaker="ab"[day % 2],
            event_time=f"2025-01-0{day}",
        )
    assert {hit.entry.key for hit in memory.recall("note", session="s1")} == {"1", "3", "5"}
    assert {hit.entry.key for hit in memory.recall("note", speaker="a")} == {"2", "4"}
    found = memory.recall("note", since="2025-01-02", until=datetime(2025, 1, 4))
    assert {hit.entry.key for hit in found} == {"2", "3", "4"}
    assert [entry.key for entry in memory.entries(session="s0")] == ["2", "4"]
    assert [entry.key for entry in memory.entries(limit=2, offset=1)] == ["2", "3"]
    sessions = memory.sessions()
    assert [(session.name, session.entries) for session in sessions] == [("s1", 3), ("s0", 2)]
    assert sessions[0].first_event == datetime(2025, 1, 1, tzinfo=UTC)


def test_vectors_given_by_the_caller_are_used(memory):
    vector = WordEncoder().encode_documents(["hidden meaning"])[0]
    memory.add("opaque", key="v", vector=vector * 7)
    assert memory.recall("hidden meaning", mode="dense")[0].score == pytest.approx(1, abs=1e-3)
    assert memory.recall(vector)[0].entry.key == "v"
    with pytest.raises(DimensionMismatchError) as caught:
        memory.recall(np.ones(5))
    assert (caught.value.expected, caught.value.actual) == (96, 5)
    for bad in (np.zeros(96), np.full(96, np.nan), np.ones((2, 96)), "words" * 2, ["x"] * 96):
        if isinstance(bad, str):
            continue
        with pytest.raises(InvalidInputError):
            memory.add("text", vector=bad)
    assert len(memory.entries()) == 1


BAD = [
    {"text": ""},
    {"text": "  \n"},
    {"text": None},
    {"text": 5},
    {"text": b"bytes"},
    {"text": "\ud800"},
    {"text": "x" * 2_000_001},
    {"text": "x", "key": ""},
    {"text": "x", "key": "k\x00"},
    {"text": "x", "key": 3},
    {"text": "x", "session": "\n"},
    {"text": "x", "session": "s" * 513},
    {"text": "x", "metadata": [1]},
    {"text": "x", "metadata": {1: 2}},
    {"text": "x", "metadata": {"a": float("nan")}},
    {"text": "x", "metadata": {"a": {1, 2}}},
    {"text": "x", "metadata": {"a": "\ud800"}},
    {"text": "x", "importance": 2},
    {"text": "x", "importance": float("nan")},
    {"text": "x", "importance": True},
    {"text": "x", "event_time": "yesterday"},
    {"text": "x", "event_time": 5},
    {"text": "x", "namespace": "acme"},
    {"text": "x", "namespace": ("a", "")},
    {"text": "x", "namespace": ("a", None)},
    {"text": "x", "unknown": 1},
    {},
    7,
    None,
]


@pytest.mark.parametrize("item", BAD, ids=lambda item: str(item)[:40])
def test_bad_items_are_refused_with_their_position_and_nothing_is_written(memory, item):
    with pytest.raises(InvalidInputError, match="item 1"):
        memory.add_many(["good", item])
    assert memory.entries() == []


def test_deep_metadata_is_refused(memory):
    deep: dict[str, object] = {}
    for _ in range(10_000):
        deep = {"a": deep}
    with pytest.raises(InvalidInputError, match="deeper"):
        memory.add("x", metadata=deep)


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", True, None, 10_001])
def test_bad_k_is_refused(memory, k):
    with pytest.raises(InvalidInputError):
        memory.recall("x", k=k)


def test_k_may_be_a_numpy_integer_and_larger_than_the_store(memory):
    memory.add("only one")
    assert len(memory.recall("one", k=np.int64(50))) == 1


def test_a_single_add_names_the_argument_not_a_position(memory):
    with pytest.raises(InvalidInputError, match="^text must not be empty"):
        memory.add(" ")


def test_strings_as_items_are_refused(memory):
    with pytest.raises(InvalidInputError):
        memory.add_many("abc")
    assert memory.add_many([]) == []


def test_progress_counts_whole_batches(open_memory):
    memory = open_memory(config=Config(batch_size=2))
    seen = []
    memory.add_many((f"text {n}" for n in range(5)), session="s", progress=lambda *step: seen.append(step))
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert memory.sessions()[0].entries == 5


def test_given_vectors_share_larger_transactions_unless_a_session_must_evolve_them(open_memory):
    memory = open_memory(config=Config(batch_size=2))
    items = [{"text": f"text {number}", "vector": [1.0] * 96} for number in range(10)]
    seen = []
    memory.add_many(items, progress=lambda *step: seen.append(step))
    assert seen == [(8, 10), (10, 10)]
    seen.clear()
    memory.add_many(items[:3], session="s", progress=lambda *step: seen.append(step))
    assert seen == [(2, 3), (3, 3)]
    seen.clear()
    memory.add_many([*items[:3], "to be encoded", *items[:3]], progress=lambda *step: seen.append(step))
    assert seen == [(5, 7), (7, 7)]


def test_generated_keys_are_unique_and_sort_by_the_moment_they_were_made(memory):
    keys = [entry.key for entry in memory.add_many([{"text": "same", "vector": [1.0] * 96}] * 500)]
    later = memory.add("later").key
    assert len({*keys, later}) == 501
    assert all(re.fullmatch("[0-9a-f]{12}7[0-9a-f]{3}[89ab][0-9a-f]{15}", key) for key in [*keys, later])
    assert max(keys)[:12] <= later[:12]


def test_a_text_with_many_twins_names_the_oldest_that_is_current(memory):
    first, *others = memory.add_many([{"text": "same", "vector": [1.0] * 96}] * 3)
    assert first.duplicate_of is None
    assert [entry.duplicate_of for entry in others] == [first.key, first.key]
    memory.update(first.key, text="changed")
    assert memory.add("same").duplicate_of == others[0].key


def test_closed_memory_says_so(memory):
    memory.add("x", key="x")
    memory.close()
    memory.close()
    for call in (
        lambda: memory.add("y"),
        lambda: memory.recall("x"),
        lambda: memory.get("x"),
        lambda: memory.stats(),
        lambda: memory.forget("x"),
    ):
        with pytest.raises(ClosedError):
            call()


def test_another_encoder_is_refused_and_nothing_changes(open_memory, folder):
    with open_memory() as memory:
        memory.add("kept", key="k")
    with pytest.raises(EncoderMismatchError, match="'words'.*96 dim.*not of 'other'"):
        open_memory(encoder=WordEncoder(96, name="other"))
    with pytest.raises(EncoderMismatchError, match="128 dim"):
        open_memory(encoder=WordEncoder(128))
    with pytest.raises(EncoderMismatchError):
        open_memory(encoder=None)
    assert open_memory().get("k").text == "kept"


def test_two_encoders_racing_for_a_new_store(open_memory):
    first, second = open_memory(), open_memory(encoder=WordEncoder(128))
    first.add("first come")
    with pytest.raises(EncoderMismatchError):
        second.add("too late")
    with pytest.raises(EncoderMismatchError):
        second.recall("too late")
    assert len(first.entries()) == 1


class Broken(WordEncoder):
    def __init__(self, output):
        super().__init__()
        self._output = output

    def encode_documents(self, texts, *, progress=None):
        return self._output


@pytest.mark.parametrize(
    "output",
    [np.ones((1, 5)), np.ones((2, 96)), np.full((1, 96), np.nan), np.zeros((1, 96))],
    ids=["dimension", "count", "nan", "zero"],
)
def test_a_broken_encoder_is_caught_before_anything_is_written(open_memory, output):
    memory = open_memory(encoder=Broken(output))
    with pytest.raises(EncoderError):
        memory.add("x")
    assert memory.entries() == []


def test_reopened_store_answers_the_same(open_memory):
    with open_memory() as memory:
        memory.add_many(f"text number {n}" for n in range(50))
        before = memory.recall("number 7", k=10)
    reopened = open_memory()
    assert reopened.recall("number 7", k=10) == before
    assert reopened.recall("number 7", k=10, exact=True) == before


def test_explain_says_what_each_tier_thought(memory):
    memory.add_many(f"text number {n}" for n in range(20))
    hit = memory.recall("number 7", explain=True)[0]
    assert hit.trace["tiers"][-1]["dimension"] == 96
    assert hit.trace["tiers"][-1]["rank"] == 1
    assert memory.recall("number 7")[0].trace is None


def test_threads_share_one_memory(memory):
    def work(name):
        for number in range(25):
            entry = memory.add(f"{name} says {number}", session=name)
            found = memory.recall(f"{name} says {number}", k=1)[0]
            if found.entry.key != entry.key:
                wrong.append(entry)

    wrong: list[object] = []
    threads = [threading.Thread(target=work, args=(f"thread{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert memory.stats().entries == 150
    assert memory.check().ok


def test_two_memories_see_each_other(open_memory):
    one, two = open_memory(), open_memory()
    for number in range(20):
        writer, reader = (one, two) if number % 2 else (two, one)
        writer.add(f"message {number}", key=str(number))
        assert reader.recall(f"message {number}", k=1)[0].entry.key == str(number)
    one.forget("3")
    assert "3" not in {hit.entry.key for hit in two.recall("message", k=50)}
    two.update("4", text="altogether different")
    assert one.recall("altogether different")[0].entry.key == "4"


def test_every_record_can_be_a_member_of_a_set(memory):
    entry = memory.add("Alice moved to Berlin.", key="a", metadata={"tags": ["x"]})
    assert len({entry, memory.get("a"), memory.add("Bob stayed.", key="b")}) == 2
    hits = memory.recall("Alice", explain=True)
    assert len({*hits, memory.why("Alice", "a"), memory.stats(), memory.check(), *memory.sessions()}) >= 4
    assert {NewEntry(text="x", metadata={"a": 1})} == {NewEntry(text="x", metadata={"a": 1})}
    assert len({*memory.generations(), *memory.jobs(), *memory.schedules(), memory.maintenance(dry_run=True)}) >= 2


def test_a_memory_says_what_it_is(memory, tmp_path):
    assert repr(str(memory.path)) in repr(memory) and memory.encoder.spec.name in repr(memory)


def test_settings_may_be_a_mapping(open_memory):
    memory = open_memory(config={"keep_versions": 1, "batch_size": 3})
    assert memory.config == Config(keep_versions=1, batch_size=3)
    for wrong in ({"keep_version": 1}, {"batch_size": 0}, 7, "x", [1], {1: 2}):
        with pytest.raises(InvalidInputError, match="config"):
            open_memory(config=wrong)


@pytest.mark.parametrize("path", ["", b"", b"x", None, 7, "a\x00b", "~nobody-of-this-name/x", "mysql://h/x", "S3://b"])
def test_a_path_that_names_no_folder_is_refused(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInputError, match="path"):
        Memory(path, encoder=WordEncoder())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("method", ["recall", "recall_many", "why"])
def test_unknown_options_are_refused_by_the_name_of_the_method_that_was_called(memory, method):
    given = {"recall": ("x",), "recall_many": (["x"],), "why": ("x", "key")}[method]
    with pytest.raises(TypeError, match=rf"Memory\.{method}\(\) got an unexpected keyword argument 'foo'"):
        getattr(memory, method)(*given, foo=1)


def test_forgetting_what_is_not_there_is_no_error(memory):
    assert memory.forget("never") == 0
    memory.add("here", key="k")
    assert (memory.forget("k"), memory.forget("k")) == (1, 0)
    for call in (memory.get, memory.history, lambda key: memory.update(key, text="x")):
        with pytest.raises(NotFoundError):
            call("k")


def test_operations_do_what_they_are_named_after_unless_told_to_only_look(memory):
    add_expired(memory, "soon gone", key="k")
    assert [action.name for action in memory.maintenance(dry_run=True).actions] == ["purge"]
    assert memory.stats().expired == 1
    assert memory.maintenance().done
    assert memory.stats().expired == 0


@pytest.mark.parametrize(
    "options", [{"encoder": "nonsense"}, {"encoder": Path("/nowhere/model")}, {"session_encoder": "nonsense"}]
)
def test_a_new_store_whose_encoder_cannot_be_had_is_not_begun(folder, options):
    with pytest.raises(AgentMemoryError):
        Memory(folder, **{"encoder": WordEncoder(), **options})
    assert not folder.exists()


class Role(str, Enum):  # noqa: UP042 - that is what is tried
    USER = "user"


class Shouting(str):
    def __str__(self):
        return self.upper()


@pytest.mark.parametrize("kind", [Role, np.str_, Shouting])
def test_texts_of_a_class_of_their_own_are_kept_as_what_they_stand_for(memory, kind):
    user = kind("user")
    given = {"text": kind("user"), "speaker": user, "session": user, "metadata": {user: user, "n": np.float64(1.5)}}
    entry = memory.add(**given, key=user, namespace=(user,), importance=np.float64(0.5))
    memory.add_many([given])
    memory.update(user, speaker=user, text=user, namespace=("user",))
    assert all(type(part) is str for part in (entry.text, entry.speaker, entry.key, entry.session, *entry.namespace))
    assert (entry.key, entry.speaker, entry.metadata) == ("user", "user", {"user": "user", "n": 1.5})
    assert memory.check().problems == ()
