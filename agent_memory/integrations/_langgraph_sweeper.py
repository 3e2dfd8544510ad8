"""The thread that deletes expired items now and then."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Self

from agent_memory.errors import AgentMemoryError

if TYPE_CHECKING:
    from langgraph.store.base import TTLConfig

    from agent_memory.memory import Memory

_log = logging.getLogger("agent_memory")
_DEFAULT_MINUTES = 5.0


class Done(int):
    """A number that may be awaited: LangGraph's asynchronous stores have coroutines in its place."""

    def __await__(self) -> Generator[None, None, int]:
        """Return the number."""
        yield from ()
        return int(self)


class Sweeping(Future[None]):
    """A future that may be awaited, which returns itself: it is done when the sweeping ends."""

    def __await__(self) -> Generator[None, None, Self]:
        """Return the future."""
        yield from ()
        return self


class Sweeper:
    """Deletion of expired items, on demand and in the background."""

    memory: Memory
    ttl_config: TTLConfig | None

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._sweeper: threading.Thread | None = None

    def sweep_ttl(self) -> Done:
        """Delete what has expired; returns how many entries that were: one for each indexed text of an item.

        It is done when this returns; the number may be awaited.
        """
        return Done(self.memory.purge_expired())

    def start_ttl_sweeper(self, sweep_interval_minutes: float | None = None) -> Sweeping:
        """Sweep in a thread until ``stop_ttl_sweeper`` or ``close``.

        Args:
            sweep_interval_minutes: Minutes between sweeps; the setting of the store, or 5, if left out.

        Returns:
            Done when the thread ends; cancelling it stops the thread. Awaiting it returns it at once.
        """
        done = Sweeping()
        done.add_done_callback(lambda future: self._stop.set() if future.cancelled() else None)
        if not self.ttl_config:
            done.set_result(None)
            return done
        if self._sweeper is not None and self._sweeper.is_alive():
            return done
        minutes = sweep_interval_minutes or self.ttl_config.get("sweep_interval_minutes") or _DEFAULT_MINUTES
        self._stop.clear()
        self._sweeper = threading.Thread(
            target=self._sweep_until_stopped, args=(minutes * 60, done), daemon=True, name="agent-memory-ttl"
        )
        self._sweeper.start()
        return done

    def _sweep_until_stopped(self, interval_s: float, done: Future[None]) -> None:
        while not self._stop.wait(interval_s):
            try:
                self.sweep_ttl()
            except AgentMemoryError as error:
                _log.warning("expired items could not be deleted: %s", error)
        if not done.cancelled():
            done.set_result(None)

    def stop_ttl_sweeper(self, timeout: float | None = None) -> Done:
        """Stop the thread; returns 0 if it is still at work after ``timeout`` seconds, else 1. May be awaited."""
        self._stop.set()
        if self._sweeper is None:
            return Done(True)
        self._sweeper.join(timeout)
        return Done(not self._sweeper.is_alive())
