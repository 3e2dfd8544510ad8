"""The retrieval and similarity metrics of the model card."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from agent_memory.encoders.static.windows import normalise
from agent_memory.encoders.training.data import Conversation
from agent_memory.types import FloatArray

Encode = Callable[[Sequence[str]], FloatArray]


def measure_recall(
    conversations: Sequence[Conversation],
    documents: Encode,
    queries: Encode,
    dimensions: Sequence[int],
    k: int = 10,
) -> dict[int, float]:
    """Measure the mean share of a question's evidence among the first ``k`` turns, over all questions.

    Vectors are cut to each dimension and normalised again. The turn that asks the question is never a candidate, nor
    are later turns if the question hides them.

    Args:
        conversations: Conversations to search.
        documents: Encodes turns.
        queries: Encodes questions.
        dimensions: Prefixes to score.
        k: Number of turns to retrieve.

    Returns:
        Recall in percent, by dimension.
    """
    found = dict.fromkeys(dimensions, 0.0)
    count = 0
    for conversation in conversations:
        turns = documents(conversation.turns)
        asked = queries([q.text for q in conversation.questions])
        count += len(conversation.questions)
        for dimension in dimensions:
            scores = normalise(asked[:, :dimension]) @ normalise(turns[:, :dimension]).T
            found[dimension] += _sum_shares(conversation, scores, k)
    return {dimension: 100.0 * total / max(1, count) for dimension, total in found.items()}


def _sum_shares(conversation: Conversation, scores: FloatArray, k: int) -> float:
    total = 0.0
    for row, question in zip(scores, conversation.questions, strict=True):
        row[list(question.list_hidden(len(row)))] = -np.inf
        first = np.argpartition(-row, min(k, len(row) - 1))[:k]
        total += len(set(question.evidence).intersection(first.tolist())) / len(question.evidence)
    return total


def correlate_ranks(a: npt.ArrayLike, b: npt.ArrayLike) -> float:
    """Compute Spearman's rank correlation; ties share their mean rank."""
    ranks = [_rank(np.asarray(x, dtype=np.float64)) for x in (a, b)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _rank(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles: npt.NDArray[np.float64] = (ends - (counts - 1) / 2.0)[inverse]
    return middles
