"""The parts of the training that decide what is learned and what is reported."""

import json
import random

import numpy as np
import pytest

from agent_memory.encoders.training.batches import draw_batch
from agent_memory.encoders.training.data import Conversation, Question, join_short, read_set, thin
from agent_memory.encoders.training.features import VectorCache
from agent_memory.encoders.training.metrics import correlate_ranks, measure_recall


@pytest.fixture
def conversation():
    turns = tuple(f"turn {i}" for i in range(30))
    questions = (
        Question("about 3", (3,)),
        Question("turn 9", (4, 5), source=9),
        Question("turn 20", (2,), source=20, hides_later=True),
    )
    return Conversation("c", turns, questions)


def test_hidden_turns_are_never_found(conversation):
    wanted = {"about 3": 3, "turn 9": 9, "turn 20": 25}

    def documents(texts):
        return np.eye(30, dtype=np.float32)[: len(texts)]

    def queries(texts):
        # Each question points at one turn; the last two at turns that must be hidden.
        return np.eye(30, dtype=np.float32)[[wanted[t] for t in texts]]

    assert measure_recall([conversation], documents, queries, [30], k=1)[30] == pytest.approx(100 / 3)


def test_recall_counts_shares_of_evidence(conversation):
    alone = Conversation("c", conversation.turns, (Question("q", (0, 29)),))
    ascending = np.linspace(0, 1, 30, dtype=np.float32)
    documents = np.stack([np.cos(ascending), np.sin(ascending)], 1)
    score = measure_recall([alone], lambda _: documents, lambda _: documents[:1], [2])
    assert score[2] == pytest.approx(50.0)


def test_thinning_keeps_evidence_and_order(conversation):
    small = thin(conversation, turns=3, questions=2, seed=0)
    assert len(small.questions) == 2
    assert list(small.turns) == sorted(small.turns, key=lambda t: int(t.split()[1]))
    whole = {q.text: q for q in conversation.questions}
    for question in small.questions:
        original = whole[question.text]
        assert [small.turns[e] for e in question.evidence] == [conversation.turns[e] for e in original.evidence]
        if original.source is not None:
            assert small.turns[question.source] == conversation.turns[original.source]


def test_short_conversations_are_joined(conversation):
    joined = join_short([conversation] * 5, min_turns=60)
    assert [len(c.turns) for c in joined] == [60, 60, 30]
    second = joined[0].questions[4]
    assert second.evidence == (34, 35)
    assert second.source == 39


def test_reads_both_kinds_of_sets(tmp_path):
    def write(name, rows):
        (tmp_path / name).write_text("\n".join(json.dumps(r) for r in rows))

    write("conversations.jsonl", [{"id": "c", "segments": [{"idx": 5, "text": "a"}, {"idx": 6, "text": "b"}]}])
    base = {"conv_id": "c", "category": "need_memory"}
    write(
        "queries.jsonl",
        [
            {**base, "query": "b", "evidence": [5], "source_idx": 6},
            {**base, "query": "never said", "evidence": []},
        ],
    )
    assert read_set(tmp_path) == [Conversation("c", ("a", "b"), (Question("b", (0,), 1, True),))]
    write("passages.jsonl", [{"id": "p", "text": "a"}, {"id": "q", "text": "b"}])
    write("queries.jsonl", [{"query": "?", "positives": ["q"]}])
    assert read_set(tmp_path)[0].questions == (Question("?", (1,)),)


def test_batches_mark_positives_and_hidden_pairs(conversation, tmp_path):
    cache = VectorCache(tmp_path)
    rng = np.random.default_rng(0)
    texts = [*conversation.turns, *(q.text for q in conversation.questions)]
    cache.fill(texts, lambda some: rng.standard_normal((len(some), 384)))
    batch = draw_batch([conversation], random.Random(0), cache, questions=3, distractors=8)
    assert len(batch.turns) >= 8
    for row, text in enumerate(batch.questions):
        question = next(q for q in conversation.questions if q.text == text)
        positive = {batch.turns[i] for i in np.flatnonzero(batch.positives[row])}
        hidden = {batch.turns[i] for i in np.flatnonzero(batch.hidden[row])}
        assert positive == {conversation.turns[e] for e in question.evidence}
        assert hidden == {conversation.turns[i] for i in question.list_hidden(30)} & set(batch.turns)


def test_cache_survives_and_adds_only_what_is_missing(tmp_path):
    asked = []

    def encode(texts):
        asked.append(list(texts))
        return np.array([[len(t), 1.0] for t in texts])

    VectorCache(tmp_path).fill(["a", "bb", "a"], encode)
    again = VectorCache(tmp_path)
    again.fill(["bb", "ccc"], encode)
    assert asked == [["a", "bb"], ["ccc"]]
    assert again.get(["ccc", "a"])[:, 0].tolist() == [3.0, 1.0]
    assert len(VectorCache(tmp_path)) == 3


def test_spearman_with_ties():
    assert correlate_ranks([1, 2, 2, 4], [10, 20, 20, 40]) == pytest.approx(1.0)
    assert correlate_ranks([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1.0)


def test_losses_prefer_the_right_answer():
    import torch

    from agent_memory.encoders.training.losses import compute_contrastive, compute_divergence

    torch.manual_seed(0)
    turns = torch.randn(6, 768)
    positives = torch.zeros(2, 6, dtype=torch.bool)
    positives[0, 1] = positives[1, 4] = True
    hidden = torch.zeros_like(positives)
    right = compute_contrastive(turns[[1, 4]], turns, positives, hidden)
    wrong = compute_contrastive(turns[[0, 5]], turns, positives, hidden)
    assert right < 0.01 < wrong
    hidden[0, 0] = hidden[1, 5] = True
    assert compute_contrastive(turns[[0, 5]], turns, positives, hidden) < wrong
    unit = torch.nn.functional.normalize(turns, dim=1)
    assert compute_divergence(turns, unit, 0.1) < compute_divergence(torch.randn(6, 768), unit, 0.1)


def test_checkpoint_restores_parameters_and_moments(tmp_path):
    import torch

    from agent_memory.encoders.training.trainer import Checkpoint, restore

    def made():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1)

    def step(model, optimiser, seed):
        optimiser.zero_grad()
        model(torch.full((1, 3), float(seed))).square().sum().backward()
        optimiser.step()

    straight, first = made()
    for seed in range(4):
        step(straight, first, seed)
    half, second = made()
    for seed in range(2):
        step(half, second, seed)
    Checkpoint(tmp_path / "c.safetensors").save(half, second, 2)
    resumed, third = made()
    assert restore(Checkpoint(tmp_path / "absent.safetensors"), resumed, third) == 0
    assert restore(Checkpoint(tmp_path / "c.safetensors"), resumed, third) == 2
    for seed in range(2, 4):
        step(resumed, third, seed)
    torch.testing.assert_close(resumed.weight, straight.weight)


def test_turned_axes_keep_wholes_and_rank_by_their_beginning():
    """What tells turns apart lies in the last dimensions, until the axes are turned."""
    import torch

    from agent_memory.encoders.training.axes import fit_axes

    size, told = 320, 8
    torch.manual_seed(0)
    turns = torch.randn(200, size) * torch.cat([torch.full((size - told,), 0.05), torch.ones(told)])
    turns = torch.nn.functional.normalize(turns, dim=1)
    questions = torch.nn.functional.normalize(turns[:50] + 0.06 * torch.randn(50, size), dim=1)

    def found(axes):
        cut = [torch.nn.functional.normalize((rows @ axes)[:, :64], dim=1) for rows in (questions, turns)]
        return float(((cut[0] @ cut[1].T).argmax(1) == torch.arange(50)).float().mean())

    axes = fit_axes(lambda rng: (turns, questions), size, steps=60, rate=2e-2)
    torch.testing.assert_close(axes.T @ axes, torch.eye(size), atol=1e-5, rtol=0)
    assert found(axes) > found(torch.eye(size)) + 0.2


def test_a_turned_head_gives_the_same_cosines(tmp_path, conversation):
    from agent_memory.encoders.static.matryoshka import HEAD, MatryoshkaEncoder
    from agent_memory.encoders.training.axes import rotate_head

    rotate_head(HEAD, tmp_path / "turned.safetensors", {"any": [conversation]}, steps=3)
    before, after = (MatryoshkaEncoder(path, precision="fp32") for path in (HEAD, tmp_path / "turned.safetensors"))
    texts = [*conversation.turns[:5], "Alice moved to Berlin in May."]
    for way in ("encode_documents", "encode_queries"):
        old, new = (getattr(encoder, way)(texts) for encoder in (before, after))
        np.testing.assert_allclose(old @ old.T, new @ new.T, atol=2e-3)
        assert np.abs(old - new).max() > 1e-3
