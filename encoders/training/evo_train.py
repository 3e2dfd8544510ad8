"""Train EvoEmbedding's adapters, memory queries and projections on records of conversations.

    python -m agent_memory.encoders.training.evo_train CHECKPOINT RECORDS OUT [--no-queue] [--no-memory-loss]
        [--no-length-weighting] [--no-segment-batching]

CHECKPOINT is a folder of the published layout with a tokenizer, RECORDS a file of JSON lines, OUT a new folder that
``EvoEmbeddingModel.from_pretrained`` reads.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from agent_memory.encoders.evo.checkpoint import EvoSettings, read_base_config, read_settings
from agent_memory.encoders.evo.load import load_network, published_weights
from agent_memory.encoders.evo.network import EvoNetwork
from agent_memory.encoders.evo.text import EvoText
from agent_memory.encoders.static.runtime import enough_memory
from agent_memory.encoders.training.evo_objective import (
    Recipe,
    Record,
    read_records,
    session_loss,
    session_scores,
    trainable,
)
from agent_memory.encoders.training.trainer import Checkpoint, restore
from agent_memory.errors import CheckpointError, InvalidInputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What one step measured: mean contrastive and language-model loss over its records."""

    contrastive: float
    language: float


def load(folder: Path) -> tuple[EvoNetwork, EvoText, EvoSettings]:
    """Load a checkpoint for training, in float32.

    Raises:
        CheckpointError: As ``from_pretrained``, or the output head is not tied to the embeddings.
        ModelNotFoundError: As ``from_pretrained``.
    """
    settings = read_settings(folder)
    config = read_base_config(folder, settings.base_model)
    if not config.tie_word_embeddings:
        raise CheckpointError(f"{folder}: the output head of the base model is not tied; its loss needs that")
    network = load_network(folder, settings, config, torch.float32)
    return network, EvoText(folder, network.vocabulary), settings


def rate(step: int, steps: int, recipe: Recipe) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to the floor."""
    warm = max(1, round(steps * recipe.warm_up))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return recipe.floor + (1 - recipe.floor) * 0.5 * (1 + math.cos(math.pi * done))


@enough_memory("training")
def train(
    network: EvoNetwork,
    records: Sequence[Record],
    capacity: int,
    recipe: Recipe,
    *,
    checkpoint: Checkpoint | None = None,
    every: int = 50,
    report: Callable[[int, Step], None] | None = None,
) -> list[Step]:
    """Train in place, from the checkpoint if there is one.

    Args:
        network: Left in evaluation mode, with its trained parameters frozen again.
        records: At least one.
        capacity: Latents that are read back.
        recipe: Hyperparameters and ablations.
        checkpoint: Where weights and moments are kept; resuming gives the weights of a run that never stopped.
        every: Steps between checkpoints; the last step is kept too.
        report: Called after each step with the number of steps done, before they are kept.

    Returns:
        The losses of each step of this call.

    Raises:
        InvalidInputError: There are no records.
        EncoderError: Memory ran out.
    """
    if not records:
        raise InvalidInputError("there are no records to train on")
    order = random.Random(recipe.seed)
    shuffled = [order.sample(list(records), len(records)) for _ in range(recipe.epochs)]
    batches = [rows[at : at + recipe.batch] for rows in shuffled for at in range(0, len(rows), recipe.batch)]
    parameters = trainable(network)
    optimiser = torch.optim.AdamW(parameters, lr=recipe.learning_rate)
    done = restore(checkpoint, network, optimiser) if checkpoint else 0
    log: list[Step] = []
    network.recompute = recipe.checkpointing
    for step in range(done, len(batches)):
        network.train()
        # By step, so that a resumed run drops what an uninterrupted one drops.
        torch.manual_seed(recipe.seed + 1_000_003 * step)
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * rate(step, len(batches), recipe)
        log.append(_step(network, batches[step], capacity, recipe))
        torch.nn.utils.clip_grad_norm_(parameters, recipe.grad_norm)
        optimiser.step()
        optimiser.zero_grad()
        _log.info("step %d of %d: %s", step + 1, len(batches), log[-1])
        if report is not None:
            report(step + 1, log[-1])
        if checkpoint is not None and ((step + 1) % every == 0 or step + 1 == len(batches)):
            checkpoint.save(network, optimiser, step + 1)
    network.eval().requires_grad_(False)
    return log


def _step(network: EvoNetwork, batch: Sequence[Record], capacity: int, recipe: Recipe) -> Step:
    sums = [0.0, 0.0]
    for record in batch:
        ranking, language = session_loss(network, record, capacity, recipe)
        ((ranking + language) / len(batch)).backward()  # type: ignore[no-untyped-call]
        sums[0] += ranking.item() / len(batch)
        sums[1] += language.item() / len(batch)
    return Step(*sums)


@enough_memory("scoring")
def recall_at_1(network: EvoNetwork, records: Sequence[Record], capacity: int, recipe: Recipe) -> float:
    """Share of records whose best segment is evidence."""
    hits = 0
    with torch.inference_mode():
        for record in records:
            scores, _ = session_scores(network, record, capacity, recipe)
            hits += int(scores.argmax()) in record.evidence
    return hits / len(records)


def save(network: EvoNetwork, source: Path, target: Path) -> None:
    """Write a trained checkpoint in the published layout, beside copies of the source's small files.

    Raises:
        InvalidInputError: The target exists.
    """
    if target.exists():
        raise InvalidInputError(f"{target} exists already")
    target.mkdir(parents=True)
    for path in source.glob("*.json"):
        if not path.name.endswith(".index.json"):
            shutil.copy(path, target)
    save_file(published_weights(network), target / "model.safetensors")


def main() -> None:
    """Train from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("checkpoint", "records", "out"):
        parser.add_argument(name, type=Path)
    switches = ("queue", "memory_loss", "length_weighting", "segment_batching")
    for name in switches:
        parser.add_argument(f"--no-{name.replace('_', '-')}", dest=name, action="store_false")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipe = Recipe(**{name: getattr(given, name) for name in (*switches, "epochs", "learning_rate")})
    network, text, settings = load(given.checkpoint)
    train(network, list(read_records(given.records, text)), settings.buffer_capacity, recipe)
    save(network, given.checkpoint, given.out)


if __name__ == "__main__":
    main()
