"""Puts a server into Codex's ``config.toml`` and takes it out again; what others wrote stays byte for byte."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from typing import Any

from agent_memory.errors import InvalidInputError, MissingDependencyError


def read(text: bytes) -> dict[str, Any]:
    """Return what a TOML text holds.

    Raises:
        InvalidInputError: It is no TOML; the message says in which line.
    """
    try:
        return tomllib.loads(text.removeprefix(b"\xef\xbb\xbf").decode().replace("\r\n", "\n"))
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
        tomllib.loads(added.removeprefix(b"\xef\xbb\xbf").decode().replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError:  # the table above is written in one line, and must be opened
        return _put_inline(text, path, values)
    return added


def remove_table(text: bytes, path: tuple[str, str], values: Mapping[str, Any]) -> bytes:
    """Return a text without a table that ``put_table`` has put there; what others put into it goes too."""
    if path[1] not in read(text).get(path[0], {}):
        return text
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    block = newline.join(_write_table(path, values).encode().split(b"\n"))
    start = text.find(block)
    if start < 0:
        return _remove_lines(text, path)
    before = text[:start]
    return (before.removesuffix(newline) if before.strip() else before) + text[start + len(block) :]


def _write_table(path: tuple[str, str], values: Mapping[str, Any]) -> str:
    import json

    # Strings and lists of strings are written alike in JSON and TOML.
    lines = [f"{name} = {json.dumps(value, ensure_ascii=True)}\n" for name, value in values.items()]
    return f"[{'.'.join(path)}]\n{''.join(lines)}"


def _put_inline(text: bytes, path: tuple[str, str], values: Mapping[str, Any]) -> bytes:
    tomlkit = _import_tomlkit()
    document = tomlkit.parse(text.decode())
    entry = tomlkit.inline_table()
    entry.update(values)
    document[path[0]][path[1]] = entry
    return str(tomlkit.dumps(document)).encode()


def _remove_lines(text: bytes, path: tuple[str, str]) -> bytes:
    """Remove a table that somebody has changed: its header and the lines after it that give it values."""
    name = rb"\.".join(rb"[\"']?" + re.escape(part.encode()) + rb"[\"']?" for part in path)
    found = re.search(rb"(?m)^[ \t]*\[" + name + rb"\][^\n]*\n(?:[ \t]*[\w\"'-]+[ \t]*=[^\n]*(?:\n|\Z))*", text)
    if found is not None:
        without = text[: found.start()] + text[found.end() :]
        if path[1] not in read(without).get(path[0], {}):
            return without
    tomlkit = _import_tomlkit()
    document = tomlkit.parse(text.decode())
    del document[path[0]][path[1]]
    return str(tomlkit.dumps(document)).encode()


def _import_tomlkit() -> Any:  # noqa: ANN401 - a module
    try:
        import tomlkit
    except ModuleNotFoundError as error:
        raise MissingDependencyError("tomlkit", "coding-agents") from error
    return tomlkit
