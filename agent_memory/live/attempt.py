"""``Attempt``: a call that its caller may give up, as long as it has written nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TypeVar

_R = TypeVar("_R")
_current: ContextVar[Attempt | None] = ContextVar("agent_memory_attempt", default=None)


class GivenUpError(Exception):
    """The call was given up by its caller, who no longer sees this error."""


class Attempt:
    """A call in another thread whose caller may give it up until it begins to write.

    Args:
        orphaned: Returns whether the caller is gone, so that nobody would hear of the outcome.
    """

    def __init__(self, orphaned: Callable[[], bool]) -> None:
        self._orphaned = orphaned
        self._lock = threading.Lock()
        self._begun = self._given_up = False

    def run(self, call: Callable[[], _R]) -> _R:
        """Make the call, in a context of its own, unless it was given up before it began.

        Raises:
            GivenUpError: It was given up before it wrote anything.
        """
        self._check()
        _current.set(self)
        return call()

    def begin(self) -> None:
        """Note that the call is about to write, from where on it is carried out to its end.

        Raises:
            GivenUpError: It was given up before.
        """
        with self._lock:
            self._check()
            self._begun = True

    def _check(self) -> None:
        if self._given_up or (not self._begun and self._orphaned()):
            raise GivenUpError

    def give_up(self) -> bool:
        """Keep the call from ever writing; returns False if it has begun to write, and goes on."""
        with self._lock:
            self._given_up = not self._begun
            return self._given_up


def begin_to_write() -> None:
    """Note that the call under way, if it is an attempt, is about to write.

    Raises:
        GivenUpError: Its caller has given it up.
    """
    attempt = _current.get()
    if attempt is not None:
        attempt.begin()
