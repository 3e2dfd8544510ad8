"""The resident helper: a process that keeps a store open, and does the work of commands as if it were they.

One command at a time, in the main thread: a command has the process's arguments, streams, environment and folder to
itself. What it prints is kept, and sent when it has ended well; whatever else it comes to, it does again by itself.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import os
import select
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import typer

from agent_memory.cli.disguise import disguised
from agent_memory.errors import LeaseHeldError, StorageError
from agent_memory.files import failpoint
from agent_memory.memory import Memory
from agent_memory.resident import client, lending, once, wire
from agent_memory.types import Namespace
from agent_memory.writing.items import make_key

_log = logging.getLogger("agent_memory")

_LOOK_S = 1.0  # between looks at whether the socket is still ours
_HEAR_S = 1.0  # for a whole request; it comes from this machine, in one piece
_TELL_S = 5.0
_TELLS = (0, 3, 4)  # exit codes of answers that are the command's own; the others may be ours


class _Answer(NamedTuple):
    code: int
    parts: list[tuple[int, int]]
    printed: bytes


class Helper:
    """Does the work of commands for one store.

    Args:
        folder: The store's folder.
        command: The command line: called with arguments, it ends in SystemExit.
        hook: What ``agent-memory hook`` does: called with arguments and when it began; raises what goes wrong.
        encoder: Encoder of a new store.

    Raises:
        LeaseHeldError: Another helper is there.
        StorageError: There can be no socket in the folder.
    """

    def __init__(
        self, folder: Path, command: typer.core.TyperGroup, hook: Callable[[list[str], float], int], encoder: str | None
    ) -> None:
        self._folder, self._command, self._hook = folder, command, hook
        self._code, self._package = _stamp_code(), wire.identify_package()
        self.memory = Memory(folder, encoder=encoder)
        try:
            self._store = wire.identify_store(str(folder))
            self._socket = _listen(folder)
        except BaseException:
            self.memory.close()
            raise
        self._process, self._place = os.getpid(), os.lstat(folder / wire.SOCKET).st_ino

    def warm(self) -> None:
        """Load what the first question needs."""
        self.memory.recall("Where does Alice live?", k=1)

    def close(self) -> None:
        """Take the socket away, and close the store."""
        self._socket.close()
        with contextlib.suppress(OSError):
            if self._is_mine() and os.getpid() == self._process:  # not in a child that was forked
                (self._folder / wire.SOCKET).unlink()
        self.memory.close()

    def serve(self, is_stopped: Callable[[], bool], lifeline: int | None = None) -> None:
        """Do commands until told to stop, or until the store is another one.

        Args:
            is_stopped: Asked about every second.
            lifeline: A descriptor whose other end closes when the process that started this one is gone.
        """
        watched = [self._socket.fileno(), *([] if lifeline is None else [lifeline])]
        while not is_stopped():
            ready = select.select(watched, [], [], _LOOK_S)[0]
            if lifeline in ready or not self._is_current():
                return
            if self._socket.fileno() in ready:
                self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._socket.accept()
        except OSError:
            return
        with connection:
            try:
                self._answer(connection)
            except OSError:  # whoever asked has gone, and does without
                _log.debug("a command has left its helper", exc_info=True)

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(_HEAR_S)
        if not wire.has_own_peer(connection):
            return
        request, said = wire.receive(connection)
        if request.get("package") != self._package or request.get("store") != self._store or not self._is_current():
            wire.send(connection, {wire.READY: False})
            return
        new_key = make_key()
        wire.send(connection, {wire.READY: True, "key": new_key})
        if wire.read_exactly(connection, 1) != wire.GO:
            return
        failpoint("helper-begun")
        answer = self._carry_out(request, said, new_key)
        failpoint("helper-done")
        connection.settimeout(_TELL_S)
        if answer is None:
            wire.send(connection, {})
        else:
            wire.send(connection, {"code": answer.code, "parts": answer.parts}, answer.printed)

    def _is_mine(self) -> bool:
        try:
            return os.lstat(self._folder / wire.SOCKET).st_ino == self._place
        except OSError:
            return False

    def _is_current(self) -> bool:
        """Return whether the folder, the store in it and our code are still those that we began with."""
        try:
            same = wire.identify_store(str(self._folder)) == self._store
        except OSError:
            return False
        return same and self._is_mine() and _stamp_code() == self._code

    def lend(self, folder: Path, namespace: Namespace) -> Memory | None:
        """Return the open memory as it is seen in a namespace, if it is that of the folder."""
        if folder != self._folder:
            return None
        view = copy.copy(self.memory)
        view._enter(namespace)
        return view

    def _carry_out(self, request: Mapping[str, Any], said: bytes, new_key: str) -> _Answer | None:
        """Return what a command comes to; None if it is to be done by whoever asks."""
        kept: list[tuple[int, bytes]] = []
        arguments = [str(word) for word in request["arguments"]]
        try:
            with disguised(request, said, kept), lending.lending(self.lend):
                once.begin(new_key)
                once.since = 0.0  # nobody else has begun it
                code = self._call(arguments, float(request["started"]))
        except Exception:
            _log.debug("a command is left to whoever asks", exc_info=True)
            return None
        finally:
            once.forget()
        if code not in _TELLS:
            return None
        return _Answer(code, [(number, len(part)) for number, part in kept], b"".join(part for _, part in kept))

    def _call(self, arguments: list[str], started: float) -> int:
        if arguments[0] == client.HOOK:
            return self._hook(arguments[1:], started)
        try:
            self._command.main(arguments, prog_name="agent-memory")
        except SystemExit as ended:
            return ended.code if isinstance(ended.code, int) else 1 if ended.code else 0
        return 0


def _listen(folder: Path) -> socket.socket:
    """Return a private socket in a folder, in place of one that nobody listens to any more."""
    if not wire.HAS_SOCKETS:
        raise StorageError("this system has no sockets in folders, by which commands find a helper")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    former = os.umask(0o177)
    try:
        with wire.Visit(str(folder)):
            _clear()
            sock.bind(wire.SOCKET)
        sock.listen(128)
    except OSError as error:
        sock.close()
        raise StorageError(f"there can be no socket in {folder}: {error}") from error
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(former)
    return sock


def _clear() -> None:
    """Remove the socket of a helper that was killed, from the current folder; raises LeaseHeldError if one lives."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(wire.SOCKET)
        except FileNotFoundError:
            return
        except ConnectionRefusedError:
            os.unlink(wire.SOCKET)
            return
        except TimeoutError:  # one that is busy
            pass
    raise LeaseHeldError("helper", "another process")


def _stamp_code() -> tuple[tuple[str, int, int], ...]:
    """Return what changes when our code does: an upgrade under a helper that runs."""
    package = wire.identify_package()
    found = []
    for place, _, names in os.walk(package, followlinks=True):
        for name in names:
            if name.endswith(".py"):
                facts = os.stat(os.path.join(place, name))
                found.append((name, facts.st_mtime_ns, facts.st_size))
    return tuple(sorted(found))


def run(
    folder: Path,
    command: typer.core.TyperGroup,
    hook: Callable[[list[str], float], int],
    *,
    encoder: str | None = None,
    lifeline: int | None = None,
    announce: Callable[[Path], None] = lambda place: None,
) -> None:
    """Help the commands of a store until told to stop (SIGINT, SIGTERM).

    Args:
        folder: The store's folder, made if it is missing.
        command: As for ``Helper``.
        hook: As for ``Helper``.
        encoder: Encoder of a new store.
        lifeline: As for ``Helper.serve``.
        announce: Called with the socket when there is one.

    Raises:
        LeaseHeldError: Another helper is there.
        StorageError: There can be no socket in the folder, or the store cannot be opened.
    """
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    helper = Helper(folder, command, hook, encoder)
    try:
        helper.warm()
        announce(folder / wire.SOCKET)
        helper.serve(lambda: stopped, lifeline)
    finally:
        helper.close()
