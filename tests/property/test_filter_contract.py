"""If k entries match the filter, k come back; with exact=True they are the brute-force ones."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import WordEncoder

from agent_memory import Memory
from agent_memory.live import columns

FIELDS = ("a", "b", "c")
LISTS = ([], ["x"], ["y", 1], [0, 2.5, "x"], [None, True], [["x"]])
VALUES = (0, 1, 2.5, "x", "y", True, None, "2024-05-01T12:00:00+02:00", "2024-05-02", *LISTS)
MOMENTS = (datetime(2024, 5, 1, 10, tzinfo=UTC), datetime(2024, 5, 1, 12), date(2024, 5, 1), date(2024, 5, 2))


def kind(value):
    kinds = {bool: "bool", int: "number", float: "number", str: "text", list: "list"}
    return kinds.get(type(value), "null")


def equal(left, right):
    if isinstance(right, date):
        return compares(left, right, lambda a, b: a == b)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    return kind(left) == kind(right) and left == right


def compares(left, right, holds):
    """Whether an order comparison holds between a stored value and a given one."""
    if not isinstance(right, date):
        return kind(left) == kind(right) and kind(left) in ("number", "text") and holds(left, right)
    try:
        moment = datetime.fromisoformat(left)
    except (TypeError, ValueError):
        return False
    moment = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    if isinstance(right, datetime):
        return holds(moment, right if right.tzinfo else right.replace(tzinfo=UTC))
    return holds(moment.date(), right)


def itself_and_items(actual):
    return [actual, *actual] if isinstance(actual, list) else [actual]


def matches(where, document):
    """The filter language once more, in plain Python."""
    results = []
    for name, value in where.items():
        if name == "$and":
            results.append(all(matches(part, document) for part in value))
        elif name == "$or":
            results.append(any(matches(part, document) for part in value))
        elif name == "$not":
            results.append(not matches(value, document))
        else:
            results.append(field_matches(value, name, document))
    return all(results)


def field_matches(condition, name, document):
    present, actual = name in document, document.get(name)
    looked_at = itself_and_items(actual) if present else []
    if not isinstance(condition, dict):
        return any(equal(one, condition) for one in looked_at)
    results = []
    for operator, value in condition.items():
        results.append(
            {
                "$eq": lambda: any(equal(one, value) for one in looked_at),
                "$ne": lambda: not any(equal(one, value) for one in looked_at),
                "$gt": lambda: any(compares(one, value, lambda a, b: a > b) for one in looked_at),
                "$gte": lambda: any(compares(one, value, lambda a, b: a >= b) for one in looked_at),
                "$lt": lambda: any(compares(one, value, lambda a, b: a < b) for one in looked_at),
                "$lte": lambda: any(compares(one, value, lambda a, b: a <= b) for one in looked_at),
                "$in": lambda: any(equal(one, item) for one in looked_at for item in value),
                "$nin": lambda: not any(equal(one, item) for one in looked_at for item in value),
                "$exists": lambda: present == value,
                "$contains": lambda: any(equal(one, value) for one in looked_at[1:]),
                "$all": lambda: bool(value) and all(any(equal(one, item) for one in looked_at) for item in value),
                "$size": lambda: isinstance(actual, list) and len(actual) == value,
                "$elemMatch": lambda: any(field_matches(value, "it", {"it": one}) for one in looked_at[1:]),
            }[operator]()
        )
    return all(results)


values = st.sampled_from((*VALUES, *MOMENTS))
ordered = st.sampled_from([0, 1, 2.5, "x", "y", *MOMENTS])
conditions = st.one_of(
    values,
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), values, min_size=1),
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered, min_size=1),
    st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(values, max_size=4), min_size=1),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries({"$contains": values}),
    st.fixed_dictionaries({"$all": st.lists(values, max_size=2)}),
    st.fixed_dictionaries({"$size": st.integers(0, 3)}),
    st.fixed_dictionaries(
        {"$elemMatch": st.dictionaries(st.sampled_from(["$gt", "$lt", "$ne"]), st.sampled_from([0, 1]), min_size=1)}
    ),
)
filters = st.recursive(
    st.dictionaries(st.sampled_from(FIELDS), conditions, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=5,
)

ROWS = 400


@pytest.fixture(scope="module", params=["by the database", "from columns"])
def store(request, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "SMALLEST", 1 if request.param == "from columns" else 10**9)
        patch.setattr(columns, "PATIENCE", 0)
        yield from fill(tmp_path_factory.mktemp("filters"))


@pytest.fixture(scope="module")
def served(postgres):
    yield from fill(postgres.url(schema="filters"))


def fill(place):
    generator = np.random.default_rng(3)
    documents = [
        {name: VALUES[generator.integers(len(VALUES))] for name in FIELDS if generator.random() < 0.7}
        for _ in range(ROWS)
    ]
    encoder = WordEncoder()
    texts = [f"entry {number} about {number % 17} and {number % 5}" for number in range(ROWS)]
    with Memory(place, encoder=encoder) as memory:
        memory.add_many(
            {"text": text, "key": str(number), "metadata": documents[number]} for number, text in enumerate(texts)
        )
        yield memory, documents, encoder.encode_documents(texts).astype(np.float16).astype(np.float32)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=filters, k=st.integers(1, 60), query=st.integers(0, ROWS))
def test_filter_contract(store, where, k, query):
    hold_contract(store, where, k, query)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=filters, k=st.integers(1, 60), query=st.integers(0, ROWS))
def test_filter_contract_on_postgresql(served, where, k, query):
    hold_contract(served, where, k, query)


def hold_contract(store, where, k, query):
    memory, documents, vectors = store
    matching = [number for number in range(ROWS) if matches(where, documents[number])]
    text = f"entry {query} about {query % 17}"
    for exact, mode in ((False, "hybrid"), (True, "hybrid"), (False, "dense"), (True, "dense")):
        hits = memory.recall(text, k=k, where=where, exact=exact, mode=mode)
        found = [int(hit.entry.key) for hit in hits]
        assert len(found) == min(k, len(matching)), where
        assert set(found) <= set(matching)
    scores = vectors[matching] @ WordEncoder().encode_queries([text])[0] if matching else np.empty(0)
    best = np.sort(scores)[::-1][: len(hits)]
    np.testing.assert_allclose([hit.score for hit in hits], best, atol=2e-3)
    if len(best) == k < len(scores) and np.sort(scores)[::-1][k - 1] - np.sort(scores)[::-1][k] > 4e-3:
        assert set(found) == {matching[place] for place in np.argsort(-scores)[:k]}
