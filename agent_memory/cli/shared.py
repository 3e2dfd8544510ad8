"""What the commands share: options, opening a store, forms of output."""

from __future__ import annotations

import codecs
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from agent_memory.cli.screen import Screen
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.formats import payload
from agent_memory.resident.lending import borrow

if TYPE_CHECKING:
    from rich.table import Table

    from agent_memory.memory import Memory
    from agent_memory.records import Entry

LINE_CHARS = 300
_PASSWORD = re.compile("(://[^/@:]*:)[^/@]*@")
_PASSWORD_OPTION = re.compile("([?&](?:ssl)?password=)[^&]*")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


OUT = Screen()
ERR = Screen(stderr=True)

DEFAULT_PATH = "~/.agent-memory"
PathOption = Annotated[
    str,
    typer.Option(
        "--path",
        "-p",
        envvar="AGENT_MEMORY_PATH",
        metavar="FOLDER",
        help="Folder of the store, or its address on PostgreSQL.",
    ),
]
NamespaceOption = Annotated[
    str, typer.Option("--namespace", "-n", help="Scope, its parts separated by slashes: acme/user-42.")
]
EncoderOption = Annotated[
    str | None, typer.Option("--encoder", "-e", help="Encoder of a new store; a store remembers its own.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON on standard output.")]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="Print JSON Lines on standard output.")]
WhereOption = Annotated[
    str | None, typer.Option("--where", "-w", help="""Metadata filter as JSON: '{"year": {"$gte": 2024}}'.""")
]
SessionOption = Annotated[str | None, typer.Option("--session", "-s", help="The conversation.")]
SpeakerOption = Annotated[str | None, typer.Option("--speaker", help="Who said it.")]
MetadataOption = Annotated[str | None, typer.Option("--metadata", "-m", help="JSON object.")]
EventTimeOption = Annotated[str | None, typer.Option("--event-time", help="When it happened, ISO 8601.")]
ExpiresAtOption = Annotated[str | None, typer.Option("--expires-at", help="When it ends, ISO 8601; a day is its last.")]
TimezoneOption = Annotated[
    str | None,
    typer.Option(
        "--timezone",
        envvar="AGENT_MEMORY_TIMEZONE",
        help="Zone of days and of times without one: Europe/Berlin, +02:00.",
    ),
]
ImportanceOption = Annotated[float | None, typer.Option("--importance", help="From 0 to 1.")]
ModeOption = Annotated[str, typer.Option("--mode", help="hybrid, dense (meaning) or lexical (words).")]
HitsOption = Annotated[int, typer.Option("-k", help="Maximum number of hits.")]
KeyArgument = Annotated[str, typer.Argument(help="Key of the entry.")]


def has_store(path: str) -> bool:
    """Return whether there is a store in a folder, or at an address of a PostgreSQL database."""
    if "://" not in path:  # what --help and mistakes need not wait for
        return bool(path) and (Path(path).expanduser() / "memory.db").is_file()
    from agent_memory.inputs import parse_place
    from agent_memory.live.store import has_store as look

    return look(parse_place("--path", path))


def require_store(path: str) -> None:
    """Raise NotFoundError if there is no store in a folder or at an address."""
    if not has_store(path):
        raise NotFoundError(f"there is no store in {show_place(path) or repr(path)}; add, import and restore make one")


def require_folder(path: str, what: str) -> None:
    """Raise InvalidInputError if a place is an address, where a command keeps something of its own in the folder."""
    if "://" in path:
        raise InvalidInputError(f"{what}: --path must be a folder, got the address {show_place(path)}")


def show_place(path: str) -> str:
    """Return a folder as it was given, an address without its password."""
    return _PASSWORD.sub(r"\1***@", _PASSWORD_OPTION.sub(r"\1***", path)) if "://" in path else path


@contextmanager
def open_store(
    path: str,
    namespace: str = "",
    *,
    encoder: str | None = None,
    create: bool = False,
    timezone: str | None = None,
    shared: bool = True,
    encodes: bool = False,
) -> Iterator[Memory]:
    """Open a store while the block runs.

    Args:
        path: Its folder or address.
        namespace: Its parts, separated by slashes.
        encoder: As for ``Memory``.
        create: Make the store if there is none.
        timezone: As ``Config.timezone``; UTC if left out.
        shared: Whether a memory will do that a helper has open; not if the command tells about the process.
        encodes: Whether the command is sure to encode a text, most likely with the default encoder.

    Raises:
        NotFoundError: There is none, and ``create`` is false; nothing was made.
    """
    there = has_store(path)
    if not create:
        require_store(path)
    if encodes and encoder is None and os.cpu_count() != 1 and "agent_memory.memory" not in sys.modules:
        from agent_memory.encoders.files import begin_to_verify_minilm

        begin_to_verify_minilm()  # while Python imports the rest
    from agent_memory.memory import Memory  # takes a second, which --help and mistakes need not wait for

    parts = tuple(namespace.split("/")) if namespace else ()
    if shared and encoder is None and timezone is None and (lent := borrow(path, parts)) is not None:
        yield lent
        return
    if there:
        _bring_up(path)
    config = None if timezone is None else {"timezone": timezone}
    with Memory(path, encoder=encoder, namespace=parts, config=config) as memory:
        yield memory


def _bring_up(path: str) -> None:
    """Show how far the full-text index is, if it must be written again."""
    from agent_memory.inputs import parse_place
    from agent_memory.live.store import bring_up

    with ExitStack() as shown:
        bars: list[Any] = []

        def report(done: int, total: int) -> None:
            if not bars:
                bars.append(shown.enter_context(progress_bar("writing the full-text index again", quiet=False)))
            bars[0](done, total)

        bring_up(parse_place("--path", path), report)


@contextmanager
def progress_bar(label: str, *, quiet: bool) -> Iterator[Any]:
    """Show a bar on standard error; yields what is to be called with (done, total)."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=ERR.console, transient=True, disable=quiet) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def read_text(text: str) -> str:
    """Return a text argument, or standard input where it is ``-``.

    Raises:
        InvalidInputError: Standard input is not text in its encoding.
    """
    if text != "-":
        return text
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"standard input is not text in {sys.stdin.encoding}: {error.reason}") from error


def parse_object(text: str | None, option: str) -> dict[str, Any] | None:
    """Return what an option holds as JSON; raises InvalidInputError if that is no object."""
    from agent_memory.inputs import parse_object as parse  # NumPy comes with it, which --help can do without

    return None if text is None else parse(option, text)


def print_json(value: object) -> None:
    """Print records, or anything made of them, as one JSON value; in UTF-8, or else in ASCII alone."""
    _write(payload.dumps(value, indent=2, ascii_only=not is_utf8()))


def print_json_line(value: object) -> None:
    """Print a record as one line of JSON Lines."""
    _write(payload.dumps(value, ascii_only=not is_utf8()))


def _write(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def is_utf8() -> bool:
    """Tell whether standard output can show every character."""
    return codecs.lookup(sys.stdout.encoding or "ascii").name == "utf-8"


def say(value: object, text: str, *, as_json: bool) -> None:
    """Print a value as JSON, or a text."""
    if as_json:
        print_json(value)
    else:
        OUT.print(text)


def print_line(*parts: str | tuple[str, str]) -> None:
    """Print texts, some with a style behind them, on one line."""
    OUT.print_parts(*parts)


def print_table(table: Table) -> None:
    """Print a table within the width of the terminal."""
    OUT.print(table, soft_wrap=False)


def print_facts(values: Mapping[str, object]) -> None:
    """Print names and values in two columns."""
    from rich.table import Table

    table = Table(show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name, _worded(value))
    print_table(table)


def _worded(value: object) -> str:
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, Mapping):
        return payload.dumps(value)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_worded, value))
    return printable(str(value))


def moment(time: datetime) -> str:
    """Return a time as it is printed everywhere but in JSON: to the minute, in UTC."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def describe_origin(entry: Entry) -> str:
    """Return when, in which session and by whom an entry was said."""
    parts = [moment(entry.event_time), entry.session, entry.speaker]
    return printable(" · ".join(part for part in parts if part))


def shorten(text: str, most: int = LINE_CHARS) -> str:
    """Return a text on one line, cut if it is long."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= most else line[: most - 1] + "…"


def printable(text: str) -> str:
    """Return a text in which nothing but line breaks and tabs steers a terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


def read_receipt(file: Path) -> dict[str, Any]:
    """Return the receipt that `forget --receipt` wrote to a file."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {file}") from error
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}") from error
    return parse_object(text, str(file)) or {}
