"""Figures of evaluations and session views, drawn with matplotlib if it is installed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent_memory.errors import MissingDependencyError, StorageError
from agent_memory.evaluation.benchmark import Card
from agent_memory.evaluation.datasets import Evaluation
from agent_memory.evaluation.reliability import Reliability
from agent_memory.evaluation.session_view import SessionView
from agent_memory.records import Topics


def plot_vectors(results: Sequence[Evaluation], path: Path) -> None:
    """Plot recall@10 of each kind of vector against the dimension, one panel per data set.

    Args:
        results: Evaluations that compared vectors.
        path: The file to write; PNG, or the format of the suffix.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    pyplot = _load_pyplot()
    figure, axes = pyplot.subplots(1, len(results), figsize=(4.5 * len(results), 4), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        for kind, scores in result.vectors.items():
            axis.plot(list(scores), [score.micro["recall@10"] for score in scores.values()], "o-", label=kind)
        axis.set(title=result.name, xlabel="dimensions", ylabel="recall@10", xscale="log")
        dimensions = sorted({dimension for scores in result.vectors.values() for dimension in scores})
        axis.set_xticks(dimensions, [str(dimension) for dimension in dimensions], minor=False)
        axis.minorticks_off()
        axis.legend()
    _save(figure, path)


def plot_session_view(view: SessionView, path: Path) -> None:
    """Plot the best segments against the session's length, and how far the question and the memory have moved.

    Args:
        view: What to plot.
        path: The file to write; PNG, or the format of the suffix.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    pyplot = _load_pyplot()
    figure, axes = pyplot.subplots(1, 3, figsize=(16, 5), width_ratios=(2, 1, 1))
    for rank in range(max(map(len, view.top))):
        points = [(after, top[rank]) for after, top in zip(view.after, view.top, strict=True) if rank < len(top)]
        axes[0].plot(*zip(*points, strict=True), "o-" if rank == 0 else ".", label=f"hit {rank + 1}")
    axes[0].plot(view.after, [after - 1 for after in view.after], ":", color="grey", label="latest segment")
    axes[0].set(xlabel="segments in the session", ylabel="position of the hit", title=_shorten(view.query, 70))
    axes[0].legend()
    panels = zip(axes[1:], (view.question, view.latents), ("question's vector", "mean latents"), strict=True)
    for axis, matrix, name in panels:
        image = axis.imshow(matrix, vmin=min(0.0, float(matrix.min())), vmax=1, origin="lower")
        ticks = range(0, len(view.after), max(1, len(view.after) // 6))
        axis.set_xticks(list(ticks), [str(view.after[i]) for i in ticks])
        axis.set_yticks(list(ticks), [str(view.after[i]) for i in ticks])
        axis.set(title=f"{name}: cosine between steps", xlabel="segments")
        figure.colorbar(image, ax=axis, shrink=0.7)
    _save(figure, path)


def plot_benchmark(card: Card, path: Path) -> None:
    """Plot how often any of the evidence is among the first ten, with its confidence interval, one panel per level.

    One more panel shows the reliability curve: the share of hits that hold evidence against their confidence.

    Args:
        card: The results of a benchmark.
        path: The file to write; PNG, or the format of the suffix.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    pyplot = _load_pyplot()
    panels = len(card.outcomes) + bool(card.reliability)
    figure, axes = pyplot.subplots(1, panels, figsize=(5.5 * panels, 4), squeeze=False)
    for axis, (level, outcomes) in zip(axes[0], card.outcomes.items(), strict=False):
        found = [outcome.overall["any@10"] for outcome in outcomes.values()]
        means = [estimate.mean for estimate in found]
        reach = [[e.mean - e.low for e in found], [e.high - e.mean for e in found]]
        places = range(len(found))
        axis.barh(places, means, xerr=reach, capsize=3)
        axis.set_yticks(places, list(outcomes))
        axis.invert_yaxis()
        axis.set(
            title=f"{card.name}: {level} level", xlabel="any of the evidence among the first ten, %", xlim=(0, 100)
        )
    if card.reliability:
        plot_reliability(axes[0][-1], card.reliability)
    _save(figure, path)


def plot_reliability(axis: Any, worth: Mapping[str, Reliability]) -> None:  # noqa: ANN401 - as above
    """Draw the reliability curve of each way, and the line on which confidence and share are equal."""
    for way, one in worth.items():
        axis.plot([part.confidence for part in one.curve], [part.share for part in one.curve], "o-", label=way)
    axis.plot((0, 1), (0, 1), ":", color="grey", label="as it should be")
    axis.set(title="reliability", xlabel="confidence of hits", ylabel="share with evidence", xlim=(0, 1), ylim=(0, 1))
    axis.legend()


def plot_topics(topics: Topics, path: Path) -> None:
    """Plot the size of each topic beside its words.

    Args:
        topics: What to plot.
        path: The file to write; PNG, or the format of the suffix.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    pyplot = _load_pyplot()
    figure, axis = pyplot.subplots(figsize=(10, 1 + 0.35 * max(1, len(topics))))
    names = [_shorten(", ".join(topic.words[:4]) or topic.name, 50).replace("$", r"\$") for topic in topics]
    bars = axis.barh(range(len(topics)), [topic.size for topic in topics])
    axis.set_yticks(range(len(topics)), names)
    axis.bar_label(bars)
    axis.invert_yaxis()
    axis.set(xlabel="entries", title=f"{len(topics)} topics of {topics.entries} entries")
    _save(figure, path)


def _load_pyplot() -> Any:  # noqa: ANN401 - matplotlib may not be installed
    """Return pyplot with a backend that needs no display."""
    try:
        import matplotlib
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot") from error
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:  # noqa: ANN401 - matplotlib may not be installed
    pyplot = _load_pyplot()
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise StorageError(f"{path} cannot be written: {error}") from error
    finally:
        pyplot.close(figure)


def _shorten(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
