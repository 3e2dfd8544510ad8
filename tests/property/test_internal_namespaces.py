"""What lies in internal namespaces is found by those who ask for it there, and by nobody else; nothing loses it."""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import WordEncoder

from agent_memory import Memory
from agent_memory.live import internal, searcher

SPACES = [
    (),
    ("ann",),
    ("ann", "@internal"),
    ("@internal", "of a feature"),
    ("bob", "@internal", "deep"),
    ("@INTERNAL",),
]
SCOPES = [(), ("ann",), ("bob",), ("ann", "@internal"), ("bob", "@internal"), ("@internal",)]
MODES = ["hybrid", "dense", "lexical"]

keys = st.integers(0, 12).map("k{}".format)
spaces = st.sampled_from(SPACES)
steps = st.one_of(
    st.tuples(st.just("add"), keys, spaces),
    st.tuples(st.just("update"), keys, spaces),
    st.tuples(st.just("forget"), keys, spaces),
    st.tuples(st.just("supersede"), keys, spaces),
    st.tuples(st.just("expire"), keys, spaces),
    st.tuples(st.just("ask"), st.sampled_from(SCOPES), st.sampled_from(MODES)),
)


def act(memory, held, step, number):
    """Do what a step says, and note what must then be there: (namespace, key)."""
    kind, key, space = step
    if kind == "add":
        memory.add(f"river of number {number}", key=key, namespace=space)
        held.add((space, key))
    elif (space, key) in held and kind == "update":
        memory.update(key, text=f"river again {number}", namespace=space)
    elif (space, key) in held and kind == "expire":
        memory.set_expiry({key: datetime.now(UTC) - timedelta(seconds=1)}, namespace=space)
        held.remove((space, key))
    elif (space, key) in held and kind == "forget":
        memory.forget(key, namespace=space)
        held.remove((space, key))
    elif (space, key) in held and kind == "supersede":
        memory.add("river after it", key=f"{key} again", namespace=space)
        memory.supersede(key, f"{key} again", namespace=space)
        held.remove((space, key))
        held.add((space, f"{key} again"))


def choose(held, scope):
    """What must be found of a scope."""
    inside = {one for one in held if one[0][: len(scope)] == scope}
    return inside if "@internal" in scope else {one for one in inside if "@internal" not in one[0]}


def find(memory, scope, mode="hybrid", **options):
    hits = memory.recall("which river again", k=200, namespace=scope, mode=mode, **options)
    found = [(hit.entry.namespace, hit.entry.key) for hit in hits]
    assert len(found) == len(set(found))
    return set(found)


def hold(memory, held, scope, mode="hybrid"):
    """Assert that every way of asking finds exactly what it must."""
    expected = choose(held, scope)
    assert find(memory, scope, mode) == expected
    assert find(memory, scope, mode, where={"a": {"$exists": False}}) == expected
    entries = memory.entries(namespace=scope)
    assert {(entry.namespace, entry.key) for entry in entries} == expected
    assert memory.namespaces(namespace=scope) == sorted({space for space, _ in expected})


@pytest.fixture
def _from_columns(monkeypatch):
    monkeypatch.setattr(searcher, "_FEW_HIDDEN", 2)


def play_in(place, taken, scope, mode):
    with Memory(place, encoder=WordEncoder()) as one, Memory(place, encoder=WordEncoder()) as other:
        play(one, other, taken, scope, mode)


def play(one, other, taken, scope, mode):
    held = set()
    for number, step in enumerate(taken):
        memory = (one, other)[number % 2]
        if step[0] == "ask":
            hold(memory, held, step[1], step[2])
        else:
            act(memory, held, step, number)
    for memory in (one, other):
        hold(memory, held, scope, mode)
        assert memory.stats().entries == len(choose(held, ()))
    with tempfile.TemporaryDirectory() as base:
        assert one.export(Path(base) / "all.jsonl") == len(held)
    assert one.check().ok
    one.forget(everything=True)
    assert all(find(other, scope) == set() for scope in SCOPES)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(taken=st.lists(steps, min_size=4, max_size=25), scope=st.sampled_from(SCOPES), mode=st.sampled_from(MODES))
def test_internal_entries_are_found_where_they_are_asked_for_and_nowhere_else(taken, scope, mode):
    with tempfile.TemporaryDirectory() as base:
        play_in(base, taken, scope, mode)


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(taken=st.lists(steps, min_size=4, max_size=25), scope=st.sampled_from(SCOPES), mode=st.sampled_from(MODES))
def test_many_internal_entries_are_left_out_as_filters_are(_from_columns, taken, scope, mode):
    with tempfile.TemporaryDirectory() as base:
        play_in(base, taken, scope, mode)


@settings(max_examples=5, deadline=None, suppress_health_check=list(HealthCheck))
@given(taken=st.lists(steps, min_size=4, max_size=15), scope=st.sampled_from(SCOPES), mode=st.sampled_from(MODES))
def test_internal_entries_on_postgresql(postgres, taken, scope, mode):
    place = postgres.url(schema="internal")
    with Memory(place, encoder=WordEncoder()) as memory:
        memory.forget(everything=True)
    play_in(place, taken, scope, mode)


def test_an_index_of_internal_entries_alone_leaves_none_to_the_whole_store(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add_many({"text": f"river {number}", "namespace": ("@internal",)} for number in range(30))
        assert [find(memory, (), mode) for mode in MODES] == [set()] * 3
        memory.add("river of a person", key="mine")
        assert [find(memory, (), mode) for mode in MODES] == [{((), "mine")}] * 3
        assert [hit.entry.key for hit in memory.recall("river 7", k=1)] == ["mine"]
        assert len(memory.recall("river 7", k=20, namespace=("@internal",))) == 20


def test_what_a_copy_of_the_store_carries(tmp_path):
    with Memory(tmp_path / "store", encoder=WordEncoder()) as memory:
        memory.add("river one", key="a", namespace=("@internal",), metadata={"a": 1})
        memory.add("river two", key="b")
        memory.backup(tmp_path / "copy")
        memory.export(tmp_path / "all.jsonl")
        memory.reindex(tiers=(48, 96))
        assert find(memory, ("@internal",)) == {(("@internal",), "a")} and find(memory, ()) == {((), "b")}
    Memory.restore(tmp_path / "copy", tmp_path / "restored")
    with Memory(tmp_path / "restored", encoder=WordEncoder()) as restored:
        assert find(restored, ("@internal",)) == {(("@internal",), "a")} and find(restored, ()) == {((), "b")}
    with Memory(tmp_path / "imported", encoder=WordEncoder()) as imported:
        assert imported.import_(tmp_path / "all.jsonl") == 2
        assert find(imported, ("@internal",)) == {(("@internal",), "a")} and find(imported, ()) == {((), "b")}
        assert imported.forget(where={"a": 1}) == 1  # what a filter matches is forgotten wherever it is
        assert find(imported, ("@internal",)) == set()


def test_a_limit_of_entries_counts_what_a_person_sees(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder(), config={"retention": {"": {"max_entries": 2}}}) as memory:
        memory.add_many({"text": f"river {number}", "namespace": ("@internal",)} for number in range(5))
        memory.add_many(f"river {number}" for number in range(4))
        memory.maintenance()
        assert len(memory.entries()) == 2 and len(memory.entries(namespace=("@internal",))) == 5


def test_internal_entries_update_and_lend_nothing_outside(tmp_path):
    with Memory(tmp_path) as memory:
        memory.add("Alice lives in Paris.", namespace=("@internal",))
        entry = memory.add("Alice lives in Berlin now.")
        assert entry.may_supersede == () and entry.duplicate_of is None
        assert memory.recall("Where does Alice live?")[0].stale_by is None


def test_a_long_log_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr(internal, "_AT_ONCE", 2)
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("river zero", key="zero")
        assert find(memory, ()) == {((), "zero")}
        memory.add_many({"text": f"river {number}", "namespace": ("@internal",)} for number in range(5))
        assert find(memory, ()) == {((), "zero")}


def test_a_transaction_that_began_earlier_sees_its_own_state(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("river one", namespace=("@internal",))
        store = memory._store
        with store.read() as earlier:
            assert len(store.internal.list_ids(earlier)) == 1
            memory.add("river two", namespace=("@internal",))
            with store.read() as later:
                assert len(store.internal.list_ids(later)) == 2
            assert len(store.internal.list_ids(earlier)) == 1
        with store.read() as last:
            assert len(store.internal.list_ids(last)) == 2
