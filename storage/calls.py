"""``Calls``: which calls of an object are under way, so that closing it and forking wait for them."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

from agent_memory.errors import ClosedError
from agent_memory.files import release_import_lock, reset_in_child

_LOOK_S = 0.05

_held: dict[int, BaseException] = {}


def hold_interrupt(interrupt: BaseException) -> None:
    """Hold what was raised in a function that C calls, which drops it, for the ``keep_interrupts`` around it."""
    _held[threading.get_ident()] = interrupt


@contextmanager
def keep_interrupts() -> Iterator[None]:
    """Undo what Python and SQLite make of an interrupt (``KeyboardInterrupt``, a task's time limit).

    Before 3.12 Python makes a ``RuntimeError`` of one that comes while a class is made, as in the import of a module;
    SQLite makes an ``OperationalError`` of one that comes in a function of ours that it calls: it is raised as itself.
    One that comes as an import begins or ends can leave the import lock taken.
    """
    release_import_lock()  # a second interrupt may have kept it from being released below
    try:
        yield
    except Exception as error:
        interrupt = _held.get(threading.get_ident()) or _find_interrupt(error)
        if interrupt is None:
            raise
        raise interrupt  # noqa: B904 - it is where the error came from
    finally:
        release_import_lock()
        _held.pop(threading.get_ident(), None)


def raise_behind(error: BaseException) -> None:
    """Raise an interrupt that an error was raised over, as psycopg's pipelines do on their way out."""
    behind = error.__context__
    while behind is not None:
        if not isinstance(behind, Exception):
            raise behind
        behind = behind.__context__


def _find_interrupt(error: BaseException | None) -> BaseException | None:
    while error is not None:
        cause = error.__cause__
        if type(error) is RuntimeError and str(error).startswith("Error calling __set_name__"):
            return None if isinstance(cause, Exception) else cause
        error = cause
    return None


class Call:
    """One call. Whoever holds it is in it: when an interrupt loses it, it is over."""

    def __init__(self, kind: str) -> None:
        self.thread, self.kind = threading.get_ident(), kind


class Calls:
    """Counts calls, also across threads, interrupts and forks.

    Attributes:
        closed: Whether later calls are refused.
    """

    def __init__(self) -> None:
        self.closed = False
        self.reset()
        reset_in_child(self, Calls.reset)

    def reset(self) -> None:
        """Forget all calls: in a child that was forked, the threads that made them are not there."""
        self._state = threading.Condition()
        self._holder: int | None = None
        # Not a WeakSet, which miscounts once an interrupt has come while it was looked through.
        self._calls: set[weakref.ref[Call]] = set()

    def __len__(self) -> int:
        return len(self._list())

    def _list(self) -> list[Call]:
        return [call for one in list(self._calls) if (call := one()) is not None]

    def enter(self, kind: str = "") -> Call:
        """Begin a call; waits while another thread holds calls back.

        One inside of another of the same thread is let in at once, even after ``close``.

        Args:
            kind: What ``inside`` asks for.

        Raises:
            ClosedError: The memory was closed.
        """
        with self._state:
            if not self.inside():
                while self._holder not in (None, threading.get_ident()):
                    self._state.wait()
                if self.closed:
                    raise ClosedError("this memory is closed")
            call = Call(kind)
            self._calls.add(weakref.ref(call, self._calls.discard))
        return call

    def inside(self, kind: str | None = None) -> bool:
        """Return whether this thread is in a call, of that kind if one is given."""
        me = threading.get_ident()
        return any(call.thread == me and kind in (None, call.kind) for call in self._list())

    def leave(self, call: Call) -> None:
        """End a call."""
        with self._state:
            self._calls.discard(weakref.ref(call))
            self._state.notify_all()

    def close(self, timeout_s: float) -> int:
        """Refuse later calls, and wait for those of other threads.

        Args:
            timeout_s: Seconds to wait.

        Returns:
            How many are still running after that.
        """
        with self._state:
            self.closed = True
            return self._wait_for_others(timeout_s)

    def hold(self, timeout_s: float) -> None:
        """Let calls of other threads wait before they begin, until ``go_on``, and wait for those under way.

        Args:
            timeout_s: Seconds to wait at most.
        """
        with self._state:
            self._holder = threading.get_ident()
            self._wait_for_others(timeout_s)

    def go_on(self) -> None:
        """Let in the calls that were held back."""
        with self._state:
            self._holder = None
            self._state.notify_all()

    def _wait_for_others(self, timeout_s: float) -> int:
        deadline, me = time.monotonic() + timeout_s, threading.get_ident()
        while left := sum(call.thread != me for call in self._list()):
            rest = deadline - time.monotonic()
            if rest <= 0:
                break
            # An interrupted call ends without a notification: look again from time to time.
            self._state.wait(min(rest, _LOOK_S))
        return left
