from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent_memory import Entry, Hit, JobState, Session
from agent_memory.formats.payload import dumps, to_json

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)


def entry(**fields):
    return Entry(**{"key": "k", "text": "t", "event_time": NOON, "created_at": NOON, "updated_at": NOON, **fields})


def test_a_record_becomes_an_object_of_all_its_fields():
    found = to_json(entry(namespace=("a", "b"), metadata={"n": [1, None]}))
    assert list(found) == list(Entry.__slots__)
    assert found["namespace"] == ["a", "b"]
    assert found["metadata"] == {"n": [1, None]}
    assert found["session"] is None
    assert found["event_time"] == "2026-05-01T12:00:00+00:00"


def test_a_brief_record_leaves_out_its_empty_fields_and_nothing_of_the_callers():
    found = to_json(entry(metadata={"none": None, "list": [], "object": {}}, importance=0.0), brief=True)
    assert set(found) == {"key", "text", "metadata", "event_time", "created_at", "updated_at", "importance"}
    assert found["metadata"] == {"none": None, "list": [], "object": {}}
    assert "metadata" not in to_json(entry(), brief=True)


def test_a_hit_is_one_flat_object_with_its_trace_only_when_there_is_one():
    found = to_json(Hit(entry=entry(), score=0.5, rank=1))
    assert (found["rank"], found["score"], found["key"]) == (1, 0.5, "k")
    assert "trace" not in found
    assert to_json(Hit(entry=entry(), score=0.5, rank=1, trace={64: np.float32(0.5)}))["trace"] == {"64": 0.5}


def test_times_keep_their_offset():
    there = timezone(timedelta(hours=2))
    session = Session(name="s", namespace=(), entries=1, first_event=NOON, last_event=NOON.astimezone(there))
    assert to_json(session)["last_event"] == "2026-05-01T14:00:00+02:00"


def test_arrays_paths_and_enumerations_become_plain():
    found = to_json({"rows": np.eye(2, dtype=np.float32), "one": np.int64(3), "at": Path("a/b"), "is": JobState.DONE})
    assert found == {"rows": [[1.0, 0.0], [0.0, 1.0]], "one": 3, "at": "a/b", "is": "done"}
    assert type(found["is"]) is str


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float32("-inf"), np.array([np.nan])])
def test_numbers_that_json_has_not_become_null(number):
    assert json.loads(dumps([number])) in ([None], [[None]])


def test_ascii_alone_says_the_same():
    text = dumps(entry(text="naïve ✓ 日本 🎉"), ascii_only=True, indent=2)
    assert text.isascii()
    assert json.loads(text) == json.loads(dumps(entry(text="naïve ✓ 日本 🎉")))


def test_what_has_no_json_form_is_refused():
    with pytest.raises(TypeError, match="set has no JSON form"):
        dumps({"a": {1}})
    with pytest.raises(TypeError, match="type has no JSON form"):
        dumps(Entry)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes(timezones=st.just(UTC)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
        max_leaves=12,
    )
)
def test_text_holds_what_the_object_does(value):
    shown = [entry(metadata={"given": value}), Hit(entry=entry(), score=0.5, rank=1, trace={"given": value}), value]
    assert dumps(shown) == json.dumps(to_json(shown), ensure_ascii=False)
