"""The ablations of EvoEmbedding as a command: the task, its files, and going on to the same weights."""

import json
import random
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agent_memory.encoders.evo.model import EvoEmbeddingModel
from agent_memory.encoders.evo.text import EvoText
from agent_memory.encoders.resources import catch_out_of_memory
from agent_memory.encoders.training import evo_ablate, evo_train
from agent_memory.encoders.training.evo_objective import EvoRecipe, read_records, score_segments
from agent_memory.encoders.training.evo_states import (
    SETTINGS,
    make_conversation,
    make_tiny_network,
    write_states,
    write_tokenizer,
)
from agent_memory.errors import EncoderError, InvalidInputError

SIZES = (5, 8)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(evo_ablate, "_CHECKED", 4)
    recipes = {name: evo_ablate.replace(recipe, batch=2) for name, recipe in evo_ablate.RECIPES.items()}
    monkeypatch.setattr(evo_ablate, "RECIPES", recipes)


def command(monkeypatch, work, *more):
    given = [work, "--steps", 4, "--every", 2, "--seeds", 1, "--sizes", *SIZES, *more]
    monkeypatch.setattr(sys, "argv", ["evo_ablate", *map(str, given)])
    evo_ablate.main()


def test_evidence_is_the_turn_that_last_set_the_place_and_the_answer_follows_from_the_turns():
    rng = random.Random(0)
    for _ in range(200):
        row = make_conversation(rng, SIZES)
        said = [message["content"] for message in row["messages"]]
        *turns, question = said[::2]
        who = question.split()[2]
        places, at = {}, []
        for i, words in enumerate(map(str.split, turns)):
            if words[1] in ("moves", "joins"):
                places[words[0]] = words[3] if words[1] == "moves" else places[words[2]]
                at += [i] * (words[0] == who)
        assert SIZES[0] <= len(turns) <= SIZES[1]
        assert row["meta"]["same"] == at and len(at) > 1
        assert row["meta"]["evidence_turns"] == at[-1:] and said[-1] == places[who]


def test_all_words_of_the_task_are_known(tmp_path):
    write_tokenizer(tmp_path)
    chance = write_states(tmp_path / "rows.jsonl", 20, 0, SIZES)
    network = make_tiny_network(0)
    text = EvoText(tmp_path, network.vocabulary)
    unknown = text.tokenizer.token_to_id("[UNK]")
    records = list(read_records(tmp_path / "rows.jsonl", text))
    assert not any(unknown in row for record in records for row in (*record.written, *record.embedded, record.query))
    assert 0 < chance["last"] < 1 and chance["same"] <= 0.5


def test_an_untrained_network_is_saved_and_read_back(tmp_path):
    write_tokenizer(tmp_path)
    network = make_tiny_network(0)
    write_states(tmp_path / "rows.jsonl", 1, 0, SIZES)
    text = EvoText(tmp_path, network.vocabulary)
    record = next(read_records(tmp_path / "rows.jsonl", text))
    (tmp_path / "config.json").write_text(
        json.dumps({name: getattr(SETTINGS, name) for name in ("num_latents", "buffer_capacity", "lora_r")})
    )
    (tmp_path / "base_config.json").write_text(network.base.config.to_json_string(use_diff=False))
    evo_train.save_checkpoint(network, tmp_path, tmp_path / "saved")
    model = EvoEmbeddingModel.from_pretrained(tmp_path / "saved")
    vectors = [model._embed_with([row[:-1]], model.empty_memory())[0] for row in (*record.embedded, record.query)]
    want = np.array(vectors[:-1]) @ vectors[-1]
    scores, _ = score_segments(network, record, SETTINGS.buffer_capacity, EvoRecipe(memory=False))
    np.testing.assert_allclose(scores.numpy(), 10 * want, atol=1e-4)


def test_it_goes_on_to_the_same_weights_and_writes_table_and_curves(tmp_path, monkeypatch, capsys):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    command(monkeypatch, whole)
    table = (whole / "table.md").read_text()
    assert capsys.readouterr().out == table
    assert all(f"| {name} |" in table for name in ("untrained", *evo_ablate.RECIPES, "always the last segment"))
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    step = evo_train._step
    calls = iter(range(3 + 4))  # three steps into the second recipe, one after its checkpoint

    def interrupted(*given):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return step(*given)

    with monkeypatch.context() as patched:
        patched.setattr(evo_train, "_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            command(patched, stopped)
    done = (stopped / "full-0.safetensors").stat().st_mtime_ns
    command(monkeypatch, stopped)
    assert (stopped / "full-0.safetensors").stat().st_mtime_ns == done
    for path in whole.glob("*.safetensors"):
        left, right = load_file(path), load_file(stopped / path.name)
        assert left.keys() == right.keys() and any(name.startswith("exp_avg_sq.") for name in left)
        assert all(torch.equal(left[name], right[name]) for name in left), path
    recalls = [line.split("|")[2:5] for line in table.splitlines()[2:]]
    again = [line.split("|")[2:5] for line in (stopped / "table.md").read_text().splitlines()[2:]]
    assert recalls == again


def test_a_folder_of_other_settings_is_refused(tmp_path):
    evo_ablate.Ablation(tmp_path, steps=4)._claim()
    with pytest.raises(InvalidInputError, match="other settings"):
        evo_ablate.Ablation(tmp_path, steps=5).run()


def too_large(*given, **more):
    return torch.empty(1 << 60)


def test_running_out_of_memory_is_an_error_of_the_encoder(tmp_path, monkeypatch):
    write_tokenizer(tmp_path)
    write_states(tmp_path / "rows.jsonl", 2, 0, SIZES)
    network = make_tiny_network(0)
    text = EvoText(tmp_path, network.vocabulary)
    model = EvoEmbeddingModel(network, text, SETTINGS.buffer_capacity)
    records = list(read_records(tmp_path / "rows.jsonl", text))
    monkeypatch.setattr(network, "embed", too_large)
    for call in (
        lambda: model.embed(["Ann moves to Rome"]),
        lambda: model.embed_segment("Ann moves to Rome", model.empty_memory()),
        lambda: model.rerank("where is Ann", ["Bob"], history=["Bob", "Ann"]),
        lambda: evo_train.train(network, records, SETTINGS.buffer_capacity, evo_ablate.FULL),
        lambda: evo_train.measure_recall(network, records, SETTINGS.buffer_capacity, evo_ablate.FULL),
    ):
        with pytest.raises(EncoderError, match="memory ran out while"):
            call()


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), MemoryError()]
)
def test_what_counts_as_running_out_of_memory(error):
    with pytest.raises(EncoderError, match="while embedding"), catch_out_of_memory("embedding"):
        raise error


def test_other_errors_stay():
    with pytest.raises(RuntimeError, match="memory format"), catch_out_of_memory("embedding"):
        raise RuntimeError("unsupported memory format")
