"""A short way for well-formed requests: one look-up and one parser in place of FastAPI's routing and dependencies."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from fastapi import Request, Response
from fastapi.params import Depends
from fastapi.routing import APIRoute, APIRouter
from pydantic import TypeAdapter, ValidationError

from agent_memory.errors import AgentMemoryError
from agent_memory.server.calls import Caller
from agent_memory.server.gate import App, Message, Receive, Send
from agent_memory.server.problems import Problem, respond


@dataclass(frozen=True)
class _Way:
    route: APIRoute
    identify: Callable[[Request], Awaitable[Caller]]
    body: TypeAdapter[Any] | None


class Shortcut:
    """Answers requests to routes that take a caller and at most a body, if there is nothing odd about them.

    Whatever is odd (another path or method, a body that cannot be read) goes on to FastAPI, which refuses it in its own
    words, so that there is one way to refuse.

    Args:
        app: Answers the others.
        prefix: What the paths of the routers begin with.
        routers: The routes.
    """

    def __init__(self, app: App, prefix: str, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self._ways: Mapping[tuple[str, str], _Way] = {
            (method, prefix + route.path): way
            for router in routers
            for route in router.routes
            if isinstance(route, APIRoute) and (way := _find_way(route)) is not None
            for method in route.methods or ()
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        way = self._ways.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if way is None:
            await self._app(scope, receive, send)
            return
        taken: list[Message] = []
        given: dict[str, Any] = {}
        if way.body is not None:
            body = await _read(scope, receive, taken)
            receive = _replay(taken, receive)
            try:
                given["body"] = way.body.validate_json(body)
            except ValidationError:
                await self._app(scope, receive, send)
                return
        scope["route"] = way.route  # for the name of a span
        response = await _answer(way, Request(scope, receive), given)
        await response(scope, receive, send)


async def _answer(way: _Way, request: Request, given: Mapping[str, Any]) -> Response:
    try:
        response: Response = await way.route.endpoint(await way.identify(request), **given)
    except (AgentMemoryError, Problem) as error:
        return respond(error)
    return response


async def _read(scope: Message, receive: Receive, taken: list[Message]) -> bytes:
    """Return the body of a request; nothing if it is not declared as JSON or does not come whole."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    if kind.partition(b";")[0].strip().lower() != b"application/json":
        return b""
    while True:
        message = await receive()
        taken.append(message)
        if message["type"] != "http.request":
            return b""
        if not message.get("more_body", False):
            return b"".join(part.get("body", b"") for part in taken)


def _replay(taken: list[Message], receive: Receive) -> Receive:
    """Return what hands out messages that were taken before, and then further ones."""
    left = iter(taken)

    async def receive_again() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return receive_again


def _find_way(route: APIRoute) -> _Way | None:
    """Return how a route is answered; None if it takes more than a caller and a body, or has names in its path."""
    hints = get_type_hints(route.endpoint, include_extras=True)
    names = set(inspect.signature(route.endpoint).parameters)
    if "{" in route.path or not {"caller"} <= names <= {"caller", "body"}:
        return None
    asks = next(one for one in get_args(hints["caller"])[1:] if isinstance(one, Depends))
    if asks.dependency is None or get_origin(hints["caller"]) is not Annotated:
        return None
    return _Way(route, asks.dependency, TypeAdapter(hints["body"]) if "body" in names else None)
