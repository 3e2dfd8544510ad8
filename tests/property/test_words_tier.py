"""The words tier finds what the full-text index finds, with the same scores, in the same order."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import WordEncoder

from agent_memory import Config, Memory
from agent_memory.index.words import Page, WordsTier
from agent_memory.inputs import is_blank
from agent_memory.live import words as live_words

COMMON = [
    "harbour",
    "boat",
    "boats",
    "running",
    "run",
    "1980s",
    "ls",
    "don't",
    "naïve",
    "東京に住む",
    "คนไทย",
    "Привет",
]
RARE = [f"word{number}" for number in range(30)]
FOREIGN = ["les chats sont dans la maison et les chiens aussi", "wir haben das Haus mit den Hunden gesehen"]

terms = st.sampled_from(COMMON) | st.sampled_from(RARE) | st.text(max_size=6)
texts = st.lists(terms, min_size=1, max_size=12).map(" ".join).filter(
    lambda text: not is_blank(text)
) | st.sampled_from(FOREIGN)
keys = st.integers(0, 40).map("k{}".format)
namespaces = st.sampled_from(["team/ann", "team/bob", "other"])
steps = st.one_of(
    st.tuples(st.just("add"), st.lists(st.tuples(keys, texts, st.integers(0, 3), namespaces), max_size=20)),
    st.tuples(st.just("forget"), keys, namespaces),
    st.tuples(st.just("supersede"), keys, texts, namespaces),
    st.tuples(st.just("reopen")),
    st.tuples(st.just("ask"), texts, st.sampled_from([1, 3, 1000]), st.sampled_from([None, 0, 1, 2])),
)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(live_words, "SMALLEST", 1)


def open_(folder):
    return Memory(folder, encoder=WordEncoder(), config=Config(snapshot_every=25))


def act(memory, step):
    kind, *given_ = step
    if kind == "add":
        for key, text, part, name in given_[0]:
            memory.add(text, key=key, metadata={"part": part}, namespace=(name,))
    elif kind == "forget":
        key, name = given_
        memory.forget(key, namespace=(name,))
    elif kind == "supersede":
        key, text, name = given_
        if any(entry.key == key for entry in memory.entries(namespace=(name,))):
            memory.add(text, key=f"{key} again", namespace=(name,))
            memory.supersede(key, f"{key} again", namespace=(name,))


def ask(memory, monkeypatch, query, k, part, namespace):
    """Return the hits of a question, with the tier and without."""
    where = None if part is None else {"part": part}
    found = []
    for tier in (True, False):
        with monkeypatch.context() as patch:
            if not tier:
                patch.setattr(live_words.LiveWords, "view", lambda *_, **__: None)
            hits = memory.recall(query, k=min(k, 100), mode="lexical", where=where, namespace=namespace, explain=True)
        found.append([(hit.entry.namespace, hit.entry.key, hit.score, hit.trace["lexical"]) for hit in hits])
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(steps, min_size=3, max_size=14), last=texts)
def test_recalls_with_the_tier_are_those_of_the_full_text_index(steps, last, monkeypatch):
    with tempfile.TemporaryDirectory() as base:
        memory = open_(Path(base) / "store")
        for step in [*steps, ("ask", last, 1000, None), ("reopen",), ("ask", last, 1000, 1)]:
            if step[0] == "reopen":
                memory.close()
                memory = open_(Path(base) / "store")
            elif step[0] == "ask":
                for namespace in ((), ("team/ann",)):
                    mine, theirs = ask(memory, monkeypatch, *step[1:], namespace)
                    assert mine == theirs
            else:
                act(memory, step)
        assert memory.check().ok
        memory.close()


def score_plainly(documents, query):
    """Return BM25 of {id: terms} once more, in plain Python."""
    average = sum(map(len, documents.values())) / len(documents)
    scores = {}
    for term in query:
        held = sum(term in terms for terms in documents.values())
        weight = max(1e-6, np.log((len(documents) - held + 0.5) / (held + 0.5)))
        for entry_id, terms in documents.items():
            if often := terms.count(term):
                length = 1.2 * (0.25 + 0.75 * len(terms) / average)
                scores[entry_id] = scores.get(entry_id, 0) + weight * often * 2.2 / (often + length)
    return scores


def make_page(documents):
    vocabulary = sorted({term for terms in documents.values() for term in terms}, reverse=True)
    numbers = [vocabulary.index(term) for terms in documents.values() for term in terms]
    lengths = [len(terms) for terms in documents.values()]
    return Page(np.array(list(documents), np.int64), np.array(lengths), np.array(numbers, np.int64), vocabulary)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    seed=st.integers(0, 10**6),
    limit=st.sampled_from([1, 5, 50, 1000]),
    share=st.sampled_from([None, 0.02, 0.5, 1.0]),
)
def test_pruned_searches_return_what_exhaustive_ones_do(seed, limit, share, monkeypatch):
    from agent_memory.index.words import view

    monkeypatch.setattr(view, "_WORTH", 0)
    monkeypatch.setattr(view, "_SAMPLE", 8)
    random = np.random.default_rng(seed)
    vocabulary = [f"t{number}" for number in range(25)]
    chances = 1 / np.arange(1, 26) ** random.uniform(0, 2)
    tier, documents = WordsTier(), {}
    for _ in range(random.integers(1, 6)):
        ids = random.permutation(400)[: random.integers(1, 200)].tolist()
        page = {
            number + 1: random.choice(vocabulary, random.integers(0, 15), p=chances / chances.sum()).tolist()
            for number in ids
        }
        tier.remove(np.array(list(page)))
        tier.add(make_page(page))
        documents |= page
        gone = random.permutation(400)[: random.integers(0, 30)] + 1
        tier.remove(gone)
        documents = {number: terms for number, terms in documents.items() if number not in gone}
    if seed % 2:
        tier.compact()
    if not documents:
        return
    query = sorted(random.choice(vocabulary, 5).tolist(), key=lambda term: sum(term in d for d in documents.values()))
    allowed = None if share is None else np.flatnonzero(random.random(400) < share) + 1
    expected = score_plainly(documents, query)
    if allowed is not None:
        expected = {number: score for number, score in expected.items() if number in allowed}
    ids, scores = tier.view().search(query, limit=limit, allowed=allowed)
    assert len(ids) == min(limit, len(expected))
    assert np.allclose(scores, [expected[number] for number in ids.tolist()], rtol=1e-12)
    assert np.allclose(scores, sorted(expected.values(), reverse=True)[:limit], rtol=1e-12)
    assert [-score for score in scores] == sorted(-scores)
    tier.purge()
    again = tier.view().search(query, limit=limit, allowed=allowed)
    assert np.array_equal(again[0], ids) and np.array_equal(again[1], scores)
