"""Losses over prefixes (Matryoshka, Kusupati et al. 2022, arXiv 2205.13147)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

PREFIXES = {64: 4.0, 128: 1.5, 256: 1.5, 512: 0.5, 768: 1.5}
"""Weight of each prefix. The coarse tier has the least room and loses the most, so it counts the most."""

_TOTAL = sum(PREFIXES.values())
_NEVER = -1e4


def contrastive(
    questions: Tensor, turns: Tensor, positives: Tensor, hidden: Tensor, temperature: float = 0.05
) -> Tensor:
    """InfoNCE of each positive against the turns that are none, by weighted prefixes.

    Args:
        questions: (q, d).
        turns: (t, d), turns of the same conversation.
        positives: bool (q, t).
        hidden: bool (q, t), no candidates at all.
        temperature: Of the softmax over cosines.

    Returns:
        Scalar.
    """
    wanted = positives & ~hidden
    total = turns.new_zeros(())
    for prefix, weight in PREFIXES.items():
        scores = _unit(questions, prefix) @ _unit(turns, prefix).T / temperature
        others = scores.masked_fill(positives | hidden, _NEVER).logsumexp(1, keepdim=True)
        losses = torch.logaddexp(others, scores) - scores
        per_question = (losses * wanted).sum(1) / wanted.sum(1).clamp(min=1)
        total = total + weight * per_question.sum() / wanted.any(1).sum().clamp(min=1)
    return total / _TOTAL


def similarity(vectors: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of the neighbourhoods of each text from those of a teacher, averaged over the prefixes.

    Args:
        vectors: (n, d).
        teacher: (n, e), unit rows.
        temperature: Of both softmaxes over cosines.

    Returns:
        Scalar.
    """
    itself = torch.eye(len(vectors), dtype=torch.bool)
    wanted = (teacher @ teacher.T / temperature).masked_fill(itself, _NEVER).softmax(1)
    total = vectors.new_zeros(())
    for prefix, weight in PREFIXES.items():
        unit = _unit(vectors, prefix)
        given = (unit @ unit.T / temperature).masked_fill(itself, _NEVER).log_softmax(1)
        total = total + weight * functional.kl_div(given, wanted, reduction="batchmean")
    return total / _TOTAL


def mean(losses: Sequence[Tensor]) -> Tensor:
    """Average scalars; zero for none."""
    return torch.stack(list(losses)).mean() if losses else torch.zeros(())


def _unit(vectors: Tensor, prefix: int) -> Tensor:
    return functional.normalize(vectors[:, :prefix], dim=1)
