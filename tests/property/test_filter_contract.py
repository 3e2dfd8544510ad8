"""If k entries match the filter, k come back; with exact=True they are the brute-force ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import WordEncoder

from agent_memory import Memory

FIELDS = ("a", "b", "c")
VALUES = (0, 1, 2.5, "x", "y", True, None)


def kind(value):
    return {bool: "bool", int: "number", float: "number", str: "text"}.get(type(value), "null")


def equal(left, right):
    return kind(left) == kind(right) and left == right


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
    if not isinstance(condition, dict):
        return present and equal(actual, condition)
    results = []
    for operator, value in condition.items():
        same_order = present and kind(actual) == kind(value) and kind(value) in ("number", "text")
        results.append(
            {
                "$eq": lambda: present and equal(actual, value),
                "$ne": lambda: not (present and equal(actual, value)),
                "$gt": lambda: same_order and actual > value,
                "$gte": lambda: same_order and actual >= value,
                "$lt": lambda: same_order and actual < value,
                "$lte": lambda: same_order and actual <= value,
                "$in": lambda: present and any(equal(actual, item) for item in value),
                "$nin": lambda: not (present and any(equal(actual, item) for item in value)),
                "$exists": lambda: present == value,
            }[operator]()
        )
    return all(results)


values = st.sampled_from(VALUES)
ordered = st.sampled_from([0, 1, 2.5, "x", "y"])
conditions = st.one_of(
    values,
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), values, min_size=1),
    st.dictionaries(st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered, min_size=1),
    st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(values, max_size=4), min_size=1),
    st.fixed_dictionaries({"$exists": st.booleans()}),
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


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    generator = np.random.default_rng(3)
    documents = [
        {name: VALUES[generator.integers(len(VALUES))] for name in FIELDS if generator.random() < 0.7}
        for _ in range(ROWS)
    ]
    encoder = WordEncoder()
    texts = [f"entry {number} about {number % 17} and {number % 5}" for number in range(ROWS)]
    with Memory(tmp_path_factory.mktemp("filters"), encoder=encoder) as memory:
        memory.add_many(
            {"text": text, "key": str(number), "metadata": documents[number]} for number, text in enumerate(texts)
        )
        yield memory, documents, encoder.encode_documents(texts).astype(np.float16).astype(np.float32)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=filters, k=st.integers(1, 60), query=st.integers(0, ROWS))
def test_filter_contract(store, where, k, query):
    memory, documents, vectors = store
    matching = [number for number in range(ROWS) if matches(where, documents[number])]
    text = f"entry {query} about {query % 17}"
    for exact, mode in ((False, "hybrid"), (True, "hybrid"), (False, "dense"), (True, "dense")):
        hits = memory.recall(text, k=k, where=where, exact=exact, mode=mode)
        found = [int(hit.entry.key) for hit in hits]
        assert len(found) == min(k, len(matching)), json.dumps(where)
        assert set(found) <= set(matching)
    scores = vectors[matching] @ WordEncoder().encode_queries([text])[0] if matching else np.empty(0)
    best = np.sort(scores)[::-1][: len(hits)]
    np.testing.assert_allclose([hit.score for hit in hits], best, atol=2e-3)
    if len(best) == k < len(scores) and np.sort(scores)[::-1][k - 1] - np.sort(scores)[::-1][k] > 4e-3:
        assert set(found) == {matching[place] for place in np.argsort(-scores)[:k]}
