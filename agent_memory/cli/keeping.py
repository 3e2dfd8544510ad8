"""Keeps a helper beside a server: a process of its own, started again when it dies, that ends with the server."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from agent_memory.resident.client import is_off
from agent_memory.resident.wire import HAS_SOCKETS, SOCKET

_END_S = 10.0
_LEAST_PAUSE_S, _MOST_PAUSE_S = 1.0, 600.0
_LONG_S = 60.0  # a helper that has lived so long is started again at once


class _Keeper:
    """Starts a helper, and another one when it has died.

    It pauses before each start, for twice as long each time until one lives for a while: where the folder has no room
    for a socket, or another server's helper is there, none of them will.

    Args:
        folder: The store's folder.
        command: Starts a helper that ends when its standard input does.
        ended: Set when no helper is wanted any more.
    """

    def __init__(self, folder: Path, command: list[str], ended: threading.Event) -> None:
        self._folder, self._command = folder, command
        self._lock, self._ended = threading.Lock(), ended
        self._helper = self._start()
        self._thread = threading.Thread(target=self._watch, name="agent-memory-helper", daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen[bytes]:
        nowhere = subprocess.DEVNULL
        # Not in the terminal's group: Ctrl-C is for the server, which then closes the helper's standard input.
        return subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere, start_new_session=True, cwd="/"
        )

    def _watch(self) -> None:
        pause, began = _LEAST_PAUSE_S, time.monotonic()
        while True:
            self._helper.wait()
            pause = _LEAST_PAUSE_S if time.monotonic() - began > _LONG_S else min(pause, _MOST_PAUSE_S)
            if self._ended.wait(pause):
                return
            pause, began = 2 * pause, time.monotonic()
            with self._lock:
                if self._ended.is_set():
                    return
                _close_input(self._helper)
                with suppress(OSError):  # no room for a process: it is tried again, like one that has died
                    self._helper = self._start()

    def end(self) -> None:
        """Let the helper finish the command that it is at, and wait for its end; one that has not begun is killed."""
        with self._lock:
            self._ended.set()
        helper = self._helper
        if not (self._folder / SOCKET).exists():
            helper.kill()
        _close_input(helper)
        try:
            helper.wait(_END_S)
        except subprocess.TimeoutExpired:
            helper.kill()
            helper.wait()
        self._thread.join()


def _close_input(helper: subprocess.Popen[bytes]) -> None:
    if helper.stdin is not None:
        with suppress(OSError):
            helper.stdin.close()


@contextmanager
def keep_helper(place: Path | str, encoder: str | None) -> Iterator[None]:
    """Let a process of its own help the commands of a store while the block runs; it ends with this one."""
    if is_off() or not HAS_SOCKETS or isinstance(place, str):  # an address has no folder for the socket
        yield
        return
    command = [sys.executable, "-P", "-m", "agent_memory", "serve", "--socket-only", "--until-closed"]
    command += ["--path", str(place), *([] if encoder is None else ["--encoder", encoder])]
    keeper = _Keeper(place, command, threading.Event())
    try:
        yield
    finally:
        keeper.end()
