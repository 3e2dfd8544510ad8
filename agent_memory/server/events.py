"""Events: what changed in the store, as server-sent events that tell no content."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import StreamingResponse

from agent_memory.errors import AgentMemoryError
from agent_memory.server.calls import Caller, Reader
from agent_memory.server.describing import answers
from agent_memory.server.pages import seal, secret_of, unseal
from agent_memory.server.problems import Problem
from agent_memory.server.serving import Serving
from agent_memory.types import Namespace, is_internal

router = APIRouter(tags=["events"])

_POLL_S = 0.2
_BEAT_S = 15.0
_BATCH = 500
_REMEMBERED = 10_000


class Watch:
    """Looks for changes as long as somebody listens, for all listeners of a process.

    Args:
        serving: The server.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving, self._listeners = serving, 0
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self.seq = 0

    @property
    def listeners(self) -> int:
        """Number of clients that listen."""
        return self._listeners

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        """Count a listener while the block runs."""
        self._listeners += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._look())
        try:
            yield
        finally:
            self._listeners -= 1

    async def _look(self) -> None:
        while self._listeners and not self._serving.stopping.is_set():
            with contextlib.suppress(AgentMemoryError, Problem):
                seq = await asyncio.to_thread(self._read_seq)
                if seq != self.seq:
                    self.seq = seq
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(_POLL_S)
        async with self._changed:
            self._changed.notify_all()

    def _read_seq(self) -> int:
        with self._serving.memory._store.read() as tx:
            return tx.changes.last_seq()

    async def wait(self) -> None:
        """Return after the next look at the store."""
        async with self._changed:
            await self._changed.wait()

    async def close(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


class Stream:
    """What one client is told.

    Args:
        caller: The client.
        seq: Number of the last change that it knows.
    """

    def __init__(self, caller: Caller, seq: int) -> None:
        self._caller, self.seq = caller, seq
        self._history: int | None = None
        self._told: OrderedDict[int, tuple[str, Namespace]] = OrderedDict()

    def read(self) -> list[str]:
        """Return the events that follow."""
        memory = self._caller.memory
        with memory._store.read() as tx:
            lost = self._history not in (None, tx.history) or self.seq > tx.changes.last_seq()
            self._history = tx.history
            if lost or not tx.changes.reach_back_to(self.seq):
                self.seq = tx.changes.last_seq()
                return [self._write("reset", {"reason": "the changes since then are no longer known: read again"})]
            rows = tx.changes.list_since(self.seq, _BATCH)
            entries = tx.entries.fetch(list({row[1] for row in rows}))
        events = []
        for seq, entry_id, op in rows:
            self.seq = seq
            entry = entries.get(entry_id)
            if entry is not None and self._sees(entry.namespace):
                self._remember(entry_id, (entry.key, entry.namespace))
                events.append(self._write("change", {"op": op, "key": entry.key, "namespace": entry.namespace}))
            elif entry is None and op == "forget":
                events += self._tell_forgotten(entry_id)
        return events

    def _tell_forgotten(self, entry_id: int) -> list[str]:
        """Tell of an entry that is gone: of whose it was, nothing is left but what this client was told."""
        known = self._told.pop(entry_id, None)
        if known is not None:
            return [self._write("change", {"op": "forget", "key": known[0], "namespace": known[1]})]
        return [self._write("change", {"op": "forget"})] if self._caller.sees_all else []

    def _remember(self, entry_id: int, name: tuple[str, Namespace]) -> None:
        self._told[entry_id] = name
        self._told.move_to_end(entry_id)
        if len(self._told) > _REMEMBERED:
            self._told.popitem(last=False)

    def _sees(self, namespace: Namespace) -> bool:
        home = self._caller.principal.namespace
        return namespace[: len(home)] == home and (is_internal(home) or not is_internal(namespace))

    def _write(self, event: str, data: object) -> str:
        number = seal(self.seq, secret_of(self._caller))
        return f"id: {number}\nevent: {event}\ndata: {json.dumps(data)}\n\n"

    def _may_go_on(self) -> bool:
        """Return whether the client's key still says what it said when the stream began."""
        try:
            return self._caller.serving.identify(self._caller.request.headers) == self._caller.principal
        except (AgentMemoryError, Problem):
            return False

    async def run(self, watch: Watch) -> AsyncIterator[str]:
        """Yield events, and a sign of life now and then, until the server stops or the key is revoked."""
        clock = asyncio.get_running_loop().time
        last, serving = clock(), self._caller.serving
        async with watch.listen():
            yield ": listening\n\n"
            while not serving.stopping.is_set() and self._may_go_on():
                events = await asyncio.to_thread(self.read) if watch.seq != self.seq else []
                if events:
                    yield "".join(events)
                    last = clock()
                elif clock() - last > _BEAT_S:
                    yield ": alive\n\n"
                    last = clock()
                if watch.seq == self.seq or not events:
                    await watch.wait()


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={
        **answers(),
        200: {"content": {"text/event-stream": {}}, "description": "`change` events; `reset` where some were missed."},
    },
)
async def events(
    caller: Reader,
    last_event_id: Annotated[str | None, Header(description="Go on after the event of this id.")] = None,
) -> Response:
    """Follow what changes: `put`, `supersede` or `forget`, with the entry's key and namespace, no content."""
    watch: Watch = caller.request.app.state.events
    most = caller.serving.settings.max_streams
    if watch.listeners >= most:
        detail = f"{watch.listeners} clients follow the events; the limit is {most}"
        raise Problem(503, "busy", detail, headers={"retry-after": "5"})

    def begin() -> Stream:
        seq = watch._read_seq()
        if last_event_id:
            seq = unseal(last_event_id, secret_of(caller))  # of a state that was lost, if it is higher
        return Stream(caller, seq)

    stream = await caller.serving.run(begin)
    return StreamingResponse(stream.run(watch), media_type="text/event-stream", headers={"x-accel-buffering": "no"})
