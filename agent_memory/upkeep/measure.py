"""Measures indexes: recall against exact search, agreement of two spaces, time, size."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.live.rows import Searched
from agent_memory.types import FloatArray, IdArray

if TYPE_CHECKING:
    from agent_memory.index import IndexStats

_K = 10
_SAMPLE = 200  # rows that play the query in ``measure_sampled_recall``
_TIER_SAMPLE = 100
_ROW_BYTES = 13  # a row's id, scale and removal mark
_TIE = 1e-4


def choose_rows(rows: int, count: int, *, seed: int = 7) -> IdArray:
    """Return ``count`` row numbers below ``rows``, ascending, the same for equal arguments; all if there are fewer."""
    return np.sort(np.random.default_rng(seed).choice(rows, min(count, rows), replace=False))


def measure_recall(view: Searched, questions: FloatArray) -> float | None:
    """Return the share of the exact top 10 that an index finds; None without questions or entries.

    Args:
        view: The index.
        questions: float32 of shape (n, dimension).
    """
    if not len(questions) or not len(view.ids()):
        return None
    found, truth = view.search(questions, _K).scores, view.search(questions, _K, exact=True).scores
    # By score, not by id: among equal entries, which come first says nothing.
    last = np.where(np.isfinite(truth), truth, np.inf).min(axis=1, keepdims=True)
    return float((found >= last - _TIE).sum() / np.isfinite(truth).sum())


def measure_sampled_recall(view: Searched, seed: int) -> float | None:
    """Return recall@10 of an index against exact search, over a sample of its own rows; None if it is empty."""
    ids = view.ids()
    return measure_recall(view, view.vectors_of(ids[choose_rows(len(ids), _SAMPLE, seed=seed)])) if len(ids) else None


def measure_tier_recall(view: Searched) -> dict[int, float]:
    """Return the share of the exact top 10 that each tier hands on, by dimension, over a sample of the rows."""
    ids = view.ids()
    if not len(ids):
        return {}
    queries = view.vectors_of(ids[choose_rows(len(ids), _TIER_SAMPLE)])
    truth = view.search(queries, _K, exact=True).ids
    found = view.search(queries, _K, explain=True)
    shares: dict[int, list[float]] = {}
    for wanted, tiers in zip(truth, found.traces, strict=True):
        best = wanted[wanted >= 0]
        for tier in tiers:
            shares.setdefault(tier.tier, []).append(float(np.isin(best, tier.ids[: tier.kept]).mean()))
    return {tier: float(np.mean(values)) for tier, values in sorted(shares.items())}


def measure_agreement(
    views: tuple[Searched, Searched], questions: tuple[FloatArray, FloatArray], own_ids: IdArray | None = None
) -> float | None:
    """Return the share of the exact top 10 that two spaces over the same entries have in common.

    Args:
        views: The two indexes.
        questions: The same questions in each space, float32 of shape (n, dimension).
        own_ids: Where entries play the query: their ids, which do not count as found; shape (n,).

    Returns:
        The share; None without questions, or with fewer than two entries.
    """
    size = len(views[0].ids())
    if size < 2 or not len(questions[0]):
        return None
    k = min(_K, size - 1) + (own_ids is not None)
    found = [view.search(asked, k, exact=True).ids.tolist() for view, asked in zip(views, questions, strict=True)]
    ignored = [[-1]] * len(questions[0]) if own_ids is None else [[-1, one] for one in own_ids.tolist()]
    shares = []
    for first, second, skipped in zip(*found, ignored, strict=True):
        wanted = set(first) - set(skipped)
        shares.append(len(wanted & set(second)) / max(1, len(wanted)))
    return float(np.mean(shares))


def measure_latency(view: Searched, questions: FloatArray) -> float | None:
    """Return the median milliseconds of one search; None without questions."""
    times_ms = []
    for question in questions:
        started = time.perf_counter()
        view.search(question[None], _K)
        times_ms.append((time.perf_counter() - started) * 1000)
    return round(float(np.median(times_ms)), 3) if times_ms else None


def estimate_bytes(stats: IndexStats, dtype: str, rows: int) -> int:
    """Return the approximate size of an index of this layout with ``rows`` rows, removed ones included."""
    main = stats.tiers[-2] if len(stats.tiers) == 3 else 0  # int8
    return rows * (stats.dimension * np.dtype(dtype).itemsize + main + stats.coarse_bytes + _ROW_BYTES)
