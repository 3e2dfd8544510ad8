"""Metadata filters: every operator against the table of the unit tests, and trees of them against plain Python."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pytest
from conformance.oracle import holds
from conformance.samples import current, find_keys, make_draft, put
from unit.test_where import CASES, DOCUMENTS

from agent_memory.storage.columns import Columns, list_paths
from agent_memory.storage.filters import parse_filter

TABLE = [(where, expected) for where, expected in CASES if expected is not None]

NAMES = ["a", "b", "c", "a.b", "it's", "é", "", "0", "$"]
OUTER = ["a", "b", "é"]
NUMBERS = [0, 1, -1, 2.5, -0.0, 0.1 + 0.2, 2**53, 2**53 + 1, 1e300, 5e-324, 2**62, -(2**63)]
NUMBERS += [float(2**62), 2**60, 2**60 + 1, float(2**60), 123456789012345678, 123456789012345678.0, 0.1, 1.1]
TEXTS = [
    "",
    "x",
    "X",
    "1",
    "true",
    "null",
    "é",
    "e\u0301",
    "\uffff",
    "\U0001f600",
    "it's",
    'say "x"',
    "back\\slash",
    "li\nne",
]
CONSTANTS = [True, False, None]
NESTED = [[], ["x"], ["x", 1], [[1]], {"x": 1}, {"x": {"é": None}}, {"b": 1, "a": [True]}]
NESTED += [[{"x": 1}, {"x": 2, "it's": 0}], [1, 5, "x"], [None, False, 0], ["2024-05-01", 3], [["x"], "x"]]
ISO = [
    "2024-05-01",
    "2024-05-01T12:00:00Z",
    "2024-05-01T23:30:00-02:00",
    "2024-05-02 00:00:00.000001",
    "2024-05",
    "12:30",
]
MOMENTS = [
    datetime(2024, 5, 1, 12, tzinfo=UTC),
    datetime(2024, 5, 2, 1, 30),
    datetime(2024, 5, 2, 0, 0, 0, 1, tzinfo=UTC),
    datetime(2024, 5, 1, 14, tzinfo=timezone(timedelta(hours=2))),
    date(2024, 5, 1),
    date(2024, 5, 2),
]
VALUES = [*NUMBERS, *TEXTS, *ISO, *CONSTANTS, *NESTED]
OPERATORS = ["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$exists", "$not"]
OPERATORS += ["$contains", "$not_contains", "$all", "$size", "$elemMatch"]


def draw_value(draw):
    return draw.choice(draw.choice([NUMBERS, TEXTS, ISO, CONSTANTS, NESTED, NESTED]))


def draw_document(draw):
    document = {name: draw_value(draw) for name in NAMES if draw.random() < 0.6}
    for name in OUTER:
        if draw.random() < 0.4:
            document[name] = {inner: draw_value(draw) for inner in NAMES if draw.random() < 0.4}
    return document


def draw_operator(draw, name, used):
    used[name] += 1
    if name in ("$gt", "$gte", "$lt", "$lte"):
        return draw.choice([*NUMBERS, *TEXTS, *MOMENTS])
    if name == "$size":
        return draw.randrange(4)
    if name == "$elemMatch":
        inner = {draw.choice(OPERATORS[:6]): draw.choice([*NUMBERS[:4], "x"])}
        return draw.choice([inner, {"x": inner}, {"x": 1}, {"it's": {"$exists": True}}, {"$contains": "x"}])
    if name in ("$in", "$nin", "$all"):
        return [draw_value(draw) for _ in range(draw.randrange(5))]
    if name == "$exists":
        return draw.random() < 0.5
    if name == "$not":
        return {draw.choice(OPERATORS[:6]): draw.choice([*NUMBERS, *MOMENTS])}
    return draw_value(draw)


def draw_where(draw, used, depth=0):
    """A filter; what it is made of is counted in ``used``."""
    where = {}
    for _ in range(draw.choice([1, 1, 2])):
        kind = draw.random()
        if kind < 0.15 and depth < 3:
            name = draw.choice(["$and", "$or"])
            used[name] += 1
            where[name] = [draw_where(draw, used, depth + 1) for _ in range(draw.randrange(1, 4))]
        elif kind < 0.25 and depth < 3:
            used["whole $not"] += 1
            where["$not"] = draw_where(draw, used, depth + 1)
        elif kind < 0.35:
            used["nested"] += 1
            inner = {draw.choice(NAMES[:-1]): {"$exists": True}, draw.choice(NAMES[:-1]): draw_value(draw)}
            where[draw.choice(OUTER)] = inner
        elif kind < 0.5:
            where[draw.choice(NAMES[:-1])] = draw.choice([*NUMBERS, *TEXTS, *CONSTANTS])
        else:
            names = draw.sample(OPERATORS, draw.choice([1, 1, 2]))
            where[draw.choice(NAMES[:-1])] = {name: draw_operator(draw, name, used) for name in names}
    return where


def select_from_columns(tx, condition):
    """The entries that columns find, read as the back end reads them."""
    columns = Columns()
    for facts in tx.entries.read_facts():
        assert columns.put(facts, {})
    for path in list_paths(condition.where):
        columns.add_member(path, tx.entries.read_members(path))
    return columns.select(condition, np.empty(0, np.int64)).tolist()


class FilterContract:
    """``Condition.where``."""

    @pytest.fixture
    def documents(self, database):
        """Metadata of 200 entries by id: those of the table, every value in every place, and random ones."""
        draw = random.Random(5)
        documents = [*DOCUMENTS.values(), *({"a": value, "b": {"é": value}} for value in VALUES)]
        documents += [draw_document(draw) for _ in range(200 - len(documents))]
        ids = put(database, *(make_draft(str(number), metadata=one) for number, one in enumerate(documents)))
        return dict(zip(ids, documents, strict=True))

    def test_metadata_comes_back_as_it_was_given(self, database, documents):
        with database.read() as tx:
            for entry_id, entry in tx.entries.fetch(list(documents)).items():
                assert repr(entry.metadata) == repr(_sort(documents[entry_id]))

    def test_the_table_of_filters_finds_the_same(self, database):
        put(database, *(make_draft(key, metadata=value) for key, value in DOCUMENTS.items()))
        for where, expected in TABLE:
            assert "".join(find_keys(database, current(where=parse_filter(where)))) == expected, where

    def test_every_operator_with_every_value_finds_what_python_finds(self, database, documents):
        with database.read() as tx:
            for number, value in enumerate(VALUES):
                ordered = isinstance(value, str | int | float) and not isinstance(value, bool)
                for operator in OPERATORS[: 6 if ordered else 2]:
                    self._compare(tx, documents, {"a": {operator: value}})
                operator = OPERATORS[number % 6 if ordered else number % 2]
                self._compare(tx, documents, {"b": {"é": {operator: value}}})
                self._compare(tx, documents, {"a": {"$in": [value, "nothing"]}})
                self._compare(tx, documents, {"a": {"$nin": [value, 10**6]}})
                self._compare(tx, documents, {"a": {"$contains": value}})
                self._compare(tx, documents, {"b": {"é": {"$all": [value]}}})

    def test_times_are_compared_as_moments_wherever_they_stand(self, database, documents):
        with database.read() as tx:
            found = [
                self._compare(tx, documents, where)
                for moment in MOMENTS
                for operator in OPERATORS[:6]
                for where in ({"a": {operator: moment}}, {"b": {"é": {operator: moment}}})
            ]
            found += [self._compare(tx, documents, {"a": {"$in": MOMENTS}})]
        assert sum(0 < len(ids) < len(documents) for ids in found) > 50

    def test_filters_of_filters_find_what_python_finds(self, database, documents):
        draw, used = random.Random(6), Counter()
        with database.read() as tx:
            found = [self._compare(tx, documents, draw_where(draw, used)) for _ in range(300)]
        assert sum(0 < len(ids) < len(documents) for ids in found) > 150
        assert min(used[name] for name in (*OPERATORS, "$and", "$or", "whole $not", "nested")) > 10

    def _compare(self, tx, documents, where):
        tree = parse_filter(where)
        expected = [entry_id for entry_id, metadata in documents.items() if holds(tree, metadata)]
        assert sorted(tx.entries.select_ids(current(where=tree)).tolist()) == expected, where
        if tx.entries.has_columns and list_paths(tree) is not None:
            assert select_from_columns(tx, current(where=tree)) == expected, where
        return expected

    def test_the_largest_filters_are_answered(self, database):
        put(database, make_draft("a", metadata={"n": 9_999, "t": "9999", "k7": 1}), make_draft("b"))
        large = [
            {"n": {"$in": list(range(10_000))}},
            {"t": {"$in": [str(number) for number in range(10_000)]}},
            {"$or": [{f"k{number}": 1} for number in range(249)]},
            {"$not": {f"k{number}": {"$ne": 1} for number in range(249)}},
            {"n": {"$not": {"$all": list(range(400))}}, "k7": 1},
        ]
        for where in large:
            assert find_keys(database, current(where=parse_filter(where))) == ["a"], str(where)[:60]


def _sort(value):
    """A JSON value with the keys of its objects sorted, as it is stored."""
    if isinstance(value, dict):
        return {name: _sort(value[name]) for name in sorted(value)}
    return [_sort(one) for one in value] if isinstance(value, list) else value
