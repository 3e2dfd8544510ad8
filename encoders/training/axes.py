"""Turn a head's axes: ``python -m agent_memory.encoders.training.axes DATA HEAD OUT``.

DATA is the folder of the unpacked sets, HEAD a head file, OUT the file to write. Whole vectors keep their cosines;
prefixes rank more as the whole does. ``training.train`` ends with it.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from agent_memory.encoders.static.matryoshka import DIMENSION, MatryoshkaEncoder
from agent_memory.encoders.training.batches import mixed
from agent_memory.encoders.training.data import LIMITS, Conversation, training_sets
from agent_memory.encoders.training.trainer import schedule
from agent_memory.files import SHARED, write_bytes

PREFIXES = {64: 2.0, 128: 1.0, 256: 2.0}
"""Weight of each prefix; longer ones keep nearly everything in any axes."""

SIZE = 400, 200
"""Turns and questions of a conversation that are looked at, at most."""

STEPS = 600

Sample = Callable[[random.Random], tuple[Tensor, Tensor]]
"""Draws the turns (t, d) and questions (q, d) of one conversation, unit rows."""


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
    """Find an orthogonal matrix that moves what ranks turns into the leading dimensions.

    Nothing at full dimension changes. Each prefix is to rank the turns of a conversation, seen from its questions and
    from its turns, as the whole vectors do (KL divergence). No labels are used: with them, the prefixes learn
    the questions of the training sets and lose on others.

    Args:
        sample: Draws one conversation.
        dimension: d.
        steps: Steps of Adam, from where the axes are.
        rate: Its rate at the start; it falls to zero.
        temperature: Of the softmax over cosines.
        per_step: Conversations of one step.
        seed: Of the draws.

    Returns:
        float32 (d, d), orthogonal; column i is the i-th new axis.
    """
    leading: Tensor = torch.eye(dimension)[:, : max(PREFIXES)].requires_grad_()
    optimiser = torch.optim.Adam([leading], lr=rate)
    for step in range(steps):
        rng = random.Random(f"{seed} axes {step}")
        optimiser.param_groups[0]["lr"] = rate * schedule(step, steps)
        axes = _orthogonal(leading)
        loss = torch.stack([_difference(*sample(rng), axes, temperature) for _ in range(per_step)]).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        optimiser.step()
    with torch.no_grad():
        rest = torch.eye(dimension)[:, leading.shape[1] :]
        return _orthogonal(torch.cat([_orthogonal(leading), rest], 1))


def _orthogonal(columns: Tensor) -> Tensor:
    """Gram and Schmidt's orthogonal columns: each prefix spans what it did."""
    found, triangle = torch.linalg.qr(columns)
    axes: Tensor = found * triangle.diagonal().sign()
    return axes


def _difference(turns: Tensor, questions: Tensor, axes: Tensor, temperature: float) -> Tensor:
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


def large_sets(data: Path, left_out: Sequence[str], seed: int) -> dict[str, list[Conversation]]:
    """Read conversations whole, as far as ``SIZE`` goes: rankings of few turns say little."""
    return training_sets(data, left_out, seed, dict.fromkeys(LIMITS, SIZE))


def turn(head: Path, out: Path, sets: Mapping[str, Sequence[Conversation]], steps: int, seed: int = 0) -> None:
    """Fit axes on conversations as a head's encoder sees them, and write the head in these axes.

    Args:
        head: Head file.
        out: File to write.
        sets: From ``large_sets``; at most 60 conversations of each are encoded.
        steps: Steps of the fit.
        seed: Of the draws.
    """
    from safetensors import safe_open
    from safetensors.torch import save

    encoder = MatryoshkaEncoder(head)
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
        turns, questions = rng.choice(seen[mixed(seen, rng, 1)[0]])
        few, some = (
            rows[rng.sample(range(len(rows)), min(len(rows), most))]
            for rows, most in zip((turns, questions), SIZE, strict=True)
        )
        return few, some

    axes = fit_axes(sample, DIMENSION, steps=steps, seed=seed)
    with safe_open(head, framework="pt") as file:
        facts = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}
    for name in ("head.rotation", "head.weight", "head.bias", "head.question.up", "head.question.bias"):
        tensors[name] = (tensors[name].float() @ axes).half().contiguous()
    write_bytes(out, save(tensors, metadata=facts | {"axes": f"{steps} steps, seed {seed}"}), mode=SHARED)


def main() -> None:
    """Turn the axes of one head file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("head", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--left-out", nargs="*", default=["casino"], help="training sets to keep out")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    turn(given.head, given.out, large_sets(given.data, given.left_out, given.seed), given.steps, given.seed)


if __name__ == "__main__":
    main()
