"""Commands that move a store to and from files: import, export, backup, restore."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from agent_memory.cli.shared import (
    DEFAULT_PATH,
    EncoderOption,
    JsonOption,
    NamespaceOption,
    PathOption,
    TimezoneOption,
    has_store,
    open_store,
    print_json,
    print_line,
    progress_bar,
    read_receipt,
    say,
    show_place,
)
from agent_memory.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from agent_memory.records import Copy
    from agent_memory.reports import Imported, Stats

app = typer.Typer()


@app.command("import", epilog="Example: agent-memory import conversations.jsonl -p ./my-agent")
def import_(
    file: Annotated[Path, typer.Argument(help="The file, or a folder of such files.")],
    path: PathOption = DEFAULT_PATH,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            "--from",
            metavar="FORMAT",
            help="What wrote it: agent-memory, conversations, chatgpt, claude, claude-code, codex, messages, letta, "
            "items, mem0 (history.db), chroma, langgraph (SqliteStore). Files show it by themselves; folders do not.",
        ),
    ] = None,
    timezone: TimezoneOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and count; write nothing.")] = False,
    assume_now: Annotated[
        bool, typer.Option("--assume-now", help="Take the present for times that cannot be understood.")
    ] = False,
    all_branches: Annotated[
        bool, typer.Option("--all-branches", help="Keep regenerated answers, edited questions, sub-agents.")
    ] = False,
    namespace: NamespaceOption = "",
    encoder: EncoderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read a file into the store: all of it or, if anything in it is malformed, nothing."""
    if not file.exists():  # before a store is made for it
        raise NotFoundError(f"there is no file {file}")
    started = time.perf_counter()
    with ExitStack() as stack:
        if dry_run and not has_store(path):  # nor is one made for counting
            path = stack.enter_context(TemporaryDirectory())
        memory = stack.enter_context(open_store(path, namespace, encoder=encoder, create=True, timezone=timezone))
        with progress_bar("importing", quiet=as_json) as progress:
            done = memory.import_(
                file,
                format=format_,
                dry_run=dry_run,
                assume_now=assume_now,
                all_branches=all_branches,
                progress=progress,
            )
        stats = memory.stats()
    seconds = round(time.perf_counter() - started, 2)
    facts = {**done.as_dict(), "entries": stats.entries, "seconds": seconds}
    say(facts, "\n".join(_describe(done, stats, seconds)), as_json=as_json)


def _describe(done: Imported, stats: Stats, seconds: float) -> Iterator[str]:
    """Yield the lines that tell what an import did."""
    if done.dry_run:
        yield f"would write {done.new} new entries of {done.sessions} sessions; nothing was written"
    else:
        total = f"{stats.entries} entries in {stats.sessions} sessions"
        yield f"{done.new} new entries in {seconds} s; {total}"
    others = {name: getattr(done, name) for name in ("updated", "unchanged", "skipped", "refused", "undated")}
    if any(others.values()):
        yield ", ".join(f"{count} {name}" for name, count in others.items() if count)
    if done.reasons:
        yield "skipped: " + ", ".join(f"{count} {reason}" for reason, count in sorted(done.reasons.items()))
    yield from (f"refused: {problem}" for problem in done.problems)


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
    place = show_place(path)
    say({"entries": entries, "path": place}, f"{entries} entries in {place}", as_json=as_json)


@app.command(epilog="Example: agent-memory copy ./my-agent postgresql://me@db.example/agents")
def copy(
    source: Annotated[str, typer.Argument(help="Folder or address of a store.")],
    target: Annotated[str, typer.Argument(help="Folder or address where none is, or an unfinished copy of it.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Look at both and count; write nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Copy a store between a folder and a PostgreSQL database, vectors and versions included, and compare all rows.

    If it is killed, the same command goes on with it; until it is done, nobody can open the copy.
    """
    from agent_memory.memory import Memory

    with progress_bar("copying", quiet=as_json) as progress:
        done = Memory.copy(source, target, dry_run=dry_run, progress=progress)
    what = f"{done.entries} entries, {done.vectors} with vectors, {done.sessions} sessions, {done.rows} rows in all"
    lines = [f"would copy {what} to {done.target}" if dry_run else f"copied {what} to {done.target}"]
    if done.found:
        lines.append(f"{done.found} rows were there already")
    if done.damaged:
        lines.append(f"{done.damaged} rows were damaged before they were copied; see agent-memory check")
    if not dry_run:
        lines.append(f"all rows are the same, SHA-256 {done.digest}")
    say(done, "\n".join(lines), as_json=as_json)
