"""Train the head of the embedded default: ``python -m agent_memory.encoders.training.train DATA WORK``.

DATA is the folder of the unpacked sets. WORK keeps caches and checkpoints; the same command goes on where it
stopped. The result is ``WORK/minilm-matryoshka.safetensors`` with ``WORK/curve.png`` and ``WORK/log.jsonl``.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent_memory.encoders.registry import load_encoder
from agent_memory.encoders.training.axes import STEPS, large_sets, turn
from agent_memory.encoders.training.batches import Batch, draw, mixed
from agent_memory.encoders.training.data import Conversation, all_texts, training_sets, validation_sets
from agent_memory.encoders.training.features import VectorCache
from agent_memory.encoders.training.losses import contrastive, mean, similarity
from agent_memory.encoders.training.metrics import recall_at
from agent_memory.encoders.training.plot import plot
from agent_memory.encoders.training.student import Student
from agent_memory.encoders.training.trainer import Checkpoint, restore, schedule
from agent_memory.files import SHARED, write_bytes
from agent_memory.types import FloatArray

SCORED = (64, 256, 768)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All that decides the result; written into the weights' metadata.

    Attributes:
        head_steps: Steps on frozen features, head only.
        delta_steps: Steps on text, head and deltas.
        last_steps: Steps on text, head only, with all 768 dimensions.
        axes_steps: Steps of turning the axes of the finished vectors.
        head_rate: Learning rate of the head's first stage.
        late_head_rate: Learning rate of the head in the second stage.
        last_rate: Learning rate of the head in the last stage.
        delta_rate: Learning rate of the deltas.
        rank: Rank of the deltas.
        own: Weight of staying near MiniLM's own neighbourhoods.
        teacher: Weight of following the teacher's neighbourhoods.
        per_step: Conversations of one step.
        questions: Questions of one conversation in a step.
        distractors: Other turns of one conversation in a step.
        left_out: Training sets kept out, to see what generalises.
        seed: Of everything random.
    """

    head_steps: int = 250
    delta_steps: int = 180
    last_steps: int = 100
    axes_steps: int = STEPS
    head_rate: float = 1e-3
    late_head_rate: float = 3e-4
    last_rate: float = 6e-4
    delta_rate: float = 3e-4
    rank: int = 16
    own: float = 1.0
    teacher: float = 1.0
    per_step: int = 4
    questions: int = 12
    distractors: int = 32
    left_out: tuple[str, ...] = ("casino",)
    seed: int = 0


@dataclass(slots=True)
class Run:
    """One training run and its files."""

    recipe: Recipe
    work: Path
    sets: Mapping[str, Sequence[Conversation]]
    checks: Mapping[str, Sequence[Conversation]]
    features: VectorCache
    teacher: VectorCache
    log: list[dict[str, float | str]] = field(default_factory=list)

    def stage(self, name: str, student: Student, steps: int, every: int) -> None:
        """Train one stage, from its checkpoint when there is one."""
        groups = self._groups(name, student)
        optimiser = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
        rates = [group["lr"] for group in groups]
        checkpoint = Checkpoint(self.work / f"{name}.safetensors")
        done = restore(checkpoint, student, optimiser)
        started = time.monotonic()
        for step in range(done, steps):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step, steps)
            parts = self._losses(name, student, step)
            loss = parts["contrastive"] + self.recipe.own * parts["own"] + self.recipe.teacher * parts["teacher"]
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
            optimiser.step()
            entry = {key: float(value.detach()) for key, value in parts.items()}
            self._write({"stage": name, "step": step + 1, "seconds": time.monotonic() - started, **entry})
            if (step + 1) % every == 0 or step + 1 == steps:
                checkpoint.save(student, optimiser, step + 1)
                self._check(name, student, step + 1)

    def _groups(self, name: str, student: Student) -> list[dict[str, Any]]:
        head: list[Tensor] = [student.weight, student.bias, student.question_down, student.question_up]
        if name != "deltas":
            rate = self.recipe.head_rate if name == "head" else self.recipe.last_rate
            return [{"params": head, "lr": rate}]
        deltas = list(student.deltas.parameters())
        return [
            {"params": head, "lr": self.recipe.late_head_rate},
            {"params": deltas, "lr": self.recipe.delta_rate, "weight_decay": 0.01},
        ]

    def _losses(self, name: str, student: Student, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.recipe.seed} {name} {step}")
        batches = [
            draw(self.sets[chosen], rng, self.features, self.recipe.questions, self.recipe.distractors)
            for chosen in mixed(self.sets, rng, self.recipe.per_step)
        ]
        texts = list(dict.fromkeys(t for batch in batches for t in (*batch.questions, *batch.turns)))
        place = {text: i for i, text in enumerate(texts)}
        known = torch.from_numpy(self.features.get(texts))
        with torch.set_grad_enabled(name == "deltas"):
            pooled = known if name == "head" else student.pooled(texts)
        vectors, asked = student.project(pooled), student.project(pooled, query=True)
        taught = [i for i, text in enumerate(texts) if text in self.teacher]
        own = torch.nn.functional.normalize(known[:, -student.bert.size :], dim=1)
        teacher = torch.zeros(())
        if len(taught) > 1:
            given = torch.from_numpy(self.teacher.get([texts[i] for i in taught]))
            teacher = similarity(vectors[taught], torch.nn.functional.normalize(given, dim=1), 0.05)
        return {
            "contrastive": mean([_ranking(batch, asked, vectors, place) for batch in batches]),
            "own": similarity(vectors, own, 0.1),
            "teacher": teacher,
        }

    def _check(self, name: str, student: Student, step: int) -> None:
        def encode(texts: Sequence[str], *, query: bool = False) -> FloatArray:
            with torch.inference_mode():
                pooled = self._features(student, texts) if name == "head" else student.pooled(texts)
                vectors: FloatArray = student.project(pooled, query=query).numpy()
            return vectors

        for title, conversations in self.checks.items():
            scores = recall_at(conversations, encode, partial(encode, query=True), SCORED)
            entry = {f"recall@10/{d}": scores[d] for d in SCORED}
            self._write({"stage": name, "step": step, "set": title, **entry})
        plot(self.log, self.work / "curve.png")

    def _features(self, student: Student, texts: Sequence[str]) -> Tensor:
        self.features.fill(texts, lambda some: frozen_features(student, some))
        return torch.from_numpy(self.features.get(texts))

    def _write(self, entry: dict[str, float | str]) -> None:
        self.log.append(entry)
        with open(self.work / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _ranking(batch: Batch, asked: Tensor, vectors: Tensor, place: Mapping[str, int]) -> Tensor:
    questions = asked[[place[t] for t in batch.questions]]
    turns = vectors[[place[t] for t in batch.turns]]
    return contrastive(questions, turns, torch.from_numpy(batch.positives), torch.from_numpy(batch.hidden))


def frozen_features(student: Student, texts: Sequence[str]) -> FloatArray:
    """Mean hidden states of the untouched backbone; float32 (len(texts), 1536)."""
    with torch.inference_mode():
        features: FloatArray = student.pooled(texts).numpy()
    return features


def statistics(features: VectorCache, path: Path, size: int = 384) -> tuple[Tensor, Tensor, Tensor]:
    """Principal axes of MiniLM's unit vectors, and mean and deviation of the features.

    Kept in a file: the cache grows while the model is checked, and a run that goes on needs the same axes.
    """
    from safetensors.torch import load_file, save

    from agent_memory.encoders.rotation import fit_rotation

    if path.is_file():
        kept = load_file(path)
        return kept["rotation"], kept["mean"], kept["deviation"]
    sample = features.sample(30_000)
    last = sample[:, -size:]
    rotation = fit_rotation(last / np.linalg.norm(last, axis=1, keepdims=True))
    facts = {
        "rotation": torch.from_numpy(rotation.matrix),
        "mean": torch.from_numpy(sample.mean(0)),
        "deviation": torch.from_numpy(sample.std(0) + 1e-4),
    }
    write_bytes(path, save(facts), mode=SHARED)
    return facts["rotation"], facts["mean"], facts["deviation"]


def start(data: Path, work: Path, recipe: Recipe) -> Run:
    """Read the sets and fill the caches, as far as they are not filled."""
    work.mkdir(parents=True, exist_ok=True)
    sets = training_sets(data, recipe.left_out, recipe.seed)
    checks = validation_sets(data, recipe.left_out)
    texts = [t for conversations in sets.values() for t in all_texts(conversations)]
    features = VectorCache(work / "features")
    blank = Student(0, torch.eye(384), torch.zeros(1536), torch.ones(1536))
    features.fill(texts, lambda some: frozen_features(blank, some))
    teacher = VectorCache(work / "teacher")
    if recipe.teacher and not len(teacher):
        chosen = random.Random(recipe.seed).sample(sorted(set(texts)), min(len(set(texts)), 24_000))
        teacher.fill(chosen, load_encoder("mpnet").encode_documents)
    log = work / "log.jsonl"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    return Run(recipe, work, sets, checks, features, teacher, entries)


def main() -> None:
    """Run all stages and write the head file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument(
        "--left-out",
        default=",".join(Recipe().left_out),
        help="training sets to keep out, separated by commas",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=60, help="steps between checkpoints")
    for name, value in asdict(Recipe()).items():
        if isinstance(value, (int, float)):
            parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    given = vars(parser.parse_args())
    data, work, threads, every = (given.pop(k) for k in ("data", "work", "threads", "every"))
    left_out = tuple(n for n in given.pop("left_out").split(",") if n)
    recipe = Recipe(left_out=left_out, **given)
    torch.set_num_threads(threads)
    torch.manual_seed(recipe.seed)
    run = start(data, work, recipe)
    facts = statistics(run.features, work / "statistics.safetensors")
    head = Student(0, *facts)
    run.stage("head", head, recipe.head_steps, every)
    student = Student(recipe.rank, *facts)
    student.load_state_dict(head.state_dict(), strict=False)
    run.stage("deltas", student, recipe.delta_steps, every)
    student.widen(recipe.seed)
    run.stage("last", student, recipe.last_steps, every)
    trained = work / "trained.safetensors"
    student.export(trained, {"recipe": json.dumps(asdict(recipe))})
    sets = large_sets(data, recipe.left_out, recipe.seed)
    turn(trained, work / "minilm-matryoshka.safetensors", sets, recipe.axes_steps, recipe.seed)


if __name__ == "__main__":
    main()
