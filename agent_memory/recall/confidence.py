"""How sure a recall may be: the calibrated chance that a hit holds evidence for the question.

It is logistic in a few numbers of the sum that ranks, fitted on questions whose evidence is known and on questions
that nothing answers, by ``python benchmarks/confidence.py --fit``, which writes ``confidence.json``. Cosines of one
encoder say nothing about those of another, so there is a calibration for each encoder that was measured, by its
fingerprint. With any other encoder, and where the encoder cannot read the question, the words alone are believed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from agent_memory.encoders.base import EncoderSpec
from agent_memory.errors import InvalidInputError
from agent_memory.recall.ranking import Candidate
from agent_memory.recall.request import Mode, Request
from agent_memory.records import Evidence
from agent_memory.types import FloatArray

FEATURES = (
    *("cosine", "words", "asked", "neighbour", "time", "lead", "behind", "in_session"),
    *("best_cosine", "best_words"),
)
"""Numbers of a hit, the last two of the best hits for the question: where these are low, there may be no evidence."""

RATED = 10
"""The first candidates, the best of which says whether there is evidence, whatever k is."""

WORDS = "words"
"""Stands for the encoder in the calibration that needs none."""

_MOST_LEAD = 0.1  # more tells nothing: in a small memory everything leads
_FURTHEST = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the numbers of a hit are worth.

    Attributes:
        weights: Weight of each of ``FEATURES``, float32 (len(FEATURES),).
        offset: Log odds at zero.
        weak: Confidence of the best hit below which there is no evidence.
        strong: Confidence of the best hit from which the evidence is strong.
    """

    weights: FloatArray
    offset: float
    weak: float
    strong: float

    def rate(self, features: FloatArray) -> FloatArray:
        """Return the confidence of hits, float32 (n,), given their features, float32 (n, len(FEATURES))."""
        odds = np.clip(features @ self.weights + self.offset, -_FURTHEST, _FURTHEST)
        chances: FloatArray = (1 / (1 + np.exp(-odds))).astype(np.float32)
        return chances

    def judge(self, best: float | None) -> Evidence:
        """Return what the confidence of the best hit says of the whole answer; None if nothing was found."""
        if best is None or best < self.weak:
            return "none"
        return "strong" if best >= self.strong else "weak"

    def needed(self, features: Mapping[str, float], confidence: float, name: str) -> float | None:
        """Return the value that a hit's cosine or words would have to have for a confidence, all else being the same.

        Args:
            features: The hit's, by name.
            confidence: Above 0 and below 1.
            name: ``cosine`` or ``words``; with it rises the best of all hits once the hit is the best.

        Returns:
            The value; None if more of it does not help.
        """
        own, together = (float(self.weights[FEATURES.index(each)]) for each in (name, f"best_{name}"))
        odds = float(self.weights @ np.array([features[each] for each in FEATURES], np.float32)) + self.offset
        missing = math.log(confidence / (1 - confidence)) - odds
        value, best = features[name], features[f"best_{name}"]
        if own > 0 and missing <= own * (best - value):
            return value + missing / own
        missing -= own * (best - value)
        return best + missing / (own + together) if own + together > 0 else None


def find_calibration(request: Request, spec: EncoderSpec) -> Calibration | None:
    """Return the calibration for a question, or None if there is none that fits.

    Args:
        request: The question.
        spec: Facts about the encoder.

    Raises:
        InvalidInputError: There is none, but the request has a least confidence.
    """
    found = _find(request, spec.fingerprint)
    if found is None and request.min_confidence:
        what = "a question given as a vector" if request.text is None else f"a search by meaning with {spec.name!r}"
        raise InvalidInputError(
            f"min_confidence is {request.min_confidence}, but hits of {what} have no confidence: ask by text in mode "
            "'hybrid', or leave min_confidence out"
        )
    return found


def _find(request: Request, fingerprint: str) -> Calibration | None:
    if request.text is None:
        return None
    known = read_calibrations()
    if request.mode is Mode.DENSE:
        return known.get((Mode.DENSE, fingerprint)) if request.readable else None
    if request.mode is Mode.HYBRID and request.readable and (Mode.HYBRID, fingerprint) in known:
        return known[Mode.HYBRID, fingerprint]
    return known.get((Mode.LEXICAL, WORDS))


@cache
def read_calibrations() -> Mapping[tuple[str, str], Calibration]:
    """Return all calibrations, by mode and fingerprint of the encoder."""
    text = Path(__file__).with_name("confidence.json").read_text("utf-8")
    return {(one["mode"], one["fingerprint"]): parse_calibration(one) for one in json.loads(text)}


def parse_calibration(facts: Mapping[str, Any]) -> Calibration:
    """Return a calibration as ``confidence.json`` has it."""
    weights = np.array([facts["weights"].get(name, 0.0) for name in FEATURES], np.float32)
    return Calibration(weights=weights, offset=facts["offset"], weak=facts["weak"], strong=facts["strong"])


def measure(ranked: Sequence[Candidate], request: Request, words: int, count: int) -> FloatArray:
    """Return the features of the best candidates, float32 (at most count, len(FEATURES)).

    Args:
        ranked: Candidates by descending score, before any rerank.
        request: The question.
        words: Number of words of the question that were searched for.
        count: How many to measure.
    """
    first = ranked[: count + 1]
    scores = np.array([candidate.score for candidate in first], np.float32)
    found = np.zeros((min(len(first), count), len(FEATURES)), np.float32)
    for row, candidate in zip(found, first, strict=False):
        row[:5] = candidate.dense, candidate.lexical, math.log1p(words), candidate.neighbour, candidate.time
    lead = -np.diff(scores)[: len(found)]
    found[: len(lead), 5] = np.minimum(lead, _MOST_LEAD)
    found[:, 6] = np.minimum(scores[:1] - scores[: len(found)], _MOST_LEAD) if len(found) else 0.0
    found[:, 7] = request.session is not None
    if len(found):
        found[:, 8:] = found[:RATED, :2].max(axis=0)
    return found
