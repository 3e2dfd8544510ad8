"""What the commands share: options, consoles, forms of output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from agent_memory.errors import InvalidInputError
from agent_memory.memory import Memory
from agent_memory.records import Hit

_WIDE = None if sys.stdout.isatty() else 150  # columns, where there is no terminal to ask
OUT = Console(highlight=False, width=_WIDE)
ERR = Console(stderr=True, highlight=False)

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
DEFAULT_PATH = Path("~/.agent-memory")


@contextmanager
def opened(path: Path, namespace: str = "", encoder: str | None = None) -> Iterator[Memory]:
    """Open a store; the namespace as its parts, separated by slashes."""
    parts = tuple(namespace.split("/")) if namespace else ()
    with Memory(path, encoder=encoder, namespace=parts) as memory:
        yield memory


@contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Any]:
    """Show a bar on standard error; yields what is to be called with (done, total)."""
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=ERR, transient=True, disable=quiet) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def json_object(text: str | None, option: str) -> dict[str, Any] | None:
    """Return what an option holds as JSON; raises InvalidInputError if that is no object."""
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


def print_json(value: object) -> None:
    """Print records, or anything made of them, as JSON."""
    sys.stdout.write(json.dumps(value, default=_plain, ensure_ascii=False, indent=2) + "\n")


def facts(values: Mapping[str, object]) -> None:
    """Print names and values in two columns."""
    table = Table(show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name, str(value))
    OUT.print(table)


def say(value: object, *, as_json: bool, text: str) -> None:
    """Print a value as JSON, or a text."""
    if as_json:
        print_json(value)
    else:
        OUT.print(text, markup=False)


def shortened(text: str, most: int = 300) -> str:
    """Return a text on one line, cut if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"
