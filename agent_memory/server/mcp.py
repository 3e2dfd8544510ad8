"""MCP at /mcp, with the keys of the server: each scope and role has a server of its own, made when it is asked for."""

from __future__ import annotations

import asyncio
import copy
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, cast

from fastapi import FastAPI, Request
from starlette.routing import Route
from typing_extensions import override

from agent_memory.errors import InvalidInputError
from agent_memory.integrations.mcp import build_server
from agent_memory.memory import Memory
from agent_memory.records import Entry, Erasure
from agent_memory.reports import Role
from agent_memory.server.calls import Answer, Caller, take_token
from agent_memory.server.gate import App, Message, Receive, Send
from agent_memory.server.keys import Principal
from agent_memory.server.problems import Problem
from agent_memory.server.serving import Serving

_MOST = 256
_caller: ContextVar[Caller] = ContextVar("agent_memory_caller")


@dataclass
class _Served:
    app: App
    stop: asyncio.Event
    task: asyncio.Task[None]


class _Recorded(Memory):
    """A memory whose writes stay within the quota of whoever asks, and are recorded."""

    @override
    def add(self, *args: Any, **given: Any) -> Entry:
        call = super().add
        return cast("Entry", _record("add", lambda: Answer(call(*args, **given), count=1)))

    @override
    def forget(self, *args: Any, **given: Any) -> Erasure:
        call = super().forget

        def forget() -> Answer:
            receipt = call(*args, **given)
            return Answer(receipt, count=int(receipt))

        return cast("Erasure", _record("forget", forget))


def _record(action: str, call: Callable[[], Answer]) -> object:
    try:
        return _caller.get().audited(action, call).body
    except Problem as error:  # of the quota: tools tell what is wrong with what they were given
        raise InvalidInputError(str(error.detail)) from error


class Bridge:
    """The MCP servers of a process.

    Args:
        serving: The server.
    """

    def __init__(self, serving: Serving) -> None:
        self._serving = serving
        self._served: OrderedDict[tuple[Any, bool], _Served] = OrderedDict()
        self._lock = asyncio.Lock()

    async def find(self, principal: Principal) -> App:
        """Return the MCP server of a scope and role."""
        writes = principal.may(Role.WRITER)
        place = (principal.namespace, writes)
        async with self._lock:
            if place not in self._served:
                if len(self._served) >= _MOST:
                    _, oldest = self._served.popitem(last=False)
                    oldest.stop.set()
                self._served[place] = await self._start(principal, writes)
            self._served.move_to_end(place)
            return self._served[place].app

    async def _start(self, principal: Principal, writes: bool) -> _Served:
        memory = copy.copy(self._serving.view(principal.namespace))
        memory.__class__ = _Recorded
        server = build_server(memory, read_only=not writes)
        # Requests carry the key each, and any process may answer them: no sessions between them.
        options: dict[str, Any] = {"stateless_http": True, "json_response": True}
        if hasattr(server.settings, "transport_security"):  # mcp 1
            for name, value in options.items():
                setattr(server.settings, name, value)
            server.settings.transport_security = None  # Host and Origin were checked at the gate
            app = server.streamable_http_app()
        else:
            from mcp.server.transport_security import TransportSecuritySettings

            checked = TransportSecuritySettings(enable_dns_rebinding_protection=False)
            app = server.streamable_http_app(transport_security=checked, **options)
        stop, started = asyncio.Event(), asyncio.Event()

        async def run() -> None:
            async with app.router.lifespan_context(app):
                started.set()
                await stop.wait()

        task = asyncio.create_task(run())
        waiting = asyncio.create_task(started.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if task.done():
            await task
        return _Served(app, stop, task)

    async def close(self) -> None:
        """Stop all of them."""
        for served in self._served.values():
            served.stop.set()
        await asyncio.gather(*(served.task for served in self._served.values()), return_exceptions=True)


@asynccontextmanager
async def open_bridge(serving: Serving) -> AsyncIterator[Bridge | None]:
    """Open the MCP servers of a process; None if the ``mcp`` package is not installed."""
    if find_spec("mcp") is None:
        yield None
        return
    bridge = Bridge(serving)
    try:
        yield bridge
    finally:
        await bridge.close()


def mount(app: FastAPI) -> None:
    """Serve MCP at /mcp."""
    app.router.routes.append(Route("/mcp", _Endpoint(), include_in_schema=False))


class _Endpoint:
    """Hands a request to the MCP server of whoever asks."""

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        request = Request(scope, receive)
        serving: Serving = request.app.state.serving
        bridge: Bridge | None = request.app.state.mcp
        principal = serving.identify(request.headers)
        take_token(serving, principal)
        if bridge is None:
            raise Problem(501, "MissingDependencyError", "mcp is not installed; run: pip install 'agent-memory[mcp]'")
        inner = await bridge.find(principal)
        _caller.set(Caller(request, serving, principal))
        await inner({**scope, "app": None, "root_path": ""}, receive, send)
