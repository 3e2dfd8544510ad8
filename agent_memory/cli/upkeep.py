"""Commands that look after a store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from agent_memory.cli.shared import (
    DEFAULT_PATH,
    OUT,
    EncoderOption,
    JsonOption,
    NamespaceOption,
    PathOption,
    facts,
    opened,
    print_json,
    progress_bar,
    say,
)
from agent_memory.errors import InvalidInputError
from agent_memory.memory import Memory
from agent_memory.reports import Replay, ReplaySource

app = typer.Typer()
queries = typer.Typer(no_args_is_help=True, help="The query log (Config.query_log): delete it.")
app.add_typer(queries, name="queries")


@app.command(epilog="Example: agent-memory check --repair")
def check(
    path: PathOption = DEFAULT_PATH,
    repair: Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for damage; exit code 1 if any is left."""
    with opened(path) as memory:
        report = memory.check(repair=repair)
    if as_json:
        print_json(asdict(report) | {"ok": report.ok})
    else:
        for problem in report.problems:
            OUT.print(("repaired: " if problem in report.repaired else "") + problem, markup=False)
        OUT.print(f"{report.entries} entries, {'sound' if report.ok else 'damaged'}")
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
    with opened(path) as memory, progress_bar("re-indexing", quiet=as_json) as progress:
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
    if report.replay is not None:
        text += "\n" + _replayed(report.replay)
    say(report, as_json=as_json, text=text)


@app.command(epilog="Example: agent-memory rollback")
def rollback(path: PathOption = DEFAULT_PATH, encoder: EncoderOption = None, as_json: JsonOption = False) -> None:
    """Return to the generation before the last re-index, brought up to date."""
    with opened(path) as memory:
        report = memory.rollback(encoder=encoder)
    say(report, as_json=as_json, text=f"{report.state}: generation {report.generation} is live")


@app.command(epilog="Example: agent-memory maintenance --run")
def maintenance(
    path: PathOption = DEFAULT_PATH,
    run: Annotated[bool, typer.Option("--run", help="Do it, instead of only saying what is needed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what the store needs and about how long it takes, or do it."""
    with opened(path) as memory:
        report = memory.maintenance(dry_run=not run)
    if as_json:
        print_json(report)
        return
    facts(report.findings)
    if report.replay is not None:
        OUT.print(_replayed(report.replay), markup=False)
    for action in report.actions:
        freed = f", frees {action.freed_bytes / 1e6:.1f} MB" if action.freed_bytes > 0 else ""
        OUT.print(f"{action.name}: {action.reason} ({action.seconds:.1f} s{freed}) {action.result}", markup=False)
    if not report.actions:
        OUT.print("nothing to do")


_ASKED = {
    ReplaySource.QUERIES: "of your latest queries",
    ReplaySource.TEXTS: "of your latest queries, encoded again",
    ReplaySource.ENTRIES: "stored entries as queries, for want of logged ones",
}


def _replayed(replay: Replay) -> str:
    def change(before: float | None, after: float | None, unit: str = "") -> str:
        return f"{before or 0:.3f} -> {after or 0:.3f}{unit}"

    return (
        f"tried on {replay.entries} entries with {replay.queries} {_ASKED[replay.source]}: "
        f"recall@10 {change(replay.recall_before, replay.recall_after)}, "
        f"a search {change(replay.ms_before, replay.ms_after, ' ms')}, "
        f"index {change(replay.index_bytes_before / 1e6, replay.index_bytes_after / 1e6, ' MB')}"
    )


@queries.command(epilog="Example: agent-memory queries clear -n acme/user-42")
def clear(path: PathOption = DEFAULT_PATH, namespace: NamespaceOption = "", as_json: JsonOption = False) -> None:
    """Delete what the query log holds of queries asked in a scope and below it."""
    with opened(path, namespace) as memory:
        cleared = memory.clear_queries()
    say({"cleared": cleared}, as_json=as_json, text=f"{cleared} queries deleted")


@app.command(epilog="Example: agent-memory backup ./backups/monday.db")
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    path: PathOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Copy the store to one verified file while it is in use."""
    with opened(path) as memory, progress_bar("copying", quiet=as_json) as progress:
        entries = memory.backup(file, progress=progress)
    say({"entries": entries, "file": str(file)}, as_json=as_json, text=f"{entries} entries in {file}")


@app.command(epilog="Example: agent-memory restore ./backups/monday.db -p ./my-agent --replace")
def restore(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")],
    path: PathOption = DEFAULT_PATH,
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of the store that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a store of a backup."""
    entries = Memory.restore(file, path, replace=replace)
    say({"entries": entries, "path": str(path)}, as_json=as_json, text=f"{entries} entries in {path}")
