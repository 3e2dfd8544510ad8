"""Rotate the axes of a head: ``python -m agent_memory.encoders.training.axes DATA HEAD OUT``.

DATA is the folder of the unpacked sets, HEAD a head file, OUT the file to write. The cosines of whole vectors are
preserved, and prefixes rank more like whole vectors. It is the last stage of ``training.train``.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from agent_memory.encoders.static.matryoshka import DIMENSION, MatryoshkaEncoder
from agent_memory.encoders.training.batches import draw_sets
from agent_memory.encoders.training.data import LIMITS, Conversation, read_training_sets
from agent_memory.encoders.training.trainer import scale_rate
from agent_memory.files import SHARED, write_bytes
from agent_memory.types import FloatArray

PREFIXES = {64: 2.0, 128: 1.0, 256: 2.0}
"""Weight of each prefix; longer prefixes lose almost nothing whatever the axes are."""

SIZE = 400, 200
"""Maximum number of turns and of questions used of a conversation."""

STEPS = 600

Sample = Callable[[random.Random], tuple[Tensor, Tensor]]
"""Draws the turns (t, d) and questions (q, d) of one conversation, with unit rows."""


def fit_axes(
    sample: Sample,
    dimension: int,
    *,
    steps: int,
    rate: float = 2e-3,
    temperature: float = 0.05,
    per_step: int = 12,
    seed: int = 0,
) -> Tensor:
    """Fit an orthogonal matrix that concentrates in the leading dimensions what distinguishes turns.

    Whole vectors keep their cosines. Each prefix learns to rank the turns of a conversation, relative to its questions
    and to its turns, as the whole vectors do (KL divergence). No labels are used: with labels, the prefixes fit the
    questions of the training sets and get worse on others.

    Args:
        sample: Draws one conversation.
        dimension: Dimension of the vectors, d.
        steps: Steps of Adam, starting from the present axes.
        rate: Initial learning rate; it decays to zero.
        temperature: Temperature of the softmax over cosines.
        per_step: Conversations in one step.
        seed: Seed of the draws.

    Returns:
        float32 (d, d), orthogonal; column i is the i-th new axis.
    """
    leading: Tensor = torch.eye(dimension)[:, : max(PREFIXES)].requires_grad_()
    optimiser = torch.optim.Adam([leading], lr=rate)
    for step in range(steps):
        rng = random.Random(f"{seed} axes {step}")
        optimiser.param_groups[0]["lr"] = rate * scale_rate(step, steps)
        axes = _orthogonalise(leading)
        loss = torch.stack([_compute_divergence(*sample(rng), axes, temperature) for _ in range(per_step)]).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        rest = torch.eye(dimension)[:, leading.shape[1] :]
        return _orthogonalise(torch.cat([_orthogonalise(leading), rest], 1))


def _orthogonalise(columns: Tensor) -> Tensor:
    """Orthogonalise columns as Gram and Schmidt do: the span of the leading ones does not change."""
    found, triangle = torch.linalg.qr(columns)
    axes: Tensor = found * triangle.diagonal().sign()
    return axes


def _compute_divergence(turns: Tensor, questions: Tensor, axes: Tensor, temperature: float) -> Tensor:
    itself = torch.eye(len(turns)) * -1e4
    by_question = (questions @ turns.T / temperature).softmax(1)
    by_turn = (turns @ turns.T / temperature + itself).softmax(1)
    turned, asked = turns @ axes, questions @ axes
    total = turns.new_zeros(())
    for prefix, weight in PREFIXES.items():
        near, far = (functional.normalize(rows[:, :prefix], dim=1) for rows in (turned, asked))
        seen = (far @ near.T / temperature).log_softmax(1)
        among = (near @ near.T / temperature + itself).log_softmax(1)
        for given, wanted in ((seen, by_question), (among, by_turn)):
            total = total + weight * functional.kl_div(given, wanted, reduction="batchmean")
    return total / sum(PREFIXES.values())


def read_large_sets(data: Path, left_out: Sequence[str], seed: int) -> dict[str, list[Conversation]]:
    """Read the training sets, thinned only to ``SIZE``: rankings of a few turns carry little information."""
    return read_training_sets(data, left_out, seed, dict.fromkeys(LIMITS, SIZE))


class TextEncoder(Protocol):
    """What the fit needs of an encoder."""

    def encode_documents(self, texts: Sequence[str]) -> FloatArray:
        """Encode turns; float32 (n, d), of unit length."""
        ...

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode questions; float32 (n, d), of unit length."""
        ...


def rotate_head(
    head: Path,
    out: Path,
    sets: Mapping[str, Sequence[Conversation]],
    steps: int,
    seed: int = 0,
    *,
    encoder: TextEncoder | None = None,
) -> None:
    """Fit axes on the vectors that a head gives to conversations, and write the head with these axes.

    Args:
        head: Head file.
        out: File to write.
        sets: From ``read_large_sets``; at most 60 conversations of each set are encoded.
        steps: Steps of the fit.
        seed: Seed of the draws.
        encoder: Encodes with this head; the default encoder if None.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    encoder = encoder or MatryoshkaEncoder(head)
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, conversations in sets.items():
        chosen = random.Random(f"{seed} {name}").sample(conversations, min(len(conversations), 60))
        seen[name] = [
            (
                torch.from_numpy(encoder.encode_documents(c.turns)),
                torch.from_numpy(encoder.encode_queries([q.text for q in c.questions])),
            )
            for c in chosen
        ]

    def sample(rng: random.Random) -> tuple[Tensor, Tensor]:
        turns, questions = rng.choice(seen[draw_sets(seen, rng, 1)[0]])
        fewer_turns, fewer_questions = (
            rows[rng.sample(range(len(rows)), min(len(rows), limit))]
            for rows, limit in zip((turns, questions), SIZE, strict=True)
        )
        return fewer_turns, fewer_questions

    axes = fit_axes(sample, DIMENSION, steps=steps, seed=seed)
    with safe_open(head, framework="pt") as file:
        facts = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for name in ("head.rotation", "head.weight", "head.bias", "head.question.up", "head.question.bias"):
        tensors[name] = (tensors[name].float() @ axes).half().contiguous()
    write_bytes(out, save(tensors, metadata=facts | {"axes": f"{steps} steps, seed {seed}"}), mode=SHARED)


def main() -> None:
    """Rotate the axes of one head file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("head", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--left-out", nargs="*", default=["casino"], help="training sets to leave out")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rotate_head(given.head, given.out, read_large_sets(given.data, given.left_out, given.seed), given.steps, given.seed)


if __name__ == "__main__":
    main()
