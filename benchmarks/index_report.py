"""The table and the plot of ``benchmarks/index.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def format_table(results: dict[str, Any]) -> str:
    """Return the results as a Markdown table."""
    head = (
        "| engine | knob | recall | p50 ms | p95 ms | ratio (min..max) | batch/s | RAM B/row | disk B/row "
        "| build s | add ms | ratio | 1 % filter ms @ recall | 10 % filter | delete 1 %, ms |\n|" + "---|" * 15
    )
    lines = [head]
    for name, one in results.items():
        low, middle, high = one["latency_ratio"]
        least, usual, most = one["add_ratio"]
        gone = one["remove_1_percent_ms"]
        cells = [f"{one[f'filter_{s}']['p50_ms']:.2f} @ {one[f'filter_{s}']['recall']:.3f}"
                 if f"filter_{s}" in one else "none" for s in ("0.01", "0.1")]  # fmt: skip
        lines.append(
            f"| {name} | {one['effort']} | {one['recall']:.4f} | {one['p50_ms']:.3f} | {one['p95_ms']:.3f} "
            f"| {middle:.2f} ({low:.2f}..{high:.2f}) | {one['batch_qps']:.0f} "
            f"| {one['ram_bytes_per_row']:.0f} | {one['disk_bytes_per_row']:.0f} "
            f"| {one['build_s']:.1f} | {one['add_one_ms']:.4f} | {usual:.1f} ({least:.1f}..{most:.1f}) "
            f"| {cells[0]} | {cells[1]} | {'none' if gone is None else f'{gone:.1f}'} |"
        )
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path, title: str) -> None:
    """Plot recall against latency; the area of each dot grows with the RAM per row."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), constrained_layout=True)
    for name, one in results.items():
        axes.scatter(one["p50_ms"], one["recall"], s=20 + one["ram_bytes_per_row"] / 4, alpha=0.6)
        axes.annotate(name, (one["p50_ms"], one["recall"]), xytext=(6, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", xlabel="p50 of one query, ms, one thread", ylabel="recall@10", title=title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
