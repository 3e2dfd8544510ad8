"""``Carrier``: carries requests to one server over kept connections, by an httpx transport."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import version
from typing import IO, TYPE_CHECKING, Any
from urllib.request import getproxies, proxy_bypass

from agent_memory.errors import ClosedError, InvalidInputError, MissingDependencyError
from agent_memory.files import reset_in_child
from agent_memory.inputs import check_duration

if TYPE_CHECKING:
    import httpx

_MOST_ADDRESSES = 256
_KEPT: list[object] = []


class Carrier:
    """Carries requests to one server.

    httpx's own client does for each request what one server never needs (merging addresses, redirects, cookies, hooks),
    which takes as long as its transport does. This is its transport with a fixed address and fixed headers.

    Args:
        url: Address of the server.
        key: What it is shown; None for none.
        timeout_s: Seconds to wait for a connection, for each part of an answer, and so on.
        transport: Carries the requests; None for the network, through the proxy that the environment names.

    Attributes:
        url: The address.
        name: The address as messages may show it: without a name and password.
        failures: Errors of a connection.
        timeout_s: Seconds to wait for an answer.
        unsent: Those of them after which the request was certainly not carried out.
    """

    def __init__(
        self, url: str, key: str | None, *, timeout_s: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise MissingDependencyError("httpx", "client") from error
        try:
            self.url = httpx.URL(url)
            named = self.url.host and "%" not in self.url.host and (self.url.port or 0) < 1 << 16
            if self.url.scheme not in ("http", "https") or not named:
                raise httpx.InvalidURL("it names no server")
        except (httpx.InvalidURL, UnicodeError, TypeError, AttributeError) as error:
            raise InvalidInputError(f"url must be like http://127.0.0.1:7700, got {str(url)[:80]!r}") from error
        if self.url.query or self.url.fragment:
            raise InvalidInputError(f"url must name a server, without a query: got {str(url)[:80]!r}")
        limit = httpx.Timeout(check_duration("timeout_s", timeout_s))
        if key is not None and not (isinstance(key, str) and key.isascii() and key.isprintable() and key.strip()):
            raise InvalidInputError(f"key must be what `agent-memory keys create` printed, got {str(key)[:12]!r}…")
        self.name = str(self.url.copy_with(username=None, password=None))
        self.failures = (httpx.TransportError,)
        self.unsent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
        self.timeout_s = timeout_s
        self._extensions = {"timeout": limit.as_dict()}
        self._headers = _fix_headers(self.url, key)
        self._given, self._transport = transport, transport or _make_transport(self.url)
        self._closed = False
        reset_in_child(self, Carrier._after_fork_in_child)
        self._request, self._params = httpx.Request, httpx.QueryParams
        self._locate = lru_cache(_MOST_ADDRESSES)(self._join)

    def _after_fork_in_child(self) -> None:
        """Open connections of this process's own: on the parent's, answers to others would be read."""
        if self._given is None:
            _KEPT.append(self._transport)  # closing it would say goodbye in the parent's name
            self._transport = _make_transport(self.url)

    def close(self) -> None:
        """Close the connections; later requests raise ClosedError."""
        self._closed = True
        self._transport.close()

    def ask(
        self,
        method: str,
        path: str,
        content: bytes | IO[bytes] | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        """Return the answer to a request, read whole.

        Args:
            method: HTTP method.
            path: Path on the server, percent-encoded.
            content: The body.
            params: Query parameters.
            headers: Further headers.

        Raises:
            ClosedError: The carrier was closed.
        """
        answer = self.begin(method, path, content, params=params, headers=headers)
        try:
            answer.read()
        finally:
            answer.close()
        return answer

    def begin(
        self,
        method: str,
        path: str,
        content: bytes | IO[bytes] | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str],
    ) -> httpx.Response:
        """Return the answer to a request, to be read and closed by the caller; arguments as of ``ask``."""
        if self._closed:
            raise ClosedError("this memory is closed")
        query = f"?{self._params(params)}" if params else ""
        address = self._join(path + query) if query else self._locate(path)
        request = self._request(
            method, address, headers={**self._headers, **headers}, content=content, extensions=self._extensions
        )
        try:
            return self._transport.handle_request(request)
        except RuntimeError as error:
            if self._closed:
                raise ClosedError("this memory is closed") from error
            raise

    def _join(self, target: str) -> httpx.URL:
        return self.url.copy_with(raw_path=self.url.raw_path.rstrip(b"/") + target.encode())


def _fix_headers(url: httpx.URL, key: str | None) -> dict[str, str]:
    """Return the headers of all requests; a name and a password in the address are for a proxy before the server."""
    fixed = {"accept-encoding": "gzip, deflate", "user-agent": f"agent-memory/{version('agent-memory')}"}
    if key is not None:
        fixed["authorization"] = f"Bearer {key}"
    elif url.userinfo:
        fixed["authorization"] = f"Basic {b64encode(f'{url.username}:{url.password}'.encode()).decode()}"
    return fixed


def _make_transport(url: httpx.URL) -> httpx.BaseTransport:
    import httpx

    found = getproxies()
    proxy = None if proxy_bypass(url.host) else found.get(url.scheme) or found.get("all")
    if proxy is not None and "://" not in proxy:
        proxy = f"http://{proxy}"
    return httpx.HTTPTransport(verify=url.scheme == "https", proxy=proxy)  # reading the certificates takes a while
