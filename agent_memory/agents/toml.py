"""Puts a server into Codex's ``config.toml`` and takes it out again; what others wrote stays byte for byte."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Mapping
from typing import Any

from agent_memory.errors import InvalidInputError, MissingDependencyError

_MARK = b"\xef\xbb\xbf"  # of UTF-8, which some editors put first


def read(text: bytes) -> dict[str, Any]:
    """Return what a TOML text holds.

    Raises:
        InvalidInputError: It is no TOML; the message says in which line.
    """
    try:
        return tomllib.loads(text.removeprefix(_MARK).decode().replace("\r\n", "\n"))
    except ValueError as error:
        raise InvalidInputError(f"this is not TOML: {error}") from error


def put_table(text: bytes, path: tuple[str, str], values: Mapping[str, Any]) -> bytes:
    """Return a text with one more table at its end, ``[a.b]``, which must not be there.

    Raises:
        InvalidInputError: The text is no TOML, or ``a`` is no table.
    """
    above = read(text).get(path[0], {})
    if not isinstance(above, dict):
        raise InvalidInputError(f"{path[0]} must be a table, got {type(above).__name__}")
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    block = newline.join(_write_table(path, values).encode().split(b"\n"))
    # An empty line before it, or the end of a last line that had none: one line break that goes with it again.
    added = text + (newline if text.strip() else b"") + block
    try:
        tomllib.loads(added.removeprefix(_MARK).decode().replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError:  # the table above is written in one line, and must be opened
        return _put_inline(text, path, values)
    return added


def remove_table(text: bytes, path: tuple[str, str], values: Mapping[str, Any]) -> bytes:
    """Return a text without a table that ``put_table`` has put there; what others put into it goes too."""
    if path[1] not in read(text).get(path[0], {}):
        return text
    wanted = _leave_out(read(text), path)
    for without in (_remove_block(text, path, values), _remove_lines(text, path)):
        try:
            if without is not None and _leave_out(read(without), path) == wanted and without != text:
                return without
        except InvalidInputError:  # a value went over several lines, say
            continue
    return _edit(text, lambda document: document[path[0]].pop(path[1]))


def _leave_out(found: dict[str, Any], path: tuple[str, str]) -> dict[str, Any]:
    """Return what a text holds beside a table, also without a table above it that holds nothing else."""
    above = {name: value for name, value in found.get(path[0], {}).items() if name != path[1]}
    return {name: value for name, value in {**found, path[0]: above}.items() if name != path[0] or above}


def _remove_block(text: bytes, path: tuple[str, str], values: Mapping[str, Any]) -> bytes | None:
    """Remove the table as ``put_table`` wrote it; None if it is not there like that."""
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    block = newline.join(_write_table(path, values).encode().split(b"\n"))
    start = text.rfind(block)
    if start < 0:
        return None
    before = text[:start]
    return (before.removesuffix(newline) if before.strip() else before) + text[start + len(block) :]


def _write_table(path: tuple[str, str], values: Mapping[str, Any]) -> str:
    import json

    # Strings and lists of strings are written alike in JSON and TOML.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=True)}\n" for name, value in values.items()]
    return f"[{'.'.join(path)}]\n{''.join(lines)}"


def _put_inline(text: bytes, path: tuple[str, str], values: Mapping[str, Any]) -> bytes:
    entry = _import_tomlkit().inline_table()
    entry.update(values)

    def put(document: Any) -> None:  # noqa: ANN401 - a document of tomlkit
        document[path[0]][path[1]] = entry

    return _edit(text, put)


def change_table(text: bytes, path: tuple[str, str], values: Mapping[str, Any]) -> bytes:
    """Return a text in which a table that is there has these values; what else it has stays.

    Raises:
        InvalidInputError: The text is no TOML.
    """
    known = read(text)[path[0]][path[1]]
    changed = {name: value for name, value in values.items() if known.get(name) != value}
    return _edit(text, lambda document: document[path[0]][path[1]].update(changed)) if changed else text


def _edit(text: bytes, change: Callable[[Any], object]) -> bytes:
    mark = _MARK if text.startswith(_MARK) else b""
    document = _import_tomlkit().parse(text.removeprefix(mark).decode())
    change(document)
    return mark + str(document.as_string()).encode()


def _remove_lines(text: bytes, path: tuple[str, str]) -> bytes | None:
    """Remove a table that somebody has changed: its header and the lines up to the next one; None if there is none."""
    name = rb"\.".join(rb"[\"']?" + re.escape(part.encode()) + rb"[\"']?" for part in path)
    # Comments and empty lines at the end belong to what follows.
    lines = rb"(?:(?:[ \t]*(?:#[^\n]*)?\n)*(?![ \t]*[#\[\n])[^\n]+(?:\n|\Z))*"
    found = re.search(rb"(?m)^[ \t]*\[" + name + rb"\][^\n]*\n" + lines, text)
    return None if found is None else text[: found.start()] + text[found.end() :]


def _import_tomlkit() -> Any:  # noqa: ANN401 - a module
    try:
        import tomlkit
    except ModuleNotFoundError as error:
        raise MissingDependencyError("tomlkit", "coding-agents") from error
    return tomlkit
