"""What the tasks of an event loop ask of a store in one turn of it, carried out together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from agent_memory.aio import run_in_thread
from agent_memory.errors import MissingDependencyError

try:
    from langgraph.store.base import Op, Result
except ModuleNotFoundError as error:
    raise MissingDependencyError("langgraph", "langgraph") from error

Embed: TypeAlias = Callable[[Sequence[Op]], Awaitable[Any]]
Run: TypeAlias = Callable[[Sequence[Op], Any], list[Result]]


@dataclass(eq=False)
class _Call:
    """The operations of one caller.

    Attributes:
        ops: What is asked for.
        answer: Its results; done when the outcome is known.
        running: Whether its batch may write, so that it can no longer be taken out.
        left: Whether its caller was cancelled.
    """

    ops: list[Op]
    answer: asyncio.Future[list[Result]]
    running: bool = False
    left: bool = False


@dataclass(eq=False)
class _Line:
    """The calls of one event loop: those that wait, those that are carried out, and the task that does it."""

    waiting: list[_Call] = field(default_factory=list)
    running: list[_Call] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Batches:
    """Carries out the calls of an event loop in batches, one batch after another.

    A batch holds the calls of one turn of the loop, and those that came while the batch before it was under way. Texts
    are embedded together, and of several puts of one key the last is written.

    Args:
        embed: Embeds the texts and queries of operations.
        run: Carries operations out, given what ``embed`` returned, in a thread.
    """

    def __init__(self, embed: Embed, run: Run) -> None:
        self._embed, self._run = embed, run
        self._lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()

    async def submit(self, ops: list[Op]) -> list[Result]:
        """Return the results of operations.

        When this is cancelled, they have not been carried out and never will be, or they have been.
        """
        loop = asyncio.get_running_loop()
        line = self._lines.setdefault(loop, _Line())
        call = _Call(ops, loop.create_future())
        line.waiting.append(call)
        if line.task is None:
            line.task = loop.create_task(self._work_off(line))
        cancelled: asyncio.CancelledError | None = None
        while not call.answer.done():
            try:
                await asyncio.wait([call.answer])
            except asyncio.CancelledError as error:
                cancelled = cancelled or error
                _leave(line, call)
        if cancelled is not None:
            raise cancelled from None if call.answer.cancelled() else call.answer.exception()
        return call.answer.result()

    async def _work_off(self, line: _Line) -> None:
        try:
            while line.waiting:
                line.running, line.waiting = line.waiting, []
                await self._carry_out(line.running)
        finally:
            line.task = None
            for call in (*line.running, *line.waiting):  # the loop is being closed
                call.answer.cancel()

    async def _carry_out(self, calls: Sequence[_Call]) -> None:
        """Carry out calls together; where that fails, each alone, so that a faulty one does not fail the others."""
        try:
            embedded = await self._embed([op for call in calls for op in call.ops])
            calls = _start(calls)
            ops = [op for call in calls for op in call.ops]
            results = await run_in_thread(lambda: self._run(ops, embedded)) if ops else []
        except asyncio.CancelledError:
            if not all(call.left for call in calls):
                raise
            for call in calls:
                call.answer.cancel()
        except Exception as error:
            if len(calls) == 1:
                if not calls[0].answer.done():
                    calls[0].answer.set_exception(error)
                return
            for call in calls:
                await self._carry_out([call])
        else:
            for call in calls:
                call.answer.set_result(results[: len(call.ops)])
                results = results[len(call.ops) :]


def _start(calls: Sequence[_Call]) -> list[_Call]:
    """Return the calls whose callers are still there; from now on they cannot be taken out.

    The others will never be carried out, and are told so: one may have left while its batch was tried, and failed.
    """
    for call in calls:
        if call.left:
            call.answer.cancel()
        else:
            call.running = True
    return [call for call in calls if not call.left]


def _leave(line: _Line, call: _Call) -> None:
    """Take a call out of its batch while that is possible; stop a batch that nobody waits for any more."""
    call.left = True
    if call in line.waiting:
        line.waiting.remove(call)
    if not call.running:
        call.answer.cancel()
    elif line.task is not None and all(each.left for each in line.running):
        line.task.cancel()
