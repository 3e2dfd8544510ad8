"""Ranks candidates: what each source of evidence adds to an entry's score.

An entry's score is a sum, so that every answer can be explained and compared with others::

    cosine of query and entry                              -1 … 1    (a fifth of it if the encoder
                                                                      cannot read the query's script)
    + 0.7 · share of the query's words in the entry         0 … 0.7
    + 0.3 · (score of its better neighbour in the session - 0.3), if positive
    + 0.3 if it happened in an interval that the query names
    + 0.05 · share of a time that its text mentions in one            0 … 0.05
    + 0.1 · (importance - 0.5), if it has an importance
    + 0.2 · 0.5^(age / half_life), if a half_life was given

The weights were tuned on held-out parts of the training conversations, never on the reported ones.
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

LEXICAL_WEIGHT = 0.7
UNREAD = 0.2
NEIGHBOUR_WEIGHT = 0.3
NEIGHBOUR_FLOOR = 0.3
TIME_BONUS = 0.3
MENTION_BONUS = 0.05
IMPORTANCE_WEIGHT = 0.1
RECENCY_WEIGHT = 0.2
DUPLICATE_COSINE = 0.97
_SLACK = 1e-9  # sums in another order differ by less


@dataclass(slots=True)
class Candidate:
    """An entry that may be returned, with the evidence for it.

    Attributes:
        id: Id of the entry.
        dense: Cosine at the native dimension.
        trust: Weight of ``dense``.
        lexical: Share of the query's words that the entry holds, from 0 to 1.
        neighbour: Score lent by the entry right before or after it in the session.
        lender: Id of the entry that lends it.
        time: Bonus for an event time, or a time that the text mentions, that the query names.
        importance: Bonus or penalty for its importance.
        recency: Bonus for a recent event time.
        rerank: Score of the cross-encoder; replaces all others.
    """

    id: int
    dense: float = 0.0
    trust: float = 1.0
    lexical: float = 0.0
    neighbour: float = 0.0
    lender: int | None = None
    time: float = 0.0
    importance: float = 0.0
    recency: float = 0.0
    rerank: float | None = None

    @property
    def text_score(self) -> float:
        """Score of the entry's text alone."""
        return self.trust * self.dense + LEXICAL_WEIGHT * self.lexical

    @property
    def score(self) -> float:
        """Final score; higher is better."""
        if self.rerank is not None:
            return self.rerank
        return self.text_score + self.neighbour + self.time + self.importance + self.recency


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Facts about an entry beside its text."""

    event_time: datetime
    importance: float | None
    mentions: Sequence[Span] = ()


def lend_scores(candidates: Mapping[int, Candidate], neighbours: Mapping[int, Sequence[int]]) -> None:
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
                candidate.neighbour = NEIGHBOUR_WEIGHT * (score - NEIGHBOUR_FLOOR)


def add_circumstances(
    candidates: Mapping[int, Candidate],
    known: Mapping[int, Circumstances],
    *,
    intervals: Collection[Interval],
    now: datetime,
    half_life: timedelta | None,
) -> None:
    """Add the bonuses for time, importance and recency."""
    for entry_id, facts in known.items():
        candidate = candidates[entry_id]
        if intervals:
            candidate.time = _rate_time(facts, intervals)
        if facts.importance is not None:
            candidate.importance = IMPORTANCE_WEIGHT * (facts.importance - 0.5)
        if half_life is not None:
            age = max(now - facts.event_time, timedelta(0))
            candidate.recency = RECENCY_WEIGHT * 0.5 ** (age / half_life)


def measure_scope(*, intervals: bool, half_life: bool) -> float:
    """Return by how much circumstances can move two candidates past each other, and a little more.

    Args:
        intervals: Whether the query names times.
        half_life: Whether recent entries get a bonus.
    """
    return IMPORTANCE_WEIGHT + TIME_BONUS * intervals + RECENCY_WEIGHT * half_life + _SLACK


def _rate_time(facts: Circumstances, intervals: Collection[Interval]) -> float:
    """Return the bonus for what happened in an interval, or for the mentioned span of which most lies in one."""
    if any(interval.start <= facts.event_time < interval.end for interval in intervals):
        return TIME_BONUS
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
