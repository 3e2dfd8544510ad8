"""Metadata and filters as NumPy, pandas and ``datetime`` users write them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest

from agent_memory import InvalidInputError

TOKYO = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.int64(3), 3),
        (np.uint8(3), 3),
        (np.float32(1.5), 1.5),
        (np.float64(1.5), 1.5),
        (np.longdouble(1.5), 1.5),
        (np.bool_(True), True),
        (np.str_("x"), "x"),
        (np.arange(3), [0, 1, 2]),
        (np.array(["2024-05-01"], dtype="datetime64[D]"), ["2024-05-01"]),
        (np.datetime64("2024-05-01T10:00"), "2024-05-01T10:00:00+00:00"),
        (datetime(2024, 5, 1, 10), "2024-05-01T10:00:00+00:00"),
        (datetime(2024, 5, 1, 10, tzinfo=TOKYO), "2024-05-01T10:00:00+09:00"),
        (date(2024, 5, 1), "2024-05-01"),
        ({"deep": [np.int64(1), {"when": date(2024, 5, 1)}]}, {"deep": [1, {"when": "2024-05-01"}]}),
    ],
    ids=repr,
)
def test_values_that_mean_json_are_kept_as_json(memory, given, kept):
    added = memory.add("x", key="k", metadata={"a": given})
    stored = memory.get("k")
    assert added.metadata == stored.metadata == {"a": kept}
    assert json.loads(json.dumps(stored.metadata)) == {"a": kept}
    assert type(stored.metadata["a"]) is type(kept)
    memory.update("k", metadata={"b": given})
    assert memory.get("k").metadata == {"b": kept}


@pytest.mark.parametrize(
    "value",
    [
        np.float32("nan"),
        np.float64("inf"),
        np.datetime64("NaT"),
        np.timedelta64(1, "s"),
        np.complex64(1),
        {1},
        b"x",
        object(),
    ],
    ids=repr,
)
def test_values_without_a_json_form_are_refused(memory, value):
    for write in (
        lambda: memory.add("x", metadata={"a": value}),
        lambda: memory.add_many(["y", {"text": "x", "metadata": {"a": [value]}}]),
    ):
        with pytest.raises(InvalidInputError):
            write()
    assert memory.entries() == []


def find(memory, where):
    return "".join(entry.key for entry in memory.entries(where=where))


@pytest.fixture
def dated(memory):
    times = {
        "a": "2024-04-30T23:30:00+00:00",
        "b": "2024-05-01T08:00:00+09:00",  # still 30 April in UTC, half an hour before "a"
        "c": datetime(2024, 5, 1, 12, tzinfo=UTC),
        "d": date(2024, 5, 1),
        "e": "2024-05-02T00:00:00Z",
        "f": "soon",
        "g": 2024,
    }
    memory.add_many({"text": f"meeting {key}", "key": key, "metadata": {"when": when}} for key, when in times.items())
    memory.add("no time", key="h")
    return memory


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"when": datetime(2024, 5, 1, 12, tzinfo=UTC)}, "c"),
        ({"when": datetime(2024, 5, 1, 21, tzinfo=TOKYO)}, "c"),
        ({"when": datetime(2024, 5, 1, 12)}, "c"),
        ({"when": np.datetime64("2024-05-01T12")}, "c"),
        ({"when": {"$gte": datetime(2024, 4, 30, 23, 30)}}, "acde"),
        ({"when": {"$lt": datetime(2024, 4, 30, 23, 30)}}, "b"),
        ({"when": {"$gt": datetime(2024, 5, 1), "$lt": datetime(2024, 5, 2)}}, "c"),
        ({"when": date(2024, 5, 1)}, "cd"),
        ({"when": {"$lte": date(2024, 5, 1)}}, "abcd"),
        ({"when": {"$gt": date(2024, 5, 1)}}, "e"),
        ({"when": {"$ne": date(2024, 5, 1)}}, "abefgh"),
        ({"when": {"$in": [date(2024, 5, 2), np.datetime64("2024-04-30"), 2024]}}, "abeg"),
        ({"when": {"$nin": [date(2024, 4, 30)]}}, "cdefgh"),
        ({"$not": {"when": {"$gte": date(2024, 1, 1)}}}, "fgh"),
        ({"when": "2024-05-01"}, "d"),
    ],
    ids=str,
)
def test_moments_and_days_are_compared_as_times(dated, where, expected):
    assert find(dated, where) == expected
    assert {hit.entry.key for hit in dated.recall("meeting", k=50, where=where)} == set(expected)


def test_times_a_microsecond_apart_are_told_apart(memory):
    moment = datetime(2024, 5, 1, 12, 0, 0, 999_999, tzinfo=UTC)
    memory.add("x", key="x", metadata={"when": moment})
    step = timedelta(microseconds=1)
    assert find(memory, {"when": {"$gt": moment - step}}) == "x"
    assert find(memory, {"when": {"$gt": moment}}) == find(memory, {"when": {"$gte": moment + step}}) == ""
    assert find(memory, {"when": {"$lte": datetime.max.replace(tzinfo=TOKYO)}}) == "x"
    assert find(memory, {"when": {"$gte": datetime.min.replace(tzinfo=TOKYO)}}) == "x"
    assert find(memory, {"when": {"$lte": date.max}}) == "x"


def test_a_tag_finds_the_entries_whose_list_of_tags_holds_it(memory):
    rows = {
        "a": {"tags": ["work", "urgent"], "items": [{"sku": "x", "n": 5}, {"sku": "y", "n": 1}]},
        "b": {"tags": "work"},
        "c": {"tags": ["homework"]},
        "d": {"tags": []},
        "e": {"tags": [["work"]], "items": [{"sku": "x", "n": 1}, {"sku": "y", "n": 5}]},
        "f": {},
        "g": {"days": [date(2024, 5, 1), date(2024, 6, 1)]},
    }
    memory.add_many({"text": key, "key": key, "metadata": row} for key, row in rows.items())
    for where, expected in (
        ({"tags": "work"}, "ab"),
        ({"tags": {"$ne": "work"}}, "cdefg"),
        ({"tags": {"$in": ["urgent", "homework"]}}, "ac"),
        ({"tags": {"$contains": "work"}}, "a"),
        ({"tags": {"$contains": ["work"]}}, "e"),
        ({"tags": {"$not_contains": "work"}}, "bcdefg"),
        ({"tags": {"$all": ["urgent", "work"]}}, "a"),
        ({"tags": {"$size": 0}}, "d"),
        ({"tags": {"$size": 1}}, "ce"),
        ({"tags": ["work"]}, "e"),  # an item of the list is the list ["work"]
        ({"items": {"$elemMatch": {"sku": "x", "n": {"$gt": 3}}}}, "a"),
        ({"items": {"$elemMatch": {"$or": [{"n": 5}, {"n": 7}], "sku": "y"}}}, "e"),
        ({"items": {"$contains": {"sku": "y", "n": 1}}}, "a"),
        ({"days": {"$gte": datetime(2024, 5, 15)}}, "g"),
        ({"days": date(2024, 5, 1)}, "g"),
    ):
        assert find(memory, where) == expected, where
    assert memory.forget(where={"tags": "work"}) == 2
    assert find(memory, {}) == "cdefg"
