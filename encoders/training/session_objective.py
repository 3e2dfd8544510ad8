"""The objective of the compact session encoder: contrastive loss plus prediction of the next segment."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from agent_memory.encoders.training.data import Question
from agent_memory.encoders.training.session_data import Features
from agent_memory.encoders.training.session_model import SessionNetwork

PREFIXES = {64: 0.5, 256: 0.5, 768: 1.0}
"""Weight of each prefix in the loss, so that the coarse tiers of an index evolve too."""

_MASKED = -1e4


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionRecipe:
    """All settings that determine the result; written into the metadata of the weights.

    Attributes:
        runs: Runs that start alike and draw differently; their weights are averaged at the end.
        steps: Steps of each run on all weights.
        question_steps: Further steps of each run on the weights that only questions use; segments do not change.
        rate: Learning rate; ten times as high for the few weights that decide how much is added.
        decay: Weight decay.
        temperature: Temperature of the softmax over cosines.
        conversations: Conversations in one step.
        turns: Maximum turns of a conversation in one step; a longer one contributes a stretch of itself.
        questions: Maximum questions of a conversation in one step.
        nameless: Share of stretches without speakers, and of those without dates.
        sessionless: Share of questions that are asked outside of the session.
        memory: Weight of the loss for predicting the next segment's vector.
        left_out: Training sets to leave out, to see what generalises.
        seed: Seed of everything random.
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


def compute_contrastive(
    questions: Tensor, turns: Tensor, positives: Tensor, hidden: Tensor, temperature: float
) -> Tensor:
    """Compute InfoNCE of each positive against the conversation's other turns, over weighted prefixes.

    The loss of a question is multiplied by log(1 + number of other turns).

    Args:
        questions: (q, d).
        turns: (n, d).
        positives: bool (q, n), whether a turn is evidence for a question.
        hidden: bool (q, n), pairs that are ignored.
        temperature: Temperature of the softmax over cosines.

    Returns:
        A scalar.
    """
    others = ~(positives | hidden)
    weights = torch.log1p(others.sum(1).float()) / 5  # near 1 for a conversation of 150 turns
    total = turns.new_zeros(())
    for prefix, weight in PREFIXES.items():
        left, right = (functional.normalize(rows[:, :prefix], dim=1) for rows in (questions, turns))
        scores = left @ right.T / temperature
        against = scores.masked_fill(~others, _MASKED).logsumexp(1, keepdim=True)
        losses = ((torch.logaddexp(against, scores) - scores) * positives).sum(1) / positives.sum(1).clamp(min=1)
        total = total + weight * (weights * losses).mean()
    return total / sum(PREFIXES.values())


def compute_losses(
    network: SessionNetwork, found: Features, recipe: SessionRecipe, rng: random.Random
) -> dict[str, Tensor] | None:
    """Compute the losses ``contrastive`` and ``memory`` of one stretch of a dialogue.

    Args:
        network: The network.
        found: The dialogue.
        recipe: The settings.
        rng: Draws the stretch and its questions.

    Returns:
        The losses, scalars; None if the stretch contains no question with all of its evidence.
    """
    start = rng.randrange(max(1, len(found.of.turns) - recipe.turns + 1))
    end = min(len(found.of.turns), start + recipe.turns)
    chosen = _draw_questions(found.of.questions, range(start, end), recipe.questions, rng)
    if not chosen:
        return None
    static = functional.normalize(found.static[start:end].float(), dim=1)
    named, dated = rng.random() >= recipe.nameless, rng.random() >= recipe.nameless
    who, when, days = (
        found.who[start:end].float() * named,
        found.when[start:end].float() * dated,
        found.days[start:end] * dated,
    )
    evolved, read, last = network.evolve_segments(static, who, when, found.length[start:end], days, start)
    asked = functional.normalize(found.asked[chosen].float(), dim=1)
    positives, hidden, at = _mark_turns([found.of.questions[i] for i in chosen], start, end)
    dates = found.dates[chosen] * dated
    inside = network.evolve_questions(asked, at, found.order[chosen], dates, read, last, static, start)
    outside = torch.tensor([rng.random() < recipe.sessionless for _ in chosen])
    questions = torch.where(outside[:, None], asked, inside)
    return {
        "contrastive": compute_contrastive(questions, evolved, positives & ~hidden, hidden, recipe.temperature),
        "memory": compute_prediction(network, last, static),
    }


def _draw_questions(questions: tuple[Question, ...], stretch: range, limit: int, rng: random.Random) -> list[int]:
    chosen = [
        i
        for i, q in enumerate(questions)
        if all(e in stretch for e in q.evidence) and (q.source is None or q.source in stretch)
    ]
    rng.shuffle(chosen)
    return chosen[:limit]


def _mark_turns(questions: list[Question], start: int, end: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the positive and the hidden turns of questions, bool (q, n), and how many turns precede each, (q,)."""
    positives = torch.zeros(len(questions), end - start, dtype=torch.bool)
    hidden = torch.zeros_like(positives)
    at = torch.full((len(questions),), end - start)
    for row, question in enumerate(questions):
        positives[row, [e - start for e in question.evidence]] = True
        if question.source is not None:
            at[row] = question.source - start
            hidden[row, at[row] : question.list_hidden(end).stop - start] = True
    return positives, hidden, at


def compute_prediction(network: SessionNetwork, last: Tensor, static: Tensor, limit: int = 256) -> Tensor:
    """Compute the cross entropy of predicting the next segment among all segments, which prevents collapse.

    Args:
        network: The network.
        last: Last states of the segments, (n, width).
        static: Static vectors of the segments, (n, d).
        limit: Maximum number of segments that are predicted.

    Returns:
        A scalar; zero for fewer than three segments.
    """
    if len(static) < 3:
        return last.new_zeros(())
    picked = torch.randperm(len(static) - 1)[:limit]
    guesses = functional.normalize(network.predict(last[picked]), dim=1)
    return functional.cross_entropy(guesses @ static[1:].T / 0.1, picked)
