"""Lets a command that another process was asked to do run in this one, as if it were there."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from agent_memory.cli.shared import ERR, OUT


class _Sink(io.RawIOBase):
    """What a command writes to: keeps it, with the number of the stream.

    Args:
        number: 1 for standard output, 2 for standard error.
        kept: Where it is kept.
        is_terminal: What ``isatty`` says.
    """

    def __init__(self, number: int, kept: list[tuple[int, bytes]], *, is_terminal: bool) -> None:
        self._number, self._kept, self._is_terminal = number, kept, is_terminal

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._is_terminal

    def write(self, given: Any) -> int:  # noqa: ANN401 - a buffer
        part = bytes(given)
        self._kept.append((self._number, part))
        return len(part)


@contextlib.contextmanager
def disguised(request: Mapping[str, Any], said: bytes, kept: list[tuple[int, bytes]]) -> Iterator[None]:
    """Give this process the arguments, streams, environment and folder of another one while the block runs."""
    arguments, environment = sys.argv, dict(os.environ)
    streams = sys.stdin, sys.stdout, sys.stderr
    try:
        os.chdir(request["folder"])
        _set_environment(request["environment"])
        sys.argv = [request["program"], *request["arguments"]]
        sys.stdin, sys.stdout, sys.stderr = _make_streams(request, said, kept)
        for screen in (OUT, ERR):
            screen.reset()
        yield
    finally:
        sys.argv = arguments
        sys.stdin, sys.stdout, sys.stderr = streams
        _set_environment(environment)
        os.chdir("/")  # keeps nobody's folder in use


def _set_environment(wanted: Mapping[str, str]) -> None:
    zone = os.environ.get("TZ")
    os.environ.clear()
    os.environ.update(wanted)
    if os.environ.get("TZ") != zone:
        time.tzset()


def _make_streams(
    request: Mapping[str, Any], said: bytes, kept: list[tuple[int, bytes]]
) -> tuple[io.TextIOWrapper, io.TextIOWrapper, io.TextIOWrapper]:
    facts = request["streams"]
    source: Any = io.BytesIO(said)
    if not request["has_input"] and facts["stdin"]["tty"]:
        source.isatty = lambda: True
    made = [io.TextIOWrapper(source, facts["stdin"]["encoding"], facts["stdin"]["errors"])]
    for number, name in ((1, "stdout"), (2, "stderr")):
        sink: Any = _Sink(number, kept, is_terminal=facts[name]["tty"])
        made.append(io.TextIOWrapper(sink, facts[name]["encoding"], facts[name]["errors"], write_through=True))
    return made[0], made[1], made[2]
