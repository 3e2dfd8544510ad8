"""EvoEmbedding's training: the losses as written down, gradients where they belong, and a loop that learns."""

import json
import math
import random
import re
import sys

import numpy as np
import pytest
import torch
from unit.encoders.test_evoembedding_files import QWEN3, WORDS, random_weights, write_checkpoint

from agent_memory.encoders.evo.model import EvoEmbeddingModel
from agent_memory.encoders.training import evo_train
from agent_memory.encoders.training.evo_objective import (
    EvoRecipe,
    compute_contrastive,
    compute_losses,
    read_records,
    score_segments,
    unfreeze,
)
from agent_memory.errors import CheckpointError, InvalidInputError

CAPACITY = 64
ABLATIONS = ("queue", "memory_loss", "length_weighting", "segment_batching")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as training begins: adapters without effect, projections the identity."""
    weights = random_weights(QWEN3, 2, rank=8, dimension=32)
    for key, value in weights.items():
        if "lora_B" in key or key.endswith(("_mem.0.bias", "_latent.0.bias", "_emb.0.bias", "_emb.2.bias")):
            value.zero_()
        elif key.startswith(("latent_to_mem", "mem_to_")):
            torch.nn.init.eye_(value)
    weights["memory_queries"].normal_(std=0.02)
    return write_checkpoint(tmp_path_factory.mktemp("evo") / "model", capacity=CAPACITY, rank=8, weights=weights)


def conversation(rng):
    """Values of keys are set repeatedly; the question is which segment holds the latest of one key."""
    keys = rng.sample("abcdef", 3)
    said = [(key, rng.choice("uvwxyz")) for key in [*keys, *rng.choices(keys, k=4)]]
    asked = rng.choice(sorted({key for key, _ in said if sum(key == other for other, _ in said) > 1}))
    latest = max(i for i, (key, _) in enumerate(said) if key == asked)
    texts = [(key + value, "I") for key, value in said] + [(asked, said[latest][1])]
    messages = [
        {"role": role, "content": content}
        for pair in texts
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    turns = [user for user, _ in texts]
    row = {"messages": messages, "meta": {"turns": turns, "evidence_turns": [latest]}}
    return row, 1 / sum(key == asked for key, _ in said)


def write_records(path, count, seed):
    rng = random.Random(seed)
    rows = [conversation(rng) for _ in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row, _ in rows))
    return path, float(np.mean([share for _, share in rows]))


@pytest.fixture
def loaded(folder):
    return evo_train.load_checkpoint(folder)


@pytest.fixture
def record(loaded, tmp_path):
    path, _ = write_records(tmp_path / "one.jsonl", 1, 3)
    return next(read_records(path, loaded[1]))


def test_a_record_is_read_as_the_paper_writes_it(record):
    asked, answered = ("".join(WORDS[i] for i in part) for part in np.split(record.last, [record.answer]))
    assert re.fullmatch(r"<\|im_start\|>user\n[a-f]<\|im_end\|>\n<\|im_start\|>assistant\n", asked)
    assert re.fullmatch(r"[u-z]<\|im_end\|>\n", answered)
    assert record.query[-1] == record.embedded[0][-1] == WORDS.index("<|endoftext|>")
    assert len(record.written) == len(record.embedded) == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.pop("meta"),
        lambda row: row["messages"].pop(),
        lambda row: row["meta"]["turns"].pop(),
        lambda row: row["meta"].update(evidence_turns=[]),
        lambda row: row["meta"].update(evidence_turns=[7]),
        lambda row: row["meta"].update(evidence_turns=list(range(7))),
        lambda row: row["messages"][0].update(content=5),
    ],
)
def test_other_records_are_refused_with_their_line(loaded, tmp_path, change):
    row, _ = conversation(random.Random(0))
    path = tmp_path / "records.jsonl"
    good = json.dumps(row)
    change(row)
    path.write_text(f"{good}\n{json.dumps(row)}\n")
    with pytest.raises(InvalidInputError, match=r"records\.jsonl:2 "):
        list(read_records(path, loaded[1]))


def test_the_contrastive_loss_as_written_down():
    scores = torch.tensor([0.3, -1.0, 2.0, 0.7, 0.1])
    e = [math.exp(s) for s in scores.tolist()]
    others = e[1] + e[3] + e[4]
    want = (-math.log(e[0] / (e[0] + others)) - math.log(e[2] / (e[2] + others))) / 2
    plain = compute_contrastive(scores, frozenset({0, 2}), length_weighting=False)
    assert plain.item() == pytest.approx(want, rel=1e-5)
    assert compute_contrastive(scores, frozenset({0, 2})).item() == pytest.approx(want * math.log(4), rel=1e-5)


def test_training_sees_what_the_model_gives(folder, loaded, record):
    network, text, _ = loaded
    scores, _ = score_segments(network, record, CAPACITY, EvoRecipe())
    query = record.query[len(text.prefix) : -1]
    history, asked = EvoEmbeddingModel.from_pretrained(folder).embed_token_ids(
        record.written, [row[:-1] for row in record.embedded], query
    )
    np.testing.assert_allclose(scores.numpy(), 10 * history @ asked, atol=1e-4)


def test_the_language_loss_reads_the_memory_after_three_tokens_without_adapters(loaded, record):
    network, _, _ = loaded
    for view in network.views.values():
        for name, parameter in view.named_parameters():
            if name.endswith(".up"):
                parameter.data.normal_()
    memory = torch.randn(4, network.hidden_size)
    loss = network.compute_answer_loss(record.last, record.answer, memory)
    table = network.base.get_input_embeddings().weight
    tokens = table[torch.from_numpy(record.last)]
    x = torch.cat((tokens[:3], memory, tokens[3:]))[None]
    logits = network.base(inputs_embeds=x).last_hidden_state[0] @ table.T
    want = 0.0
    for at in range(record.answer, len(record.last)):
        want -= logits[at + 4 - 1].log_softmax(0)[record.last[at]].item() / (len(record.last) - record.answer)
    assert loss.item() == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize("recompute", [False, True])
def test_both_adapters_have_gradients_and_the_base_has_none(loaded, record, recompute):
    network, _, _ = loaded
    unfreeze(network)
    network.train().recompute = recompute
    torch.manual_seed(0)
    ranking, language = compute_losses(network, record, CAPACITY, EvoRecipe())
    language.backward(retain_graph=True)
    names = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("memory_generator" in name for name in names) and not any("retriever" in name for name in names)
    ranking.backward()
    names = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("retriever" in name for name in names)
    assert all(name.startswith("heads.") or name.endswith((".down", ".up")) for name in names)


@pytest.mark.parametrize("name", ABLATIONS)
def test_each_ablation_changes_what_it_names(loaded, record, name):
    network, _, _ = loaded
    full = compute_losses(network, record, CAPACITY, EvoRecipe())
    without = compute_losses(network, record, CAPACITY, EvoRecipe(**{name: False}))
    changed = [not torch.allclose(a, b, rtol=1e-6) for a, b in zip(full, without, strict=True)]
    assert changed == {"memory_loss": [False, True], "length_weighting": [True, False]}.get(name, [True, True])


def test_a_few_steps_lower_the_loss_and_the_command_writes_a_checkpoint(folder, tmp_path, monkeypatch):
    path, _ = write_records(tmp_path / "records.jsonl", 16, 5)
    out = tmp_path / "out"
    logs = []
    train = evo_train.train
    monkeypatch.setattr(evo_train, "train", lambda *given: logs.extend(train(*given)))
    monkeypatch.setattr(
        sys, "argv", ["evo_train", str(folder), str(path), str(out), "--learning-rate", "0.01", "--epochs", "3"]
    )
    evo_train.main()
    assert len(logs) == 3
    assert logs[2].contrastive < logs[0].contrastive and logs[2].language < logs[0].language
    before, after = (EvoEmbeddingModel.from_pretrained(place).embed(["ab"]) for place in (folder, out))
    assert np.abs(before - after).max() > 1e-3
    with pytest.raises(InvalidInputError, match="exists"):
        evo_train.save_checkpoint(evo_train.load_checkpoint(folder)[0], folder, out)


def test_what_cannot_be_trained(loaded, tmp_path):
    with pytest.raises(InvalidInputError):
        evo_train.train(loaded[0], [], CAPACITY, EvoRecipe())
    untied = write_checkpoint(tmp_path / "untied", QWEN3 | {"tie_word_embeddings": False})
    with pytest.raises(CheckpointError, match="tied"):
        evo_train.load_checkpoint(untied)
