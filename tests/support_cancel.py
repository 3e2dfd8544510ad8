"""Holds a write at a chosen place, so that a test can cancel its caller there."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from support import WordEncoder

from agent_memory.storage.sqlite.drafts import SqliteDrafts

HELD = "held"


class Barrier:
    """Where a thread waits until it is let go."""

    def __init__(self) -> None:
        self.reached, self.free = threading.Event(), threading.Event()

    def wait_here(self) -> None:
        self.reached.set()
        self.free.wait(60)

    async def wait_for_thread(self) -> None:
        while not self.reached.is_set():
            await asyncio.sleep(0.001)


class HoldingEncoder(WordEncoder):
    """Waits before it encodes a text that holds the word "held"."""

    def __init__(self) -> None:
        super().__init__()
        self.barrier = Barrier()

    def encode_documents(self, texts, *, progress=None):
        if any(HELD in text for text in texts):
            self.barrier.wait_here()
        return super().encode_documents(texts, progress=progress)


def hold_in_transaction(monkeypatch: pytest.MonkeyPatch) -> Barrier:
    """Let writes wait inside of their transaction, after their rows were written and before the commit."""
    barrier = Barrier()
    for name in ("put", "remove"):
        real: Callable[..., Any] = getattr(SqliteDrafts, name)

        def held(*given: Any, real: Callable[..., Any] = real, **named: Any) -> Any:
            written = real(*given, **named)
            barrier.wait_here()
            return written

        monkeypatch.setattr(SqliteDrafts, name, held)
    return barrier


async def cancel_at(barrier: Barrier, call: Awaitable[object], *, times: int = 1) -> asyncio.Task[object]:
    """Start a call, and cancel it when a thread of it has come to a barrier; returns its task, perhaps unfinished."""
    task = asyncio.ensure_future(call)
    await barrier.wait_for_thread()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0.01)
    return task
