"""The training curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def plot(log: Sequence[Mapping[str, float | str]], path: Path) -> None:
    """Draw losses and validation recall over the steps of both stages."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4))
    offset = max((int(e["step"]) for e in log if e["stage"] == "head"), default=0)
    steps = [e for e in log if "contrastive" in e]
    at = [int(e["step"]) + (offset if e["stage"] == "deltas" else 0) for e in steps]
    for name in ("contrastive", "own", "teacher"):
        values = np.array([float(e[name]) for e in steps])
        width = min(25, max(1, len(values) // 4))
        smooth = np.convolve(values, np.ones(width) / width, mode="valid") if len(values) else values
        left.plot(at[width - 1 :], smooth, label=name)
    left.set(xlabel="step (head, then head and deltas)", ylabel="loss, running mean")
    left.legend()
    checks = [e for e in log if "set" in e]
    for dimension, style in ((64, ":"), (256, "--"), (768, "-")):
        by_step: dict[int, list[float]] = {}
        for entry in checks:
            place = int(entry["step"]) + (offset if entry["stage"] == "deltas" else 0)
            by_step.setdefault(place, []).append(float(entry[f"recall@10/{dimension}"]))
        points = sorted(by_step)
        right.plot(points, [np.mean(by_step[p]) for p in points], style, marker="o", label=f"{dimension} dimensions")
    right.set(xlabel="step (head, then head and deltas)", ylabel="recall@10, mean of validation sets")
    right.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
