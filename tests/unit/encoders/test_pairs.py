"""The embedded reranker: what it adds to a recall, and how it is trained."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agent_memory import CheckpointError, InvalidInputError, Memory
from agent_memory.encoders.registry import load_reranker
from agent_memory.encoders.static.pairs import MiniLMReranker
from agent_memory.encoders.training import rerank_train
from agent_memory.encoders.training.rerank_train import Recipe

QUESTION = "What pet does Melanie have?"
TEXTS = [
    "Melanie: We adopted a puppy last spring, and he chews all my shoes.",
    "Melanie: The pottery class starts at six.",
    "Caroline: Melanie, how was your trip?",
    "Melanie: " + "It rained for days. " * 40,
]


@pytest.fixture(scope="module")
def reranker():
    return load_reranker("default")


def test_a_score_depends_on_no_other_text_and_is_not_negative(reranker):
    together = reranker.score(QUESTION, TEXTS)
    assert together.dtype == np.float32 and together.shape == (4,) and (together >= 0).all()
    assert together.argmax() == 0
    alone = [float(reranker.score(QUESTION, [text])[0]) for text in TEXTS]
    np.testing.assert_allclose(together, alone, atol=0.05)  # bfloat16 where the processor has it
    np.testing.assert_allclose(reranker.score(QUESTION, TEXTS[::-1])[::-1], together, atol=0.05)
    assert reranker.score(QUESTION, []).shape == (0,)
    assert reranker.score("", ["", "?" * 5000]).shape == (2,)


def test_a_recall_adds_what_the_reranker_says(reranker, tmp_path):
    with Memory(tmp_path) as memory:
        memory.add_many([{"text": text, "speaker": name} for name, _, text in (one.partition(": ") for one in TEXTS)])
        memory.add_many(f"Note {number}: the pottery class is on day {number}." for number in range(40))
        found = memory.recall(QUESTION, k=44, explain=True)
        plain = {hit.entry.key: hit.score - hit.trace["newer"] for hit in found}
        hits = memory.recall(QUESTION, k=44, rerank="default", explain=True)
        assert hits[0].text.startswith("We adopted a puppy")
        assert len(hits) == 44 and [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
        read, behind = hits[: reranker.depth], hits[reranker.depth :]
        for hit in read:  # what it adds is a part of the score, as all others are
            assert hit.trace["rerank"] is None
            parts = hit.trace["read"] + hit.trace["newer"]
            assert hit.score == pytest.approx(plain[hit.entry.key] + parts, abs=1e-6)
        assert all(hit.trace["read"] == 0 and hit.score >= plain[hit.entry.key] for hit in behind)
        first = hits[0]
        added = reranker.blend * float(reranker.score(QUESTION, TEXTS[:1])[0])
        assert first.score == pytest.approx(plain[first.entry.key] + added, abs=0.01)
        assert memory.recall_many([QUESTION], k=1, rerank="default")[0][0].text == first.text
        assert memory.why(QUESTION, first.entry.key, rerank="default").stage == "returned"
        for unknown in ("embedded", 5):
            with pytest.raises(InvalidInputError, match="rerank must be 'default' or an object with a method 'score'"):
                memory.recall(QUESTION, rerank=unknown)


def test_damaged_weights_are_refused(tmp_path):
    file = tmp_path / "weights.safetensors"
    file.write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is not a readable head"):
        MiniLMReranker(file).score(QUESTION, TEXTS)


def test_it_is_trained_exported_and_read_again(tmp_path):
    rows = [
        {
            "query": f"Where does {name} live?",
            "held_out": number % 4 == 0,
            "speakers": [name, None, name],
            "texts": ["I like tea.", "The bus is late.", f"I live in town {number}."],
            "scores": [0.5, 0.4, 0.3],
            "relevant": [0, 0, 1],
            "evidence": 1,
        }
        for number, name in enumerate(["Ann", "Ben", "Cleo", "Dan", "Eve", "Finn", "Gil", "Hal"])
    ]
    file = tmp_path / "invented.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(steps=12, questions=6, others=2, rate=3e-3, rank=4, trust=1.0)
    found, held = (rerank_train.read_found([file], held_out=held) for held in (False, True))
    assert (len(found), len(held)) == (6, 2)
    reader = rerank_train.train(found, tmp_path, recipe)
    added = rerank_train.score_all(reader, held)
    before, after = (rerank_train.measure(held, added, blend)["invented"] for blend in (0.0, 1.0))
    assert before == {"first": 0.0, "recall@10": 100.0, "mrr": pytest.approx(33.3)}
    assert after["first"] == 100.0
    reader.export(tmp_path / "weights.safetensors", {"blend": "0.25"})
    again = MiniLMReranker(tmp_path / "weights.safetensors", precision="fp32")
    assert again.blend == 0.25
    np.testing.assert_allclose(again.score(held[0].query, held[0].texts), added[0], atol=0.1, rtol=0.1)
    # A run that was interrupted goes on where it stopped: here it has nothing left to do.
    resumed = rerank_train.train(found, tmp_path, recipe)
    np.testing.assert_allclose(rerank_train.score_all(resumed, held)[0], added[0], atol=1e-4)
