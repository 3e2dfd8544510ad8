"""What the adapters that rank other people's documents again have in common."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent_memory.errors import InvalidInputError
from agent_memory.inputs import check_count, is_blank, type_name

if TYPE_CHECKING:
    from agent_memory.encoders import Reranker


def check_reranker(reranker: object) -> None:
    """Reject what has no method ``score``.

    Raises:
        InvalidInputError: It has none, or it is a class.
    """
    if isinstance(reranker, type) or not callable(getattr(reranker, "score", None)):
        raise InvalidInputError(f"reranker must have a method 'score', got {type_name(reranker)}")


def rank_texts(
    reranker: Reranker, query: str, texts: Sequence[str], *, top_n: int | None, min_score: float | None
) -> list[tuple[int, float]]:
    """Return position and score of the best texts, best first; equal scores keep their order.

    Args:
        reranker: What scores them.
        query: The question; if it is blank, the texts keep their order, each with a score of 0.
        texts: The texts.
        top_n: How many at most; None for all.
        min_score: Those that score lower are left out.

    Raises:
        InvalidInputError: ``top_n`` is not a positive number, or the reranker gave another number of scores.
    """
    limit = len(texts) if top_n is None else check_count("top_n", top_n)
    if not texts or is_blank(query):
        return [(place, 0.0) for place in range(len(texts))][:limit]
    scores = [float(score) for score in reranker.score(query, list(texts))]
    if len(scores) != len(texts):
        raise InvalidInputError(f"the reranker gave {len(scores)} scores for {len(texts)} texts")
    order = sorted(range(len(texts)), key=lambda place: -scores[place])
    kept = [(place, scores[place]) for place in order if min_score is None or scores[place] >= min_score]
    return kept[:limit]
