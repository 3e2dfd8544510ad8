"""Commands that move a store to and from files: import, export, backup, restore."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from agent_memory.cli.shared import (
    DEFAULT_PATH,
    EncoderOption,
    JsonOption,
    NamespaceOption,
    PathOption,
    TimezoneOption,
    open_store,
    progress_bar,
    say,
)
from agent_memory.errors import NotFoundError

app = typer.Typer()


@app.command("import", epilog="Example: agent-memory import conversations.jsonl -p ./my-agent")
def import_(
    file: Annotated[Path, typer.Argument(help="An export or conversations as JSON Lines, or another store's file.")],
    path: PathOption = DEFAULT_PATH,
    source: Annotated[
        str | None, typer.Option("--from", help="Whose store: mem0 (history.db), chroma or langgraph (SqliteStore).")
    ] = None,
    timezone: TimezoneOption = None,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a file into the store; entries that it already has are left alone."""
    if not file.exists():  # before a store is made for it
        raise NotFoundError(f"there is no file {file}")
    started = time.perf_counter()
    with open_store(path, namespace, encoder=encoder, create=True, timezone=timezone) as memory:
        with progress_bar("importing", quiet=as_json) as progress:
            new = memory.import_(file, progress=progress, source=source)
        stats = memory.stats()
    seconds = round(time.perf_counter() - started, 2)
    text = f"{new} new entries in {seconds} s; {stats.entries} entries in {stats.sessions} sessions"
    say({"new": new, "entries": stats.entries, "seconds": seconds}, text, as_json=as_json)


@app.command(epilog="Example: agent-memory export entries.jsonl")
def export(
    file: Annotated[Path, typer.Argument(help="The JSON Lines file to write.")],
    path: PathOption = DEFAULT_PATH,
    namespace: NamespaceOption = "",
    as_json: JsonOption = False,
) -> None:
    """Write all entries to one JSON Lines file."""
    with open_store(path, namespace) as memory, progress_bar("exporting", quiet=as_json) as progress:
        written = memory.export(file, progress=progress)
    say({"entries": written, "file": file}, f"{written} entries in {file}", as_json=as_json)


@app.command(epilog="Example: agent-memory backup ./backups/monday.db")
def backup(
    file: Annotated[Path, typer.Argument(help="The file to write.")],
    path: PathOption = DEFAULT_PATH,
    as_json: JsonOption = False,
) -> None:
    """Copy the store to one verified file while it is in use."""
    with open_store(path) as memory, progress_bar("copying", quiet=as_json) as progress:
        entries = memory.backup(file, progress=progress)
    say({"entries": entries, "file": file}, f"{entries} entries in {file}", as_json=as_json)


@app.command(epilog="Example: agent-memory restore ./backups/monday.db -p ./my-agent --replace")
def restore(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")],
    path: PathOption = DEFAULT_PATH,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the store that is there.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make a store of a backup."""
    from agent_memory.memory import Memory

    entries = Memory.restore(file, path, replace=replace)
    say({"entries": entries, "path": path}, f"{entries} entries in {path}", as_json=as_json)
