"""What each part of a score is worth: the same recalls, ranked again without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agent_memory.recall.ranking import IN_SESSION, PLAIN
from agent_memory.records import Hits

DEPTH = 100
"""Hits that are ranked again; what would have come from behind them stays behind."""

WHOLE = "all parts"


def _drop_nearby(trace: Mapping[str, Any]) -> float:
    """Return what is lost where words and neighbours count as they do outside of a session, if they do not."""
    if not trace["nearby"]["adds"]:
        return 0.0
    words = trace["lexical"]["adds"] + trace["nearby"]["adds"] - PLAIN.lexical * trace["lexical"]["share"]
    return float(words - trace["neighbour"]["adds"] * (PLAIN.neighbour / IN_SESSION.neighbour - 1))


_PARTS: Mapping[str, Callable[[Mapping[str, Any]], float]] = {
    "meaning": lambda trace: trace["trust"] * trace["dense"],
    "words": lambda trace: trace["lexical"]["adds"] + trace["nearby"]["adds"],
    "words nearby": _drop_nearby,
    "neighbour": lambda trace: trace["neighbour"]["adds"],
    "times": lambda trace: trace["time"]["adds"],
    "who said it": lambda trace: trace["speaker"],
    "updates": lambda trace: trace["newer"],
}


def rank_without(hits: Hits) -> dict[str, list[str]]:
    """Return the keys of hits in the order that each part's absence gives, and in theirs as ``all parts``.

    Args:
        hits: Hits of one question, with their traces.
    """
    traces = [hit.trace or {} for hit in hits]
    orders = {WHOLE: list(range(len(hits)))}
    for name, measure in _PARTS.items():
        lost = [measure(trace) - hit.score for hit, trace in zip(hits, traces, strict=True)]
        orders[f"without {name}"] = sorted(orders[WHOLE], key=lost.__getitem__)
    return {name: [hits[place].entry.key for place in order] for name, order in orders.items()}
