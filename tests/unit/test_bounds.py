"""Bounds of what is stored and asked: metadata, queries, dates in them, vectors."""

from __future__ import annotations

import json
import time
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pytest
from support import WordEncoder

from agent_memory import InvalidInputError, inputs
from agent_memory.storage.words.terms import choose_words
from agent_memory.timewords import intervals


def test_metadata_beyond_a_million_characters_of_json_are_refused(memory, tmp_path):
    full = {"a": "é" * (1_000_000 - len('{"a":""}'))}
    assert memory.add("x", key="k", metadata=full).metadata == full
    over = {"a": full["a"] + "é"}
    line = {"key": "n", "text": "x", "namespace": [], "metadata": over}
    (tmp_path / "big.jsonl").write_text(json.dumps({"agent_memory_export": 1}) + "\n" + json.dumps(line))
    for write in (
        lambda: memory.add("x", metadata=over),
        lambda: memory.add_many(["y", {"text": "x", "metadata": {"a": [over]}}]),
        lambda: memory.update("k", metadata=over),
        lambda: memory.add("x", metadata={"a": "\x01" * 200_000}),
        lambda: memory.add("x", metadata={"a": [0] * 600_000}),
        lambda: memory.import_(tmp_path / "big.jsonl"),
    ):
        with pytest.raises(InvalidInputError, match="1000000 characters"):
            write()
    assert len(memory.entries()) == 1


def test_metadata_whose_parts_multiply_are_refused_at_once(memory):
    doubled = ["a"]
    for _ in range(60):
        doubled = [doubled, doubled]
    with pytest.raises(InvalidInputError, match="1000000 characters"):
        memory.add("x", metadata={"a": doubled})


def test_a_query_beyond_its_bound_is_refused_with_the_setting_to_raise(open_memory):
    memory = open_memory()
    memory.add("tea")
    assert memory.recall("tea " * 2_500)
    for ask in (memory.recall, lambda query: memory.recall_many([query]), lambda query: memory.why(query, "k")):
        with pytest.raises(InvalidInputError, match="max_query_chars = 10000"):
            ask("tea " * 2_500 + "x")
    assert open_memory(config={"max_query_chars": 20_000}).recall("tea " * 2_501)


def test_a_query_with_as_many_dates_as_it_holds_is_answered(open_memory):
    memory = open_memory(config={"max_query_chars": 100_000})
    memory.add("tea", event_time="2024-05-01")
    days = [(date(2021, 1, 1) + timedelta(days=day)).isoformat() for day in range(1_100)]
    began = time.perf_counter()
    for query in (" ".join(days), "yesterday " * 5_000, "in May 2024 " * 1_000, "3 days ago " * 2_000):
        assert memory.recall(f"tea {query}")[0].text == "tea"
    assert time.perf_counter() - began < 20


def test_periods_are_told_once_and_there_are_few_of_them():
    now = datetime(2025, 6, 15, tzinfo=UTC)
    assert len(intervals("yesterday, Yesterday, 2025-06-14 and 1 day ago", now)) == 1
    days = " ".join(f"2024-{month:02}-{day:02}" for month in range(1, 13) for day in (1, 2, 3))
    assert len(intervals(days, now)) == 32
    asked = []
    assert intervals("yesterday, today", now, stop=lambda: not asked.append(1)) == []
    assert len(asked) == 1


def test_a_budget_that_is_spent_begins_no_search_by_dates(memory):
    memory.add_many([{"text": f"tea {number}", "event_time": "2024-05-01"} for number in range(50)])
    memory.recall("warm up yesterday")
    hits = memory.recall("tea 2024-05-01", k=3, budget_ms=1e-6, explain=True)
    assert len(hits) == 3
    assert all(hit.trace["time"]["words"] == [] and hit.trace["lexical"]["rank"] is None for hit in hits)


@pytest.mark.parametrize(
    "vector",
    [
        [3e38] * 96,
        np.full(96, 3e38, np.float32),
        [1e-30] * 96,
        np.full(96, 1e-44, np.float32),
        [1e300] * 96,
        [5e-324] * 96,
        np.full(96, 60_000, np.float16),
        [10**30] * 96,
        np.full(96, 2**62, np.int64),
    ],
)
def test_vectors_of_any_length_are_stored_by_their_direction(memory, vector):
    memory.add("x", key="k", vector=vector)
    memory.add("y", vector=[1.0] + [0.0] * 95)
    assert memory.vectors(["k"])["k"] == pytest.approx(np.full(96, 96**-0.5), rel=1e-3)
    hit = memory.recall(vector, k=1)[0]
    assert (hit.entry.key, hit.score) == ("k", pytest.approx(1, abs=1e-3))


@pytest.mark.parametrize("vector", [[1j] * 96, ["1"] * 96, [10**400] * 96, [None] * 96, [[1.0]] * 96, [0.0] * 96])
def test_what_is_no_vector_is_refused(memory, vector):
    with pytest.raises(InvalidInputError):
        memory.add("x", vector=vector)
    assert memory.entries() == []


def test_an_encoder_may_return_vectors_of_any_length(open_memory):
    class Faint(WordEncoder):
        def encode_documents(self, texts, *, progress=None):
            return super().encode_documents(texts, progress=progress).astype(np.float64) * 1e-200

    memory = open_memory(encoder=Faint())
    memory.add("likes tea", key="k")
    assert np.linalg.norm(memory.vectors(["k"])["k"]) == pytest.approx(1, abs=1e-3)


def test_a_vector_is_scaled_in_double_precision():
    given = np.random.default_rng(0).standard_normal(96)
    exact = given / np.linalg.norm(given)
    for scale in (1e-200, 1e-30, 1.0, 3e38, 1e200):
        assert np.abs(inputs.parse_vector(given * scale) - exact).max() < 1e-7


def test_a_query_looks_up_few_phrases_and_the_words_of_all():
    words = choose_words(" ".join(f'"red{n} blue{n}"' for n in range(60)), tuple)
    phrases = [word for word in words if any(len(form) > 1 for form in word.forms)]
    assert [word.label for word in phrases] == [f"red{n} blue{n}" for n in range(8)]
    assert {"red59", "blue59"} <= {word.label for word in words}
