"""A command asks the helper of its store, before anything that takes time is imported.

Whatever is odd (no helper, another version or store, one that is busy, dies or says nothing), the command does its work
by itself. What is printed comes from the helper whole, or not at all.
"""

from __future__ import annotations

import io
import os
import select
import stat
import sys
import time

from agent_memory.resident import once, wire

TYPE_CHECKING = False  # typing would take longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

SWITCH = "AGENT_MEMORY_HELPER"
"""Environment variable that keeps commands from using a helper, if it is 0."""

OPTION = "--no-helper"
"""Option that does the same."""

WRITES = ("add",)
"""Commands that change the store."""

READS = ("recall", "why", "get", "history", "list", "stats", "session")
"""Commands that can be asked again."""

HOOK = "hook"
"""The command that does both, and may be carried out again: what it captures has a key made of the words."""

DEFAULT_FOLDER = "~/.agent-memory"

_BEGIN_S = 0.5  # until it is our turn
_SAY_S = 0.3  # for what an agent sends to a hook
_WAIT_S = {"add": 60.0, "hook": 2.0}
_READ_S = 5.0
_OFF = ("0", "off", "no", "false")
_PIPE_CLOSED, _INTERRUPTED, _LOCKED = 141, 130, 4
_STREAMS = (("stdin", 0), ("stdout", 1), ("stderr", 2))


def is_off() -> bool:
    """Return whether the person wants no helper."""
    return os.environ.get(SWITCH, "").strip().lower() in _OFF


def drop_option(arguments: list[str]) -> list[str]:
    """Return arguments without ``--no-helper``, which is kept in the environment instead."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    if OPTION not in arguments[:end]:
        return arguments
    os.environ[SWITCH] = "0"
    return [word for word in arguments[:end] if word != OPTION] + arguments[end:]


def run(arguments: list[str]) -> int | None:
    """Let a helper do a command; returns its exit code, or None if the command is to do its work by itself.

    Args:
        arguments: Those of the command line, without the program.
    """
    started = time.monotonic()
    if not wire.HAS_SOCKETS or is_off() or not _can_be_asked(arguments):
        return None
    try:
        folder = _find_folder(arguments)
        if not _has_socket(folder):
            return None
        request = _describe(arguments, folder, started)
        said = _read_input(arguments)
        return _ask(arguments[0], folder, request, said)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (OSError, ValueError, AttributeError):  # of a standard stream that is closed, among others
        return None


def _can_be_asked(arguments: list[str]) -> bool:
    if not arguments or {"-h", "--help"} & set(arguments):
        return False
    return arguments[0] in (*READS, *WRITES) or (arguments[0] == HOOK and "take-in" not in arguments)


def _find_folder(arguments: list[str]) -> str:
    """Return the folder that the arguments seem to name; the helper, which reads them properly, checks it."""
    folder = os.environ.get("AGENT_MEMORY_PATH") or DEFAULT_FOLDER
    words = iter(arguments)
    for word in words:
        if word == "--":
            break
        if word in ("-p", "--path"):
            folder = next(words, folder)
        elif word.startswith("--path="):
            folder = word[7:]
        elif word.startswith("-p"):
            folder = word[2:]
    return os.path.abspath(os.path.expanduser(folder))


def _has_socket(folder: str) -> bool:
    try:
        found = os.lstat(os.path.join(folder, wire.SOCKET))
    except (OSError, ValueError):
        return False
    private = not stat.S_IMODE(found.st_mode) & 0o077
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == os.geteuid() and private


def _describe(arguments: list[str], folder: str, started: float) -> dict[str, object]:
    """Return all that a command's output may depend on."""
    streams = {}
    for name, number in _STREAMS:
        stream = getattr(sys, name)
        streams[name] = {"encoding": stream.encoding, "errors": stream.errors, "tty": os.isatty(number)}
    environment = dict(os.environ)
    if streams["stdout"]["tty"] or streams["stderr"]["tty"]:
        for number in (0, 1, 2):  # in the order in which Rich asks
            try:
                columns, lines = os.get_terminal_size(number)
            except (OSError, ValueError):
                continue
            environment = {"COLUMNS": str(columns), "LINES": str(lines)} | environment
            break
    return {
        "package": wire.identify_package(),
        "store": wire.identify_store(folder),
        "program": sys.argv[0],
        "arguments": arguments,
        "folder": os.getcwd(),
        "environment": environment,
        "streams": streams,
        "started": started,
    }


def _read_input(arguments: list[str]) -> bytes | None:
    """Return standard input, if the command reads it; it can still be read afterwards."""
    if arguments[0] == HOOK:
        return None if sys.stdin.isatty() else _read_for(_SAY_S)
    if arguments[0] not in WRITES or "-" not in arguments:
        return None
    given = sys.stdin.buffer.read()
    _give_back(given)
    return given


def _read_for(seconds: float) -> bytes:
    """Return standard input if it ends soon; raises OSError if it does not."""
    end = time.monotonic() + seconds
    parts: list[bytes] = []
    try:
        while True:
            if not select.select([0], [], [], max(0.0, end - time.monotonic()))[0]:
                raise wire.WireError("standard input has not ended")
            part = os.read(0, 1 << 20)
            if not part:
                return b"".join(parts)
            parts.append(part)
    finally:
        _give_back(b"".join(parts))


class _Again(io.RawIOBase):
    """Standard input, from what was read of it on.

    Args:
        given: What was read.
    """

    def __init__(self, given: bytes) -> None:
        self._given = given

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - a buffer
        view = memoryview(buffer)
        part = self._given[: len(view)] or os.read(0, len(view))
        self._given = self._given[len(part) :]
        view[: len(part)] = part
        return len(part)


def _give_back(given: bytes) -> None:
    former = sys.stdin
    buffer = io.BufferedReader(_Again(given))
    sys.stdin = io.TextIOWrapper(buffer, encoding=former.encoding, errors=former.errors)


def _ask(command: str, folder: str, request: dict[str, object], said: bytes | None) -> int | None:
    import socket

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_BEGIN_S)
        with wire.Visit(folder):
            connection.connect(wire.SOCKET)
        if not wire.has_own_peer(connection):
            return None
        wire.send(connection, request | {"has_input": said is not None}, said or b"")
        answer, _ = wire.receive(connection)
        if answer.get(wire.READY) is not True:
            return None
        # From here on the helper may have done it; who does it again must look.
        once.begin(str(answer.get("key", "")))
        connection.sendall(wire.GO)
        connection.settimeout(_WAIT_S.get(command, _READ_S))
        try:
            answer, printed = wire.receive(connection)
        except TimeoutError:
            return _leave(command)
    code, parts = answer.get("code"), answer.get("parts")
    if not isinstance(code, int) or not isinstance(parts, list):
        return None
    return _print(command, parts, printed, code)


def _leave(command: str) -> int | None:
    """Do without an answer, but for a write: the helper may still carry that out."""
    if command not in WRITES:
        return None
    text = (
        f"error: the helper has taken the entry and does not answer; agent-memory get {once.key} shows it if it is kept"
    )
    os.write(2, f"{text}\n".encode())
    return _LOCKED


def _print(command: str, parts: list[object], printed: bytes, code: int) -> int:
    """Write what the helper printed to where it printed it; returns the exit code."""
    start = 0
    for part in parts:
        number, size = (int(one) for one in part)  # type: ignore[attr-defined] # the helper's pairs
        try:
            _write_all(number, printed[start : start + size])
        except BrokenPipeError:
            return code if command == HOOK or number == 2 else _PIPE_CLOSED
        except OSError as error:
            if command == HOOK or number == 2:
                return code
            _write_all(2, f"error: {error}\n".encode())
            return 1
        start += size
    return code


def _write_all(number: int, given: bytes) -> None:
    while given:
        given = given[os.write(number, given) :]
