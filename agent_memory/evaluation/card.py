"""Writes the results of a benchmark: a page to read, the figures for programs, and a plot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from agent_memory.errors import MissingDependencyError
from agent_memory.evaluation.benchmark import Card, Outcome
from agent_memory.evaluation.plots import plot_benchmark
from agent_memory.evaluation.ranking import Estimate
from agent_memory.evaluation.reliability import Reliability
from agent_memory.files import SHARED, make_folder, write_bytes

SHOWN = ("any@1", "any@5", "any@10", "all@5", "all@10", "MRR", "NDCG@10")
"""Measures in the tables of the page; the figures for programs have all of them."""


def write_card(card: Card, folder: Path) -> list[Path]:
    """Write ``card.md``, ``card.json`` and, if matplotlib is installed, ``card.png``.

    Args:
        card: The results.
        folder: Where to write; it is made if it is missing, and its former card is replaced.

    Returns:
        The files.

    Raises:
        StorageError: A file cannot be written.
    """
    make_folder(folder)
    page, figures, plot = (folder / f"card.{kind}" for kind in ("md", "json", "png"))
    written = [page, figures]
    try:
        plot_benchmark(card, plot)
        written.append(plot)
    except MissingDependencyError as error:
        card.missing["plot"] = str(error)
    write_bytes(page, (format_card(card, plot.name if plot in written else None) + "\n").encode(), mode=SHARED)
    write_bytes(figures, (json.dumps(asdict(card), indent=1, ensure_ascii=False) + "\n").encode(), mode=SHARED)
    return written


def format_card(card: Card, plot: str | None = None) -> str:
    """Return the page, in Markdown.

    Args:
        card: The results.
        plot: Address of the plot, as it is seen from the page.
    """
    lines = [
        f"# {card.name} ({card.format})",
        "",
        f"{card.questions:,} questions with evidence over {card.turns:,} turns in {card.haystacks:,} haystacks, each "
        f"searched alone; encoder `{card.encoder}`. Percent, with the 95 % confidence interval of 1,000 bootstrap "
        "samples over the questions. *any@k*: any of the evidence among the first k; *all@k*: all of it. *any@1* is "
        "hit@1. Ways marked *dated* have the benchmark's times as event times; the others have none. A session ranks "
        "where the first of its turns does.",
        "",
    ]
    if plot is not None:
        lines += [f"![any of the evidence among the first ten]({plot})", ""]
    for level, outcomes in card.outcomes.items():
        lines += [f"## By {level}", "", *_format_table(outcomes), ""]
        lines += [f"any@10 of each category of questions, by {level}:", "", *_format_categories(outcomes), ""]
    lines += list(_format_reliability(card.reliability))
    if card.recall_ms:
        taken = ", ".join(f"{way} {ms:.0f} ms" for way, ms in card.recall_ms.items())
        lines += [f"Median time of a recall, the encoding of the question included: {taken}.", ""]
    if card.notes or card.missing:
        lines += ["## Left out", ""]
        lines += [f"* {what}: {count:,}" for what, count in card.notes.items()]
        lines += [f"* {way}: {why}" for way, why in card.missing.items()]
    return "\n".join(lines).rstrip()


def _format_reliability(worth: Mapping[str, Reliability]) -> Iterator[str]:
    """Yield the lines about what confidences are worth; none if no way had any."""
    if not worth:
        return
    yield from ("## Confidence", "")
    yield (
        "*ECE*: how far the confidence of the first five hits and the share of them that holds evidence are apart. "
        "*lost*: questions with evidence of which `Hits.evidence` said *none*. *found out*: questions without evidence "
        "of which it said so. *precision*: share of the questions of which it said so that have none. Percent."
    )
    yield ""
    yield from _format_row("way", "hits", "ECE", "with evidence", "lost", "without", "found out", "precision")
    yield from _format_row(*["---"] * 8)
    for way, one in worth.items():
        lost, found_out, precision = map(_format_share, (one.lost, one.found_out, one.precision))
        counts = [f"{one.hits:,}", f"{one.error:.3f}", f"{one.answerable:,}", lost, f"{one.unanswerable:,}"]
        yield from _format_row(way, *counts, found_out, precision)
    yield ""


def _format_share(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f}"


def _format_table(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    yield from _format_row("way", "questions", *SHOWN)
    yield from _format_row(*["---"] * (len(SHOWN) + 2))
    for way, outcome in outcomes.items():
        figures = [_format_estimate(outcome.overall[name]) for name in SHOWN]
        yield from _format_row(way, f"{outcome.questions:,}", *figures)


def _format_categories(outcomes: Mapping[str, Outcome]) -> Iterator[str]:
    names = list(next(iter(outcomes.values())).categories)
    yield from _format_row("way", *(_escape(name) for name in names))
    yield from _format_row(*["---"] * (len(names) + 1))
    for way, outcome in outcomes.items():
        yield from _format_row(way, *(_format_estimate(outcome.categories[name]["any@10"]) for name in names))


def _format_row(*cells: str) -> Iterator[str]:
    yield f"| {' | '.join(cells)} |"


def _format_estimate(estimate: Estimate) -> str:
    return f"{estimate.mean:.1f} ({estimate.low:.1f}–{estimate.high:.1f})"


def _escape(name: str) -> str:
    """Return a name of the file as text of a cell, whatever it holds."""
    return " ".join(name.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
