"""The command line; the exit codes are listed under ``agent-memory --help``."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from importlib.metadata import version
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from agent_memory.cli_jobs import app as jobs_app
from agent_memory.cli_models import app as models_app
from agent_memory.cli_session import app as session_app
from agent_memory.errors import AgentMemoryError, InvalidInputError, LockTimeoutError, NotFoundError
from agent_memory.integrations.mcp import command as mcp_command
from agent_memory.memory import Memory
from agent_memory.records import Entry, Hit

if TYPE_CHECKING:
    from agent_memory.evaluate import Evaluation

app = typer.Typer(
    name="agent-memory",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    help="Long-term memory for AI agents: durable, offline, in one folder.",
    epilog="Exit codes: 0 done · 1 failed or damage found · 2 bad usage or input · 3 not found · 4 locked",
)
_WIDE = None if sys.stdout.isatty() else 150  # columns, where there is no terminal to ask
app.add_typer(models_app, name="models")
app.add_typer(session_app, name="session")
app.add_typer(jobs_app, name="jobs")
_out = Console(highlight=False, width=_WIDE)
_err = Console(stderr=True, highlight=False)

PathOption = Annotated[Path, typer.Option("--path", "-p", envvar="AGENT_MEMORY_PATH", help="Folder of the store.")]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Scope, its parts separated by slashes: acme/user-42.")
]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", "-e", help="Encoder of a new store; a store remembers its own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
WhereOption = Annotated[
    str | None, typer.Option("--where", "-w", help="""Metadata filter as JSON: '{"year": {"$gte": 2024}}'.""")
]
SessionOption = Annotated[str | None, typer.Option("--session", "-s", help="The conversation.")]
SpeakerOption = Annotated[str | None, typer.Option("--speaker", help="Who said it.")]
ModeOption = Annotated[str, typer.Option(help="hybrid, dense (meaning) or lexical (words).")]
_RECALLS = ("recall@1", "recall@5", "recall@10", "recall@20")
DEFAULT_PATH = Path("~/.agent-memory")


def _version(wanted: bool) -> None:
    if wanted:
        _out.print(version("agent-memory"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


@contextmanager
def _opened(path: Path, namespace: str = "", encoder: str | None = None) -> Iterator[Memory]:
    parts = tuple(namespace.split("/")) if namespace else ()
    with Memory(path, encoder=encoder, namespace=parts) as memory:
        yield memory


@contextmanager
def _progress(label: str, *, quiet: bool) -> Iterator[Any]:
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=quiet) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _json_object(text: str | None, option: str) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{option} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise InvalidInputError(f"{option} must be a JSON object")
    return value


def _plain(value: object) -> object:
    if isinstance(value, Hit):
        # The entry's fields beside the hit's own: one flat object a hit.
        return {"rank": value.rank, "score": value.score, **asdict(value.entry)} | (
            {"trace": value.trace} if value.trace else {}
        )
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _print_json(value: object) -> None:
    sys.stdout.write(json.dumps(value, default=_plain, ensure_ascii=False, indent=2) + "\n")


def _facts(facts: Mapping[str, object]) -> None:
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, str(value))
    _out.print(table)


def _say(value: object, *, as_json: bool, text: str) -> None:
    if as_json:
        _print_json(value)
    else:
        _out.print(text, markup=False)


@app.command(epilog='Example: agent-memory add "Alice moved to Berlin." -s chat-7 --speaker alice')
def add(
    text: Annotated[str, typer.Argument(help="What to remember; - reads standard input.")],
    path: PathOption = DEFAULT_PATH,
    session: SessionOption = None,
    speaker: SpeakerOption = None,
    key: Annotated[str | None, typer.Option(help="Your own key; an existing one is replaced.")] = None,
    metadata: Annotated[str | None, typer.Option("--metadata", "-m", help="JSON object.")] = None,
    event_time: Annotated[str | None, typer.Option(help="When it happened, ISO 8601.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="When to stop returning it, ISO 8601.")] = None,
    importance: Annotated[float | None, typer.Option(help="From 0 to 1.")] = None,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Remember a text."""
    with _opened(path, namespace, encoder) as memory:
        entry = memory.add(
            sys.stdin.read() if text == "-" else text,
            session=session,
            speaker=speaker,
            key=key,
            metadata=_json_object(metadata, "--metadata"),
            event_time=event_time,
            expires_at=expires_at,
            importance=importance,
        )
    note = f" (same text as {entry.duplicate_of})" if entry.duplicate_of else ""
    _say(entry, as_json=as_json, text=f"remembered {entry.key}{note}")


@app.command(epilog='Example: agent-memory recall "Where does Alice live?" -k 3')
def recall(
    query: Annotated[str, typer.Argument(help="A question or statement.")],
    path: PathOption = DEFAULT_PATH,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 5,
    session: SessionOption = None,
    speaker: SpeakerOption = None,
    where: WhereOption = None,
    since: Annotated[str | None, typer.Option(help="Earliest event time, ISO 8601.")] = None,
    until: Annotated[str | None, typer.Option(help="Latest event time, ISO 8601.")] = None,
    as_of: Annotated[str | None, typer.Option(help="Read the store as it was then, ISO 8601.")] = None,
    mode: ModeOption = "hybrid",
    exact: Annotated[bool, typer.Option("--exact", help="Compare with every entry.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each tier thought.")] = False,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the entries closest in meaning to a query."""
    with _opened(path, namespace, encoder) as memory:
        hits = memory.recall(
            query,
            k=k,
            session=session,
            speaker=speaker,
            where=_json_object(where, "--where"),
            since=since,
            until=until,
            as_of=as_of,
            mode=mode,
            exact=exact,
            explain=explain,
        )
    if as_json:
        _print_json(hits)
        return
    if not hits:
        _err.print("nothing matches")
    for hit in hits:
        _out.print(f"[bold]{hit.score:.3f}[/bold]  ", _origin(hit.entry), end="")
        _out.print(_shortened(hit.text), markup=False)
        if hit.trace:
            _out.print("       ", json.dumps(hit.trace), markup=False)


def _origin(entry: Entry) -> str:
    parts = [entry.event_time.date().isoformat(), entry.session, entry.speaker]
    return "[dim]" + " · ".join(part.replace("[", r"\[") for part in parts if part) + "[/dim]  "


def _shortened(text: str, most: int = 300) -> str:
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


@app.command("import", epilog="Example: agent-memory import conversations.jsonl -p ./my-agent")
def import_(
    file: Annotated[Path, typer.Argument(help="An export or conversations as JSON Lines, or another store's file.")],
    path: PathOption = DEFAULT_PATH,
    source: Annotated[
        str | None, typer.Option("--from", help="Whose store: mem0 (history.db), chroma or langgraph (SqliteStore).")
    ] = None,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a file into the store; what is already there is left alone."""
    started = time.perf_counter()
    with _opened(path, namespace, encoder) as memory:
        with _progress("importing", quiet=as_json) as progress:
            new = memory.import_(file, progress=progress, source=source)
        stats = memory.stats()
    seconds = round(time.perf_counter() - started, 2)
    text = f"{new} new entries in {seconds} s; {stats.entries} entries in {stats.sessions} sessions"
    _say({"new": new, "entries": stats.entries, "seconds": seconds}, as_json=as_json, text=text)


@app.command(epilog="Example: agent-memory export backup.jsonl")
def export(
    file: Annotated[Path, typer.Argument(help="The JSON Lines file to write.")],
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write all entries to one JSON Lines file."""
    with _opened(path, namespace) as memory, _progress("exporting", quiet=as_json) as progress:
        written = memory.export(file, progress=progress)
    _say({"entries": written, "file": str(file)}, as_json=as_json, text=f"{written} entries in {file}")


@app.command("list", epilog="Example: agent-memory list -s chat-7 --limit 20")
def list_(
    path: PathOption = DEFAULT_PATH,
    session: SessionOption = None,
    speaker: SpeakerOption = None,
    where: WhereOption = None,
    sessions: Annotated[bool, typer.Option("--sessions", help="List sessions instead of entries.")] = False,
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    offset: Annotated[int, typer.Option(help="Skip the first so many.")] = 0,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """List entries in the order they were added, or sessions."""
    with _opened(path, namespace) as memory:
        if sessions:
            found: list[Any] = memory.sessions()
        else:
            filters = _json_object(where, "--where")
            found = memory.entries(session=session, speaker=speaker, where=filters, limit=limit, offset=offset)
    if as_json:
        _print_json(found)
        return
    for item in found:
        if isinstance(item, Entry):
            _out.print(f"[bold]{item.key}[/bold]  ", _origin(item), end="")
            _out.print(_shortened(item.text, 120), markup=False)
        else:
            span = f"{item.first_event:%Y-%m-%d} – {item.last_event:%Y-%m-%d}"
            _out.print(f"{item.name}  {item.entries} entries  {span}", markup=False)


@app.command(epilog="Example: agent-memory forget --session chat-7")
def forget(
    key: Annotated[str | None, typer.Argument(help="Key of one entry.")] = None,
    path: PathOption = DEFAULT_PATH,
    where: WhereOption = None,
    session: SessionOption = None,
    everything: Annotated[bool, typer.Option("--everything", help="All entries of the namespace.")] = False,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Delete entries for good."""
    with _opened(path, namespace) as memory:
        filters = _json_object(where, "--where")
        count = memory.forget(key, where=filters, session=session, everything=everything)
    if key is not None and count == 0:
        raise NotFoundError(f"no entry with key {key!r}")
    _say({"forgotten": count}, as_json=as_json, text=f"forgot {count}")


@app.command(epilog="Example: agent-memory stats --json")
def stats(path: PathOption = DEFAULT_PATH, namespace: NamespaceOption = "", as_json: JsonOption = False) -> None:
    """Show counts, the encoder and sizes on disk."""
    with _opened(path, namespace) as memory:
        facts = memory.stats()
    if as_json:
        _print_json(facts)
    else:
        _facts({name: value for name, value in asdict(facts).items() if name != "index" or value})


@app.command(epilog="Example: agent-memory check --repair")
def check(
    path: PathOption = DEFAULT_PATH,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for damage; exit code 1 if any is left."""
    with _opened(path) as memory:
        report = memory.check(repair=repair)
    if as_json:
        _print_json(asdict(report) | {"ok": report.ok})
    else:
        for problem in report.problems:
            _out.print(("repaired: " if problem in report.repaired else "") + problem, markup=False)
        _out.print(f"{report.entries} entries, {'sound' if report.ok else 'damaged'}")
    if not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: agent-memory reindex --to mpnet --dry-run")
def reindex(
    path: PathOption = DEFAULT_PATH,
    to: Annotated[str | None, typer.Option("--to", help="The new encoder; the present one if left out.")] = None,
    tiers: Annotated[str | None, typer.Option(help="New tiers: 64,256,768.")] = None,
    rotation: Annotated[str | None, typer.Option(help="fit: the first dimensions tell most.")] = None,
    sessions: Annotated[
        str, typer.Option(help="Session encoder: compact, none, or auto to keep it or take what fits a new encoder.")
    ] = "auto",
    max_cpu: Annotated[float, typer.Option(help="Share of the time it may take, up to 1.")] = 1.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Try it on a sample and say what it costs.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Move the store to another encoder or layout while it is in use; run it again if it was killed."""
    try:
        wanted = None if tiers is None else [int(tier) for tier in tiers.split(",")]
    except ValueError as error:
        raise InvalidInputError(f"--tiers takes dimensions such as 64,256,768, got {tiers!r}") from error
    with _opened(path) as memory, _progress("re-indexing", quiet=as_json) as progress:
        report = memory.reindex(
            encoder=to,
            session_encoder=None if sessions == "none" else sessions,
            tiers=wanted,
            rotation=rotation,
            max_cpu=max_cpu,
            dry_run=dry_run,
            progress=progress,
        )
    text = f"{report.state}: {report.entries} entries by {report.source}, {report.encoded} texts encoded"
    text += f", {report.seconds:.1f} s, {report.added_bytes / 1e6:.1f} MB more until the former one is collected"
    _say(report, as_json=as_json, text=text)


@app.command(epilog="Example: agent-memory rollback")
def rollback(path: PathOption = DEFAULT_PATH, encoder: EncoderOption = None, as_json: JsonOption = False) -> None:
    """Return to the generation before the last re-index, brought up to date."""
    with _opened(path) as memory:
        report = memory.rollback(encoder=encoder)
    _say(report, as_json=as_json, text=f"{report.state}: generation {report.generation} is live")


@app.command(epilog="Example: agent-memory maintenance --run")
def maintenance(
    path: PathOption = DEFAULT_PATH,
    run: Annotated[bool, typer.Option("--run", help="Do it, instead of only saying what is needed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what the store needs and about how long it takes, or do it."""
    with _opened(path) as memory:
        report = memory.maintenance(dry_run=not run)
    if as_json:
        _print_json(report)
        return
    _facts(report.findings)
    for action in report.actions:
        _out.print(f"{action.name}: {action.reason} ({action.seconds:.1f} s) {action.result}", markup=False)
    if not report.actions:
        _out.print("nothing to do")


@app.command(epilog="Example: agent-memory backup ./backups/monday.db")
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    path: PathOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Copy the store to one verified file while it is in use."""
    with _opened(path) as memory, _progress("copying", quiet=as_json) as progress:
        entries = memory.backup(file, progress=progress)
    _say({"entries": entries, "file": str(file)}, as_json=as_json, text=f"{entries} entries in {file}")


@app.command(epilog="Example: agent-memory restore ./backups/monday.db -p ./my-agent --replace")
def restore(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")],
    path: PathOption = DEFAULT_PATH,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of the store that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a store of a backup."""
    entries = Memory.restore(file, path, replace=replace)
    _say({"entries": entries, "path": str(path)}, as_json=as_json, text=f"{entries} entries in {path}")


@app.command(epilog='Example: agent-memory why "Where does Alice live?" 3f2a…')
def why(
    query: Annotated[str, typer.Argument(help="A question or statement.")],
    key: Annotated[str, typer.Argument(help="Key of the entry.")],
    path: PathOption = DEFAULT_PATH,
    k: Annotated[int, typer.Option("-k", help="How many hits.")] = 5,
    session: SessionOption = None,
    where: WhereOption = None,
    mode: ModeOption = "hybrid",
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say why an entry is, or is not, among the hits of a query."""
    with _opened(path, namespace) as memory:
        filters = _json_object(where, "--where")
        trace = memory.why(query, key, k=k, session=session, where=filters, mode=mode)
    if as_json:
        _print_json(trace)
        return
    _out.print(f"{trace.stage}: {trace.reason}", markup=False)
    if trace.margin is not None:
        _out.print(f"it missed by {trace.margin:.3f}")
    if trace.detail:
        _facts(trace.detail)


@app.command("eval", epilog="Example: agent-memory eval data/dev/* --compare --cache ./eval-cache")
def eval_(
    folders: Annotated[list[Path], typer.Argument(help="Data sets: queries with conversations or passages.")],
    compare: Annotated[
        bool, typer.Option("--compare", help="Words alone, meaning alone, both, and both with the session.")
    ] = False,
    mode: Annotated[
        str, typer.Option(help="hybrid, dense or lexical; +session behind it for evolved vectors.")
    ] = "hybrid+session",
    vectors: Annotated[
        bool, typer.Option(help="Static, averaged and evolved vectors by themselves, at each tier's dimension.")
    ] = True,
    plot: Annotated[Path | None, typer.Option(help="Draw the comparison of vectors to this file (PNG).")] = None,
    categories: Annotated[bool, typer.Option("--categories", help="Recall@10 of each category of questions.")] = False,
    cache: Annotated[Path | None, typer.Option(help="Keep encoded data here between runs.")] = None,
    limit: Annotated[int | None, typer.Option(help="At most so many questions a set.")] = None,
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure retrieval quality and latency on labelled data."""
    from agent_memory.evaluate import evaluate, plot_vectors

    modes = ["lexical", "dense", "hybrid", "hybrid+session"] if compare else [mode]
    results = []
    with tempfile.TemporaryDirectory() as scratch, _progress("evaluating", quiet=as_json) as progress:
        for folder in folders:
            results.append(
                evaluate(
                    folder,
                    modes=modes,
                    cache=cache or Path(scratch),
                    encoder=encoder,
                    vectors=vectors or plot is not None,
                    limit=limit,
                    progress=lambda _, done, total: progress(done, total),
                )
            )
    if plot is not None:
        plot_vectors(results, plot)
    if as_json:
        _print_json(results)
        return
    for result in results:
        _print_evaluation(result, categories)


def _print_evaluation(result: Evaluation, categories: bool) -> None:
    rows = [(name, "", score) for name, score in result.scores.items()]
    rows += [(way, str(d), score) for way, found in result.vectors.items() for d, score in found.items()]
    title = f"{result.name}: {result.entries} entries, {rows[0][2].queries} questions"
    table = Table("", "dim", "R@1", "R@5", "R@10", "R@20", "nDCG@10", "macro R@10", "p50 ms", "p95 ms", title=title)
    for name, dimension, score in rows:
        figures = [f"{score.micro[column]:.1f}" for column in (*_RECALLS, "nDCG@10")]
        times = ["" if ms is None else f"{ms:.1f}" for ms in (score.p50_ms, score.p95_ms)]
        table.add_row(name, dimension, *figures, f"{score.macro['recall@10']:.1f}", *times)
    _out.print(table)
    if categories:
        names = [f"{name} {dimension}".strip() for name, dimension, _ in rows]
        by_category = Table("recall@10", *names)
        for category in rows[0][2].categories:
            by_category.add_row(category, *(f"{score.categories[category]['recall@10']:.1f}" for _, _, score in rows))
        _out.print(by_category)
    _out.print(f"latency without encoding the query, which adds {result.encode_p50_ms:.1f} ms")


@app.command(epilog="Example: agent-memory demo")
def demo(
    path: Annotated[Path | None, typer.Option("--path", "-p", help="Keep the store in this folder.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Remember a conversation of five months and ask about what changed in it."""
    with as_file(files("agent_memory.demo")) as data, tempfile.TemporaryDirectory() as scratch:
        questions = [json.loads(line) for line in (data / "queries.jsonl").read_text("utf-8").splitlines()]
        with _opened(path or Path(scratch)) as memory:
            with _progress("remembering", quiet=as_json) as progress:
                memory.import_(data / "conversation.jsonl", progress=progress)
            answers = [_answer(memory, question) for question in questions]
    if as_json:
        _print_json(answers)
        return
    for answer in answers:
        if answer["category"] == "changed":
            mark = "[green]✓[/green]" if answer["rank"] == 1 else "[yellow]·[/yellow]"
            _out.print(f"{mark} [bold]{answer['query']}[/bold]  → {answer['answer']}")
            _out.print(f"    {answer['date']}  {_shortened(answer['first'], 150)}", markup=False)
    changed = [answer for answer in answers if answer["category"] == "changed"]
    first = sum(answer["rank"] == 1 for answer in changed)
    found = sum(answer["rank"] is not None for answer in answers)
    _out.print(f"latest value ranked first: {first} of {len(changed)} facts that changed")
    _out.print(f"evidence among the first five: {found} of {len(answers)} questions")


def _answer(memory: Memory, question: dict[str, Any]) -> dict[str, Any]:
    hits = memory.recall(question["query"], k=5, session=memory.sessions()[0].name)
    ranks = [hit.rank for hit in hits if hit.entry.metadata["idx"] in question["evidence"]]
    kept = {name: question[name] for name in ("query", "category", "answer")}
    date = hits[0].entry.event_time.date().isoformat()
    return kept | {"rank": min(ranks, default=None), "date": date, "first": hits[0].text}


app.command("mcp", epilog="Example: agent-memory mcp --path ./my-agent")(mcp_command)


def main() -> None:
    """Run the command line; errors of this package become one line and an exit code."""
    try:
        app()
    except InvalidInputError as error:
        code, message = 2, str(error)
    except NotFoundError as error:
        code, message = 3, str(error)
    except LockTimeoutError as error:
        code, message = 4, str(error)
    except AgentMemoryError as error:
        code, message = 1, str(error)
    else:
        return
    _err.print(f"error: {message}", markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
