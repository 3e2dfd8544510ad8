"""Commands that move a store to and from files: import, export, backup, restore."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent_memory.cli.shared import (
    DEFAULT_PATH,
    EncoderOption,
    JsonOption,
    NamespaceOption,
    PathOption,
    TimezoneOption,
    open_store,
    print_json,
    print_line,
    progress_bar,
    read_receipt,
    say,
)
from agent_memory.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from agent_memory.reports import Copy

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
    file: Annotated[str, typer.Argument(help="The file to write; or `list`, for the copies made so far.")],
    path: PathOption = DEFAULT_PATH,
    receipt: Annotated[
        Path | None, typer.Option(help="With `list`: only copies older than this receipt of `forget`.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Copy the store to one verified file while it is in use, or list the copies made so far.

    A file that is called list is written as ./list.
    """
    if file == "list":
        _list_copies(path, receipt, as_json)
        return
    if receipt is not None:
        raise InvalidInputError("--receipt goes with `backup list`")
    with open_store(path) as memory, progress_bar("copying", quiet=as_json) as progress:
        entries = memory.backup(file, progress=progress)
    say({"entries": entries, "file": file}, f"{entries} entries in {file}", as_json=as_json)


def _list_copies(path: str, receipt: Path | None, as_json: bool) -> None:
    with open_store(path) as memory:
        copies = memory.copies()
    if receipt is not None:
        token = read_receipt(receipt).get("token")
        copies = [copy for copy in copies if token in copy.older_than]
    if as_json:
        print_json(copies)
        return
    for copy in copies:
        state = "is gone" if not copy.exists else _describe_copy(copy)
        print_line(f"{copy.made_at:%Y-%m-%d %H:%M:%S}  {copy.kind:<6}  {copy.path}  {state}")
    if not copies:
        print_line("no copies")


def _describe_copy(copy: Copy) -> str:
    if not copy.older_than:
        return "newer than all that was forgotten"
    held = "may hold" if copy.holds is None else f"holds {copy.holds} rows of"
    return f"{held} what was forgotten since ({len(copy.older_than)} receipts)"


@app.command(epilog="Example: agent-memory restore ./backups/monday.db -p ./my-agent --replace")
def restore(
    file: Annotated[Path, typer.Argument(help="What `backup` wrote.")],
    path: PathOption = DEFAULT_PATH,
    replace: Annotated[bool, typer.Option("--replace", help="Replace the store that is there.")] = False,
    apply_forgets: Annotated[
        bool, typer.Option("--apply-forgets", help="Forget again what was forgotten after the backup was made.")
    ] = False,
    receipt: Annotated[
        list[Path] | None,
        typer.Option(help="A receipt of `forget` from a store elsewhere; repeatable."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a store of a backup; says so if that brings back what was forgotten since, and offers to forget it again."""
    from agent_memory.memory import Memory

    receipts = [read_receipt(one) for one in receipt or ()]
    entries = Memory.restore(file, path, replace=replace, apply_forgets=apply_forgets, receipts=receipts)
    say({"entries": entries, "path": path}, f"{entries} entries in {path}", as_json=as_json)
