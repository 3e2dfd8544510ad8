"""Draws the questions and turns of one training step."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from agent_memory.encoders.static.windows import normalise
from agent_memory.encoders.training.data import Conversation
from agent_memory.encoders.training.features import VectorCache

SET_WEIGHTS: Mapping[str, float] = {
    "friendsqa_dev": 1.5,
    "casino": 1.0,
    "qmsum_train": 1.2,
    "sgdmem_train": 1.0,
    "syn_persona_chat": 0.8,
    "mrda_ap": 0.4,
    "irc_reply": 0.5,
    "realmem": 1.0,
    "crd3": 0.8,
    "beam_500k": 1.2,
    "selqa_dev": 0.7,
    "pubmedqa_l": 0.4,
}
"""Relative frequency with which a set is drawn, chosen by the quality and kind of its labels, not by its size."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Questions and turns of one conversation.

    Attributes:
        questions: Texts of the questions.
        turns: Texts of the candidates.
        positives: bool (questions, turns), whether a turn is evidence for a question.
        hidden: bool (questions, turns), pairs that are ignored.
    """

    questions: tuple[str, ...]
    turns: tuple[str, ...]
    positives: npt.NDArray[np.bool_]
    hidden: npt.NDArray[np.bool_]


def draw_sets(sets: Mapping[str, object], rng: random.Random, count: int) -> list[str]:
    """Draw names of sets, with replacement, by their weights."""
    names = sorted(sets)
    return rng.choices(names, [SET_WEIGHTS.get(n, 1.0) for n in names], k=count)


def draw_batch(
    conversations: Sequence[Conversation],
    rng: random.Random,
    features: VectorCache,
    questions: int,
    distractors: int,
) -> Batch:
    """Draw questions of one conversation, their evidence, and other turns, half of them hard.

    Hard turns are those that the frozen backbone places nearest to the questions. A turn with the text of an evidence
    turn also counts as evidence; a turn with the text of the question is hidden.

    Args:
        conversations: Conversations of one set.
        rng: Random generator of this step.
        features: Frozen features of all texts; their last 384 numbers are the backbone's own output.
        questions: Maximum number of questions.
        distractors: Number of other turns.
    """
    conversation = rng.choice(conversations)
    asked = rng.sample(conversation.questions, min(questions, len(conversation.questions)))
    needed = {e for q in asked for e in q.evidence} | {q.source for q in asked if q.source is not None}
    others = [i for i in range(len(conversation.turns)) if i not in needed]
    if len(others) > 600:
        others = rng.sample(others, 600)
    hard = _rank_nearest([q.text for q in asked], conversation, others, features)[: distractors // 2]
    rest = [i for i in others if i not in set(hard)]
    chosen = sorted(needed | set(hard) | set(rng.sample(rest, min(len(rest), distractors - len(hard)))))
    turns = [conversation.turns[i] for i in chosen]
    positives = np.zeros((len(asked), len(turns)), dtype=np.bool_)
    hidden = np.zeros_like(positives)
    for row, question in enumerate(asked):
        answers = {conversation.turns[e] for e in question.evidence}
        covered = set(question.list_hidden(len(conversation.turns)))
        for column, (position, text) in enumerate(zip(chosen, turns, strict=True)):
            positives[row, column] = text in answers
            hidden[row, column] = position in covered or text == question.text
    return Batch(tuple(q.text for q in asked), tuple(turns), positives, hidden)


def _rank_nearest(
    questions: Sequence[str], conversation: Conversation, others: Sequence[int], features: VectorCache
) -> list[int]:
    """Order turns by their highest similarity to any of the questions."""
    if not others:
        return []
    asked = normalise(features.get(questions)[:, -384:])
    given = normalise(features.get([conversation.turns[i] for i in others])[:, -384:])
    best = (asked @ given.T).max(0)
    return [others[i] for i in np.argsort(-best)]
