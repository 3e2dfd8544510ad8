"""Measures retrieval inside conversations, with and without the session encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from agent_memory.encoders.training.session_data import Features
from agent_memory.encoders.training.session_model import SessionNetwork

WAYS = ("static", "average", "evolved", "sessionless")
"""Static vectors; e_t + e_{t-1} / 2 + e_{t-2} / 4; evolved vectors; evolved segments with static questions."""


def measure_recall(
    network: SessionNetwork | None, dialogues: Sequence[Features], way: str, dimension: int = 768
) -> dict[str, float]:
    """Measure the mean recall@1 and recall@10 over all questions, in percent.

    Args:
        network: The network, for ``evolved`` and ``sessionless``; without it, these are ``static``.
        dialogues: Dialogues to search.
        way: One of ``WAYS``.
        dimension: Prefix to score.
    """
    totals, count = {1: 0.0, 10: 0.0}, 0
    for found in dialogues:
        turns, asked = _embed(network, found, way)
        scores = functional.normalize(asked[:, :dimension], dim=1) @ functional.normalize(turns[:, :dimension], dim=1).T
        for row, question in zip(scores, found.of.questions, strict=True):
            hidden = question.list_hidden(len(row))
            row[hidden.start : hidden.stop] = -torch.inf
            first = row.topk(min(10, len(row))).indices.tolist()
            count += 1
            for k in totals:
                totals[k] += len(set(question.evidence) & set(first[:k])) / len(question.evidence)
    return {f"recall@{k}": 100 * total / max(1, count) for k, total in totals.items()}


def _embed(network: SessionNetwork | None, found: Features, way: str) -> tuple[Tensor, Tensor]:
    static, asked = (functional.normalize(rows.float(), dim=1) for rows in (found.static, found.asked))
    if way == "static" or (network is None and way != "average"):
        return static, asked
    if network is None or way == "average":
        turns = static.clone()
        turns[1:] += static[:-1] / 2
        turns[2:] += static[:-2] / 4
        return functional.normalize(turns, dim=1), asked
    with torch.no_grad():
        turns, read, last = network.evolve_segments(
            static, found.who.float(), found.when.float(), found.length, found.days
        )
        if way == "evolved":
            at = torch.tensor([len(static) if q.source is None else q.source for q in found.of.questions])
            asked = network.evolve_questions(asked, at, found.order, found.dates, read, last, static)
    return turns, asked
