"""``Calls``: which calls of a memory are under way, so that closing it waits for them."""

from __future__ import annotations

import os
import threading
import time
import weakref

from agent_memory.errors import ClosedError

_LOOK_S = 0.05


class Call:
    """One call. Whoever holds it is in it: when an interrupt loses it, it is over."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()


class Calls:
    """Counts calls, also across threads, interrupts and forks."""

    def __init__(self) -> None:
        self._closed = False
        self.reset()
        _LIVE.add(self)

    def reset(self) -> None:
        """Forget all calls: in a child that was forked, the threads that made them are not there."""
        self._state = threading.Condition()
        self._calls: weakref.WeakSet[Call] = weakref.WeakSet()

    def enter(self) -> Call:
        """Begin a call; one inside of another of the same thread is let in even while the memory is being closed.

        Raises:
            ClosedError: The memory was closed.
        """
        with self._state:
            if self._closed and not any(call.thread == threading.get_ident() for call in list(self._calls)):
                raise ClosedError("this memory is closed")
            call = Call()
            self._calls.add(call)
        return call

    def leave(self, call: Call) -> None:
        """End a call."""
        with self._state:
            self._calls.discard(call)
            self._state.notify_all()

    def close(self, timeout_s: float) -> int:
        """Refuse later calls, and wait for those of other threads.

        Args:
            timeout_s: Seconds to wait.

        Returns:
            How many are still running after that.
        """
        deadline = time.monotonic() + timeout_s
        with self._state:
            self._closed = True
            while left := sum(call.thread != threading.get_ident() for call in list(self._calls)):
                rest = deadline - time.monotonic()
                if rest <= 0:
                    break
                # An interrupted call ends without a notification: look again from time to time.
                self._state.wait(min(rest, _LOOK_S))
        return left


_LIVE: weakref.WeakSet[Calls] = weakref.WeakSet()


def _reset_in_child() -> None:
    for calls in list(_LIVE):
        calls.reset()


os.register_at_fork(after_in_child=_reset_in_child)
