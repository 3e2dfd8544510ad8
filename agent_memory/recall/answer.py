"""Answers requests: hits with their scores explained. Each answer reads one state of the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_memory.errors import StorageError
from agent_memory.live.space import Space
from agent_memory.live.store import Store
from agent_memory.recall.confidence import FEATURES
from agent_memory.recall.passages import find_passages
from agent_memory.recall.ranking import Candidate
from agent_memory.recall.request import Request
from agent_memory.recall.search import Search
from agent_memory.records import Entry, Hit, Hits
from agent_memory.storage.base import Transaction
from agent_memory.storage.words.terms import join_labels

_BATCH = 64  # questions answered in one read transaction


def recall(store: Store, space: Space, request: Request) -> Hits:
    """Return the hits of a request, best first."""
    with store.read() as tx:
        search = Search(store, space, tx, request)
        return _make_hits(tx, search, search.run())


def recall_many(store: Store, space: Space, requests: Sequence[Request]) -> list[Hits]:
    """Return the hits of each of several requests that differ in their queries only."""
    answers: list[Hits] = []
    # A cross-encoder runs inside the transaction, which one question keeps open long enough.
    size = 1 if any(request.rerank is not None for request in requests) else _BATCH
    for start in range(0, len(requests), size):
        with store.read() as tx:
            searches = [Search(store, space, tx, request) for request in requests[start : start + size]]
            found = Search.run_together(searches)
            answers.extend(_make_hits(tx, search, best) for search, best in zip(searches, found, strict=True))
    return answers


def _make_hits(tx: Transaction, search: Search, best: list[Candidate]) -> Hits:
    explain = search.request.explain
    if floor := search.request.min_confidence:
        best = [candidate for candidate in best if search.confidences.get(candidate.id, 0.0) >= floor]
    named = [one for candidate in best for one in (candidate.lender, candidate.nearby_id)] if explain else []
    lenders = [entry_id for entry_id in named if entry_id is not None]
    later = [search.stale[candidate.id] for candidate in best if candidate.id in search.stale]
    entries = search.fetch([*(candidate.id for candidate in best), *lenders, *later])
    if missing := [candidate.id for candidate in best if candidate.id not in entries]:
        raise StorageError(f"the full-text index refers to missing entries {missing[:3]}")
    found = {candidate.id: entries[candidate.id] for candidate in best}
    spans = find_passages(tx, search.request, search.words, found, trust=search.trust)
    hits = [
        Hit(
            entry=entries[candidate.id],
            score=candidate.score,
            rank=rank,
            confidence=search.confidences.get(candidate.id),
            stale_by=entries[search.stale[candidate.id]].key if candidate.id in search.stale else None,
            passage=spans.get(candidate.id),
            trace=explain_score(tx, search, candidate, entries) if explain else None,
        )
        for rank, candidate in enumerate(best, start=1)
    ]
    reached = search.tiers.tier_reached if search.tiers is not None else None
    return Hits(hits, tier_reached=reached, evidence=search.evidence)


def explain_score(
    tx: Transaction, search: Search, candidate: Candidate, entries: Mapping[int, Entry]
) -> dict[str, Any]:
    """Return what a candidate's score is made of: the content of ``Hit.trace``.

    Args:
        tx: The search's transaction.
        search: The search, finished.
        candidate: One of its candidates.
        entries: Entries by id; those that lend to the candidate are named if they are among them.
    """
    lender = None if candidate.lender is None else entries.get(candidate.lender)
    near = None if candidate.nearby_id is None else entries.get(candidate.nearby_id)
    return {
        "tiers": _list_tier_ranks(search, candidate.id),
        "dense": candidate.dense,
        "trust": candidate.trust,
        "lexical": {
            "share": candidate.lexical,
            "rank": search.lexical_ranks.get(candidate.id),
            "words": _list_words(tx, search, candidate, entries),
            "adds": candidate.weights.lexical * candidate.lexical,
        },
        "nearby": {
            "share": candidate.nearby,
            "adds": candidate.weights.nearby * candidate.nearby,
            "key": None if near is None else near.key,
        },
        "neighbour": {"adds": candidate.neighbour, "key": None if lender is None else lender.key},
        "time": {"adds": candidate.time, "words": [interval.words for interval in search.intervals]},
        "importance": candidate.importance,
        "speaker": candidate.speaker,
        "recency": candidate.recency,
        "newer": candidate.newer,
        "read": candidate.read,
        "rerank": candidate.rerank,
        "confidence": _explain_confidence(search, candidate.id),
        "score": candidate.score,
        "filter": bool(search.searcher.select_allowed([candidate.id])),
    }


def _list_words(tx: Transaction, search: Search, candidate: Candidate, entries: Mapping[int, Entry]) -> list[str]:
    """Return the words of the query that a candidate holds, also a former version, which is in no index."""
    words = search.words
    found = tx.lexical.find_matched(words, candidate.id)
    if found or not candidate.lexical or candidate.id not in entries:
        return found
    text = {candidate.id: entries[candidate.id]}
    each = zip(words.phrases, words.weights, words.words, strict=True)
    single = [(replace(words, phrases=(phrase,), weights=(weight,)), word) for phrase, weight, word in each]
    return join_labels([word for one, word in single if tx.lexical.score_texts(one, text)])


def _explain_confidence(search: Search, entry_id: int) -> dict[str, Any] | None:
    """Return a candidate's confidence, and what it is made of."""
    features = search.features.get(entry_id)
    if features is None:
        return None
    parts = dict(zip(FEATURES, map(float, features), strict=True))
    return {"chance": search.confidences.get(entry_id), "from": parts}


def _list_tier_ranks(search: Search, entry_id: int) -> list[dict[str, Any]]:
    """Return the rank and score of an entry in each tier, beside the score of the last one handed on."""
    ranks = []
    for tier in search.tiers.traces[0] if search.tiers is not None and search.tiers.traces else ():
        place = tier.rank(entry_id)
        last = float(tier.scores[tier.kept - 1]) if 0 < tier.kept <= len(tier.scores) else None
        ranks.append(
            {
                "dimension": tier.tier,
                "rank": None if place is None else place + 1,
                "score": None if place is None else float(tier.scores[place]),
                "candidates": len(tier.ids),
                "kept": tier.kept,
                "last_kept_score": last,
            }
        )
    return ranks
