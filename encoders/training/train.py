"""Train the head of the embedded encoder: ``python -m agent_memory.encoders.training.train DATA WORK``.

DATA is the folder of the unpacked sets. WORK holds caches and checkpoints; run the same command again to resume. The
result is ``WORK/minilm-matryoshka.safetensors`` with ``WORK/curve.png`` and ``WORK/log.jsonl``.
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
from agent_memory.encoders.training.axes import STEPS, read_large_sets, rotate_head
from agent_memory.encoders.training.batches import Batch, draw_batch, draw_sets
from agent_memory.encoders.training.data import Conversation, collect_texts, read_training_sets, read_validation_sets
from agent_memory.encoders.training.features import VectorCache
from agent_memory.encoders.training.losses import average, compute_contrastive, compute_divergence
from agent_memory.encoders.training.metrics import measure_recall
from agent_memory.encoders.training.plot import plot_training
from agent_memory.encoders.training.student import HeadStudent, Student
from agent_memory.encoders.training.trainer import Checkpoint, restore, scale_rate
from agent_memory.files import SHARED, write_bytes
from agent_memory.types import FloatArray

SCORED = (64, 256, 768)


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings that determine the result; written into the metadata of the weights.

    Attributes:
        head_steps: Steps on frozen features, head only.
        delta_steps: Steps on text, head and deltas.
        last_steps: Steps on text, head only, with all 768 dimensions.
        axes_steps: Steps of fitting the axes of the trained vectors.
        head_rate: Learning rate of the head in the first stage.
        late_head_rate: Learning rate of the head in the second stage.
        last_rate: Learning rate of the head in the last stage.
        delta_rate: Learning rate of the deltas.
        rank: Rank of the deltas.
        own: Weight of the loss that preserves MiniLM's own neighbourhoods.
        teacher: Weight of the loss that imitates the teacher's neighbourhoods.
        per_step: Conversations in one step.
        questions: Maximum questions of one conversation in a step.
        distractors: Other turns of one conversation in a step.
        left_out: Training sets to leave out, to see what generalises.
        seed: Seed of everything random.
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
    """One training run and its files.

    Attributes:
        recipe: The settings.
        work: Folder of caches, checkpoints and results.
        sets: Training conversations by set.
        checks: Validation conversations by set.
        features: Frozen features of texts.
        teacher: The teacher's vectors of some of the texts.
        log: Losses and validation scores so far.
    """

    recipe: Recipe
    work: Path
    sets: Mapping[str, Sequence[Conversation]]
    checks: Mapping[str, Sequence[Conversation]]
    features: VectorCache
    teacher: VectorCache
    log: list[dict[str, float | str]] = field(default_factory=list)

    def train_stage(self, name: str, student: HeadStudent, steps: int, every: int) -> None:
        """Train one stage, from its checkpoint if there is one.

        Args:
            name: ``head``, ``deltas`` or ``last``.
            student: The network, trained in place.
            steps: Steps of the stage.
            every: Steps between checkpoints.
        """
        groups = self._group_parameters(name, student)
        optimiser = torch.optim.AdamW(groups, weight_decay=0.05, betas=(0.9, 0.98))
        rates = [group["lr"] for group in groups]
        checkpoint = Checkpoint(self.work / f"{name}.safetensors")
        done = restore(checkpoint, student, optimiser)
        started = time.monotonic()
        for step in range(done, steps):
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * scale_rate(step, steps)
            parts = self._compute_losses(name, student, step)
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

    def _group_parameters(self, name: str, student: HeadStudent) -> list[dict[str, Any]]:
        head: list[Tensor] = [student.weight, student.bias, student.question_down, student.question_up]
        if name != "deltas":
            rate = self.recipe.head_rate if name == "head" else self.recipe.last_rate
            return [{"params": head, "lr": rate}]
        deltas = [parameter for name, parameter in student.named_parameters() if name.startswith("deltas.")]
        return [
            {"params": head, "lr": self.recipe.late_head_rate},
            {"params": deltas, "lr": self.recipe.delta_rate, "weight_decay": 0.01},
        ]

    def _compute_losses(self, name: str, student: HeadStudent, step: int) -> dict[str, Tensor]:
        rng = random.Random(f"{self.recipe.seed} {name} {step}")
        batches = [
            draw_batch(self.sets[chosen], rng, self.features, self.recipe.questions, self.recipe.distractors)
            for chosen in draw_sets(self.sets, rng, self.recipe.per_step)
        ]
        texts = list(dict.fromkeys(t for batch in batches for t in (*batch.questions, *batch.turns)))
        place = {text: i for i, text in enumerate(texts)}
        known = torch.from_numpy(self.features.get(texts))
        with torch.set_grad_enabled(name == "deltas"):
            pooled = known if name == "head" else student.pool(texts)
        vectors, asked = student.project(pooled), student.project(pooled, query=True)
        taught = [i for i, text in enumerate(texts) if text in self.teacher]
        teacher = torch.zeros(())
        if len(taught) > 1:
            given = torch.from_numpy(self.teacher.get([texts[i] for i in taught]))
            teacher = compute_divergence(vectors[taught], torch.nn.functional.normalize(given, dim=1), 0.05)
        return {
            "contrastive": average([_compute_ranking(batch, asked, vectors, place) for batch in batches]),
            "own": compute_divergence(vectors, student.get_own(known), 0.1),
            "teacher": teacher,
        }

    def _check(self, name: str, student: HeadStudent, step: int) -> None:
        def encode(texts: Sequence[str], *, query: bool = False) -> FloatArray:
            with torch.inference_mode():
                pooled = self._get_features(student, texts) if name == "head" else student.pool(texts)
                vectors: FloatArray = student.project(pooled, query=query).numpy()
            return vectors

        for title, conversations in self.checks.items():
            scores = measure_recall(conversations, encode, partial(encode, query=True), SCORED)
            entry = {f"recall@10/{d}": scores[d] for d in SCORED}
            self._write({"stage": name, "step": step, "set": title, **entry})
        plot_training(self.log, self.work / "curve.png")

    def _get_features(self, student: HeadStudent, texts: Sequence[str]) -> Tensor:
        self.features.fill(texts, lambda missing: compute_features(student, missing))
        return torch.from_numpy(self.features.get(texts))

    def _write(self, entry: dict[str, float | str]) -> None:
        self.log.append(entry)
        with open(self.work / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def _compute_ranking(batch: Batch, asked: Tensor, vectors: Tensor, place: Mapping[str, int]) -> Tensor:
    questions = asked[[place[t] for t in batch.questions]]
    turns = vectors[[place[t] for t in batch.turns]]
    return compute_contrastive(questions, turns, torch.from_numpy(batch.positives), torch.from_numpy(batch.hidden))


def compute_features(student: HeadStudent, texts: Sequence[str]) -> FloatArray:
    """Compute the mean hidden states of texts, without gradients; float32 (len(texts), d)."""
    with torch.inference_mode():
        features: FloatArray = student.pool(texts).numpy()
    return features


def compute_statistics(features: VectorCache, path: Path, size: int = 384) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the principal axes of MiniLM's unit vectors, and the mean and deviation of the features.

    They are stored in a file, because validation adds to the cache and a resumed run needs the same statistics.

    Args:
        features: Frozen features; their last ``size`` numbers are the backbone's own output.
        path: The file.
        size: Dimension of the backbone.

    Returns:
        Axes (size, size), mean (d,) and standard deviation (d,).
    """
    from safetensors.torch import load_file, save

    from agent_memory.encoders.rotation import fit_rotation

    if path.is_file():
        stored = load_file(path)
        return stored["rotation"], stored["mean"], stored["deviation"]
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


def prepare_run(data: Path, work: Path, recipe: Recipe) -> Run:
    """Read the sets, and add to the caches what they lack."""
    work.mkdir(parents=True, exist_ok=True)
    sets = read_training_sets(data, recipe.left_out, recipe.seed)
    checks = read_validation_sets(data, recipe.left_out)
    texts = [t for conversations in sets.values() for t in collect_texts(conversations)]
    features = VectorCache(work / "features")
    blank = Student(0, torch.eye(384), torch.zeros(1536), torch.ones(1536))
    features.fill(texts, lambda missing: compute_features(blank, missing))
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
        help="training sets to leave out, separated by commas",
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
    run = prepare_run(data, work, recipe)
    facts = compute_statistics(run.features, work / "statistics.safetensors")
    head = Student(0, *facts)
    run.train_stage("head", head, recipe.head_steps, every)
    student = Student(recipe.rank, *facts)
    student.load_state_dict(head.state_dict(), strict=False)
    run.train_stage("deltas", student, recipe.delta_steps, every)
    student.widen(recipe.seed)
    run.train_stage("last", student, recipe.last_steps, every)
    trained = work / "trained.safetensors"
    student.export(trained, {"recipe": json.dumps(asdict(recipe))})
    sets = read_large_sets(data, recipe.left_out, recipe.seed)
    rotate_head(trained, work / "minilm-matryoshka.safetensors", sets, recipe.axes_steps, recipe.seed)


if __name__ == "__main__":
    main()
