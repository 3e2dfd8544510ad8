"""Reads a stream as JSON values, one at a time: JSON Lines, the items of an array, or documents on several lines.

Stricter than JSON readers usually are, because what is read is kept: NaN, numbers too large for a float, names that
occur twice in an object, lone surrogates and bytes that are not UTF-8 are errors, which name the line.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple, NoReturn, cast

from agent_memory.errors import InvalidInputError

MAX_CHARS = 1 << 28
"""Characters (or bytes of a line) that one value may have: it is read into memory whole."""

_CHUNK = 1 << 16
_TAIL = 12  # an error this near to the end of what was read may be a value that is cut there
_SPACE = " \t\r\n"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class Value(NamedTuple):
    """A JSON value, and the number of the line on which it begins."""

    line: int
    value: Any


def read_values(file: BinaryIO) -> Iterator[Value]:
    """Yield the JSON values of a stream.

    Raises:
        InvalidInputError: A value is malformed; the message begins with its line.
    """
    with _decode(file) as stream:
        first = _find_first(stream)
        if first == b"[":
            yield from _Text(stream).read_items()
        elif first:
            yield from _read_lines(stream)


def _decode(file: BinaryIO) -> BinaryIO:
    """Return a stream of UTF-8 without a byte order mark."""
    head = file.read(3)
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # what PowerShell writes
        file.seek(0)
        decoded = cast(BinaryIO, tempfile.TemporaryFile())
        decoder = codecs.getincrementaldecoder("utf-16")()
        try:
            while raw := file.read(_CHUNK):
                decoded.write(decoder.decode(raw).encode())
            decoder.decode(b"", final=True)
        except UnicodeError as error:
            decoded.close()
            raise InvalidInputError(f"line 1: not UTF-16: {error}") from error
        decoded.seek(0)
        return decoded
    file.seek(3 if head == codecs.BOM_UTF8 else 0)
    return file


def _find_first(stream: BinaryIO) -> bytes:
    """Return the first byte that is not white space, and leave the stream before that white space."""
    start = stream.tell()
    while chunk := stream.read(_CHUNK):
        if rest := chunk.lstrip():
            stream.seek(start)
            return rest[:1]
    return b""


def _read_lines(stream: BinaryIO) -> Iterator[Value]:
    start, first, number = stream.tell(), True, 0
    while raw := _read_on_line(number + 1, lambda: stream.readline(MAX_CHARS)):
        number += 1
        if len(raw) == MAX_CHARS:
            _fail(number, f"more than {MAX_CHARS} bytes")
        if not raw.strip():
            continue
        try:
            yield Value(number, _parse(raw))
        except _Cut:
            if not first:
                _fail(number, "it breaks off")
            stream.seek(start)  # one document on several lines
            yield from _Text(stream).read_documents()
            return
        except InvalidInputError as error:
            _fail(number, str(error), error)
        first = False


def _read_on_line(number: int, read: Callable[[], bytes]) -> bytes:
    """Return what is read; an error of the stream, such as damage to compressed data, gets the line's number."""
    try:
        return read()
    except InvalidInputError as error:
        _fail(number, str(error), error)


class _Cut(InvalidInputError):
    """A value goes on behind the end of what was given."""


def _parse(raw: bytes) -> Any:  # noqa: ANN401 - whatever JSON has
    """Return the one value of a line."""
    try:
        text = raw.decode().strip(_SPACE)
        value, end = _parse_at(text, 0)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"not UTF-8: byte {error.object[error.start]:#04x} at place {error.start}") from error
    except json.JSONDecodeError as error:
        kind = _Cut if _is_cut(error, text) else InvalidInputError
        raise kind(f"not JSON: {error.msg} at character {error.pos}") from error
    if text[end:].strip(_SPACE):
        raise InvalidInputError(f"not JSON: more behind the value, at character {end}")
    return value


def _parse_at(text: str, start: int) -> tuple[Any, int]:
    """Return the value that begins at a place of a text, and where it ends.

    Raises:
        JSONDecodeError: It is not JSON, or goes on behind the end of the text.
        InvalidInputError: It is JSON, but not to be kept.
    """
    try:
        value, end = _DECODER.raw_decode(text, start)
    except (json.JSONDecodeError, InvalidInputError):
        raise
    except RecursionError as error:
        raise InvalidInputError("not JSON that can be read: nested too deeply") from error
    except ValueError as error:  # a whole number of thousands of digits
        raise InvalidInputError(f"not JSON that can be read: {error}") from error
    if _SURROGATE.search(text, start, end):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise InvalidInputError("a string is not valid Unicode (lone surrogate)") from error
    return value, end


def _is_cut(error: json.JSONDecodeError, text: str) -> bool:
    return error.msg.startswith("Unterminated string") or error.pos >= len(text) - _TAIL


class _Text:
    """The text of a stream, of which only the part that is being parsed is held.

    Args:
        stream: UTF-8.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._place, self._line, self._ended = "", 0, 1, False

    def read_items(self) -> Iterator[Value]:
        """Yield the items of the one array that the stream holds."""
        self._skip_space()
        self._place += 1  # its bracket
        if self._skip_space() == "]":
            self._place += 1
        else:
            yield from self._read_items()
        if self._skip_space():
            _fail(self._line, "not JSON: more behind the array")

    def _read_items(self) -> Iterator[Value]:
        while True:
            yield self._take_value()
            mark = self._skip_space()
            if mark not in (",", "]"):
                _fail(self._line, f"not JSON: {'the array breaks off' if not mark else 'a comma is missing'}")
            self._place += 1
            if mark == "]":
                return
            self._skip_space()

    def read_documents(self) -> Iterator[Value]:
        """Yield the values that follow each other in the stream."""
        while self._skip_space():
            yield self._take_value()

    def _take_value(self) -> Value:
        line = self._line
        while True:
            try:
                value, end = _parse_at(self._text, self._place)
                if self._ended or end < len(self._text):
                    self._advance(end)
                    return Value(line, value)
            except json.JSONDecodeError as error:
                if self._ended or not _is_cut(error, self._text):
                    at = self._line + self._text.count("\n", self._place, error.pos)
                    _fail(at, f"not JSON: {error.msg}, in the value that begins on line {line}", error)
            except InvalidInputError as error:
                _fail(line, str(error), error)
            if not self._read_on():
                self._ended = True

    def _skip_space(self) -> str:
        """Go to the next character that is not white space; returns it, or nothing at the end."""
        while True:
            place = self._place
            while place < len(self._text) and self._text[place] in _SPACE:
                place += 1
            self._advance(place)
            if place < len(self._text):
                return self._text[place]
            if not self._read_on():
                return ""

    def _advance(self, place: int) -> None:
        self._line += self._text.count("\n", self._place, place)
        self._place = place

    def _read_on(self) -> bool:
        """Read as much again as is held, at least a chunk; returns whether there was more."""
        rest = self._text[self._place :]
        if len(rest) > MAX_CHARS:
            _fail(self._line, f"a value of more than {MAX_CHARS} characters")
        line = self._line + rest.count("\n")
        raw = _read_on_line(line, lambda: self._stream.read(max(_CHUNK, len(rest))))
        try:
            more = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            _fail(line + raw.count(b"\n", 0, error.start), f"not UTF-8: byte {error.object[error.start]:#04x}", error)
        self._text, self._place = rest + more, 0
        return bool(raw)


def _fail(line: int, what: str, error: Exception | None = None) -> NoReturn:
    raise InvalidInputError(f"line {line}: {what}") from error


def _collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    collected = dict(pairs)
    if len(collected) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidInputError(f"the name {twice[:60]!r} occurs twice in one object")
    return collected


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise InvalidInputError(f"the number {text[:40]} is out of range")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise InvalidInputError(f"{text} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_collect, parse_float=_read_float, parse_constant=_refuse_constant)
