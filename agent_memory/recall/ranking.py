"""Ranks candidates: what each source of evidence adds to an entry's score.

An entry's score is a sum, so that every answer can be explained and compared with others::

    cosine of query and entry                              -1 … 1    (a fifth of it if the encoder
                                                                      cannot read the query's script)
    + 0.7 · share of the query's words in the entry         0 … 0.7
    + 0.3 · (score of its better neighbour in the session - 0.3), if positive
    + 0.25 if it happened in an interval that the query names       0.15 if told from now ("last week")
    + 0.05 · share of a time that its text mentions in one            0 … 0.05
    + 0.1 · (importance - 0.5), if it has an importance
    - 0.05 if the agent said it; + 0.05 if that is what the query asks for       where words and meaning count
    + 0.2 · 0.5^(age / half_life), if a half_life was given
    + what it takes to rank before an earlier entry that it updates

Asked in a session, words count for the turns around them, too: what is asked about is often said in another turn than
the one that names it. Then the second and third parts are::

    + 0.3 · share of the query's words in the entry         0 … 0.3
    + 0.5 · the largest such share within three turns       0 … 0.5
    + 0.15 · (score of its better neighbour in the session - 0.3), if positive

A short message that asks for work ("could you help me plan …") shares few words with what was said and matters for it.
In a session, half of the weights of words is left to it.

The weights were fitted on held-out parts of the training conversations, never on the reported ones, by
``benchmarks/weights.py``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from agent_memory.storage.records import Span
    from agent_memory.timewords import Interval
    from agent_memory.types import IdArray

LEXICAL_WEIGHT = 0.7
UNREAD = 0.2
NEIGHBOUR_WEIGHT = 0.3
NEIGHBOUR_FLOOR = 0.3
NEARBY_TURNS = 3
TIME_BONUS = 0.25
RELATIVE_TIME_BONUS = 0.15
MENTION_BONUS = 0.05
IMPORTANCE_WEIGHT = 0.1
AGENT_WEIGHT = 0.05
RECENCY_WEIGHT = 0.2
DUPLICATE_COSINE = 0.97
_SLACK = 1e-9  # sums in another order differ by less
_NEAREST_FIRST = tuple(sorted(range(-NEARBY_TURNS, NEARBY_TURNS + 1), key=abs))


@dataclass(frozen=True, slots=True)
class Weights:
    """What words and neighbours count for.

    Attributes:
        lexical: Weight of the share of the query's words that the entry holds.
        nearby: Weight of the largest share among the entry and the turns around it.
        neighbour: Weight of what the better neighbour's score exceeds ``NEIGHBOUR_FLOOR`` by.
    """

    lexical: float = LEXICAL_WEIGHT
    nearby: float = 0.0
    neighbour: float = NEIGHBOUR_WEIGHT


PLAIN = Weights()
IN_SESSION = Weights(lexical=0.3, nearby=0.5, neighbour=0.15)
FOR_WORK = Weights(lexical=0.15, nearby=0.25, neighbour=0.15)


@dataclass(slots=True)
class Candidate:
    """An entry that may be returned, with the evidence for it.

    Attributes:
        id: Id of the entry.
        dense: Cosine at the native dimension.
        trust: Weight of ``dense``.
        lexical: Share of the query's words that the entry holds, from 0 to 1.
        nearby: The largest such share among the entry and the turns around it; 0 if they are not looked at.
        nearby_id: Id of the turn around it that holds more of them than the entry.
        weights: Weights of both.
        neighbour: Score lent by the entry right before or after it in the session.
        lender: Id of the entry that lends it.
        time: Bonus for an event time, or a time that the text mentions, that the query names.
        importance: Bonus or penalty for its importance.
        speaker: Bonus or penalty for what the agent said.
        recency: Bonus for a recent event time.
        newer: What it takes to rank before an earlier entry that it probably updates.
        read: What a cross-encoder adds that read the question and the text together.
        rerank: Score of a reranker that replaces all others.
    """

    id: int
    dense: float = 0.0
    trust: float = 1.0
    lexical: float = 0.0
    nearby: float = 0.0
    nearby_id: int | None = None
    weights: Weights = PLAIN
    neighbour: float = 0.0
    lender: int | None = None
    time: float = 0.0
    importance: float = 0.0
    speaker: float = 0.0
    recency: float = 0.0
    newer: float = 0.0
    read: float = 0.0
    rerank: float | None = None

    @property
    def text_score(self) -> float:
        """Score of the entry's text alone, by which neighbours lend."""
        return self.trust * self.dense + LEXICAL_WEIGHT * self.lexical

    @property
    def score(self) -> float:
        """Final score; higher is better."""
        if self.rerank is not None:
            return self.rerank
        words = self.weights.lexical * self.lexical + self.weights.nearby * self.nearby
        around = self.neighbour + self.time + self.importance + self.speaker + self.recency + self.newer + self.read
        return self.trust * self.dense + words + around


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Facts about an entry beside its text."""

    event_time: datetime
    importance: float | None
    by_agent: bool = False
    mentions: Sequence[Span] = ()


def lend_scores(
    candidates: Mapping[int, Candidate], neighbours: Mapping[int, Sequence[int]], weight: float = NEIGHBOUR_WEIGHT
) -> None:
    """Add to each entry's score a share of its better neighbour's in the session.

    A short answer and the question before it are rarely found alone.
    """
    for entry_id, beside in neighbours.items():
        candidate = candidates.get(entry_id)
        if candidate is None:
            continue
        best = NEIGHBOUR_FLOOR
        for other in beside:
            lender = candidates.get(other)
            if lender is not None and (score := lender.text_score) > best:
                best, candidate.lender = score, other
                candidate.neighbour = weight * (score - NEIGHBOUR_FLOOR)


def lend_words(
    candidates: Mapping[int, Candidate], turns: IdArray, shares: Mapping[int, float], weights: Weights = IN_SESSION
) -> None:
    """Tell each candidate of a session the largest share of the query's words that it or a turn near it holds.

    Args:
        candidates: The candidates.
        turns: The session's entries in order, int64 (n,), ascending.
        shares: Share of the query's words that entries hold, by id; 0 where missing.
        weights: What they count for.
    """
    if not len(turns) or not candidates:
        return
    # Room on both sides, so that a turn at the end has silence around it.
    worth = np.zeros(len(turns) + 2 * NEARBY_TURNS)
    holders = np.fromiter(shares, np.int64, len(shares))
    at, there = _find_places(turns, holders)
    worth[at[there] + NEARBY_TURNS] = np.fromiter(shares.values(), np.float64, len(shares))[there]
    ids = np.fromiter(candidates, np.int64, len(candidates))
    at, there = _find_places(turns, ids)
    around = worth[at[:, None] + NEARBY_TURNS + np.array(_NEAREST_FIRST)]
    best = around.argmax(axis=1)
    for row in np.flatnonzero(there).tolist():
        candidate, shift = candidates[int(ids[row])], _NEAREST_FIRST[best[row]]
        candidate.weights = weights
        candidate.nearby = float(around[row, best[row]])
        candidate.nearby_id = int(turns[at[row] + shift]) if shift else None


def _find_places(turns: IdArray, ids: IdArray) -> tuple[IdArray, npt.NDArray[np.bool_]]:
    """Return the places of ids among ascending turns, and which of them are there."""
    at = np.minimum(np.searchsorted(turns, ids), len(turns) - 1)
    return at, turns[at] == ids


def add_circumstances(
    candidates: Mapping[int, Candidate],
    known: Mapping[int, Circumstances],
    *,
    intervals: Collection[Interval],
    now: datetime,
    half_life: timedelta | None,
    agent: float = 0.0,
) -> None:
    """Add the bonuses for time, importance, recency, and what the agent said (``agent``)."""
    for entry_id, facts in known.items():
        candidate = candidates[entry_id]
        if intervals:
            candidate.time = _rate_time(facts, intervals)
        if facts.importance is not None:
            candidate.importance = IMPORTANCE_WEIGHT * (facts.importance - 0.5)
        if facts.by_agent:
            candidate.speaker = agent
        if half_life is not None:
            age = max(now - facts.event_time, timedelta(0))
            candidate.recency = RECENCY_WEIGHT * 0.5 ** (age / half_life)


def measure_scope(*, intervals: bool, half_life: bool) -> float:
    """Return by how much circumstances can move two candidates past each other, and a little more.

    Args:
        intervals: Whether the query names times.
        half_life: Whether recent entries get a bonus.
    """
    return IMPORTANCE_WEIGHT + AGENT_WEIGHT + TIME_BONUS * intervals + RECENCY_WEIGHT * half_life + _SLACK


def _rate_time(facts: Circumstances, intervals: Collection[Interval]) -> float:
    """Return the bonus for what happened in an interval, or for the mentioned span of which most lies in one."""
    then = [interval.dated for interval in intervals if interval.start <= facts.event_time < interval.end]
    if then:
        return TIME_BONUS if any(then) else RELATIVE_TIME_BONUS
    shares = (
        (min(stop, interval.end) - max(start, interval.start)) / (stop - start)
        for start, stop in facts.mentions
        for interval in intervals
    )
    return MENTION_BONUS * max(0.0, *shares, 0.0)


def rank_candidates(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return candidates by descending score; equal scores by ascending id."""
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.id))


@dataclass(slots=True)
class Deduplicated:
    """Candidates without near-duplicates.

    Attributes:
        kept: The candidates that remain, best first.
        dropped: Id of the better near-duplicate, by id of the dropped candidate.
    """

    kept: list[Candidate] = field(default_factory=list)
    dropped: dict[int, int] = field(default_factory=dict)


def drop_duplicates(ranked: Sequence[Candidate], vectors: Mapping[int, npt.NDArray[Any]], k: int) -> Deduplicated:
    """Return the first k candidates, leaving out near-duplicates of better ones (cosine of at least 0.97)."""
    found = Deduplicated()
    for candidate in ranked:
        if len(found.kept) == k:
            break
        mine = vectors[candidate.id]
        twin = next((kept for kept in found.kept if float(vectors[kept.id] @ mine) >= DUPLICATE_COSINE), None)
        if twin is None:
            found.kept.append(candidate)
        else:
            found.dropped[candidate.id] = twin.id
    return found


def diversify(
    ranked: Sequence[Candidate], vectors: Mapping[int, npt.NDArray[Any]], k: int, diversity: float
) -> list[Candidate]:
    """Return k candidates by maximal marginal relevance (Carbonell and Goldstein 1998).

    Args:
        ranked: Candidates, best first.
        vectors: Unit vectors, by entry id.
        k: Maximum number to return.
        diversity: 0 keeps the ranking; 1 considers difference alone.
    """
    rest = list(ranked)
    kept: list[Candidate] = []
    closest = np.full(len(rest), 0.0, np.float32)
    matrix = np.stack([vectors[candidate.id] for candidate in rest]) if rest else np.empty((0, 1), np.float32)
    scores = np.array([candidate.score for candidate in rest], np.float32)
    free = np.ones(len(rest), bool)
    while free.any() and len(kept) < k:
        worth = np.where(free, (1 - diversity) * scores - diversity * closest, -np.inf)
        best = int(worth.argmax())
        kept.append(rest[best])
        free[best] = False
        closest = np.maximum(closest, matrix @ matrix[best])
    return kept
