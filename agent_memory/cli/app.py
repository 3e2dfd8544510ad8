"""The command line; the exit codes are listed under ``agent-memory --help``."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer

from agent_memory.cli.evaluation import app as eval_app
from agent_memory.cli.jobs import app as jobs_app
from agent_memory.cli.models import app as models_app
from agent_memory.cli.sessions import app as session_app
from agent_memory.cli.shared import (
    DEFAULT_PATH,
    ERR,
    OUT,
    EncoderOption,
    JsonOption,
    ModeOption,
    NamespaceOption,
    PathOption,
    SessionOption,
    SpeakerOption,
    WhereOption,
    facts,
    json_object,
    opened,
    print_json,
    progress_bar,
    say,
    shortened,
)
from agent_memory.cli.upkeep import app as care_app
from agent_memory.errors import AgentMemoryError, InvalidInputError, LockTimeoutError, NotFoundError
from agent_memory.integrations.mcp import command as mcp_command
from agent_memory.records import Entry

app = typer.Typer(
    name="agent-memory",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
    help="Long-term memory for AI agents: durable, offline, in one folder.",
    epilog="Exit codes: 0 done · 1 failed or damage found · 2 bad usage or input · 3 not found · 4 locked",
)
app.add_typer(care_app)
app.add_typer(eval_app)
app.add_typer(models_app, name="models")
app.add_typer(session_app, name="session")
app.add_typer(jobs_app, name="jobs")


def _version(wanted: bool) -> None:
    if wanted:
        OUT.print(version("agent-memory"))
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    pass


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
    with opened(path, namespace, encoder) as memory:
        entry = memory.add(
            sys.stdin.read() if text == "-" else text,
            session=session,
            speaker=speaker,
            key=key,
            metadata=json_object(metadata, "--metadata"),
            event_time=event_time,
            expires_at=expires_at,
            importance=importance,
        )
    note = f" (same text as {entry.duplicate_of})" if entry.duplicate_of else ""
    say(entry, as_json=as_json, text=f"remembered {entry.key}{note}")


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
    with opened(path, namespace, encoder) as memory:
        hits = memory.recall(
            query,
            k=k,
            session=session,
            speaker=speaker,
            where=json_object(where, "--where"),
            since=since,
            until=until,
            as_of=as_of,
            mode=mode,
            exact=exact,
            explain=explain,
        )
    if as_json:
        print_json(hits)
        return
    if not hits:
        ERR.print("nothing matches")
    for hit in hits:
        OUT.print(f"[bold]{hit.score:.3f}[/bold]  ", _origin(hit.entry), end="")
        OUT.print(shortened(hit.text), markup=False)
        if hit.trace:
            OUT.print("       ", json.dumps(hit.trace), markup=False)


def _origin(entry: Entry) -> str:
    parts = [entry.event_time.date().isoformat(), entry.session, entry.speaker]
    return "[dim]" + " · ".join(part.replace("[", r"\[") for part in parts if part) + "[/dim]  "


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
    with opened(path, namespace, encoder) as memory:
        with progress_bar("importing", quiet=as_json) as progress:
            new = memory.import_(file, progress=progress, source=source)
        stats = memory.stats()
    seconds = round(time.perf_counter() - started, 2)
    text = f"{new} new entries in {seconds} s; {stats.entries} entries in {stats.sessions} sessions"
    say({"new": new, "entries": stats.entries, "seconds": seconds}, as_json=as_json, text=text)


@app.command(epilog="Example: agent-memory export backup.jsonl")
def export(
    file: Annotated[Path, typer.Argument(help="The JSON Lines file to write.")],
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write all entries to one JSON Lines file."""
    with opened(path, namespace) as memory, progress_bar("exporting", quiet=as_json) as progress:
        written = memory.export(file, progress=progress)
    say({"entries": written, "file": str(file)}, as_json=as_json, text=f"{written} entries in {file}")


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
    with opened(path, namespace) as memory:
        if sessions:
            found: list[Any] = memory.sessions()
        else:
            filters = json_object(where, "--where")
            found = memory.entries(session=session, speaker=speaker, where=filters, limit=limit, offset=offset)
    if as_json:
        print_json(found)
        return
    for item in found:
        if isinstance(item, Entry):
            OUT.print(f"[bold]{item.key}[/bold]  ", _origin(item), end="")
            OUT.print(shortened(item.text, 120), markup=False)
        else:
            span = f"{item.first_event:%Y-%m-%d} – {item.last_event:%Y-%m-%d}"
            OUT.print(f"{item.name}  {item.entries} entries  {span}", markup=False)


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
    with opened(path, namespace) as memory:
        filters = json_object(where, "--where")
        count = memory.forget(key, where=filters, session=session, everything=everything)
    if key is not None and count == 0:
        raise NotFoundError(f"no entry with key {key!r}")
    say({"forgotten": count}, as_json=as_json, text=f"forgot {count}")


@app.command(epilog="Example: agent-memory stats --json")
def stats(path: PathOption = DEFAULT_PATH, namespace: NamespaceOption = "", as_json: JsonOption = False) -> None:
    """Show counts, the encoder and sizes on disk."""
    with opened(path, namespace) as memory:
        found = memory.stats()
    if as_json:
        print_json(found)
    else:
        facts({name: value for name, value in asdict(found).items() if name != "index" or value})


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
    with opened(path, namespace) as memory:
        filters = json_object(where, "--where")
        trace = memory.why(query, key, k=k, session=session, where=filters, mode=mode)
    if as_json:
        print_json(trace)
        return
    OUT.print(f"{trace.stage}: {trace.reason}", markup=False)
    if trace.margin is not None:
        OUT.print(f"it missed by {trace.margin:.3f}")
    if trace.detail:
        facts(trace.detail)


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
    ERR.print(f"error: {message}", markup=False)
    sys.exit(code)


if __name__ == "__main__":
    main()
