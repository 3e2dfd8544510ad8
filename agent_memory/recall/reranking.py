"""Lets a reranker read the best candidates of a recall again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from agent_memory.encoders.reranker import AddingReranker, check_scores, describe_text
from agent_memory.recall.passages import find_passages
from agent_memory.recall.ranking import Candidate, rank_candidates
from agent_memory.recall.request import Request
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import LexicalQuery
from agent_memory.telemetry.stages import stage

if TYPE_CHECKING:
    from agent_memory.encoders.reranker import Reranker
    from agent_memory.records import Entry

_LEAST = 50  # candidates that a reranker which does not say how many is asked about


def count_read(reranker: Reranker | None, k: int) -> int:
    """Return how many candidates a reranker is asked about for k hits; 0 for none."""
    if reranker is None:
        return 0
    return reranker.depth if isinstance(reranker, AddingReranker) else max(_LEAST, k)


def rerank(
    tx: Transaction,
    request: Request,
    words: LexicalQuery,
    ranked: Sequence[Candidate],
    *,
    fetch: Callable[[Sequence[int]], Mapping[int, Entry]],
    trust: float,
) -> list[Candidate]:
    """Return candidates in the order that the request's reranker gives them; as they are without one.

    Args:
        tx: The search's transaction.
        request: The recall.
        words: Its words.
        ranked: Candidates, best first. Those that are read get a new score.
        fetch: Returns entries by id.
        trust: Weight of cosines.

    Raises:
        EncoderError: The reranker gave something else than a finite number for each text.
    """
    reranker, question = request.rerank, request.text
    if reranker is None or question is None:
        return list(ranked)
    adding = reranker if isinstance(reranker, AddingReranker) else None
    depth = count_read(reranker, request.k)
    best, behind = ranked[:depth], ranked[depth:]
    entries = fetch([candidate.id for candidate in best])
    # Of a long text, a cross-encoder reads the beginning alone.
    spans = find_passages(tx, request, words, entries, trust=trust)
    texts = {number: entry.text[slice(*spans.get(number, (None, None)))] for number, entry in entries.items()}
    if adding is not None:
        texts = {number: describe_text(entries[number].speaker, text) for number, text in texts.items()}
    with stage("rerank"):
        scores = check_scores(reranker.score(question, [texts[candidate.id] for candidate in best]), len(best))
    for candidate, score in zip(best, scores.tolist(), strict=True):
        if adding is None:
            candidate.rerank = score
        else:
            candidate.read = adding.blend * score
    return [*rank_candidates(best), *(behind if adding is not None else ())]
