"""Marks candidates that a later one probably updates, and ranks the later one first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.live.stale import LIKENESS, Statement, is_later
from agent_memory.recall.ranking import Candidate, rank_candidates
from agent_memory.recall.request import Mode, Request
from agent_memory.storage.base import Transaction
from agent_memory.storage.words.terms import list_first_forms

if TYPE_CHECKING:
    from agent_memory.records import Entry
    from agent_memory.types import FloatArray

FIRST = 20
"""Candidates that are compared, whatever k is, so that rankings for several k agree."""

_STEP = 1e-6  # by how much the later one's score exceeds the earlier one's
_MARGIN = 0.5  # a later one that scores so much less is about something else
_NEAR_MARGIN = 0.25  # the same, if it is only alike
_ALIKE = 0.6  # cosine that is enough if the question asks how things are now
_LEADING = 5  # candidates above which another may be raised for that
_NEAR = 10  # candidates that may be raised for that
# Questions about how things are now, or came out.
_PRESENT = re.compile(
    r"\b(?:now|nowadays|currently|current|latest|newest|last|lately|most recent(?:ly)?|still|these days|at the moment|"
    r"today|end(?:ed)? up|in the end|finally|final|jetzt|aktuell\w*|derzeit|zuletzt|inzwischen|am ende|letzte[nrs]?|"
    r"maintenant|actuellement|finalement|derni[eè]re?|ahora|actualmente|finalmente|últim[oa])\b|现在|目前|最后|最近|現在|今は",
    re.IGNORECASE,
)
_POLAR = re.compile(r"\W*(?:is|are|am|do|does|has|have|can|will|ist|sind|hat|est-ce|ha|es|está)\b", re.IGNORECASE)
# Questions about what was, to which the earlier one is the answer.
_PAST = re.compile(
    r"\b(?:first|originally?|initially?|at first|earliest|earlier|previous(?:ly)?|former(?:ly)?|before|used to|"
    r"zuerst|anfangs|ursprünglich|früher|vorher|d'abord|avant|auparavant|initialement|primero|antes|inicialmente)\b"
    r"|最初|以前|之前|原来|以前は|최초|이전",
    re.IGNORECASE,
)


def renew(
    tx: Transaction,
    request: Request,
    ranked: Sequence[Candidate],
    *,
    dated: bool,
    fetch: Callable[[Sequence[int]], Mapping[int, Entry]],
) -> dict[int, int]:
    """Raise later candidates above the earlier ones that they update; in the order of ``ranked`` nothing else changes.

    Args:
        tx: The search's transaction.
        request: The recall.
        ranked: Candidates, best first. Where a later one is raised, its ``newer`` says by how much.
        dated: Whether the question names a time, so that the later one is not what it is after.
        fetch: Returns entries by id.

    Returns:
        Id of the later candidate, by id of the one that it updates.
    """
    first = list(ranked[:FIRST])
    text = request.text
    plain = request.mode is Mode.DENSE or dated or text is None or _PAST.search(text) is not None
    asks_for_now = not plain and text is not None and _PRESENT.search(text) is not None
    pairs = _find_alike(tx, first, _ALIKE if asks_for_now else LIKENESS)
    if not pairs:
        return {}
    entries = fetch(sorted({entry_id for pair in pairs for entry_id in pair}))
    statements = {entry_id: Statement(entry) for entry_id, entry in entries.items()}
    # In a damaged store a vector may belong to no entry.
    pairs = {pair: cosine for pair, cosine in pairs.items() if statements.keys() >= {*pair}}
    stale = follow_updates(statements, [pair for pair, cosine in pairs.items() if cosine >= LIKENESS])
    if plain or text is None:
        return stale
    asked = list_first_forms(text)
    if _POLAR.match(text):  # "Does Alice live in Berlin?" is answered by where she lives now
        asked = frozenset()
    _raise(first, _leave_named(stale, statements, asked), first, _MARGIN)
    if asks_for_now:
        latest = _leave_named(_find_latest(statements, pairs), statements, asked)
        _raise(first[:_LEADING], latest, first[:_NEAR], _NEAR_MARGIN)
    return stale


def _leave_named(
    later: Mapping[int, int], statements: Mapping[int, Statement], asked: frozenset[str]
) -> dict[int, int]:
    """Return the pairs of which the question does not name what the earlier one alone says."""
    return {
        earlier: other
        for earlier, other in later.items()
        if not asked & (statements[earlier].words - statements[other].words)
    }


def _raise(
    candidates: Sequence[Candidate], later: Mapping[int, int], known: Sequence[Candidate], margin: float
) -> None:
    """Raise the later one of each candidate that has one among the known, unless it scores less by the margin."""
    scored = {candidate.id: candidate for candidate in known}
    for candidate in rank_candidates(candidates):
        other = scored.get(later.get(candidate.id, -1))
        if other is not None and candidate.score - margin <= other.score <= candidate.score:
            other.newer += candidate.score - other.score + _STEP


def _find_alike(tx: Transaction, candidates: Sequence[Candidate], least: float) -> dict[tuple[int, int], float]:
    """Return the cosines of candidates that are as alike as this, by their ids."""
    generation = tx.generations.live()
    if generation is None or len(candidates) < 2:
        return {}
    found, matrix = tx.vectors.read(generation, [candidate.id for candidate in candidates], static=True)
    vectors: FloatArray = matrix.astype(np.float32)
    cosines = vectors @ vectors.T
    alike = np.argwhere(np.triu(cosines, 1) >= least)
    return {(int(found[one]), int(found[other])): float(cosines[one, other]) for one, other in alike.tolist()}


def _find_latest(statements: Mapping[int, Statement], pairs: Iterable[tuple[int, int]]) -> dict[int, int]:
    """Return the latest statement of the same speaker that is like each, by id."""
    latest: dict[int, int] = {}
    for one, other in pairs:
        later, earlier = (one, other) if _is_later(statements, one, other) else (other, one)
        mine, theirs = statements[later], statements[earlier]
        if mine.asks or theirs.asks or mine.source != theirs.source:
            continue
        if earlier not in latest or _is_later(statements, later, latest[earlier]):
            latest[earlier] = later
    return latest


def follow_updates(statements: Mapping[int, Statement], pairs: Sequence[tuple[int, int]]) -> dict[int, int]:
    """Return the latest update of each statement that is out of date, by id.

    What was said, denied and said again is up to date: of A, B and A again, only B is out of date.

    Args:
        statements: By id.
        pairs: Ids of those that are alike.
    """
    direct: dict[int, int] = {}
    for one, other in pairs:
        later, earlier = (one, other) if _is_later(statements, one, other) else (other, one)
        if statements[later].updates(statements[earlier]):
            former = direct.get(earlier)
            if former is None or _is_later(statements, later, former):
                direct[earlier] = later
    stale = {}
    for earlier, later in direct.items():
        while later in direct:
            later = direct[later]
        if statements[later].words != statements[earlier].words:
            stale[earlier] = later
    return stale


def _is_later(statements: Mapping[int, Statement], one: int, other: int) -> bool:
    mine, theirs = statements[one].entry, statements[other].entry
    return is_later(mine, theirs) or (not is_later(theirs, mine) and one > other)
