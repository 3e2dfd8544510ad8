"""Losses over weighted prefixes (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

PREFIXES = {64: 4.0, 128: 1.5, 256: 1.5, 512: 0.5, 768: 1.5}
"""Weight of each prefix. The coarse tier has the fewest dimensions and loses the most, so it weighs the most."""

_TOTAL = sum(PREFIXES.values())
_MASKED = -1e4


def compute_contrastive(
    questions: Tensor, turns: Tensor, positives: Tensor, hidden: Tensor, temperature: float = 0.05
) -> Tensor:
    """Compute InfoNCE of each positive against the turns that are not positive, over weighted prefixes.

    Args:
        questions: (q, d).
        turns: (t, d), turns of the same conversation.
        positives: bool (q, t), whether a turn is evidence for a question.
        hidden: bool (q, t), pairs that are ignored.
        temperature: Temperature of the softmax over cosines.

    Returns:
        A scalar.
    """
    wanted = positives & ~hidden
    total = turns.new_zeros(())
    for prefix, weight in PREFIXES.items():
        scores = _cut(questions, prefix) @ _cut(turns, prefix).T / temperature
        others = scores.masked_fill(positives | hidden, _MASKED).logsumexp(1, keepdim=True)
        losses = torch.logaddexp(others, scores) - scores
        per_question = (losses * wanted).sum(1) / wanted.sum(1).clamp(min=1)
        total = total + weight * per_question.sum() / wanted.any(1).sum().clamp(min=1)
    return total / _TOTAL


def compute_divergence(vectors: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Compute the KL divergence of each text's neighbourhood from that of a teacher, over weighted prefixes.

    Args:
        vectors: (n, d).
        teacher: (n, e), unit rows.
        temperature: Temperature of both softmaxes over cosines.

    Returns:
        A scalar.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool)
    wanted = (teacher @ teacher.T / temperature).masked_fill(itself, _MASKED).softmax(1)
    total = vectors.new_zeros(())
    for prefix, weight in PREFIXES.items():
        unit = _cut(vectors, prefix)
        given = (unit @ unit.T / temperature).masked_fill(itself, _MASKED).log_softmax(1)
        total = total + weight * functional.kl_div(given, wanted, reduction="batchmean")
    return total / _TOTAL


def average(losses: Sequence[Tensor]) -> Tensor:
    """Average scalars; zero if there are none."""
    return torch.stack(list(losses)).mean() if losses else torch.zeros(())


def _cut(vectors: Tensor, prefix: int) -> Tensor:
    return functional.normalize(vectors[:, :prefix], dim=1)
