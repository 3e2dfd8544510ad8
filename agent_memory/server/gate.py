"""The gate that every request passes first: Host and Origin, size and time of what is sent, headers of answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect

from agent_memory.integrations._mcp_http import list_hosts
from agent_memory.server.problems import Problem, respond
from agent_memory.server.settings import Settings
from agent_memory.telemetry.tracing import trace_request

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_log = logging.getLogger("agent_memory")

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
"""What the pages may load: their own files, and nothing from elsewhere."""

_HEADERS = {
    "content-security-policy": CSP,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-resource-policy": "same-origin",
}
_RAW = [(name.encode(), value.encode()) for name, value in (*_HEADERS.items(), ("cache-control", "no-store"))]
_METHODS = "GET, POST, PATCH, PUT, DELETE"
_SENT = (
    "agent-memory-namespace, authorization, content-type, idempotency-key, if-match, last-event-id, "
    "mcp-protocol-version, mcp-session-id, prefer"
)
_SHOWN = "etag, location, retry-after, ratelimit-limit, ratelimit-remaining, mcp-session-id"
_OPEN = ("/health/live", "/health/ready")
_NOT_ONLY_PAGES = ("/v1/", "/mcp")
"""Where the answer to GET may be long or have no end, and HEAD is refused."""


class Gate:
    """Refuses requests that are not meant for this server, or too large or slow, before any handler sees them.

    Args:
        app: Answers the others.
        settings: The limits.
        observe: Called with (method, status, seconds) for each answer.
        tracer: Makes a span of each request, if it is to be traced.
    """

    def __init__(
        self, app: App, settings: Settings, observe: Callable[[str, int, float], None], tracer: Tracer | None = None
    ) -> None:
        self._app, self._settings, self._observe, self._tracer = app, settings, observe, tracer
        self._own: dict[int, frozenset[str]] = {}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._tracer is None:
            await self._answer(scope, receive, send)
        else:
            with trace_request(self._tracer, _know(scope["method"]), Headers(scope=scope)) as facts:
                facts["status"] = await self._answer(scope, receive, send)
                facts["route"] = _find_route(scope)

    async def _answer(self, scope: Message, receive: Receive, send: Send) -> int:
        """Answer one request; returns the status."""
        # Names may hold slashes: routes are told apart before anything is unquoted.
        scope["path"] = scope["raw_path"].decode("ascii", "replace")
        if scope["method"] == "HEAD" and not scope["path"].startswith(_NOT_ONLY_PAGES):
            scope = {**scope, "method": "GET"}  # the protocol leaves the body out
        headers, began = Headers(scope=scope), time.perf_counter()
        answer = _Answer(send, self._cors(headers))
        try:
            self._check_origin(scope, headers)
            if scope["method"] == "OPTIONS" and answer.allowed:
                await _preflight(scope, receive, answer)
            else:
                body = self._bound(scope, headers, receive)
                await self._app(scope, body, answer)
        except Exception as error:
            if isinstance(error, ClientDisconnect):
                return 499
            if not isinstance(error, Problem):
                _log.exception("a request failed: %s", type(error).__name__)
            if answer.status:
                raise
            await respond(error)(scope, receive, answer)
        finally:
            self._observe(_know(scope["method"]), answer.status or 499, time.perf_counter() - began)
        return answer.status or 499

    def _cors(self, headers: Headers) -> str | None:
        origin = headers.get("origin")
        return origin if origin in self._settings.origins else None

    def _check_origin(self, scope: Message, headers: Headers) -> None:
        """Refuse what a web page of somebody else has a browser send."""
        host, origin = headers.get("host", ""), headers.get("origin")
        if scope["path"] not in _OPEN and not self._is_own(host, scope):
            raise Problem(421, "host", f"this server does not answer to Host {host[:200]!r}; name it with --allow-host")
        if origin is None or origin in self._settings.origins:
            return
        name = origin.partition("://")[2]
        if not self._is_own(name, scope):
            raise Problem(403, "origin", f"pages of Origin {origin[:200]!r} may not call this server")

    def _is_own(self, name: str, scope: Message) -> bool:
        address = scope.get("server") or (self._settings.host, self._settings.port)
        port = address[1] or 80  # a socket in a file has none, and its clients name none
        own = self._own.get(port)
        if own is None:
            own = self._own[port] = frozenset(list_hosts(self._settings.host, port, self._settings.hosts))
        return name in own

    def _bound(self, scope: Message, headers: Headers, receive: Receive) -> Receive:
        """Return what hands on the parts of a body that come in time and within the limit."""
        imports = scope["path"] == "/v1/import"
        most = self._settings.max_import_bytes if imports else self._settings.max_body_bytes
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit():
            raise Problem(400, "content-length", f"Content-Length must be a number, got {length[:40]!r}")
        if int(length) > most:
            raise _too_large(int(length), most)
        clock = asyncio.get_running_loop().time
        patience = self._settings.receive_s
        deadline, seen, done = clock() + patience, 0, False

        async def receive_bounded() -> Message:
            nonlocal deadline, seen, done
            if done:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Problem(408, "slow", f"the request did not come within {patience:g} s") from None
            if message["type"] == "http.request":
                seen += len(message.get("body", b""))
                done = not message.get("more_body", False)
                if imports:  # may take as long as it likes, as long as something comes
                    deadline = clock() + patience
                if seen > most:
                    raise _too_large(seen, most)
            return message

        return receive_bounded


def _know(method: str) -> str:
    """Return a method, or one name for all that are not known: anybody may invent more."""
    return method if method in ("GET", "POST", "PATCH", "PUT", "DELETE", "OPTIONS", "HEAD") else "_OTHER"


def _find_route(scope: Message) -> str | None:
    """Return the path of the route that answered, with the names of its parameters; None if there was none."""
    path: str | None = getattr(scope.get("route"), "path", None)
    if path and scope["path"].startswith("/v1/") and not path.startswith("/v1/"):
        return f"/v1{path}"  # a route does not know the prefix that its router was included with
    return path


class _Answer:
    """Adds headers to an answer, and knows its status."""

    def __init__(self, send: Send, allowed: str | None) -> None:
        self._send, self.allowed, self.status = send, allowed, 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = list(message.get("headers", ()))
            names = {name for name, _ in given}
            message["headers"] = given + [pair for pair in _RAW if pair[0] not in names]
            if self.allowed:
                headers = MutableHeaders(scope=message)
                headers["access-control-allow-origin"] = self.allowed
                headers["access-control-expose-headers"] = _SHOWN
                headers["cross-origin-resource-policy"] = "cross-origin"
                headers.add_vary_header("Origin")
        await self._send(message)


async def _preflight(scope: Message, receive: Receive, answer: _Answer) -> None:
    from starlette.responses import Response

    headers = {
        "access-control-allow-methods": _METHODS,
        "access-control-allow-headers": _SENT,
        "access-control-max-age": "600",
    }
    await Response(status_code=204, headers=headers)(scope, receive, answer)


def _too_large(size: int, most: int) -> Problem:
    return Problem(413, "too-large", f"the request has {size} bytes or more; the limit is {most}", limit=most)
