"""The training curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from agent_memory.types import FloatArray


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
    checks = [{**e, "step": int(e["step"]) + offsets[str(e["stage"])]} for e in log if "set" in e]
    for dimension, style in ((64, ":"), (256, "--"), (768, "-")):
        points, means = _means(checks, f"recall@10/{dimension}")
        right.plot(points, means, style, marker="o", label=f"{dimension} dimensions")
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
    for name in ("contrastive", "memory"):
        steps, values = _means([entry for entry in log if name in entry], name)
        width = min(25, max(1, len(values) // 4))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        left.plot(steps[width - 1 :], smooth, label=name)
    left.set(xlabel="step (all weights; those of questions), means of the runs", ylabel="loss, running mean")
    left.legend()
    static = {str(e["set"]): float(e["recall@10"]) for e in log if e.get("way") == "static"}
    for name, before in static.items():
        color = None
        for way, style in (("evolved", "-"), ("sessionless", ":")):
            found = [e for e in log if e.get("set") == name and e.get("way") == way]
            steps, scores = _means(found, "recall@10")
            label = name if color is None else None
            (line,) = right.plot(steps, scores - before, style, marker=".", label=label, color=color)
            color = line.get_color()
    right.axhline(0, color="grey", linewidth=0.5)
    right.set(
        xlabel="step (means of the runs; last: their weights averaged)",
        ylabel="recall@10 over static (dotted: asked outside the session)",
    )
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def _means(entries: Sequence[Mapping[str, float | str]], key: str) -> tuple[list[int], FloatArray]:
    """Return the steps of entries, ascending, and the mean of a figure at each."""
    by_step: dict[int, list[float]] = {}
    for entry in entries:
        by_step.setdefault(int(entry["step"]), []).append(float(entry[key]))
    steps = sorted(by_step)
    return steps, np.array([np.mean(by_step[step]) for step in steps], dtype=np.float32)


def plot_ablations(log: Sequence[Mapping[str, float | str]], path: Path) -> None:
    """Draw the contrastive loss of each recipe and its recall@1 on held-out records, means over the seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    for axes, key in ((left, "contrastive"), (right, "recall@1")):
        for recipe in dict.fromkeys(str(e["recipe"]) for e in log):
            points, values = _means([e for e in log if e["recipe"] == recipe and key in e], key)
            width = max(1, len(values) // 10) if key == "contrastive" else 1
            smooth = np.convolve(values, np.ones(width) / width, mode="valid")
            axes.plot(points[width - 1 :], smooth, label=recipe)
    left.set(xlabel="step", ylabel="contrastive loss, running mean")
    right.set(xlabel="step", ylabel="recall@1, held-out records")
    right.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
