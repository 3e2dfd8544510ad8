"""Train EvoEmbedding's adapters, memory queries and projections on records of conversations.

    python -m agent_memory.encoders.training.evo_train CHECKPOINT RECORDS OUT [--no-queue] [--no-memory-loss]
        [--no-length-weighting] [--no-segment-batching]

CHECKPOINT is a folder in the published layout with a tokenizer, RECORDS a file of JSON lines, OUT a new folder that
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
from agent_memory.encoders.evo.load import export_weights, load_network
from agent_memory.encoders.evo.network import EvoNetwork
from agent_memory.encoders.evo.text import EvoText
from agent_memory.encoders.resources import catch_out_of_memory
from agent_memory.encoders.training.evo_objective import (
    EvoRecipe,
    Record,
    compute_losses,
    read_records,
    score_segments,
    unfreeze,
)
from agent_memory.encoders.training.trainer import Checkpoint, restore
from agent_memory.errors import CheckpointError, InvalidInputError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """The losses of one step, averaged over its records.

    Attributes:
        contrastive: The contrastive loss.
        language: The language-model loss.
    """

    contrastive: float
    language: float


def load_checkpoint(folder: Path) -> tuple[EvoNetwork, EvoText, EvoSettings]:
    """Load a checkpoint for training, in float32.

    Raises:
        CheckpointError: The checkpoint is unusable, or its output head is not tied to the embeddings.
        ModelNotFoundError: The folder, or the base configuration it names, is not on this machine.
    """
    settings = read_settings(folder)
    config = read_base_config(folder, settings.base_model)
    if not config.tie_word_embeddings:
        raise CheckpointError(
            f"{folder}: the base model's output head is not tied to its embeddings, as the language-model loss requires"
        )
    network = load_network(folder, settings, config, torch.float32)
    return network, EvoText(folder, network.vocabulary), settings


def schedule_rate(step: int, steps: int, recipe: EvoRecipe) -> float:
    """Return the learning rate at a step as a share of its peak: linear warm-up, then a cosine down to the floor."""
    warm = max(1, round(steps * recipe.warm_up))
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(1, steps - warm)
    return recipe.floor + (1 - recipe.floor) * 0.5 * (1 + math.cos(math.pi * done))


@catch_out_of_memory("training")
def train(
    network: EvoNetwork,
    records: Sequence[Record],
    capacity: int,
    recipe: EvoRecipe,
    *,
    checkpoint: Checkpoint | None = None,
    every: int = 50,
    report: Callable[[int, Step], None] | None = None,
) -> list[Step]:
    """Train in place, from the checkpoint if there is one.

    Args:
        network: The network; afterwards it is in evaluation mode and all of its parameters are frozen.
        records: At least one record.
        capacity: Maximum number of latents in the memory.
        recipe: Hyperparameters and ablations.
        checkpoint: Stores weights and moments; a resumed run gives the same weights as an uninterrupted one.
        every: Steps between checkpoints; the last step is always stored.
        report: Called after each step with the number of steps done and the losses, before a checkpoint is stored.

    Returns:
        The losses of each step of this call.

    Raises:
        InvalidInputError: There are no records.
        EncoderError: Memory ran out.
    """
    if not records:
        raise InvalidInputError("there are no records to train on")
    batches = _draw_batches(records, recipe)
    optimiser = torch.optim.AdamW(unfreeze(network), lr=recipe.learning_rate)
    done = restore(checkpoint, network, optimiser) if checkpoint else 0
    log: list[Step] = []
    network.recompute = recipe.checkpointing
    for step in range(done, len(batches)):
        # Seeded by step, so that dropout is the same in a resumed run as in an uninterrupted one.
        torch.manual_seed(recipe.seed + 1_000_003 * step)
        rate = recipe.learning_rate * schedule_rate(step, len(batches), recipe)
        log.append(_step(network, optimiser, batches[step], capacity, recipe, rate))
        _log.info("step %d of %d: %s", step + 1, len(batches), log[-1])
        if report is not None:
            report(step + 1, log[-1])
        if checkpoint is not None and ((step + 1) % every == 0 or step + 1 == len(batches)):
            checkpoint.save(network, optimiser, step + 1)
    network.eval().requires_grad_(False)
    return log


def _draw_batches(records: Sequence[Record], recipe: EvoRecipe) -> list[list[Record]]:
    order = random.Random(recipe.seed)
    shuffled = [order.sample(list(records), len(records)) for _ in range(recipe.epochs)]
    return [rows[at : at + recipe.batch] for rows in shuffled for at in range(0, len(rows), recipe.batch)]


def _step(
    network: EvoNetwork,
    optimiser: torch.optim.Optimizer,
    batch: Sequence[Record],
    capacity: int,
    recipe: EvoRecipe,
    rate: float,
) -> Step:
    network.train()
    sums = [0.0, 0.0]
    for record in batch:
        ranking, language = compute_losses(network, record, capacity, recipe)
        ((ranking + language) / len(batch)).backward()  # type: ignore[no-untyped-call]
        sums[0] += ranking.item() / len(batch)
        sums[1] += language.item() / len(batch)
    for group in optimiser.param_groups:
        group["lr"] = rate
    torch.nn.utils.clip_grad_norm_([p for group in optimiser.param_groups for p in group["params"]], recipe.grad_norm)
    optimiser.step()
    optimiser.zero_grad()
    return Step(*sums)


@catch_out_of_memory("scoring")
def measure_recall(network: EvoNetwork, records: Sequence[Record], capacity: int, recipe: EvoRecipe) -> float:
    """Measure recall@1: the share of records whose best segment is evidence."""
    hits = 0
    with torch.inference_mode():
        for record in records:
            scores, _ = score_segments(network, record, capacity, recipe)
            hits += int(scores.argmax()) in record.evidence
    return hits / len(records)


def save_checkpoint(network: EvoNetwork, source: Path, target: Path) -> None:
    """Write a trained checkpoint in the published layout, with copies of the source's JSON files.

    Args:
        network: The trained network.
        source: Folder of the checkpoint that training started from.
        target: Folder to create.

    Raises:
        InvalidInputError: The target exists.
    """
    if target.exists():
        raise InvalidInputError(f"{target} already exists")
    target.mkdir(parents=True)
    for path in source.glob("*.json"):
        if not path.name.endswith(".index.json"):
            shutil.copy(path, target)
    save_file(export_weights(network), target / "model.safetensors")


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
    recipe = EvoRecipe(**{name: getattr(given, name) for name in (*switches, "epochs", "learning_rate")})
    network, text, settings = load_checkpoint(given.checkpoint)
    train(network, list(read_records(given.records, text)), settings.buffer_capacity, recipe)
    save_checkpoint(network, given.checkpoint, given.out)


if __name__ == "__main__":
    main()
