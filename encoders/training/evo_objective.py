"""The objective of EvoEmbedding (arXiv 2606.21649): contrastive loss plus language-model loss through the latents."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from agent_memory.encoders.evo.network import EvoNetwork, Row
from agent_memory.encoders.evo.segments import CHUNK_SEGMENTS, Exchange, plan_batches
from agent_memory.encoders.evo.text import EvoText
from agent_memory.encoders.static.runtime import IntArray
from agent_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from torch.nn import Parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to train; the defaults are the paper's, and each switch turned off is one of its ablations.

    Attributes:
        memory: Read latents at all; without it, training gives a static encoder.
        queue: Read the last ``buffer_capacity`` latents; without it, those of the last segment only.
        memory_loss: Add the language-model loss through the latents.
        length_weighting: Weight the contrastive loss with log(negatives + 1).
        segment_batching: Write up to 16 segments in one pass; without it, one.
        checkpointing: Compute activations twice instead of keeping them.
        temperature: Of the contrastive loss.
        learning_rate: Peak.
        warm_up: Share of the steps until the peak.
        floor: Share of the peak that the cosine ends at.
        batch: Records of one step.
        epochs: Passes over the records.
        grad_norm: Gradients are clipped to this norm.
        seed: Of the order of the records and the dropout.
    """

    memory: bool = True
    queue: bool = True
    memory_loss: bool = True
    length_weighting: bool = True
    segment_batching: bool = True
    checkpointing: bool = True
    temperature: float = 0.1
    learning_rate: float = 5e-5
    warm_up: float = 0.05
    floor: float = 0.1
    batch: int = 16
    epochs: int = 1
    grad_norm: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A conversation, and the last exchange that asks for something in it, as token ids.

    Attributes:
        written: Of each segment, the ChatML form.
        embedded: Of each segment, the plain form with the end token.
        query: With prefix and end token.
        evidence: Segments that answer the query; at least one, and not all.
        last: The last exchange in ChatML.
        answer: Where the answer begins in ``last``.
    """

    written: list[IntArray]
    embedded: list[IntArray]
    query: IntArray
    evidence: frozenset[int]
    last: IntArray
    answer: int


def read_records(path: Path, text: EvoText) -> Iterator[Record]:
    r"""Read training records, one JSON object a line.

    Each is ``{messages: [{role, content}], meta: {turns: ["User: …\nAssistant: …", …, query], evidence_turns}}``;
    messages alternate between user and assistant, and the last exchange asks the query.

    Raises:
        InvalidInputError: A line is no such record; the message names it.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield _record(json.loads(line), text)
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidInputError(f"{path}:{number} is no training record: {error}") from error


def _record(row: dict[str, Any], text: EvoText) -> Record:
    messages, turns = row["messages"], row["meta"]["turns"]
    roles = [message["role"] for message in messages]
    if len(roles) < 4 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise InvalidInputError("messages must alternate between user and assistant, two exchanges at least")
    said = [message["content"] for message in messages]
    exchanges = [Exchange(*pair) for pair in zip(said[::2], said[1::2], strict=True)]
    evidence = frozenset(row["meta"]["evidence_turns"])
    history = range(len(exchanges) - 1)
    if len(turns) != len(exchanges):
        raise InvalidInputError(f"{len(turns)} turns do not match {len(exchanges)} exchanges")
    if not evidence or not evidence < set(history):
        raise InvalidInputError("evidence_turns must name some of the turns before the query, and not all")
    opening = text.memory(Exchange(exchanges[-1].user))
    last = text.memory(exchanges[-1])
    # Behind "<|im_start|>assistant\n"; what follows is what the model would have to say.
    lead = len(text.memory(Exchange(exchanges[-1].user, ""))) - len(opening) - text.closing
    return Record(
        written=[text.memory(exchanges[i]) for i in history],
        embedded=[np.concatenate((text.retriever(turns[i]), text.end)) for i in history],
        query=np.concatenate((text.prefix, text.retriever(turns[-1]), text.end)),
        evidence=evidence,
        last=last,
        answer=len(opening) + lead,
    )


def contrastive(scores: Tensor, evidence: frozenset[int], *, length_weighting: bool = True) -> Tensor:
    """The paper's L_con of one conversation.

    Args:
        scores: (n,) scores of the segments, already divided by the temperature.
        evidence: The positives; each meets the negatives alone, the other positives are left out.
        length_weighting: Multiply with log(negatives + 1).

    Returns:
        A scalar.
    """
    positive = torch.zeros(len(scores), dtype=torch.bool)
    positive[list(evidence)] = True
    negatives = scores[~positive].logsumexp(0)
    loss = torch.nn.functional.softplus(negatives - scores[positive]).mean()
    return loss * math.log(int((~positive).sum()) + 1) if length_weighting else loss


def session_scores(network: EvoNetwork, record: Record, capacity: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Score the segments of a record for its query.

    Returns:
        cos / temperature (n,), and the projected memory after all segments (m, H).
    """
    latents = next(iter(network.heads.values())).new_empty(0, network.hidden_size)
    if not recipe.memory:
        static = [(ids, latents) for ids in (*record.embedded, record.query)]
        return _scores(network, static) / recipe.temperature, latents
    limit = CHUNK_SEGMENTS if recipe.segment_batching else 1
    room = capacity if recipe.queue else network.num_latents
    rows: list[Row] = []
    for chunk, befores, after in network.remember(record.written, latents, room, limit):
        latents = after
        rows += [(record.embedded[i], before) for i, before in zip(chunk, befores, strict=True)]
    memory = network.project(latents)
    rows.append((record.query, memory))
    return _scores(network, rows) / recipe.temperature, memory


def _scores(network: EvoNetwork, rows: Sequence[Row]) -> Tensor:
    batches = plan_batches([len(ids) for ids, _ in rows])
    vectors = torch.cat([network.embed([rows[i] for i in batch]) for batch in batches])
    return vectors[:-1] @ vectors[-1]


def session_loss(network: EvoNetwork, record: Record, capacity: int, recipe: Recipe) -> tuple[Tensor, Tensor]:
    """Return L_con and L_sft of a record; the second is zero without the memory loss."""
    scores, memory = session_scores(network, record, capacity, recipe)
    ranking = contrastive(scores, record.evidence, length_weighting=recipe.length_weighting)
    if not recipe.memory_loss:
        return ranking, ranking.new_zeros(())
    return ranking, network.answer_loss(record.last, record.answer, memory)


def trainable(network: EvoNetwork) -> list[Parameter]:
    """Thaw what is trained: both adapters, the memory queries and the projections."""
    chosen = list(network.heads.values())
    for view in network.views.values():
        chosen += [p for name, p in view.named_parameters() if name.endswith((".down", ".up"))]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen
