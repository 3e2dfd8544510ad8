"""What confidences are worth: how often they are right, and whether they find out that nothing answers a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Hits of like confidence.

    Attributes:
        hits: How many there are.
        confidence: Mean of their confidence.
        share: Share of them that hold evidence.
    """

    hits: int
    confidence: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one question got.

    Attributes:
        answerable: Whether anything that was searched holds evidence.
        evidence: ``Hits.evidence``.
        hits: Confidence of each hit, and whether it holds evidence.
    """

    answerable: bool
    evidence: str
    hits: Sequence[tuple[float, bool]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reliability:
    """What the confidences of many answers are worth.

    Attributes:
        hits: Number of hits.
        error: Expected calibration error: how far confidence and share are apart, over all hits.
        curve: The hits by tenths of confidence; empty tenths are left out.
        answerable: Number of questions with evidence.
        unanswerable: Number of questions without.
        lost: Share of the questions with evidence whose evidence was said to be ``none``.
        found_out: Share of the questions without evidence of which that was said; None if there are none.
        precision: Share of those of which that was said that have none; None if it was said of none.
        strong: Share of the questions with ``strong`` evidence whose first hit holds evidence; None if there are none.
    """

    hits: int
    error: float
    curve: tuple[Bin, ...]
    answerable: int
    unanswerable: int
    lost: float | None
    found_out: float | None
    precision: float | None
    strong: float | None


def measure_reliability(answers: Sequence[Answer]) -> Reliability:
    """Return what the confidences of some answers are worth."""
    pairs = np.array([hit for answer in answers for hit in answer.hits], np.float64).reshape(-1, 2)
    places = np.minimum((pairs[:, 0] * BINS).astype(int), BINS - 1)
    curve = []
    for place in range(BINS):
        inside = pairs[places == place]
        if len(inside):
            curve.append(Bin(hits=len(inside), confidence=float(inside[:, 0].mean()), share=float(inside[:, 1].mean())))
    gaps = sum(one.hits * abs(one.confidence - one.share) for one in curve)
    known = [answer for answer in answers if answer.answerable]
    unknown = [answer for answer in answers if not answer.answerable]
    lost, found_out = (sum(answer.evidence == "none" for answer in group) for group in (known, unknown))
    strong = [answer for answer in answers if answer.evidence == "strong" and answer.hits]
    return Reliability(
        hits=len(pairs),
        error=gaps / max(1, len(pairs)),
        curve=tuple(curve),
        answerable=len(known),
        unanswerable=len(unknown),
        lost=_divide(lost, len(known)),
        found_out=_divide(found_out, len(unknown)),
        precision=_divide(found_out, found_out + lost),
        strong=_divide(sum(answer.hits[0][1] for answer in strong), len(strong)),
    )


def _divide(part: int, whole: int) -> float | None:
    return part / whole if whole else None
