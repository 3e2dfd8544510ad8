"""Training of the compact session encoder on a small made-up set: it learns, and resumes where it stopped."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file
from support import WordEncoder

from agent_memory.encoders.compact.encoder import CompactSessionEncoder
from agent_memory.encoders.compact.weights import Shape
from agent_memory.encoders.training import session_objective, session_train
from agent_memory.encoders.training.features import VectorCache
from agent_memory.encoders.training.session_data import make_features, read_dialogues
from agent_memory.encoders.training.session_metrics import measure_recall
from agent_memory.encoders.training.session_objective import SessionRecipe, compute_contrastive
from agent_memory.encoders.training.session_train import SessionRun


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Answers that only the turn before them explains; some questions name who spoke."""
    rng = random.Random(0)
    folder = tmp_path_factory.mktemp("set")
    conversations, queries = [], []
    for c in range(8):
        segments = []
        for n in range(20):
            topic, value = f"topic{rng.randrange(1000)}", f"value{rng.randrange(1000)}"
            segments.append({"idx": 2 * n, "speaker": "Ann", "time": "2024-05-01", "text": f"about {topic} please"})
            segments.append({"idx": 2 * n + 1, "speaker": "Bob", "time": "", "text": f"{value} indeed"})
            query = {"conv_id": f"c{c}", "query": f"Bob {topic}", "evidence": [2 * n + 1], "category": "fact"}
            queries.append(query | {"id": f"{c}-{n}"})
        conversations.append({"id": f"c{c}", "segments": segments})
    for name, rows in (("conversations", conversations), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture
def run(data, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    shape = Shape(dimension=96, width=32, layers=1, heads=2, window=8, mix=3, key=8, places=12)
    monkeypatch.setattr(session_train, "SHAPE", shape)
    monkeypatch.setattr(session_objective, "PREFIXES", {64: 0.5, 96: 1.0})
    caches = VectorCache(tmp_path / "documents"), VectorCache(tmp_path / "questions")
    found = make_features(read_dialogues(data), WordEncoder(), *caches)

    def make(steps, work="work", runs=1):
        recipe = SessionRecipe(runs=runs, steps=steps, question_steps=3, rate=3e-3, sessionless=0.5)
        (tmp_path / work).mkdir(exist_ok=True)
        return SessionRun(recipe, tmp_path / work, {"casino": found[:6]}, {"casino": found[6:]})

    return make


def test_it_learns_when_context_belongs_to_a_segment(run, tmp_path):
    made = run(80)
    network = made.train(every=20)
    held_out = made.checks["casino"]
    before = measure_recall(None, held_out, "static")["recall@1"]
    for way in ("evolved", "sessionless"):
        assert measure_recall(network, held_out, way)["recall@1"] > before + 15
    network.write(tmp_path / "w.safetensors", {"encoder": "words"})
    CompactSessionEncoder(WordEncoder(), tmp_path / "w.safetensors")
    log = [json.loads(line) for line in (tmp_path / "work" / "session-log.jsonl").read_text().splitlines()]
    losses = [entry["contrastive"] for entry in log if "contrastive" in entry]
    assert losses[-1] < 0.7 * losses[0]
    session_train.plot_session(log, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_was_stopped_goes_on_to_the_same_weights(run, monkeypatch):
    whole = run(8, "whole", runs=2).train(every=4)
    stopped, step = run(8, "parts", runs=2), SessionRun._step

    def until(self, stage, number, network, optimiser, at, steps):
        if (stage, number, at) == ("all", 1, 6):
            raise KeyboardInterrupt
        step(self, stage, number, network, optimiser, at, steps)

    monkeypatch.setattr(SessionRun, "_step", until)
    with pytest.raises(KeyboardInterrupt):
        stopped.train(every=4)
    monkeypatch.setattr(SessionRun, "_step", step)
    parts = run(8, "parts", runs=2).train(every=4)
    for one, other in zip(whole.parameters(), parts.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_the_second_stage_moves_the_weights_of_questions_alone(run, tmp_path):
    network = run(4).train(every=4)
    before = load_file(tmp_path / "work" / "session-0-all-average.safetensors")
    after = dict(network.named_parameters())
    moved = {name for name in after if not torch.equal(after[name], before[f"parameter.{name}"])}
    assert moved
    assert all("question" in name for name in moved)


def test_contrastive_leaves_hidden_turns_out(monkeypatch):
    monkeypatch.setattr(session_objective, "PREFIXES", {4: 1.0})
    turns = torch.eye(4)
    positives = torch.tensor([[True, False, False, False]])
    hidden = torch.tensor([[False, True, False, False]])
    near_hidden = compute_contrastive(turns[:1] + 2 * turns[1:2], turns, positives, hidden, 0.1)
    near_other = compute_contrastive(turns[:1] + 2 * turns[2:3], turns, positives, hidden, 0.1)
    assert near_hidden < 0.1 < near_other
