"""``agent-memory eval`` and ``agent-memory demo``."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_memory.cli.shared import (
    OUT,
    EncoderOption,
    JsonOption,
    moment,
    open_store,
    print_json,
    print_line,
    print_table,
    progress_bar,
    shorten,
)
from agent_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from agent_memory.evaluation.benchmark import Card
    from agent_memory.evaluation.datasets import Evaluation
    from agent_memory.memory import Memory

_RECALLS = ("recall@1", "recall@5", "recall@10", "recall@20")

_Compare = Annotated[
    bool, typer.Option("--compare", help="Words alone, meaning alone, both, and both with the session.")
]
_Mode = Annotated[str, typer.Option(help="hybrid, dense or lexical; +session behind it for evolved vectors.")]
_Vectors = Annotated[
    bool, typer.Option(help="Static, averaged and evolved vectors by themselves, at each tier's dimension.")
]
_Rerank = Annotated[
    bool, typer.Option("--rerank", help="Also with what was found read again by the embedded cross-encoder.")
]
_Ablate = Annotated[bool, typer.Option("--ablate", help="Hybrid recall in the session without each part of its score.")]
_Format = Annotated[
    str | None, typer.Option("--format", help="Published files: locomo, realtalk, longmemeval or beir (a folder).")
]
_Peers = Annotated[
    bool, typer.Option("--peers", help="With --format: also BM25, plain MiniLM, a moving average, Chroma.")
]
_Card = Annotated[
    Path | None, typer.Option(help="With --format: folder of the card; the file's name with -card if not given.")
]

app = typer.Typer()


@app.command("eval", epilog="Example: agent-memory eval data/dev/* --compare --cache ./eval-cache")
def eval_(
    folders: Annotated[list[Path], typer.Argument(help="Data sets; with --format, published files.")],
    compare: _Compare = False,
    mode: _Mode = "hybrid+session",
    vectors: _Vectors = True,
    rerank: _Rerank = False,
    ablate: _Ablate = False,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison of vectors to this file (PNG).")] = None,
    categories: Annotated[bool, typer.Option("--categories", help="Recall@10 of each category of questions.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Keep encoded data here between runs.")] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum number of questions of each set.")] = None,
    encoder: EncoderOption = None,
    published: _Format = None,
    peers: _Peers = False,
    card: _Card = None,
    as_json: JsonOption = False,
) -> None:
    """Measure retrieval quality and latency on labelled data."""
    if published is not None:
        if ablate:
            raise InvalidInputError("--ablate is for data sets, and --format for published files: give one of them")
        modes = ["hybrid", "dense", "lexical"] if compare else [mode.removesuffix("+session")]
        modes += [f"{modes[0]}+rerank"] if rerank else []
        _run_benchmarks(folders, published, modes, encoder, peers, card, limit, as_json)
        return
    if peers or card is not None:
        raise InvalidInputError("--peers and --card need --format: they are for published files")
    from agent_memory.evaluation.datasets import evaluate
    from agent_memory.evaluation.plots import plot_vectors

    modes = ["lexical", "dense", "hybrid", "hybrid+session"] if compare else [mode]
    modes += [f"{modes[-1]}+rerank"] if rerank else []
    results = []
    with tempfile.TemporaryDirectory() as scratch, progress_bar("evaluating", quiet=as_json) as progress:
        for folder in folders:
            results.append(
                evaluate(
                    folder,
                    modes=modes,
                    cache=cache or Path(scratch),
                    encoder=encoder,
                    vectors=vectors or plot is not None,
                    ablate=ablate,
                    limit=limit,
                    progress=lambda _, done, total: progress(done, total),
                )
            )
    if plot is not None:
        plot_vectors(results, plot)
    if as_json:
        print_json(results)
        return
    for result in results:
        _print_evaluation(result, categories)


def _run_benchmarks(
    paths: list[Path],
    published: str,
    modes: list[str],
    encoder: str | None,
    peers: bool,
    folder: Path | None,
    limit: int | None,
    as_json: bool,
) -> None:
    from agent_memory.evaluation.benchmark import run_benchmark
    from agent_memory.evaluation.card import write_card
    from agent_memory.evaluation.published import read_benchmark

    if folder is not None and len(paths) > 1:
        raise InvalidInputError(f"--card names one folder, but there are {len(paths)} files")
    cards = []
    names: Counter[str] = Counter()
    for path in paths:
        names[path.stem] += 1
        name = path.stem if names[path.stem] == 1 else f"{path.stem}-{names[path.stem]}"
        benchmark = read_benchmark(published, path, limit=limit)
        with progress_bar("evaluating", quiet=as_json) as progress:
            result = run_benchmark(
                benchmark,
                modes=modes,
                encoder=encoder,
                peers=peers,
                progress=lambda _, done, total: progress(done, total),
            )
        written = write_card(result, folder or Path(f"{name}-card"))
        cards.append(result)
        if not as_json:
            _print_benchmark(result, written)
    if as_json:
        print_json(cards)


def _print_benchmark(card: Card, written: list[Path]) -> None:
    from rich.table import Table

    from agent_memory.evaluation.card import SHOWN

    for level, outcomes in card.outcomes.items():
        count = next(iter(outcomes.values())).questions
        table = Table("", *SHOWN, title=f"{card.name}: by {level}, {count} questions, encoder {card.encoder}")
        for way, outcome in outcomes.items():
            table.add_row(way, *(f"{outcome.overall[name].mean:.1f}" for name in SHOWN))
        print_table(table)
    for what, count in card.notes.items():
        OUT.print(f"{what}: {count}")
    for way, why in card.missing.items():
        OUT.print(f"{way}: {why}")
    OUT.print(f"written: {', '.join(map(str, written))}")


def _print_evaluation(result: Evaluation, categories: bool) -> None:
    rows = [(name, "", score) for name, score in result.scores.items()]
    rows += [(way, str(d), score) for way, found in result.vectors.items() for d, score in found.items()]
    rows += [(name, "", score) for name, score in result.ablation.items()]
    title = f"{result.name}: {result.entries} entries, {rows[0][2].queries} questions"
    from rich.table import Table

    table = Table("", "dim", "R@1", "R@5", "R@10", "R@20", "nDCG@10", "macro R@10", "p50 ms", "p95 ms", title=title)
    for name, dimension, score in rows:
        figures = [f"{score.micro[column]:.1f}" for column in (*_RECALLS, "nDCG@10")]
        times = ["" if ms is None else f"{ms:.1f}" for ms in (score.p50_ms, score.p95_ms)]
        table.add_row(name, dimension, *figures, f"{score.macro['recall@10']:.1f}", *times)
    print_table(table)
    if categories:
        names = [f"{name} {dimension}".strip() for name, dimension, _ in rows]
        by_category = Table("recall@10", *names)
        for category in rows[0][2].categories:
            by_category.add_row(category, *(f"{score.categories[category]['recall@10']:.1f}" for _, _, score in rows))
        print_table(by_category)
    OUT.print(f"latency without encoding the query, which adds {result.encode_p50_ms:.1f} ms")


@app.command(epilog="Example: agent-memory demo")
def demo(
    path: Annotated[
        str | None, typer.Option("--path", "-p", metavar="FOLDER", help="Keep the store in this folder.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Remember a conversation of five months and ask about what changed in it."""
    with as_file(files("agent_memory.demo")) as data, tempfile.TemporaryDirectory() as scratch:
        questions = [json.loads(line) for line in (data / "queries.jsonl").read_text("utf-8").splitlines()]
        with open_store(path or scratch, create=True) as memory:
            with progress_bar("remembering", quiet=as_json) as progress:
                memory.import_(data / "conversation.jsonl", assume_now=True, progress=progress)
            answers = [_answer(memory, question) for question in questions]
    if as_json:
        print_json(answers)
        return
    for answer in answers:
        if answer["category"] == "changed":
            mark = ("✓", "green") if answer["rank"] == 1 else ("·", "yellow")
            print_line(mark, " ", (answer["query"], "bold"), f"  → {answer['answer']}")
            OUT.print(f"    {moment(answer['event_time'])}  {shorten(answer['first'], 150)}")
    changed = [answer for answer in answers if answer["category"] == "changed"]
    first = sum(answer["rank"] == 1 for answer in changed)
    found = sum(answer["rank"] is not None for answer in answers)
    OUT.print(f"latest value ranked first: {first} of {len(changed)} facts that changed")
    OUT.print(f"evidence among the first five: {found} of {len(answers)} questions")


def _answer(memory: Memory, question: dict[str, Any]) -> dict[str, Any]:
    hits = memory.recall(question["query"], k=5, session=question["conv_id"])
    ranks = [hit.rank for hit in hits if hit.entry.metadata["idx"] in question["evidence"]]
    kept = {name: question[name] for name in ("query", "category", "answer")}
    best = hits[0].entry
    return kept | {"rank": min(ranks, default=None), "event_time": best.event_time, "first": best.text}
