"""The formats that can be read, and which of them a file has.

A reader is a generator: of the JSON values of a file, or of a store's file, it yields the entries that it finds there,
as arguments of ``Memory.add``, in their order. Every entry has a key that is the same whenever the file is read. A new
format is one more module with a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import chain, islice
from pathlib import Path
from typing import Any

from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.writing.foreign import (
    chatgpt,
    chroma,
    claude,
    claude_code,
    codex,
    langgraph,
    letta,
    mem0,
    messages,
    native,
)
from agent_memory.writing.foreign.files import File, list_files
from agent_memory.writing.foreign.found import Found, Options
from agent_memory.writing.foreign.stores import list_tables, open_store
from agent_memory.writing.foreign.values import Value, read_values

_DATABASE = b"SQLite format 3\x00"
_HEAD = 20  # values by which a format is told; the first lines of a transcript may be of no telling kind
_LIST_KEYS = ("conversations", "chats")  # an object with nothing but such a list stands for its items


class Format(StrEnum):
    """The form of a file."""

    EXPORT = "agent-memory"
    CONVERSATIONS = "conversations"
    CHATGPT = "chatgpt"
    CLAUDE = "claude"
    CLAUDE_CODE = "claude-code"
    CODEX = "codex"
    MESSAGES = "messages"
    LETTA = "letta"
    MEM0 = "mem0"
    CHROMA = "chroma"
    LANGGRAPH = "langgraph"
    ITEMS = "items"


@dataclass(frozen=True, slots=True)
class _Text:
    """Reads JSON.

    Attributes:
        is_mine: Returns whether one of the first values of a file tells this format from the others.
        read: Takes the values of a file, its name without ending, and options; yields what it finds.
        own: Whether it is this package's own: nothing odd is let pass.
    """

    is_mine: Callable[[Any], bool]
    read: Callable[[Iterable[Value], str, Options], Iterator[Found]]
    own: bool = False


@dataclass(frozen=True, slots=True)
class _Store:
    """Reads a SQLite file.

    Attributes:
        file: Its name, where a folder was given.
        tables: Those that it must have.
        read: Takes the file and options; yields what it finds.
    """

    file: str
    tables: set[str]
    read: Callable[[Path, Options], Iterator[Found]]


_TEXTS: dict[Format, _Text] = {  # in the order in which they are tried
    Format.EXPORT: _Text(native.is_export, native.read_export, own=True),
    Format.CONVERSATIONS: _Text(native.is_conversation, native.read_conversations, own=True),
    Format.CHATGPT: _Text(chatgpt.is_mine, chatgpt.read),
    Format.CLAUDE: _Text(claude.is_mine, claude.read),
    Format.CODEX: _Text(codex.is_mine, codex.read),
    Format.CLAUDE_CODE: _Text(claude_code.is_mine, claude_code.read),
    Format.LETTA: _Text(letta.is_mine, letta.read),
    Format.MESSAGES: _Text(messages.is_mine, messages.read),
    Format.ITEMS: _Text(native.is_item, native.read_items, own=True),
}
_STORES: dict[Format, _Store] = {
    Format.MEM0: _Store(mem0.FILE, mem0.TABLES, mem0.read),
    Format.CHROMA: _Store(chroma.FILE, chroma.TABLES, chroma.read),
    Format.LANGGRAPH: _Store(langgraph.FILE, langgraph.TABLES, langgraph.read),
}


def parse_format(value: object) -> Format | None:
    """Return the format that a name stands for; None for a file that shows it.

    Raises:
        InvalidInputError: There is no such format.
    """
    try:
        return None if value is None else Format(str(value))
    except ValueError as error:
        raise InvalidInputError(f"format must be one of {[str(one) for one in Format]}, got {value!r}") from error


def is_store(format_: Format) -> bool:
    """Return whether files of a format are databases of items, each of which is kept or refused by itself."""
    return format_ in _STORES


def is_own(format_: Format) -> bool:
    """Return whether a format is this package's own, in which nothing is let pass that cannot be kept."""
    return format_ in _TEXTS and _TEXTS[format_].own


def read_file(path: Path, format_: Format | None, options: Options) -> Iterator[tuple[Format, Found]]:
    """Yield the entries of a file, of all files in an archive, or of a folder, each with its format.

    Args:
        path: The file; a folder if the format is given.
        format_: Its format; None to tell it by what is in it.
        options: What to keep.

    Raises:
        InvalidInputError: The format is unknown, or something in the file is malformed; the message says where.
        NotFoundError: There is no such file.
        OSError: It cannot be read.
        StorageError: A store is damaged.
    """
    if format_ is None and _is_database(path):
        format_ = _choose_store(path)
    path = find_file(path, format_)
    if format_ in _STORES:
        yield from ((format_, found) for found in _STORES[format_].read(path, options))
        return
    known, labels = False, []
    for file_ in list_files(path):
        labels.append(file_.label)
        known = (yield from _read_one(file_, format_, options)) or known
    if not known and labels != [""]:
        raise InvalidInputError(
            f"of its {len(labels)} JSON files, none is in a format that can be read ({_name_formats()})"
        )


def find_file(path: Path, format_: Format | None) -> Path:
    """Return the file that is read: of a store's folder its database; a folder of JSON files stays one.

    Raises:
        NotFoundError: A store's folder lacks the file.
        IsADirectoryError: It is a folder, and the format of its files is not known.
    """
    if format_ in _STORES:
        file = path / _STORES[format_].file if path.is_dir() else path
        if not file.is_file():
            raise NotFoundError(f"there is no file {file}")
        return file
    if path.is_dir() and format_ is None:
        raise IsADirectoryError(f"{path} is a folder: name the format of the files in it")
    return path


def _read_one(file: File, format_: Format | None, options: Options) -> Generator[tuple[Format, Found], None, bool]:
    """Yield the entries of a file; returns whether its format is known."""
    try:
        with file.open() as stream:
            values = _unwrap(read_values(stream))
            head = list(islice(values, _HEAD))
            chosen = _choose(head, format_) if format_ is None or file.label else format_
            if chosen is None:
                if head and not file.label:
                    raise InvalidInputError(
                        f"line {head[0].line}: not in a format that can be read ({_name_formats()})"
                    )
                return False
            for found in _TEXTS[chosen].read(chain(head, values), file.stem, options):
                yield chosen, Found(_join(file.label, found.place), found.item, found.reason, found.refused)
            return True
    except InvalidInputError as error:
        raise InvalidInputError(_join(file.label, str(error))) from error


def _is_database(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_DATABASE)) == _DATABASE


def _choose_store(path: Path) -> Format:
    """Return whose store a SQLite file is, by its tables.

    Raises:
        InvalidInputError: Nobody's that is known.
    """
    with open_store(path) as connection:
        held = list_tables(connection)
        for format_, store in _STORES.items():
            if held >= store.tables:
                return format_
    raise InvalidInputError(f"a database that is none of {', '.join(_STORES)}: its tables are {sorted(held)}"[:500])


def _choose(head: list[Value], wanted: Format | None) -> Format | None:
    """Return the format that the first values of a file show; with a wanted one, that or None."""
    for format_, text in _TEXTS.items():
        first_only = text.own or format_ is Format.MESSAGES
        if wanted in (None, format_) and any(text.is_mine(one.value) for one in (head[:1] if first_only else head)):
            return format_
    return None


def _unwrap(values: Iterator[Value]) -> Iterator[Value]:
    for line, value in values:
        lists = (
            [value[name] for name in _LIST_KEYS if isinstance(value.get(name), list)]
            if isinstance(value, dict) and not messages.is_mine(value)
            else []
        )
        yield from (Value(line, one) for one in lists[0]) if lists else (Value(line, value),)


def _join(label: str, message: str) -> str:
    return f"{label}, {message}" if label else message


def _name_formats() -> str:
    return ", ".join(map(str, Format))
