"""Trains the default reranker: MiniLM that reads a question and a text together, as low-rank deltas and a small head.

Each question comes with what a recall found for it. The network learns what to add to the recall's own scores, so that
the texts that answer come first (a listwise cross-entropy over one answer and some of the others).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agent_memory.encoders.files import MINILM_SHA256, find_minilm, read_tokenizer
from agent_memory.encoders.reranker import describe_text
from agent_memory.encoders.static.bert import Bert, BertShape
from agent_memory.encoders.static.minilm import HEADS, read_minilm
from agent_memory.encoders.static.pairs import HEAD, rate, read_pairs
from agent_memory.encoders.training.student import add_deltas, list_deltas
from agent_memory.encoders.training.trainer import Checkpoint, restore, scale_rate
from agent_memory.files import SHARED, write_bytes
from agent_memory.types import FloatArray

HIDDEN = 128
_BUDGET = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """All settings that determine the result; written into the metadata of the weights.

    Attributes:
        steps: Steps of the optimiser.
        questions: Questions of a step.
        others: Texts that do not answer, per question.
        rate: Learning rate.
        rank: Rank of the deltas.
        trust: What one unit of the recall's score counts for at first.
        seed: Seed of everything random.
    """

    steps: int = 900
    questions: int = 16
    others: int = 5
    rate: float = 4e-4
    rank: int = 16
    trust: float = 15.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Found:
    """A question and what a recall found for it.

    Attributes:
        query: The question.
        texts: Texts as the network reads them, best first.
        scores: Scores of the recall, float32 (n,).
        relevant: Which texts answer the question, bool (n,).
        evidence: Number of texts that answer it, also beyond those found.
        name: Name of its set.
    """

    query: str
    texts: tuple[str, ...]
    scores: FloatArray
    relevant: np.ndarray
    evidence: int
    name: str


def read_found(files: Sequence[Path], *, held_out: bool) -> list[Found]:
    """Read the questions of some sets, those held out or all others."""
    return [
        found
        for file in files
        for line in file.read_text(encoding="utf-8").splitlines()
        if (row := json.loads(line))["held_out"] is held_out
        for found in [_make_found(row, file.stem)]
    ]


def _make_found(row: dict[str, Any], name: str) -> Found:
    texts = tuple(map(describe_text, row["speakers"], row["texts"]))
    scores, relevant = np.array(row["scores"], np.float32), np.array(row["relevant"], bool)
    return Found(row["query"], texts, scores, relevant, row["evidence"], name)


class PairReader(nn.Module):
    """MiniLM with deltas, and a head that scores a pair of a question and a text.

    Args:
        rank: Rank of the deltas.
        trust: What one unit of the recall's score counts for at first.
    """

    def __init__(self, rank: int, trust: float) -> None:
        super().__init__()
        folder = find_minilm()
        self.tokenizer = read_tokenizer(folder)
        self.bert = Bert(read_minilm(folder), BertShape(heads=HEADS), "bf16", trainable=True)
        self.deltas = add_deltas(self.bert, rank)
        self.hidden, self.out = nn.Linear(2 * self.bert.size, HIDDEN), nn.Linear(HIDDEN, 1)
        self.trust = nn.Parameter(torch.tensor(trust).log())

    def forward(self, pairs: Sequence[tuple[str, str]]) -> Tensor:
        """Score pairs of a question and a text; float32 (len(pairs),)."""
        head = [self.get_parameter(name) for name in HEAD]
        return read_pairs(self.bert, self.tokenizer, pairs, lambda states: rate(states, *head), _BUDGET)

    def export(self, path: Path, facts: dict[str, str]) -> None:
        """Write the weights that the reranker reads, in half precision."""
        from safetensors.torch import save

        tensors = list_deltas(self.deltas)
        tensors |= {f"head.{name}": self.get_parameter(name) for name in HEAD}
        halves = {name: value.detach().to(torch.float16).contiguous() for name, value in tensors.items()}
        write_bytes(path, save(halves, metadata={"backbone": MINILM_SHA256, **facts}), mode=SHARED)


def train(found: Sequence[Found], work: Path, recipe: Recipe) -> PairReader:
    """Train a network, from its checkpoint if there is one."""
    torch.manual_seed(recipe.seed)
    reader = PairReader(recipe.rank, recipe.trust)
    usable = [one for one in found if one.relevant.any() and not one.relevant.all()]
    optimiser = torch.optim.AdamW(reader.parameters(), lr=recipe.rate, weight_decay=0.01, betas=(0.9, 0.98))
    checkpoint = Checkpoint(work / "reranker.checkpoint")
    done, started, losses = restore(checkpoint, reader, optimiser), time.monotonic(), []
    for step in range(done, recipe.steps):
        dice = np.random.default_rng((recipe.seed, step))
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * scale_rate(step, recipe.steps)
        loss = compute_loss(
            reader, [usable[at] for at in dice.integers(len(usable), size=recipe.questions)], recipe, dice
        )
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        losses.append(float(loss.detach()))
        if (step + 1) % 50 == 0 or step + 1 == recipe.steps:
            checkpoint.save(reader, optimiser, step + 1)
            pace = (time.monotonic() - started) / (step + 1 - done)
            trust = float(reader.trust.detach().exp())
            print(  # noqa: T201 - progress of a command
                f"step {step + 1}: loss {np.mean(losses[-50:]):.3f}, trust {trust:.1f}, {pace:.2f} s each", flush=True
            )
    return reader


def compute_loss(reader: PairReader, asked: Sequence[Found], recipe: Recipe, dice: np.random.Generator) -> Tensor:
    """Return the mean of -log p of one answer of each question among texts that do not answer it."""
    rows = [_draw(one, recipe.others, dice) for one in asked]
    pairs = [(one.query, one.texts[at]) for one, row in zip(asked, rows, strict=True) for at in row]
    scores = torch.from_numpy(np.concatenate([one.scores[row] for one, row in zip(asked, rows, strict=True)]))
    logits = reader(pairs) + reader.trust.exp() * scores
    lists = logits.split([len(row) for row in rows])
    return -torch.stack([functional.log_softmax(one, 0)[0] for one in lists]).mean()


def _draw(one: Found, others: int, dice: np.random.Generator) -> np.ndarray:
    """Return the position of an answer and of some other texts, rather those that came early."""
    answer = dice.choice(np.flatnonzero(one.relevant), size=1)
    wrong = np.flatnonzero(~one.relevant)
    weight = 1 / (5 + wrong)
    return np.concatenate(
        [answer, dice.choice(wrong, size=min(others, len(wrong)), replace=False, p=weight / weight.sum())]
    )


@torch.inference_mode()
def score_all(reader: PairReader, asked: Sequence[Found]) -> list[FloatArray]:
    """Return what the network adds to the score of each text of each question."""
    return [reader([(one.query, text) for text in one.texts]).numpy() for one in asked]


def measure(asked: Sequence[Found], added: Sequence[FloatArray], blend: float) -> dict[str, dict[str, float]]:
    """Return first hits, recall@10 and MRR of each set, ranked by score and what is added to it."""
    sets: dict[str, list[tuple[float, float, float]]] = {}
    for one, more in zip(asked, added, strict=True):
        order = np.argsort(-(one.scores + blend * more), kind="stable")
        right = one.relevant[order]
        first = float(right.argmax()) if right.any() else np.inf
        sets.setdefault(one.name, []).append((first == 0, right[:10].sum() / one.evidence, 1 / (1 + first)))
    names = ("first", "recall@10", "mrr")
    return {
        name: {what: round(float(value) * 100, 1) for what, value in zip(names, np.mean(rows, axis=0), strict=True)}
        for name, rows in sets.items()
    }


def describe(recipe: Recipe) -> str:
    """Return a recipe as JSON."""
    return json.dumps(asdict(recipe))
