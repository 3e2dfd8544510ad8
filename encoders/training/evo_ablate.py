"""Train EvoEmbedding on a synthetic task, and again without each of its parts.

    python -m agent_memory.encoders.training.evo_ablate WORK [--steps N] [--seeds N] [--sizes FEWEST MOST]

It trains a tiny random base model on states that change over more segments than the queue holds (``evo_states``), with
five recipes and, for comparison, as a static encoder. Run the same command again to resume, with more ``--seeds`` if
needed. WORK then contains ``log.jsonl``, ``curves.png`` and ``table.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from agent_memory.encoders.evo.network import EvoNetwork
from agent_memory.encoders.evo.text import EvoText
from agent_memory.encoders.training.evo_objective import EvoRecipe, Record, read_records
from agent_memory.encoders.training.evo_states import SETTINGS, make_tiny_network, write_states, write_tokenizer
from agent_memory.encoders.training.evo_train import Step, measure_recall, train
from agent_memory.encoders.training.plot import plot_ablations
from agent_memory.encoders.training.trainer import Checkpoint
from agent_memory.errors import InvalidInputError

FULL = EvoRecipe(checkpointing=False, learning_rate=5e-3, batch=8)
"""The paper's recipe at the learning rate and batch of a tiny model."""

RECIPES = {
    "full": FULL,
    "no queue": replace(FULL, queue=False),
    "no memory loss": replace(FULL, memory_loss=False),
    "no length weighting": replace(FULL, length_weighting=False),
    "no segment batching": replace(FULL, segment_batching=False),
    "static": replace(FULL, memory=False, memory_loss=False),
}

_CHECKED = 200
_CHECK_SEED = -1

Entry: TypeAlias = Mapping[str, float | str]


@dataclass(frozen=True, slots=True)
class Ablation:
    """One comparison and its files.

    Attributes:
        work: Folder of all files.
        steps: Steps of each recipe.
        seeds: Number of repetitions. Each has its own base model, records and dropout, which all recipes share.
        sizes: Minimum and maximum number of segments in a record.
        every: Steps between checkpoints and validations.
    """

    work: Path
    steps: int = 80
    seeds: int = 3
    sizes: tuple[int, int] = (6, 24)
    every: int = 40

    def run(self) -> str:
        """Train every recipe that is not trained yet.

        Returns:
            The table, which is also written to a file.

        Raises:
            InvalidInputError: The folder contains a comparison with other settings.
            EncoderError: Memory ran out.
        """
        self.work.mkdir(parents=True, exist_ok=True)
        self._claim()
        write_tokenizer(self.work)
        chance = write_states(self.work / "check.jsonl", _CHECKED, _CHECK_SEED, self.sizes)
        for seed in range(self.seeds):
            for name, recipe in RECIPES.items():
                if not any(e.get("end") and (e["recipe"], e["seed"]) == (name, seed) for e in self.read_log()):
                    self._train(name, replace(recipe, seed=seed))
        log = [entry for entry in self.read_log() if int(entry["seed"]) < self.seeds]
        plot_ablations(log, self.work / "curves.png")
        text = format_table(log, chance)
        (self.work / "table.md").write_text(text, encoding="utf-8")
        return text

    def read_log(self) -> list[Entry]:
        """Read the measurements; of a step that was repeated after an interruption, only the last one is returned."""
        path = self.work / "log.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        return list({(e["recipe"], e["seed"], e["step"], "recall@1" in e): e for e in found}.values())

    def _claim(self) -> None:
        path, own = self.work / "settings.json", json.dumps({"steps": self.steps, "sizes": self.sizes})
        if path.exists() and path.read_text(encoding="utf-8") != own:
            raise InvalidInputError(f"{self.work} contains a comparison with other settings: {path.read_text()}")
        path.write_text(own, encoding="utf-8")

    def _train(self, name: str, recipe: EvoRecipe) -> None:
        network = make_tiny_network(recipe.seed)
        text = EvoText(self.work, network.vocabulary)
        check = list(read_records(self.work / "check.jsonl", text))
        path = self.work / f"train-{recipe.seed}.jsonl"
        write_states(path, self.steps * recipe.batch, recipe.seed, self.sizes)
        records = list(read_records(path, text))
        self._check(network, check, recipe, {"recipe": name, "seed": recipe.seed, "step": 0})
        began = time.monotonic()

        def report(step: int, losses: Step) -> None:
            nonlocal began
            place: dict[str, float | str] = {"recipe": name, "seed": recipe.seed, "step": step}
            took = time.monotonic() - began
            measured = {"contrastive": losses.contrastive, "language": losses.language, "seconds": took}
            self._write(place | measured)
            if step % self.every == 0 and step < self.steps:
                self._check(network.eval(), check, recipe, place)
            began = time.monotonic()

        checkpoint = Checkpoint(self.work / f"{name.replace(' ', '-')}-{recipe.seed}.safetensors")
        train(
            network, records, SETTINGS.buffer_capacity, recipe, checkpoint=checkpoint, every=self.every, report=report
        )
        size = sum(len(record.written) for record in records) / self.steps
        done: Entry = {"recipe": name, "seed": recipe.seed, "step": self.steps, "end": 1, "segments": size}
        self._check(network, check, recipe, done)

    def _check(self, network: EvoNetwork, check: Sequence[Record], recipe: EvoRecipe, place: Entry) -> None:
        found = {"recall@1": measure_recall(network, check, SETTINGS.buffer_capacity, recipe)}
        if place["step"] == 0 or "end" in place:
            found["static"] = measure_recall(network, check, 0, replace(recipe, memory=False))
        self._write({**place, **found})

    def _write(self, entry: Entry) -> None:
        with open(self.work / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")


def format_table(log: Sequence[Entry], chance: Mapping[str, float]) -> str:
    """Format recall@1 of each recipe, and of rules that need no memory, as a Markdown table.

    Args:
        log: From ``Ablation.read_log``.
        chance: From ``write_states``, for the validation records.
    """
    lines = ["| | recall@1 | of each seed | the same without memory | segments/s |", "|---|---|---|---|---|"]
    first = [e for e in log if "recall@1" in e and e["step"] == 0 and e["recipe"] == "full"]
    ends = [e for e in log if "end" in e]
    groups = {name: [e for e in ends if e["recipe"] == name] for name in RECIPES}
    for name, found in {"untrained": first, **groups}.items():
        recalls, static = ([100 * float(e[key]) for e in found] for key in ("recall@1", "static"))
        speed = "" if name == "untrained" else f"{_measure_speed(log, found):.0f}"
        each = " ".join(f"{value:.1f}" for value in recalls)
        lines.append(f"| {name} | {_format_spread(recalls)} | {each} | {_format_spread(static)} | {speed} |")
    best = max(float(e["static"]) for e in (*first, *ends))
    lines.append(f"| best of any network without memory | {100 * best:.1f} | | | |")
    lines.append(f"| by chance among the turns that set the place | {100 * chance['same']:.1f} | | | |")
    lines.append(f"| always the last segment | {100 * chance['last']:.1f} | | | |")
    return "\n".join(lines) + "\n"


def _measure_speed(log: Sequence[Entry], ends: Sequence[Entry]) -> float:
    """Return segments per second, by the median time of a step, because other work on the machine comes in bursts."""
    names = {str(e["recipe"]) for e in ends}
    return float(ends[0]["segments"]) / float(
        np.median([e["seconds"] for e in log if e["recipe"] in names and "seconds" in e])
    )


def _format_spread(values: Sequence[float]) -> str:
    """Format the mean of values and, if there are several, their standard deviation."""
    return f"{np.mean(values):.1f}" + (f" ± {np.std(values, ddof=1):.1f}" if len(values) > 1 else "")


def main() -> None:
    """Run the comparison from the command line."""
    usual = Ablation(Path())
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=usual.steps, help="steps of each recipe, eight records each")
    parser.add_argument("--seeds", type=int, default=usual.seeds, help="number of repetitions")
    parser.add_argument(
        "--sizes", type=int, nargs=2, default=usual.sizes, help="minimum and maximum number of segments in a record"
    )
    parser.add_argument("--every", type=int, default=usual.every, help="steps between checkpoints and validations")
    given = parser.parse_args()
    torch.set_num_threads(1)  # the matrices are too small for several threads
    text = Ablation(given.work, given.steps, given.seeds, tuple(given.sizes), given.every).run()
    print(text, end="")  # noqa: T201 - the result of a command


if __name__ == "__main__":
    main()
