"""Train the compact session encoder: ``python -m agent_memory.encoders.training.session_train DATA WORK``.

DATA is the folder of the unpacked sets. WORK keeps features and checkpoints; the same command goes on where it
stopped. The result is ``WORK/session-compact.safetensors`` with ``WORK/session-curve.png`` and
``WORK/session-log.jsonl``.
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
from torch import Tensor
from torch.nn import functional

from agent_memory.encoders.compact.weights import Shape
from agent_memory.encoders.registry import load_encoder
from agent_memory.encoders.training.features import VectorCache
from agent_memory.encoders.training.plot import plot_session
from agent_memory.encoders.training.session_data import WEIGHTS, Features, features, split
from agent_memory.encoders.training.session_metrics import WAYS, recall
from agent_memory.encoders.training.session_model import SessionNetwork
from agent_memory.encoders.training.trainer import Checkpoint, restore, schedule

PREFIXES = {64: 0.5, 256: 0.5, 768: 1.0}
"""Weight of each prefix in the loss, so that the coarse tiers of an index evolve too."""

_NEVER = -1e4
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the result; written into the weights' metadata.

    Attributes:
        runs: Runs from the same start over different draws, whose weights are averaged at the end.
        steps: Steps of each on all weights.
        question_steps: Further steps of each on the weights that only questions use; segments stay as they are.
        rate: Learning rate; ten times that for the few numbers that say how much is added.
        decay: Weight decay.
        temperature: Of the softmax over cosines.
        conversations: In one step.
        turns: Of a conversation in one step, at most; a stretch of a longer one.
        questions: Of a conversation in one step, at most.
        nameless: Share of steps without speakers, and of those without dates.
        sessionless: Share of questions that are asked outside of the session.
        memory: Weight of predicting the next segment's vector.
        left_out: Training sets kept out, to see what generalises.
        seed: Of everything random.
    """

    runs: int = 8
    steps: int = 40
    question_steps: int = 75
    rate: float = 3e-4
    decay: float = 0.1
    temperature: float = 0.05
    conversations: int = 4
    turns: int = 512
    questions: int = 48
    nameless: float = 0.25
    sessionless: float = 0.5
    memory: float = 0.1
    left_out: tuple[str, ...] = ()
    seed: int = 0


SHAPE = Shape(dimension=768, width=256, layers=2, heads=4, window=32, mix=12, key=64, places=1024)


class Average:
    """A moving average of a network's weights, which is what is checked and shipped."""

    def __init__(self, network: SessionNetwork) -> None:
        self.network = SessionNetwork(network.shape)
        self.network.load_state_dict(network.state_dict())

    def update(self, network: SessionNetwork, step: int) -> None:
        """Move towards the present weights; the first steps count little later on."""
        keep = min(0.99, (step + 1) / (step + 10))
        with torch.no_grad():
            for mine, theirs in zip(self.network.parameters(), network.parameters(), strict=True):
                mine.lerp_(theirs, 1 - keep)


def averaged(networks: Sequence[SessionNetwork]) -> SessionNetwork:
    """Average the weights of networks that began alike (Wortsman et al. 2022, arXiv 2203.05482)."""
    result = copy.deepcopy(networks[0])
    with torch.no_grad():
        for parameters in zip(*(network.parameters() for network in (result, *networks)), strict=True):
            parameters[0].copy_(torch.stack(parameters[1:]).mean(0))
    return result


def contrastive(questions: Tensor, turns: Tensor, positives: Tensor, hidden: Tensor, temperature: float) -> Tensor:
    """InfoNCE of each positive against the conversation's other turns, times log(1 + their number), by prefixes.

    Args:
        questions: (q, d).
        turns: (n, d).
        positives: bool (q, n).
        hidden: bool (q, n), no candidates at all.
        temperature: Of the softmax over cosines.
    """
    others = ~(positives | hidden)
    weights = torch.log1p(others.sum(1).float()) / 5  # near 1 for a conversation of 150 turns
    total = turns.new_zeros(())
    for prefix, weight in PREFIXES.items():
        left, right = (functional.normalize(rows[:, :prefix], dim=1) for rows in (questions, turns))
        scores = left @ right.T / temperature
        against = scores.masked_fill(~others, _NEVER).logsumexp(1, keepdim=True)
        losses = ((torch.logaddexp(against, scores) - scores) * positives).sum(1) / positives.sum(1).clamp(min=1)
        total = total + weight * (weights * losses).mean()
    return total / sum(PREFIXES.values())


def conversation_loss(
    network: SessionNetwork, found: Features, recipe: Recipe, rng: random.Random
) -> dict[str, Tensor] | None:
    """Return the losses of one stretch of a conversation; None if it holds no whole question."""
    count = len(found.of.turns)
    start = rng.randrange(max(1, count - recipe.turns + 1))
    end = min(count, start + recipe.turns)
    chosen = [
        i
        for i, q in enumerate(found.of.questions)
        if all(start <= e < end for e in q.evidence) and (q.source is None or start <= q.source < end)
    ]
    rng.shuffle(chosen)
    chosen = chosen[: recipe.questions]
    if not chosen:
        return None
    static = functional.normalize(found.static[start:end].float(), dim=1)
    named, dated = rng.random() >= recipe.nameless, rng.random() >= recipe.nameless
    who, when, days = (
        found.who[start:end].float() * named,
        found.when[start:end].float() * dated,
        found.days[start:end] * dated,
    )
    evolved, read, last = network.segments(static, who, when, found.length[start:end], days, start)
    asked = functional.normalize(found.asked[chosen].float(), dim=1)
    positives = torch.zeros(len(chosen), end - start, dtype=torch.bool)
    hidden = torch.zeros_like(positives)
    at = torch.full((len(chosen),), end - start)
    for row, i in enumerate(chosen):
        question = found.of.questions[i]
        positives[row, [e - start for e in question.evidence]] = True
        if question.source is not None:
            at[row] = question.source - start
            hidden[row, question.source - start : None if question.hides_later else question.source - start + 1] = True
    dates = found.dates[chosen] * dated
    behind = network.questions(asked, at, found.order[chosen], dates, read, last, static, start)
    outside = torch.tensor([rng.random() < recipe.sessionless for _ in chosen])
    behind = torch.where(outside[:, None], asked, behind)
    return {
        "contrastive": contrastive(behind, evolved, positives & ~hidden, hidden, recipe.temperature),
        "memory": prediction(network, last, static),
    }


def prediction(network: SessionNetwork, last: Tensor, static: Tensor, most: int = 256) -> Tensor:
    """Cross entropy of the next segment among all of the stretch, from the state after each: against collapse."""
    if len(static) < 3:
        return last.new_zeros(())
    picked = torch.randperm(len(static) - 1)[:most]
    guesses = functional.normalize(network.predict(last[picked]), dim=1)
    return functional.cross_entropy(guesses @ static[1:].T / 0.1, picked)


@dataclass(slots=True)
class Run:
    """One training run and its files."""

    recipe: Recipe
    work: Path
    sets: Mapping[str, Sequence[Features]]
    checks: Mapping[str, Sequence[Features]]

    def go(self, every: int) -> SessionNetwork:
        """Train both stages of every run, from their checkpoints when there are such; returns the averaged network."""
        torch.manual_seed(self.recipe.seed)
        begun = SessionNetwork(SHAPE)
        begun.begin()
        if not (self.work / "session-log.jsonl").exists():
            self._baselines()
        finished = []
        for run in range(self.recipe.runs):
            network = self._stage("all", run, copy.deepcopy(begun), self.recipe.steps, every)
            for name, parameter in network.named_parameters():
                parameter.requires_grad_("question" in name)
            finished.append(self._stage("questions", run, network, self.recipe.question_steps, every))
        network = averaged(finished)
        self._check("average", network, 1)
        return network

    def _stage(self, stage: str, run: int, network: SessionNetwork, steps: int, every: int) -> SessionNetwork:
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
        for group, times in zip(optimiser.param_groups, (1.0, 10.0), strict=True):
            group["lr"] = self.recipe.rate * times * (0.05 + 0.95 * schedule(step, steps, warm_up=50))
        names = list(self.sets)
        started, totals = time.monotonic(), dict.fromkeys(("contrastive", "memory"), 0.0)
        optimiser.zero_grad()
        for _ in range(self.recipe.conversations):
            name = rng.choices(names, [WEIGHTS[name] for name in names])[0]
            losses = conversation_loss(network, rng.choice(self.sets[name]), self.recipe, rng)
            if losses is None:
                continue
            loss = (losses["contrastive"] + self.recipe.memory * losses["memory"]) / self.recipe.conversations
            torch.autograd.backward(loss)
            for key, value in losses.items():
                totals[key] += float(value.detach()) / self.recipe.conversations
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        self._write({"stage": stage, "step": step + 1, "seconds": time.monotonic() - started, **totals})

    def _baselines(self) -> None:
        for name, found in self.checks.items():
            for way in ("static", "average"):
                self._write({"stage": "all", "step": 0, "set": name, "way": way, **recall(None, found, way)})

    def _check(self, stage: str, network: SessionNetwork, step: int) -> None:
        for name, found in self.checks.items():
            for way in WAYS[2:]:
                self._write({"stage": stage, "step": step, "set": name, "way": way, **recall(network, found, way)})

    def _write(self, entry: Mapping[str, float | str]) -> None:
        with open(self.work / "session-log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
        if "set" in entry:
            print(json.dumps(entry), flush=True)  # noqa: T201 - progress of a command


def main() -> None:
    """Prepare features, train, write the weights and the curve."""
    usual = Recipe()
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--runs", type=int, default=usual.runs)
    parser.add_argument("--steps", type=int, default=usual.steps)
    parser.add_argument("--question-steps", type=int, default=usual.question_steps)
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--memory", type=float, default=usual.memory, help="weight of the memory loss; 0 for none")
    parser.add_argument("--left-out", nargs="*", default=(), help="training sets kept out")
    parser.add_argument("--every", type=int, default=100, help="steps between checks and checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)
    recipe = Recipe(
        runs=given.runs,
        steps=given.steps,
        question_steps=given.question_steps,
        seed=given.seed,
        memory=given.memory,
        left_out=tuple(given.left_out),
    )
    encoder = load_encoder()
    space = encoder.spec.fingerprint[:8]  # vectors of another encoder are never taken for this one's
    caches = VectorCache(given.work / f"documents-{space}"), VectorCache(given.work / f"questions-{space}")
    train, check = split(given.data, recipe.left_out, checked=8)
    sets = {name: features(found, encoder, *caches) for name, found in train.items()}
    checks = {name: features(found, encoder, *caches) for name, found in check.items()}
    network = Run(recipe, given.work, sets, checks).go(given.every)
    facts = {"encoder": encoder.spec.name, "recipe": json.dumps(asdict(recipe)), "licence": "CC-BY-SA-4.0"}
    network.write(given.work / "session-compact.safetensors", facts)
    log = [json.loads(line) for line in (given.work / "session-log.jsonl").read_text().splitlines()]
    plot_session(log, given.work / "session-curve.png")


if __name__ == "__main__":
    main()
