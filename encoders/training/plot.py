"""Draws the curves of a training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Log = Sequence[Mapping[str, float | str]]
"""Entries of a training's log: losses and scores by name, each with its step."""


def plot_training(log: Log, path: Path) -> None:
    """Draw the losses and the validation recall of the static encoder over the steps of all stages."""
    with _open_figure(path, (11, 4)) as (left, right):
        log = _number_steps(log)
        for name in ("contrastive", "own", "teacher"):
            losses = [entry for entry in log if name in entry]
            _draw_smooth(left, [int(e["step"]) for e in losses], [float(e[name]) for e in losses], 25, name)
        left.set(xlabel="step (head; head and deltas; head)", ylabel="loss, running mean")
        left.legend()
        checks = [entry for entry in log if "set" in entry]
        for dimension, style in ((64, ":"), (256, "--"), (768, "-")):
            steps, means = _average_by_step(checks, f"recall@10/{dimension}")
            right.plot(steps, means, style, marker="o", label=f"{dimension} dimensions")
        right.set(xlabel="step (head; head and deltas; head)", ylabel="recall@10, mean of validation sets")
        right.legend()


def plot_session(log: Log, path: Path) -> None:
    """Draw the losses of the session encoder, and its gain over static vectors on each validation set."""
    with _open_figure(path, (12, 4.5)) as (left, right):
        log = _number_steps(log)
        for name in ("contrastive", "memory"):
            steps, values = _average_by_step([entry for entry in log if name in entry], name)
            _draw_smooth(left, steps, values, 25, name)
        left.set(xlabel="step (all weights; those of questions), means of the runs", ylabel="loss, running mean")
        left.legend()
        static = {str(e["set"]): float(e["recall@10"]) for e in log if e.get("way") == "static"}
        for name, before in static.items():
            color = None
            for way, style in (("evolved", "-"), ("sessionless", ":")):
                found = [e for e in log if e.get("set") == name and e.get("way") == way]
                steps, scores = _average_by_step(found, "recall@10")
                label = name if color is None else None
                (line,) = right.plot(steps, scores - before, style, marker=".", label=label, color=color)
                color = line.get_color()
        right.axhline(0, color="grey", linewidth=0.5)
        right.set(
            xlabel="step (means of the runs; last: their weights averaged)",
            ylabel="recall@10 over static (dotted: asked outside the session)",
        )
        right.legend(fontsize="small")


def plot_ablations(log: Log, path: Path) -> None:
    """Draw the contrastive loss of each recipe and its recall@1 on held-out records, averaged over the seeds."""
    with _open_figure(path, (11, 4)) as (left, right):
        for recipe in dict.fromkeys(str(e["recipe"]) for e in log):
            entries = [e for e in log if e["recipe"] == recipe]
            steps, losses = _average_by_step([e for e in entries if "contrastive" in e], "contrastive")
            _draw_smooth(left, steps, losses, max(1, len(losses) // 10), recipe)
            steps, recalls = _average_by_step([e for e in entries if "recall@1" in e], "recall@1")
            right.plot(steps, recalls, label=recipe)
        left.set(xlabel="step", ylabel="contrastive loss, running mean")
        right.set(xlabel="step", ylabel="recall@1, held-out records")
        right.legend(fontsize="small")


@contextmanager
def _open_figure(path: Path, size: tuple[float, float]) -> Iterator[tuple[Axes, Axes]]:
    """Open a figure of two diagrams side by side, and write it at the end."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=size)
    try:
        yield left, right
        figure.tight_layout()
        figure.savefig(path, dpi=100)
    finally:
        pyplot.close(figure)


def _draw_smooth(
    axes: Axes, steps: Sequence[int], values: Sequence[float] | FloatArray, width: int, label: str
) -> None:
    """Draw a running mean over ``width`` values, or over a quarter of them if there are few."""
    width = min(width, max(1, len(values) // 4))
    smooth = np.convolve(values, np.ones(width) / width, mode="valid") if len(values) else values
    axes.plot(steps[width - 1 :], smooth, label=label)


def _number_steps(log: Log) -> Log:
    """Return entries whose steps are counted over all stages, in the order of the log."""
    lengths: dict[str, int] = {}
    for entry in log:
        stage = str(entry["stage"])
        lengths[stage] = max(lengths.get(stage, 0), int(entry["step"]))
    offsets, total = {}, 0
    for stage, count in lengths.items():
        offsets[stage] = total
        total += count
    return [{**entry, "step": int(entry["step"]) + offsets[str(entry["stage"])]} for entry in log]


def _average_by_step(log: Log, key: str) -> tuple[list[int], FloatArray]:
    """Return the steps of entries, ascending, and the mean of a figure at each."""
    by_step: dict[int, list[float]] = {}
    for entry in log:
        by_step.setdefault(int(entry["step"]), []).append(float(entry[key]))
    steps = sorted(by_step)
    return steps, np.array([np.mean(by_step[step]) for step in steps], dtype=np.float32)
