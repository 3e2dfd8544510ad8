"""Train the compact session encoder: ``python -m agent_memory.encoders.training.session_train DATA WORK``.

DATA is the folder of the unpacked sets. WORK holds features and checkpoints; run the same command again to resume. The
result is ``WORK/session-compact.safetensors`` with ``WORK/session-curve.png`` and ``WORK/session-log.jsonl``.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from agent_memory.encoders.compact.weights import Shape
from agent_memory.encoders.registry import load_encoder
from agent_memory.encoders.training.features import VectorCache
from agent_memory.encoders.training.plot import plot_session
from agent_memory.encoders.training.session_data import SET_WEIGHTS, Features, make_features, read_sets
from agent_memory.encoders.training.session_metrics import WAYS, measure_recall
from agent_memory.encoders.training.session_model import SessionNetwork
from agent_memory.encoders.training.session_objective import SessionRecipe, compute_losses
from agent_memory.encoders.training.trainer import Checkpoint, restore, scale_rate

SHAPE = Shape(dimension=768, width=256, layers=2, heads=4, window=32, mix=12, key=64, places=1024)

_FAST = (
    "tags",
    "ask",
    "place__gain",
    "day__gain",
    "mix__segment_bias",
    "mix__question_bias",
    "mix__segment_gain",
    "mix__question_gain",
)


class Average:
    """A moving average of a network's weights; the averaged network is the one that is validated and shipped."""

    def __init__(self, network: SessionNetwork) -> None:
        self.network = SessionNetwork(network.shape)
        self.network.load_state_dict(network.state_dict())

    def update(self, network: SessionNetwork, step: int) -> None:
        """Move towards the present weights; early steps fade quickly."""
        keep = min(0.99, (step + 1) / (step + 10))
        with torch.no_grad():
            for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
                mine.lerp_(theirs, 1 - keep)


def average_networks(networks: Sequence[SessionNetwork]) -> SessionNetwork:
    """Average the weights of networks that started alike (Wortsman et al. 2022, arXiv 2203.05482)."""
    result = copy.deepcopy(networks[0])
    with torch.no_grad():
        for parameters in zip(*(network.parameters() for network in (result, *networks)), strict=True):
            parameters[0].copy_(torch.stack(parameters[1:]).mean(0))
    return result


@dataclass(slots=True)
class SessionRun:
    """One training run and its files.

    Attributes:
        recipe: The settings.
        work: Folder of checkpoints and results.
        sets: Training dialogues by set.
        checks: Validation dialogues by set.
    """

    recipe: SessionRecipe
    work: Path
    sets: Mapping[str, Sequence[Features]]
    checks: Mapping[str, Sequence[Features]]

    def train(self, every: int) -> SessionNetwork:
        """Train both stages of every run, from their checkpoints if there are any.

        Args:
            every: Steps between checkpoints and validations.

        Returns:
            The network with the averaged weights of all runs.
        """
        torch.manual_seed(self.recipe.seed)
        begun = SessionNetwork(SHAPE)
        begun.set_codes()
        if not (self.work / "session-log.jsonl").exists():
            self._check("all", None, 0, WAYS[:2])
        finished = []
        for run in range(self.recipe.runs):
            network = self._train_stage("all", run, copy.deepcopy(begun), self.recipe.steps, every)
            for name, parameter in network.named_parameters():
                parameter.requires_grad_("question" in name)
            finished.append(self._train_stage("questions", run, network, self.recipe.question_steps, every))
        network = average_networks(finished)
        self._check("average", network, 1)
        return network

    def _train_stage(self, stage: str, run: int, network: SessionNetwork, steps: int, every: int) -> SessionNetwork:
        average = Average(network)
        trained = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
        fast = [p for name, p in trained if name.startswith(_FAST)]
        slow = [p for name, p in trained if not name.startswith(_FAST)]
        groups: list[dict[str, Any]] = [{"params": slow}, {"params": fast, "weight_decay": 0.0}]
        optimiser = torch.optim.AdamW(groups, lr=self.recipe.rate, weight_decay=self.recipe.decay, betas=(0.9, 0.98))
        files = (f"session-{run}-{stage}-{name}.safetensors" for name in ("average", "state"))
        checkpoints = [Checkpoint(self.work / file) for file in files]
        plain = torch.optim.SGD(average.network.parameters())
        restore(checkpoints[0], average.network, plain)
        for step in range(restore(checkpoints[1], network, optimiser), steps):
            self._step(stage, run, network, optimiser, step, steps)
            average.update(network, step)
            if (step + 1) % every == 0 or step + 1 == steps:
                checkpoints[0].save(average.network, plain, step + 1)
                checkpoints[1].save(network, optimiser, step + 1)
                self._check(stage, average.network, step + 1)
        return average.network

    def _step(
        self, stage: str, run: int, network: SessionNetwork, optimiser: torch.optim.Optimizer, step: int, steps: int
    ) -> None:
        rng = random.Random(f"{self.recipe.seed} {run} {stage} {step}")
        torch.manual_seed(step)
        for group, factor in zip(optimiser.param_groups, (1.0, 10.0), strict=True):
            group["lr"] = self.recipe.rate * factor * (0.05 + 0.95 * scale_rate(step, steps, warm_up=50))
        names = list(self.sets)
        started, totals = time.monotonic(), dict.fromkeys(("contrastive", "memory"), 0.0)
        optimiser.zero_grad()
        for _ in range(self.recipe.conversations):
            name = rng.choices(names, [SET_WEIGHTS[name] for name in names])[0]
            losses = compute_losses(network, rng.choice(self.sets[name]), self.recipe, rng)
            if losses is None:
                continue
            loss = (losses["contrastive"] + self.recipe.memory * losses["memory"]) / self.recipe.conversations
            torch.autograd.backward(loss)
            for key, value in losses.items():
                totals[key] += float(value.detach()) / self.recipe.conversations
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        self._write({"stage": stage, "step": step + 1, "seconds": time.monotonic() - started, **totals})

    def _check(self, stage: str, network: SessionNetwork | None, step: int, ways: Sequence[str] = WAYS[2:]) -> None:
        for name, found in self.checks.items():
            for way in ways:
                recall = measure_recall(network, found, way)
                self._write({"stage": stage, "step": step, "set": name, "way": way, **recall})

    def _write(self, entry: Mapping[str, float | str]) -> None:
        with open(self.work / "session-log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if "set" in entry:
            print(json.dumps(entry), flush=True)  # noqa: T201 - progress of a command


def main() -> None:
    """Prepare features, train, and write the weights and the curve."""
    usual = SessionRecipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--runs", type=int, default=usual.runs)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--question-steps", type=int, default=usual.question_steps)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--memory", type=float, default=usual.memory, help="weight of the memory loss; 0 for none")
    parser.add_argument("--left-out", nargs="*", default=(), help="training sets to leave out")
    parser.add_argument("--every", type=int, default=100, help="steps between checkpoints and validations")
    parser.add_argument("--threads", type=int, default=2)
    given = vars(parser.parse_args())
    data, work, threads, every = (given.pop(name) for name in ("data", "work", "threads", "every"))
    torch.set_num_threads(threads)
    work.mkdir(parents=True, exist_ok=True)
    recipe = SessionRecipe(**given | {"left_out": tuple(given["left_out"])})
    encoder = load_encoder()
    space = encoder.spec.fingerprint[:8]  # so that vectors of another encoder are never used
    caches = VectorCache(work / f"documents-{space}"), VectorCache(work / f"questions-{space}")
    train, check = read_sets(data, recipe.left_out, checked=8)
    sets = {name: make_features(found, encoder, *caches) for name, found in train.items()}
    checks = {name: make_features(found, encoder, *caches) for name, found in check.items()}
    network = SessionRun(recipe, work, sets, checks).train(every)
    facts = {"encoder": encoder.spec.name, "recipe": json.dumps(asdict(recipe)), "licence": "CC-BY-SA-4.0"}
    network.write(work / "session-compact.safetensors", facts)
    log = [json.loads(line) for line in (work / "session-log.jsonl").read_text().splitlines()]
    plot_session(log, work / "session-curve.png")


if __name__ == "__main__":
    main()
