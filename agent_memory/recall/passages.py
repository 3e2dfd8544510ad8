"""Finds the passage of a long entry that answers a request best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeAlias

from agent_memory.formats.passages import Span, split_passages
from agent_memory.live.rows import evolve_passages
from agent_memory.recall import ranking
from agent_memory.recall.request import Mode, Request
from agent_memory.records import Entry
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import LexicalQuery
from agent_memory.storage.words.terms import list_terms
from agent_memory.types import BM25_B, BM25_K1

_READ_FOR_WORDS = 64
"""Passages, of all entries together, in which words are looked for if there are vectors to choose the nearest by."""
_LEAST = 4

_Scores: TypeAlias = dict[Span, float]


def find_passages(
    tx: Transaction, request: Request, words: LexicalQuery, entries: Mapping[int, Entry], *, trust: float
) -> dict[int, Span]:
    """Return the best passage of each entry, by id; short entries are left out, and those that nothing speaks for.

    A passage is ranked as an entry is: by its cosine and by the share of the request's words that it holds.

    Args:
        tx: A read transaction.
        request: The request, its vector evolved if it names a session.
        words: Its words.
        entries: The entries, by id.
        trust: Weight of cosines.
    """
    scores = _score_by_meaning(tx, request, entries, trust)
    for entry_id, entry in entries.items():
        if entry_id not in scores:
            # Stored with a vector of the caller's, or before there were passages.
            spans = split_passages(entry.text)
            if len(spans) > 1:
                scores[entry_id] = dict.fromkeys(spans, 0.0)
    if scores and words.phrases:
        _add_words(tx, words, entries, scores)
    return {number: max(found, key=lambda span: found[span]) for number, found in scores.items() if any(found.values())}


def score_nearest(
    tx: Transaction, request: Request, words: LexicalQuery, entries: Mapping[int, Entry]
) -> dict[int, float]:
    """Return the share of the request's words that the passage nearest to it holds, of each long entry, by id.

    The words of a whole long text count little, because it holds so many others.

    Args:
        tx: A read transaction.
        request: The request, its vector evolved if it names a session.
        words: Its words.
        entries: The entries, by id.
    """
    generation = tx.generations.live()
    if generation is None:
        return {}
    parts: dict[int, Entry] = {}
    for passages in tx.passages.read(generation, list(entries)):
        start, stop = passages.spans[int((evolve_passages(passages) @ request.vector).argmax())]
        entry = entries[passages.entry_id]
        parts[passages.entry_id] = replace(entry, text=entry.text[start:stop])
    scores, average = tx.lexical.score_texts(words, parts), max(1.0, tx.lexical.measure_average())
    return {number: min(1.0, share * _weigh_short(parts[number], average)) for number, share in scores.items()}


def _weigh_short(part: Entry, average: float) -> float:
    """Return by how much a word of a text counts for more than one of an average text, by BM25, if it occurs once."""
    length = len(list_terms(part.text, part.speaker).split())
    return (BM25_K1 + 1) / (1 + BM25_K1 * (1 - BM25_B + BM25_B * length / average))


def _score_by_meaning(
    tx: Transaction, request: Request, entries: Mapping[int, Entry], trust: float
) -> dict[int, _Scores]:
    generation = tx.generations.live() if request.mode is not Mode.LEXICAL else None
    if generation is None:
        return {}
    scores: dict[int, _Scores] = {}
    for passages in tx.passages.read(generation, list(entries), former=True):
        cosines = (evolve_passages(passages) @ request.vector).tolist()
        spans = passages.spans
        if spans[-1][1] <= len(entries[passages.entry_id].text):
            scores[passages.entry_id] = {span: trust * score for span, score in zip(spans, cosines, strict=True)}
    return scores


def _add_words(
    tx: Transaction, words: LexicalQuery, entries: Mapping[int, Entry], scores: Mapping[int, _Scores]
) -> None:
    places: list[tuple[int, Span]] = []
    most = max(_LEAST, _READ_FOR_WORDS // len(scores))
    for entry_id, found in scores.items():
        best = sorted(found, key=lambda span: -found[span])
        places += [(entry_id, span) for span in (best[:most] if any(found.values()) else best)]
    parts = {
        number: replace(entries[entry_id], text=entries[entry_id].text[start:stop])
        for number, (entry_id, (start, stop)) in enumerate(places, start=1)
    }
    for number, share in tx.lexical.score_texts(words, parts).items():
        entry_id, span = places[number - 1]
        scores[entry_id][span] += ranking.LEXICAL_WEIGHT * share
