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

from agent_memory.encoders.base import TokenArray
from agent_memory.encoders.evo.network import EvoNetwork, Row
from agent_memory.encoders.evo.segments import CHUNK_SEGMENTS, Exchange, plan_batches
from agent_memory.encoders.evo.text import EvoText
from agent_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from torch.nn import Parameter


@dataclass(frozen=True, slots=True, kw_only=True)
class EvoRecipe:
    """Training settings. The defaults are those of the paper; each switch, turned off, gives one of its ablations.

    Attributes:
        memory: Read latents at all; without them, the result is a static encoder.
        queue: Read the last ``buffer_capacity`` latents; if off, only those of the last segment.
        memory_loss: Add the language-model loss through the latents.
        length_weighting: Multiply the contrastive loss by log(negatives + 1).
        segment_batching: Write up to 16 segments in one pass; if off, one segment.
        checkpointing: Recompute activations in the backward pass instead of storing them.
        temperature: Temperature of the contrastive loss.
        learning_rate: Peak of the learning rate.
        warm_up: Share of the steps before the peak.
        floor: Final learning rate, as a share of the peak.
        batch: Records in one step.
        epochs: Passes over the records.
        grad_norm: Maximum norm of the gradients.
        seed: Seed of the order of the records and of dropout.
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
    """A conversation whose last exchange asks for something said before, as token ids.

    Attributes:
        written: Each segment in ChatML, to be written to the memory.
        embedded: The plain text of each segment with the end token, to be embedded.
        query: The query, with prefix and end token.
        evidence: Positions of the segments that answer the query; at least one, but not all.
        last: The last exchange in ChatML.
        answer: Position of the first token of the answer in ``last``.
    """

    written: list[TokenArray]
    embedded: list[TokenArray]
    query: TokenArray
    evidence: frozenset[int]
    last: TokenArray
    answer: int


def read_records(path: Path, text: EvoText) -> Iterator[Record]:
    r"""Read training records from a file of JSON objects, one a line.

    Each is ``{messages: [{role, content}], meta: {turns: ["User: …\nAssistant: …", …, query], evidence_turns}}``.
    Messages alternate between user and assistant, and the last exchange asks the query.

    Args:
        path: The file.
        text: Encodes the texts.

    Raises:
        InvalidInputError: A line is not such a record; the message gives its number.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield _make_record(json.loads(line), text)
            except (KeyError, TypeError, ValueError) as error:
                raise InvalidInputError(f"{path}:{number} is not a training record: {error}") from error


def _make_record(row: dict[str, Any], text: EvoText) -> Record:
    messages, turns = row["messages"], row["meta"]["turns"]
    roles = [message["role"] for message in messages]
    if len(roles) < 4 or roles != ["user", "assistant"] * (len(roles) // 2):
        raise InvalidInputError("messages must alternate between user and assistant, in at least two exchanges")
    said = [message["content"] for message in messages]
    exchanges = [Exchange(*pair) for pair in zip(said[::2], said[1::2], strict=True)]
    evidence = frozenset(row["meta"]["evidence_turns"])
    history = range(len(exchanges) - 1)
    if len(turns) != len(exchanges):
        raise InvalidInputError(f"{len(turns)} turns do not match {len(exchanges)} exchanges")
    if not evidence or not evidence < set(history):
        raise InvalidInputError("evidence_turns must name some, but not all, of the turns before the query")
    opening = text.encode_chat(Exchange(exchanges[-1].user))
    last = text.encode_chat(exchanges[-1])
    # The answer begins after "<|im_start|>assistant\n".
    lead = len(text.encode_chat(Exchange(exchanges[-1].user, ""))) - len(opening) - text.closing_size
    return Record(
        written=[text.encode_chat(exchanges[i]) for i in history],
        embedded=[np.concatenate((text.encode_plain(turns[i]), text.end)) for i in history],
        query=np.concatenate((text.prefix, text.encode_plain(turns[-1]), text.end)),
        evidence=evidence,
        last=last,
        answer=len(opening) + lead,
    )


def compute_contrastive(scores: Tensor, evidence: frozenset[int], *, length_weighting: bool = True) -> Tensor:
    """Compute the contrastive loss of one conversation: L_con in the paper.

    Args:
        scores: Scores of the segments, divided by the temperature, (n,).
        evidence: Positions of the positives; each is compared with the negatives only, not with other positives.
        length_weighting: Multiply by log(negatives + 1).

    Returns:
        A scalar.
    """
    positive = torch.zeros(len(scores), dtype=torch.bool)
    positive[list(evidence)] = True
    negatives = scores[~positive].logsumexp(0)
    loss = torch.nn.functional.softplus(negatives - scores[positive]).mean()
    return loss * math.log(int((~positive).sum()) + 1) if length_weighting else loss


def score_segments(network: EvoNetwork, record: Record, capacity: int, recipe: EvoRecipe) -> tuple[Tensor, Tensor]:
    """Score the segments of a record for its query.

    Args:
        network: The network.
        record: The conversation and its query.
        capacity: Maximum number of latents in the memory.
        recipe: The settings.

    Returns:
        cos / temperature (n,), and the projected memory after all segments (m, H).
    """
    latents = next(iter(network.heads.values())).new_empty(0, network.hidden_size)
    if not recipe.memory:
        static = [(ids, latents) for ids in (*record.embedded, record.query)]
        return _score_rows(network, static) / recipe.temperature, latents
    limit = CHUNK_SEGMENTS if recipe.segment_batching else 1
    room = capacity if recipe.queue else network.num_latents
    rows: list[Row] = []
    for chunk, befores, after in network.remember(record.written, latents, room, limit):
        latents = after
        rows += [(record.embedded[i], before) for i, before in zip(chunk, befores, strict=True)]
    memory = network.project(latents)
    rows.append((record.query, memory))
    return _score_rows(network, rows) / recipe.temperature, memory


def _score_rows(network: EvoNetwork, rows: Sequence[Row]) -> Tensor:
    batches = plan_batches([len(ids) for ids, _ in rows])
    vectors = torch.cat([network.embed([rows[i] for i in batch]) for batch in batches])
    return vectors[:-1] @ vectors[-1]


def compute_losses(network: EvoNetwork, record: Record, capacity: int, recipe: EvoRecipe) -> tuple[Tensor, Tensor]:
    """Compute L_con and L_sft of a record, two scalars; L_sft is zero if the recipe has no memory loss.

    The arguments are those of ``score_segments``.
    """
    scores, memory = score_segments(network, record, capacity, recipe)
    ranking = compute_contrastive(scores, record.evidence, length_weighting=recipe.length_weighting)
    if not recipe.memory_loss:
        return ranking, ranking.new_zeros(())
    return ranking, network.compute_answer_loss(record.last, record.answer, memory)


def unfreeze(network: EvoNetwork) -> list[Parameter]:
    """Unfreeze and return the parameters that are trained: both adapters, the memory queries and the projections."""
    chosen = list(network.heads.values())
    for view in network.views.values():
        chosen += [p for name, p in view.named_parameters() if name.endswith((".down", ".up"))]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen
