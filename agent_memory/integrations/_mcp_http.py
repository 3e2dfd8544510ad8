"""The MCP server over HTTP: which Host and Origin headers it answers to, and the token that clients must show."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from importlib import import_module
from ipaddress import ip_address
from typing import Any

from agent_memory.errors import InvalidInputError

_LOCAL = ("127.0.0.1", "localhost", "[::1]")

_Message = MutableMapping[str, Any]
_App = Callable[[_Message, Callable[[], Awaitable[_Message]], Callable[[_Message], Awaitable[None]]], Awaitable[None]]


def check_exposure(host: str, token: str | None) -> None:
    """Raise InvalidInputError for an address that others can reach without a token."""
    if token is not None and (not token.strip() or not token.isascii()):
        raise InvalidInputError("the token must not be blank, and of ASCII characters only")
    if token is None and not is_local(host):
        raise InvalidInputError(
            f"others can reach {host or 'every address'!r}: serve it with a token (--token or AGENT_MEMORY_MCP_TOKEN), "
            "or at 127.0.0.1"
        )


def is_local(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def restrict(host: str, port: int, names: Sequence[str] = ()) -> Any:
    """Return the transport security of the ``mcp`` package: the Host and Origin headers that are answered.

    Args:
        host: Address that is listened on.
        port: Port that is listened on.
        names: Further names by which clients reach the server, with their port unless it is the scheme's own.
    """
    hosts = list_hosts(host, port, names)
    origins = [f"{scheme}://{name}" for name in hosts for scheme in ("http", "https")]
    settings = import_module("mcp.server.transport_security").TransportSecuritySettings
    return settings(enable_dns_rebinding_protection=True, allowed_hosts=hosts, allowed_origins=origins)


def list_hosts(host: str, port: int, names: Sequence[str] = ()) -> list[str]:
    """Return the Host headers that a server answers to; arguments as of ``restrict``."""
    own = f"[{host}]" if ":" in host else host
    hosts = [f"{name}:{port}" for name in dict.fromkeys((own, *_LOCAL)) if name]
    hosts += [name for name in _LOCAL if port in (80, 443)]
    return [*hosts, *names]


class RequireToken:
    """Answers 401 to requests that don't carry the bearer token; hands on the others.

    Args:
        app: Answers them.
        token: The token.
    """

    def __init__(self, app: _App, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """Answer one request (ASGI)."""
        if scope["type"] == "lifespan" or (scope["type"] == "http" and self._is_shown(scope)):
            await self._app(scope, receive, send)
            return
        headers = [(b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain")]
        await send({"type": "http.response.start", "status": 401, "headers": headers})
        await send({"type": "http.response.body", "body": b"this server needs its token: Authorization: Bearer TOKEN"})

    def _is_shown(self, scope: _Message) -> bool:
        shown = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(shown) == 1 and hmac.compare_digest(shown[0], self._expected)


def serve(server: Any, host: str, port: int, *, token: str | None, names: Sequence[str] = ()) -> None:
    """Serve an MCP server over streamable HTTP, at /mcp, until the process is interrupted.

    Raises:
        InvalidInputError: Others can reach the address, and there is no token.
    """
    import uvicorn

    check_exposure(host, token)
    security = restrict(host, port, names)
    if hasattr(server.settings, "transport_security"):  # mcp 1
        server.settings.transport_security = security
        app = server.streamable_http_app()
    else:
        app = server.streamable_http_app(host=host, transport_security=security)
    guarded = app if token is None else RequireToken(app, token)
    uvicorn.Server(uvicorn.Config(guarded, host=host, port=port, log_level="warning")).run()
