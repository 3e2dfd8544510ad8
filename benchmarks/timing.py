"""How the benchmarks time calls and summarise what they measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


def time_calls(call: Callable[[Item], object], items: Iterable[Item]) -> list[float]:
    """Call a function once per item and return the milliseconds of each call."""
    times = []
    for item in items:
        started = time.perf_counter()
        call(item)
        times.append((time.perf_counter() - started) * 1000)
    return times


def summarise(times: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the median with the 5th and 95th percentile."""
    low, middle, high = np.percentile(times, [5, 50, 95])
    return {"p5": round(float(low), 3), "p50": round(float(middle), 3), "p95": round(float(high), 3)}


def summarise_ratios(ratios: Sequence[float] | np.ndarray) -> list[float]:
    """Return the smallest, the median and the largest ratio."""
    return [float(np.min(ratios)), float(np.median(ratios)), float(np.max(ratios))]
