"""Columns find what the database finds, whoever writes, and keep nothing of what is forgotten."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import WordEncoder

from agent_memory import Memory
from agent_memory.live import columns as live_columns
from agent_memory.recall.request import make_condition

VALUES = [0, 1, 2.5, "x", "y", True, None, "2024-05-01", ["x", 1], [], {"in": "x"}]
NUMBERS = itertools.count()
START = datetime(2024, 1, 1, tzinfo=UTC)
WHERES = [
    None,
    {"a": 1},
    {"a": {"$ne": "x"}},
    {"a": {"$gte": 1}, "b": {"$exists": True}},
    {"a": {"$in": ["x", 0, None]}},
    {"a": {"$contains": "x"}},
    {"a": {"in": "x"}},
    {"$or": [{"a": {"$size": 0}}, {"$not": {"b": {"$lt": "y"}}}]},
    {"b": {"$lte": datetime(2024, 5, 2, tzinfo=UTC)}},
]

keys = st.integers(0, 30).map("k{}".format)
namespaces = st.sampled_from([("team", "ann"), ("team", "bob"), ("other",), ("team", "@internal")])
metadata = st.dictionaries(st.sampled_from("ab"), st.sampled_from(VALUES))
steps = st.one_of(
    st.tuples(st.just("add"), keys, namespaces, metadata, st.sampled_from([None, "Ann", "Ben"]), st.integers(0, 9)),
    st.tuples(st.just("update"), keys, namespaces, metadata),
    st.tuples(st.just("forget"), keys, namespaces),
    st.tuples(st.just("supersede"), keys, namespaces),
    st.tuples(st.just("expire"), keys, namespaces, st.sampled_from(["2020-01-01", "2199-01-01", None])),
    st.tuples(
        st.just("ask"),
        st.sampled_from(WHERES),
        st.sampled_from([(), ("team",), ("team", "bob"), ("team", "@internal")]),
    ),
    st.tuples(st.just("ask of a speaker"), st.sampled_from(["Ann", "Ben", "Cleo"]), st.integers(0, 9)),
)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(live_columns, "SMALLEST", 1)
    monkeypatch.setattr(live_columns, "PATIENCE", 0)


def select(memory, condition):
    """What the columns of a memory say, and what the database says."""
    store = memory._store
    with store.read() as tx:
        found = store.columns.select(tx, condition)
        expected = np.sort(tx.entries.select_ids(condition))
    return None if found is None else found.tolist(), expected.tolist()


def ask(memory, scope=(), **options):
    return select(memory, make_condition(scope, datetime.now(UTC), **options))


def act(memory, step):
    kind, *args = step
    if kind == "add":
        key, name, about, speaker, day = args
        expiry = datetime.now(UTC) + timedelta(days=1) if day % 3 == 0 else None
        event_time = START + timedelta(days=day)
        memory.add(
            f"about {key}", key=key, namespace=name, metadata=about, speaker=speaker, event_time=event_time,
            expires_at=expiry,
        )  # fmt: skip
        return
    key, name, *rest = args
    if all(entry.key != key for entry in memory.entries(namespace=name)):
        return
    if kind == "update":
        memory.update(key, metadata=rest[0], namespace=name)
    elif kind == "expire":
        memory.set_expiry({key: rest[0]}, namespace=name)
    elif kind == "forget":
        memory.forget(key, namespace=name)
    else:
        memory.add("what came after", key=f"{key} again", namespace=name)
        memory.supersede(key, f"{key} again", namespace=name)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(steps, min_size=4, max_size=25), last=st.sampled_from(WHERES))
def test_columns_find_what_the_database_finds(steps, last):
    with tempfile.TemporaryDirectory() as base:
        live_through(Path(base), steps, last)


@settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(steps, min_size=8, max_size=25), last=st.sampled_from(WHERES))
def test_columns_find_what_postgresql_finds(postgres, steps, last):
    live_through(postgres.url(schema=f"columns_{next(NUMBERS)}"), steps, last)


def live_through(place, steps, last):
    """Let two memories of a store take the steps in turn, and compare what columns and database say."""
    with Memory(place, encoder=WordEncoder()) as one, Memory(place, encoder=WordEncoder()) as other:
        one.add("the first", metadata={"a": 1})
        for number, step in enumerate([*steps, ("ask", last, ())]):
            if step[0] == "ask":
                for memory in (one, other):
                    found, expected = ask(memory, step[2], where=step[1])
                    assert found == expected
            elif step[0] == "ask of a speaker":
                day = START + timedelta(days=step[2])
                for times in ({"since": day}, {"until": day}):
                    found, expected = ask(one, speaker=step[1], **times)
                    assert found == expected
            else:
                act((one, other)[number % 2], step)
        later = datetime.now(UTC) + timedelta(days=2)
        found, expected = select(one, make_condition((), later, where=last))
        assert found == expected


def list_held(memory):
    """All values that the columns of a memory hold."""
    held = memory._store.columns._held.columns
    return [value for one in (held._namespaces, held._speakers, *held._members.values()) for value in one.values]


def test_columns_keep_nothing_of_what_is_forgotten(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("kept", speaker="Ann", metadata={"a": "plain"})
        memory.add("gone", key="gone", namespace=("secret",), speaker="Zoe", metadata={"a": "secret"})
        assert len(ask(memory, where={"a": {"$exists": True}})[0]) == 2
        assert ("text", "secret") in list_held(memory)
        memory.forget("gone", namespace=("secret",))
        assert "secret" not in str(list_held(memory))
        found, expected = ask(memory, where={"a": {"$exists": True}})
        assert found == expected and len(found) == 1
        assert "secret" not in str(list_held(memory)) and "Zoe" not in str(list_held(memory))


def test_a_damaged_row_does_not_keep_filters_from_finding_others(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add_many({"text": f"text {number}", "metadata": {"a": number % 2}} for number in range(4))
    with contextlib.closing(sqlite3.connect(tmp_path / "memory.db")) as raw, raw:
        raw.execute("UPDATE entries SET event_time = 'never' WHERE id = 1")
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        assert ask(memory, where={"a": 1}) == (None, [2, 4])
        assert {hit.text for hit in memory.recall("text", where={"a": 1})} == {"text 1", "text 3"}


def test_what_columns_cannot_answer_is_left_to_the_database(tmp_path, monkeypatch):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("one", session="s", metadata={"a": "long " * 20, 'it"s': 1})
        assert ask(memory, where={'it"s': 1}) == (None, [1])
        assert ask(memory, session="s") == (None, [1])
        assert ask(memory, where={f"m{number}": {"$exists": False} for number in range(40)}) == (None, [1])
        assert ask(memory, where={"a": {"$exists": True}}) == ([1], [1])
        monkeypatch.setattr(live_columns, "_MOST_BYTES", 10)
        assert ask(memory, where={"b": {"$exists": False}}) == ([1], [1])
        assert ask(memory, where={"b": {"$exists": False}}) == (None, [1])


def test_threads_that_filter_while_others_write_see_their_own_state(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory, ThreadPoolExecutor(4) as pool:
        memory.add("the first", metadata={"a": 0})

        def read(number):
            found, expected = ask(memory, where={"a": {"$gte": number % 3}})
            return found is None or found == expected

        def write(number):
            memory.add(f"text {number}", key=f"k{number % 10}", metadata={"a": number % 4})
            if number % 5 == 0:
                memory.forget(f"k{number % 10}")
            return True

        assert all(pool.map(lambda number: (read, write)[number % 4 == 0](number), range(80)))
        found, expected = ask(memory, where={"a": {"$gte": 1}})
        assert found == expected


def test_a_recall_without_time_reads_no_columns(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("one", metadata={"a": 1})
        columns = memory._store.columns
        for read in (False, True):
            if read:
                memory.recall("one", where={"b": {"$exists": False}})
            assert len(memory.recall("one", where={"a": 1}, budget_ms=1_000)) == 1
            assert (columns._held is not None) == read
        assert columns._held.columns.paths == [("b",)]


def test_columns_ahead_of_a_transaction_do_not_answer_it(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("one", metadata={"a": 1})
        store, condition = memory._store, make_condition((), datetime.now(UTC), where={"a": 1})
        with store.read() as earlier:
            assert earlier.changes.last_seq() == 1
            memory.add("two", metadata={"a": 1})
            assert ask(memory, where={"a": 1}) == ([1, 2], [1, 2])
            assert store.columns.select(earlier, condition) is None
            assert earlier.entries.select_ids(condition).tolist() == [1]
        assert ask(memory, where={"a": 1}) == ([1, 2], [1, 2])


def test_columns_are_read_again_after_many_changes_at_once(tmp_path, monkeypatch):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("one", key="one", metadata={"a": 1})
        memory.add("two", metadata={"a": 1})
        assert ask(memory, where={"a": 1})[0] == [1, 2]
        monkeypatch.setattr(live_columns, "_AT_ONCE", 2)
        memory.add_many({"text": f"text {number}", "metadata": {"a": number % 2}} for number in range(20))
        found, expected = ask(memory, where={"a": 1})
        assert found == expected and len(found) == 12


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_reads_columns_of_its_own_while_the_parent_holds_the_lock(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("one", metadata={"a": 1})
        assert ask(memory, where={"a": 1})[0] == [1]
        with memory._store.columns._lock:
            child = os.fork()
            if not child:
                os._exit(0 if ask(memory, where={"a": 1}) == ([1], [1]) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
