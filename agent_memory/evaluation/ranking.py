"""Figures of rankings against evidence, and how sure they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

CUTOFFS = (1, 5, 10)
MEASURES = (*(f"any@{k}" for k in CUTOFFS), *(f"all@{k}" for k in CUTOFFS), "recall@10", "hit@1", "MRR", "NDCG@10")
"""What is measured of each ranking; each is in percent."""

_RESAMPLES = 1_000
_INTERVAL = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over questions, in percent, and its 95 % confidence interval by bootstrap over the questions."""

    mean: float
    low: float
    high: float


def measure_ranking(found: Sequence[str], worth: Mapping[str, float]) -> dict[str, float]:
    """Compare a ranking with its evidence.

    Args:
        found: Ids, best first, each once.
        worth: How much each id that is evidence is worth; at least one.

    Returns:
        The ``MEASURES`` in percent: whether any, and whether all, of the evidence is among the first k; its share among
        the first ten; whether the first is evidence; 1 / rank of the first that is (0 if none was found); NDCG.
    """
    hits = [rank for rank, item in enumerate(found, start=1) if item in worth]
    figures = {}
    for k in CUTOFFS:
        inside = sum(rank <= k for rank in hits)
        figures[f"any@{k}"] = float(inside > 0)
        figures[f"all@{k}"] = float(inside == len(worth))
    figures["recall@10"] = sum(rank <= 10 for rank in hits) / len(worth)
    figures["hit@1"] = figures["any@1"]
    figures["MRR"] = 1 / hits[0] if hits else 0.0
    gains = [worth.get(item, 0.0) for item in found[:10]]
    figures["NDCG@10"] = _discount(gains) / _discount(sorted(worth.values(), reverse=True)[:10])
    return {name: 100 * figures[name] for name in MEASURES}


def _discount(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def estimate(rows: Sequence[Mapping[str, float]], *, seed: int = 0) -> dict[str, Estimate]:
    """Average figures over questions.

    Args:
        rows: Figures of each question; at least one.
        seed: Seed of the resampling, so that equal figures give equal intervals.
    """
    names = list(rows[0])
    table = np.array([[row[name] for name in names] for row in rows])
    rng = np.random.default_rng(seed)
    # Each resample is told by how often it draws each question, so that memory does not grow with both.
    counts = rng.multinomial(len(table), np.full(len(table), 1 / len(table)), size=_RESAMPLES)
    means = counts @ table / len(table)
    low, high = np.percentile(means, _INTERVAL, axis=0)
    whole = table.mean(0)
    return {name: Estimate(float(whole[i]), float(low[i]), float(high[i])) for i, name in enumerate(names)}
