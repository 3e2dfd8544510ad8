"""From candidates to one ranking: what each source of evidence adds to an entry's score.

An entry's score is a sum, so that every answer can be explained and compared with others::

    cosine of query and entry                                  -1 … 1    (a fifth of it, if the encoder
                                                                          cannot read the query's script)
    + 0.7 · share of the query's words that it holds            0 … 0.7
    + 0.3  · what its better neighbour in the session exceeds 0.3 by
    + 0.3  if it happened in a stretch of time that the query names
    + 0.1  · (importance - 0.5), if it has an importance
    + 0.2  · 0.5^(age / half-life), if a half-life was asked for

The weights were chosen on held-out parts of training conversations, never on those that are reported.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.timewords import Interval

LEXICAL_WEIGHT = 0.7
UNREAD = 0.2
NEIGHBOUR_WEIGHT = 0.3
NEIGHBOUR_FLOOR = 0.3
TIME_BONUS = 0.3
IMPORTANCE_WEIGHT = 0.1
RECENCY_WEIGHT = 0.2
DUPLICATE_COSINE = 0.97


@dataclass(slots=True)
class Candidate:
    """An entry that may be returned, and what speaks for it.

    Attributes:
        id: The entry's.
        dense: Cosine at the native dimension.
        trust: Weight of that.
        lexical: Share of the query's words, from 0 to 1.
        neighbour: What an entry beside it in the session lends.
        lender: Id of that entry.
        time: Bonus for having happened when the query says.
        importance: Bonus, or malus, for its importance.
        recency: Bonus for being young.
        rerank: Score of the cross-encoder, which then decides alone.
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
    def own(self) -> float:
        """What the entry's own text is worth."""
        return self.trust * self.dense + LEXICAL_WEIGHT * self.lexical

    @property
    def score(self) -> float:
        """The score that decides; higher is better."""
        if self.rerank is not None:
            return self.rerank
        return self.own + self.neighbour + self.time + self.importance + self.recency


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What is known of a candidate beside its text."""

    event_time: datetime
    importance: float | None


def lend(candidates: Mapping[int, Candidate], neighbours: Mapping[int, Sequence[int]]) -> None:
    """Let entries lend score to those said right before and after them in the same session.

    The turn before a short answer holds the question; neither is found alone.
    """
    for entry_id, beside in neighbours.items():
        candidate = candidates.get(entry_id)
        lenders = [candidates[other] for other in beside if other in candidates]
        if candidate is None or not lenders:
            continue
        best = max(lenders, key=lambda lender: lender.own)
        if best.own > NEIGHBOUR_FLOOR:
            candidate.neighbour = NEIGHBOUR_WEIGHT * (best.own - NEIGHBOUR_FLOOR)
            candidate.lender = best.id


def add_circumstances(
    candidates: Mapping[int, Candidate],
    known: Mapping[int, Circumstances],
    *,
    intervals: Collection[Interval],
    now: datetime,
    half_life: timedelta | None,
) -> None:
    """Add the bonuses for time, importance and youth."""
    for entry_id, facts in known.items():
        candidate = candidates[entry_id]
        if any(interval.start <= facts.event_time < interval.end for interval in intervals):
            candidate.time = TIME_BONUS
        if facts.importance is not None:
            candidate.importance = IMPORTANCE_WEIGHT * (facts.importance - 0.5)
        if half_life is not None:
            age = max(now - facts.event_time, timedelta(0))
            candidate.recency = RECENCY_WEIGHT * 0.5 ** (age / half_life)


def ordered(candidates: Mapping[int, Candidate]) -> list[Candidate]:
    """Return candidates, best first; of equals, the one added first."""
    return sorted(candidates.values(), key=lambda candidate: (-candidate.score, candidate.id))


@dataclass(slots=True)
class Chosen:
    """The outcome of diversifying: who stays, and why the others went."""

    kept: list[Candidate] = field(default_factory=list)
    dropped: dict[int, int] = field(default_factory=dict)


def without_duplicates(ranked: Sequence[Candidate], vectors: Mapping[int, npt.NDArray[Any]], k: int) -> Chosen:
    """Return the first k that are not near-duplicates of a better one (cosine of at least 0.97)."""
    chosen = Chosen()
    for candidate in ranked:
        if len(chosen.kept) == k:
            break
        mine = vectors[candidate.id]
        twin = next((kept for kept in chosen.kept if float(vectors[kept.id] @ mine) >= DUPLICATE_COSINE), None)
        if twin is None:
            chosen.kept.append(candidate)
        else:
            chosen.dropped[candidate.id] = twin.id
    return chosen


def diversified(
    ranked: Sequence[Candidate], vectors: Mapping[int, npt.NDArray[Any]], k: int, diversity: float
) -> list[Candidate]:
    """Return k candidates by maximal marginal relevance (Carbonell and Goldstein 1998).

    Args:
        ranked: Best first.
        vectors: Unit vectors by entry id.
        k: How many.
        diversity: 0 keeps the ranking, 1 looks at difference alone.
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
