"""``Gathering``: questions that several threads ask at about the same time are encoded together."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Sequence

import numpy as np

from agent_memory.files import reset_in_child
from agent_memory.types import FloatArray

_MOST = 64  # texts of a group: beyond that an encoder gains little, and the first one would wait for the last
_LOOK_S = 0.05

Encode = Callable[[list[str]], FloatArray]


class _Turn:
    """Whoever holds it encodes a group: when an interrupt loses it, nobody does."""


class _Group:
    """Texts that are to be encoded together, and what came of it.

    Attributes:
        texts: The distinct texts.
        callers: Number of threads that wait for it.
        vectors: The vector of each text; empty if it did not come to that.
        done: Set when there is nothing more to wait for.
    """

    def __init__(self, turn: _Turn) -> None:
        self.texts: dict[str, None] = {}
        self.callers = 0
        self.vectors: dict[str, FloatArray] = {}
        self.done = threading.Event()
        self.began = time.monotonic()
        self.turn = weakref.ref(turn)

    def has_room(self, texts: Sequence[str]) -> bool:
        """Return whether texts may still join."""
        return self.turn() is not None and len(self.texts) + len(texts) <= _MOST

    def encode(self, encode: Encode) -> None:
        """Encode the texts; if that fails for several callers, each finds out by itself whose text it was."""
        texts = list(self.texts)
        try:
            vectors = np.asarray(encode(texts))
        except Exception:
            if self.callers == 1:
                raise
            return
        if vectors.ndim == 2 and len(vectors) == len(texts):
            self.vectors = dict(zip(texts, vectors, strict=True))

    def wait(self) -> None:
        """Wait until the group is encoded, or whoever was to do it is gone."""
        while not self.done.wait(_LOOK_S) and self.turn() is not None:
            pass


class Gathering:
    """Groups the questions of one encoder.

    A question that finds nothing else under way is encoded at once. While one is encoded, those that arrive wait for
    it, and are encoded together next. Where other calls are under way whose question may be about to come, the first of
    a group waits for them a moment.

    Args:
        window_s: How long that moment is at most.
        count_calls: Returns the number of calls under way, this one included.
    """

    def __init__(self, window_s: float, count_calls: Callable[[], int]) -> None:
        self._window_s, self._count_calls = window_s, count_calls
        self.reset()
        reset_in_child(self, Gathering.reset)

    def reset(self) -> None:
        """Forget all groups: in a child that was forked, the threads that made them are not there."""
        self._state = threading.Condition()
        self._open: _Group | None = None
        self._running: Callable[[], _Turn | None] = lambda: None

    def encode(self, texts: list[str], encode: Encode) -> FloatArray:
        """Return the vectors of texts, encoded together with those of others; shape (len(texts), dimension).

        Args:
            texts: The caller's questions.
            encode: The encoder's method. If it fails for a group, each caller's questions are encoded by themselves,
                so that an error concerns nobody else.
        """
        if len(texts) > _MOST:
            return encode(texts)
        turn = _Turn()
        group, leads = self._join(texts, turn)
        if leads:
            self._lead(group, turn, encode)
        else:
            group.wait()
        if not all(text in group.vectors for text in texts):
            return encode(texts)
        return np.stack([group.vectors[text] for text in texts])

    def _join(self, texts: list[str], turn: _Turn) -> tuple[_Group, bool]:
        """Join the open group, or begin one; returns it, and whether the caller leads it."""
        with self._state:
            group, leads = self._open, False
            if group is None or not group.has_room(texts):
                group, leads = _Group(turn), True
                self._open = group
            group.texts.update(dict.fromkeys(texts))
            group.callers += 1
            self._state.notify_all()
        return group, leads

    def _lead(self, group: _Group, turn: _Turn, encode: Encode) -> None:
        """Encode a group when its time has come."""
        try:
            self._begin(group, turn)
            group.encode(encode)
        finally:
            group.done.set()
            with self._state:
                if self._open is group:
                    self._open = None
                if self._running() is turn:
                    self._running = lambda: None
                self._state.notify_all()

    def _begin(self, group: _Group, turn: _Turn) -> None:
        """Wait for the group that is being encoded, and for questions that may be about to come; then let nobody in."""
        deadline = group.began + self._window_s
        with self._state:
            while True:
                if self._running() is not None:
                    self._state.wait(_LOOK_S)  # an interrupted call ends without a notification
                elif self._open is group and group.callers < self._count_calls() and time.monotonic() < deadline:
                    self._state.wait(deadline - time.monotonic())
                else:
                    break
            if self._open is group:
                self._open = None
            self._running = weakref.ref(turn)
