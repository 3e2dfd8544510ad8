"""The training curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def plot(log: Sequence[Mapping[str, float | str]], path: Path) -> None:
    """Draw losses and validation recall over the steps of all stages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    offsets = _offsets(log)
    steps = [e for e in log if "contrastive" in e]
    at = [int(e["step"]) + offsets[str(e["stage"])] for e in steps]
    for name in ("contrastive", "own", "teacher"):
        values = np.array([float(e[name]) for e in steps])
        width = min(25, max(1, len(values) // 4))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid") if len(values) else values
        left.plot(at[width - 1 :], smooth, label=name)
    left.set(xlabel="step (head; head and deltas; head)", ylabel="loss, running mean")
    left.legend()
    checks = [e for e in log if "set" in e]
    for dimension, style in ((64, ":"), (256, "--"), (768, "-")):
        by_step: dict[int, list[float]] = {}
        for entry in checks:
            place = int(entry["step"]) + offsets[str(entry["stage"])]
            by_step.setdefault(place, []).append(float(entry[f"recall@10/{dimension}"]))
        points = sorted(by_step)
        right.plot(points, [np.mean(by_step[p]) for p in points], style, marker="o", label=f"{dimension} dimensions")
    right.set(xlabel="step (head; head and deltas; head)", ylabel="recall@10, mean of validation sets")
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _offsets(log: Sequence[Mapping[str, float | str]]) -> dict[str, int]:
    """Count the steps before each stage, in the order of the log."""
    longest: dict[str, int] = {}
    for entry in log:
        stage = str(entry["stage"])
        longest[stage] = max(longest.get(stage, 0), int(entry["step"]))
    offsets, total = {}, 0
    for stage, count in longest.items():
        offsets[stage] = total
        total += count
    return offsets


def plot_session(log: Sequence[Mapping[str, float | str]], path: Path) -> None:
    """Draw the losses of a session encoder and its gain over static vectors on each validation set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(12, 4.5))
    offsets = _offsets(log)
    log = [{**entry, "step": int(entry["step"]) + offsets[str(entry["stage"])]} for entry in log]
    steps = [entry for entry in log if "contrastive" in entry]
    for name in ("contrastive", "memory"):
        values = np.array([float(entry[name]) for entry in steps])
        width = min(25, max(1, len(values) // 4))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        left.plot([int(entry["step"]) for entry in steps][width - 1 :], smooth, label=name)
    left.set(xlabel="step (all weights; those of questions)", ylabel="loss, running mean")
    left.legend()
    static = {str(e["set"]): float(e["recall@10"]) for e in log if e.get("way") == "static"}
    for name, before in static.items():
        color = None
        for way, style in (("evolved", "-"), ("sessionless", ":")):
            found = [e for e in log if e.get("set") == name and e.get("way") == way]
            gains = [float(e["recall@10"]) - before for e in found]
            label = name if color is None else None
            (line,) = right.plot([int(e["step"]) for e in found], gains, style, marker=".", label=label, color=color)
            color = line.get_color()
    right.axhline(0, color="grey", linewidth=0.5)
    right.set(
        xlabel="step (all weights; those of questions)",
        ylabel="recall@10 over static (dotted: asked outside the session)",
    )
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def plot_ablations(log: Sequence[Mapping[str, float | str]], path: Path) -> None:
    """Draw the contrastive loss of each recipe and its recall@1 on held-out records, means over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for axes, key in ((left, "contrastive"), (right, "recall@1")):
        for recipe in dict.fromkeys(str(e["recipe"]) for e in log):
            by_step: dict[int, list[float]] = {}
            for entry in log:
                if entry["recipe"] == recipe and key in entry:
                    by_step.setdefault(int(entry["step"]), []).append(float(entry[key]))
            points = sorted(by_step)
            values = np.array([np.mean(by_step[point]) for point in points])
            width = max(1, len(values) // 10) if key == "contrastive" else 1
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(points[width - 1 :], smooth, label=recipe)
    left.set(xlabel="step", ylabel="contrastive loss, running mean")
    right.set(xlabel="step", ylabel="recall@1, held-out records")
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
