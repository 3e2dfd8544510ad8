"""Trying a layout before it is built: the latest queries, asked again of an index over a sample of the entries."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from agent_memory.reports import Replay, ReplaySource
from agent_memory.storage.base import Transaction
from agent_memory.storage.records import Generation
from agent_memory.types import FloatArray, IdArray

if TYPE_CHECKING:
    from agent_memory.index import IndexOptions, IndexStats, IndexView

Dtype = Literal["float16", "float32"]

SAMPLE = 10_000
"""Entries that a trial index holds, at most."""

REPLAYED = 200
"""Queries that are replayed, at most."""

_K = 10
_NOTES = 13  # bytes of a row's id, scale and mark of removal
_TIE = 1e-4


@dataclass(frozen=True, slots=True)
class Trial:
    """An index and what is asked of it.

    Attributes:
        view: The index.
        questions: float32 (n, dimension).
        index_bytes: Size of the index, scaled to the whole store.
        build_s: Seconds to build it, scaled likewise.
    """

    view: IndexView
    questions: FloatArray
    index_bytes: int = 0
    build_s: float = 0.0


def read_logged_queries(tx: Transaction, live: Generation) -> FloatArray:
    """Return the latest logged queries of the live embedding space, float32 (n, dimension); maybe none."""
    rows = [live.from_bytes(blob) for blob in tx.queries.read_vectors(live, REPLAYED)]
    usable = [row for row in rows if np.isfinite(row).all() and row.any()]
    return np.stack(usable) if usable else np.empty((0, live.dimension), np.float32)


def choose_rows(rows: int, count: int) -> IdArray:
    """Return ``count`` row numbers below ``rows``, ascending, the same at every call; all if there are fewer."""
    return np.sort(np.random.default_rng(7).choice(rows, min(count, rows), replace=False))


def build_trial(
    ids: IdArray,
    matrix: FloatArray,
    questions: FloatArray,
    *,
    tiers: Sequence[int],
    dtype: Dtype,
    options: IndexOptions,
    whole: int,
) -> Trial:
    """Return an index over a sample, in the shape that it would have over the whole store.

    Args:
        ids: Of the sample, shape (n,).
        matrix: Its vectors, shape (n, dimension).
        questions: What will be asked, shape (m, dimension).
        tiers: The layout.
        dtype: How vectors are stored.
        options: How the index is built.
        whole: Entries of the whole store.
    """
    from agent_memory.index import TieredIndex

    if whole >= options.exact_below:
        options = replace(options, exact_below=0)  # a sample is small, what it stands for is not
    started = time.perf_counter()
    index = TieredIndex(matrix.shape[1], tiers, dtype=dtype, options=options)
    index.add(ids, matrix)
    index.maintain()
    share = whole / max(1, len(ids))
    took = (time.perf_counter() - started) * share
    return Trial(index.view(), questions, estimate_bytes(index.stats(), dtype, whole), took)


def estimate_bytes(stats: IndexStats, dtype: Dtype, rows: int) -> int:
    """Return the approximate size of an index of this layout with ``rows`` rows, removed ones included."""
    main = stats.tiers[-2] if len(stats.tiers) == 3 else 0  # int8
    return rows * (stats.dimension * np.dtype(dtype).itemsize + main + stats.coarse_bytes + _NOTES)


def compare(before: Trial, after: Trial, source: ReplaySource) -> Replay:
    """Ask both and return what came of it."""
    return Replay(
        source=source,
        queries=len(after.questions),
        entries=len(after.view.ids()),
        recall_before=measure_recall(before.view, before.questions),
        recall_after=measure_recall(after.view, after.questions),
        ms_before=_time_queries(before),
        ms_after=_time_queries(after),
        index_bytes_before=before.index_bytes,
        index_bytes_after=after.index_bytes,
        build_seconds=after.build_s,
    )


def measure_recall(view: IndexView, questions: FloatArray) -> float | None:
    """Return the share of the exact top 10 that an index finds, over some questions; None without any."""
    if not len(questions) or not len(view.ids()):
        return None
    found, truth = view.search(questions, _K).scores, view.search(questions, _K, exact=True).scores
    # By score, not by id: where many entries are equal, which of them come first says nothing.
    last = np.where(np.isfinite(truth), truth, np.inf).min(axis=1, keepdims=True)
    return float((found >= last - _TIE).sum() / np.isfinite(truth).sum())


def measure_agreement(before: Trial, after: Trial, selves: IdArray | None = None) -> float | None:
    """Return the share of the exact top 10 that two spaces over the same entries have in common.

    Args:
        before: The one.
        after: The other.
        selves: Where entries are the questions: their ids, which are not counted.
    """
    if len(before.view.ids()) < 2 or not len(before.questions):
        return None
    most = min(_K, len(before.view.ids()) - 1) + (selves is not None)
    found = [trial.view.search(trial.questions, most, exact=True).ids.tolist() for trial in (before, after)]
    own = [[-1]] * len(before.questions) if selves is None else [[-1, one] for one in selves.tolist()]
    shares = []
    for first, second, left_out in zip(*found, own, strict=True):
        wanted = set(first) - set(left_out)
        shares.append(len(wanted & set(second)) / max(1, len(wanted)))
    return float(np.mean(shares))


def _time_queries(trial: Trial) -> float | None:
    taken = []
    for question in trial.questions:
        started = time.perf_counter()
        trial.view.search(question[None], _K)
        taken.append((time.perf_counter() - started) * 1000)
    return round(float(np.median(taken)), 3) if taken else None
