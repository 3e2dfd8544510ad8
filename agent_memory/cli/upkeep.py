"""Commands that look after a store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent_memory.cli.running import new_group
from agent_memory.cli.shared import (
    DEFAULT_PATH,
    OUT,
    EncoderOption,
    JsonOption,
    NamespaceOption,
    PathOption,
    open_store,
    print_facts,
    print_json,
    printable,
    progress_bar,
    say,
)
from agent_memory.errors import InvalidInputError
from agent_memory.formats.payload import to_json

if TYPE_CHECKING:
    from agent_memory.reports import Replay

app = typer.Typer()
queries = new_group("The query log (Config.query_log): delete it.")


@app.command(epilog="Example: agent-memory stats --json")
def stats(path: PathOption = DEFAULT_PATH, namespace: NamespaceOption = "", as_json: JsonOption = False) -> None:
    """Show counts, the encoder and sizes on disk."""
    with open_store(path, namespace, shared=False) as memory:
        found = memory.stats()
    if as_json:
        print_json(found)
    else:
        print_facts({name: value for name, value in to_json(found).items() if name != "index" or value})


@app.command(epilog="Example: agent-memory check --repair")
def check(
    path: PathOption = DEFAULT_PATH,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look for damage; exit code 1 if any is left."""
    with open_store(path) as memory:
        report = memory.check(repair=repair)
    if as_json:
        print_json(to_json(report) | {"ok": report.ok})
    else:
        for problem in report.problems:
            OUT.print(printable(("repaired: " if problem in report.repaired else "") + problem))
        OUT.print(f"{report.entries} entries, {'sound' if report.ok else 'damaged'}")
    if not report.ok:
        raise typer.Exit(1)


@app.command(epilog="Example: agent-memory reindex --to mpnet --dry-run")
def reindex(
    path: PathOption = DEFAULT_PATH,
    to: Annotated[str | None, typer.Option("--to", help="The new encoder; the current one if left out.")] = None,
    tiers: Annotated[str | None, typer.Option(help="New tiers: 64,256,768.")] = None,
    rotation: Annotated[str | None, typer.Option(help="fit: the first dimensions tell most.")] = None,
    sessions: Annotated[
        str, typer.Option(help="Session encoder: compact, none, or auto to keep it or take what fits a new encoder.")
    ] = "auto",
    max_cpu: Annotated[float, typer.Option(help="Share of the time it may use, up to 1.")] = 1.0,
    workers: Annotated[int, typer.Option(help="Processes that encode together; on PostgreSQL.")] = 1,
    join: Annotated[bool, typer.Option("--join", help="Help another process, on any machine, to encode.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Try it on a sample and print what it would cost.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Move the store to another encoder or layout while it is in use; run it again if it was killed."""
    try:
        wanted = None if tiers is None else [int(tier) for tier in tiers.split(",")]
    except ValueError as error:
        raise InvalidInputError(f"--tiers takes dimensions such as 64,256,768, got {tiers!r}") from error
    with open_store(path) as memory, progress_bar("re-indexing", quiet=as_json) as progress:
        report = memory.reindex(
            encoder=to,
            session_encoder=None if sessions == "none" else sessions,
            tiers=wanted,
            rotation=rotation,
            max_cpu=max_cpu,
            workers=workers,
            join=join,
            dry_run=dry_run,
            progress=progress,
        )
    text = f"{report.state}: {report.entries} entries by {report.source}, {report.encoded} texts encoded"
    text += f", {report.seconds:.1f} s, {report.added_bytes / 1e6:.1f} MB more until the former generation is collected"
    if report.replay is not None:
        text += "\n" + _replayed(report.replay)
    say(report, text, as_json=as_json)


@app.command(epilog="Example: agent-memory rollback")
def rollback(path: PathOption = DEFAULT_PATH, encoder: EncoderOption = None, as_json: JsonOption = False) -> None:
    """Return to the generation before the last re-index, brought up to date."""
    with open_store(path) as memory:
        report = memory.rollback(encoder=encoder)
    say(report, f"{report.state}: generation {report.generation} is live", as_json=as_json)


@app.command(epilog="Example: agent-memory maintenance --dry-run")
def maintenance(
    path: PathOption = DEFAULT_PATH,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what is needed, and what it would cost.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Do what the store needs, or with --dry-run say what that is and about how long it takes."""
    with open_store(path) as memory:
        report = memory.maintenance(dry_run=dry_run)
    if as_json:
        print_json(report)
        return
    print_facts(report.findings)
    if report.replay is not None:
        OUT.print(_replayed(report.replay))
    for action in report.actions:
        freed = f", frees {action.freed_bytes / 1e6:.1f} MB" if action.freed_bytes > 0 else ""
        OUT.print(f"{action.name}: {action.reason} ({action.seconds:.1f} s{freed}) {action.result}")
    if not report.actions:
        OUT.print("nothing to do")


_ASKED = {
    "queries": "{} of your latest queries were asked",
    "texts": "{} of your latest queries were encoded again and asked",
    "entries": "no queries are logged, so {} stored entries were used as queries",
}


def _replayed(replay: Replay) -> str:
    def change(before: float | None, after: float | None, unit: str = "") -> str:
        return f"{before or 0:.3f} -> {after or 0:.3f}{unit}"

    return (
        f"{_ASKED[replay.source].format(replay.queries)}, over a sample of {replay.entries} entries: "
        f"recall@10 {change(replay.recall_before, replay.recall_after)}, "
        f"a search {change(replay.ms_before, replay.ms_after, ' ms')}, "
        f"index {change(replay.index_bytes_before / 1e6, replay.index_bytes_after / 1e6, ' MB')}"
    )


@queries.command(epilog="Example: agent-memory queries clear -n acme/user-42")
def clear(path: PathOption = DEFAULT_PATH, namespace: NamespaceOption = "", as_json: JsonOption = False) -> None:
    """Delete what the query log holds of queries asked in a scope and below it."""
    with open_store(path, namespace) as memory:
        cleared = memory.clear_queries()
    say({"cleared": cleared}, f"{cleared} queries deleted", as_json=as_json)
