from __future__ import annotations

import numpy as np
import pytest

from agent_memory import InvalidInputError

DOCUMENTS = {
    "a": {
        "topic": "home",
        "year": 2023,
        "done": True,
        "tags": ["x", "y"],
        "place": {"city": "Berlin", "zip": 1},
    },
    "b": {"topic": "work", "year": 2024.5, "done": False, "note": None},
    "c": {"topic": "home", "year": "2024", "one": 1, "place": {"city": "Porto"}},
    "d": {},
    "e": {"dotted.name": 1, 'quo"te': 2, "back\\slash": 3, "li\nne": 4, "$": 5, "": 6, "it's": 7, "é": 8},
    "f": {"topic": ["home"], "year": True, "one": True, "place": "Berlin", "big": 2**70, "neg": -5},
}

CASES = [
    ({}, "abcdef"),
    ({"topic": "home"}, "acf"),
    ({"topic": {"$eq": "home"}}, "acf"),
    ({"topic": {"$ne": "home"}}, "bde"),
    ({"year": {"$gt": 2023}}, "b"),
    ({"year": {"$gte": 2023, "$lt": 2024}}, "a"),
    ({"year": {"$lte": 3000}}, "ab"),
    ({"year": {"$gt": "2"}}, "c"),
    ({"neg": {"$lt": 0}}, "f"),
    ({"one": 1}, "c"),
    ({"one": 1.0}, "c"),
    ({"one": True}, "f"),
    ({"done": False}, "b"),
    ({"note": None}, "b"),
    ({"note": {"$exists": True}}, "b"),
    ({"note": {"$exists": False}}, "acdef"),
    ({"topic": {"$in": ["home", "work"]}}, "abcf"),
    ({"topic": {"$nin": ["home"]}}, "bde"),
    ({"topic": {"$in": []}}, ""),
    ({"topic": {"$nin": []}}, "abcdef"),
    ({"one": {"$in": [1, "x"]}}, "c"),
    ({"one": {"$in": [True]}}, "f"),
    ({"note": {"$in": [None, 3]}}, "b"),
    ({"tags": ["x", "y"]}, "a"),
    ({"tags": ["y", "x"]}, ""),
    ({"topic": {"$in": [["home"]]}}, "f"),
    ({"place": {"city": "Berlin"}}, "a"),
    ({"place": {"$eq": {"zip": 1, "city": "Berlin"}}}, "a"),
    ({"place": {"$eq": {"city": "Berlin"}}}, ""),
    ({"place": {"zip": {"$exists": False}}}, "c"),
    ({"place": {}}, "ac"),
    ({"$or": [{"topic": "work"}, {"one": 1}]}, "bc"),
    ({"$and": [{"topic": "home"}, {"year": 2023}]}, "a"),
    ({"$not": {"topic": "home"}}, "bde"),
    ({"year": {"$not": {"$gt": 2023}}}, "acdef"),
    ({"topic": "home", "$or": [{"done": True}, {"one": 1}]}, "ac"),
    ({"dotted.name": 1}, "e"),
    ({'quo"te': 2}, "e"),
    ({"back\\slash": {"$gt": 2}}, "e"),
    ({"li\nne": 4}, "e"),
    ({"it's": 7}, "e"),
    ({"é": 8}, "e"),
    ({"": 6}, "e"),
    ({"big": {"$gt": 2**62}}, "f"),
    ({"x') OR 1=1 --": 1}, ""),
    ({"topic": "home' OR '1'='1"}, ""),
    ({'topic" : 1} OR 1=1': 1}, ""),
    ({"tags": "x"}, "a"),
    ({"tags": {"$in": ["y", "z"]}}, "a"),
    ({"tags": {"$contains": "y"}}, "a"),
    ({"topic": {"$contains": "home"}}, "f"),
    ({"tags": {"$not_contains": "y"}}, "bcdef"),
    ({"tags": {"$all": ["y", "x"]}}, "a"),
    ({"topic": {"$all": ["home"]}}, "acf"),
    ({"tags": {"$all": []}}, ""),
    ({"tags": {"$size": 2}}, "a"),
    ({"tags": {"$size": 1}}, ""),
    ({"tags": {"$elemMatch": {"$gt": "x"}}}, "a"),
    ({"tags": {"$elemMatch": {"a": 1}}}, ""),
    ({"year": np.int64(2023)}, "a"),
    ({"year": {"$in": np.array([2023, 7])}}, "a"),
    ({"year": {"$in": range(2020, 2025)}}, "a"),
    ({"year": {"$gte": np.float32(2023.5)}}, "b"),
    ({"done": np.True_}, "a"),
    ({"$.topic": "home"}, None),
    ({"topic": "$.topic"}, ""),
]


@pytest.fixture(scope="module")
def memory(tmp_path_factory):
    from support import WordEncoder

    from agent_memory import Memory

    with Memory(tmp_path_factory.mktemp("where"), encoder=WordEncoder()) as memory:
        memory.add_many({"text": f"text {key}", "key": key, "metadata": value} for key, value in DOCUMENTS.items())
        yield memory


@pytest.mark.parametrize(("where", "expected"), CASES, ids=lambda value: str(value)[:60])
def test_filter(memory, where, expected):
    if expected is None:
        with pytest.raises(InvalidInputError):
            memory.entries(where=where)
        return
    assert "".join(entry.key for entry in memory.entries(where=where)) == expected
    assert {hit.entry.key for hit in memory.recall("text", k=50, where=where)} == set(expected)


def nest(depth, make):
    value: object = 1
    for _ in range(depth):
        value = make(value)
    return value


HOSTILE = [
    "topic = home",
    [("topic", "home")],
    {1: "x"},
    {"$where": "1=1"},
    {"topic": {"$regex": ".*"}},
    {"topic": {"$gt": None}},
    {"topic": {"$gt": True}},
    {"topic": {"$lt": [1]}},
    {"topic": {"$eq": float("nan")}},
    {"topic": float("inf")},
    {"topic": 2**64},
    {"topic": object()},
    {"topic": {"$in": "home"}},
    {"topic": {"$in": list(range(10_001))}},
    {"topic": {"$in": [object()]}},
    {"topic": {"$in": {"home": 1}}},
    {"topic": {"$all": "home"}},
    {"topic": {"$all": list(range(501))}},
    {"topic": {"$size": -1}},
    {"topic": {"$size": True}},
    {"topic": {"$size": "1"}},
    {"topic": {"$elemMatch": {}}},
    {"topic": {"$elemMatch": "x"}},
    {"topic": {"$elemMatch": {"$gt": 1, "a": 2}}},
    {"topic": np.complex128(1)},
    {"topic": np.timedelta64(1, "s")},
    {"topic": np.datetime64("NaT")},
    {"topic": np.float32("nan")},
    {"topic": {"$exists": 1}},
    {"topic": {"$eq": 1, "plain": 2}},
    {"topic": {1: 2}},
    {"$and": []},
    {"$or": {"a": 1}},
    {"$not": [1]},
    {"a\x00b": 1},
    {"\ud800": 1},
    {"a": "\ud800"},
    {"a": ["\ud800"]},
    {'a"b': {"c": 1}},
    {f"k{n}": 1 for n in range(501)},
    {"a": {"$not": "x\x00"} and {"$not": {"$bad": 1}}},
    nest(10_000, lambda value: {"a": value}),
    nest(10_000, lambda value: {"$not": value}),
    nest(10_000, lambda value: {"$and": [value]}),
    {"a": nest(10_000, lambda value: {"$not": value})},
    {"a": nest(10_000, lambda value: {"$elemMatch": value})},
    {"a": nest(10_000, lambda value: [value])},
]


@pytest.mark.parametrize("number", range(len(HOSTILE)))
def test_hostile_filters_get_a_typed_error(memory, number):
    for call in (memory.entries, lambda where: memory.recall("x", where=where)):
        with pytest.raises(InvalidInputError):
            call(where=HOSTILE[number])
    assert len(memory.entries()) == len(DOCUMENTS)


def test_the_largest_allowed_filters_run(memory):
    memory.entries(where={f"k{n}": {"$ne": 1} for n in range(250)})
    memory.entries(where={"$or": [{f"k{n}": 1} for n in range(249)]})
    memory.entries(where={"a": {"$in": list(range(10_000))}})
    memory.entries(where=nest(30, lambda value: {"a": value}))
    memory.entries(where=nest(30, lambda value: {"$not": value if isinstance(value, dict) else {"a": 1}}))
