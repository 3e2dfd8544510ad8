"""``Wire``: requests to a server, repeated where that is safe, with its problems as the errors that they stand for."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory import errors
from agent_memory.errors import AgentMemoryError, InvalidInputError, StorageError
from agent_memory.formats import payload
from agent_memory.live.attempt import begin_to_write
from agent_memory.remote.carrier import Carrier

if TYPE_CHECKING:
    import httpx

_URN = "urn:agent-memory:error:"
_TRIES = 5
_PATIENCE = 10  # times the seconds for one answer, as long as a server says that the request is under way
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LATER = (429, 502, 503, 504)
_POLL_S = 1.0
_READING = ("/search", "/memories/get", "/memories/vectors", "/encode", "/why", "/likeness", "/check")
"""Ends of the paths of requests that have a body and write nothing."""


class AnswerTooLargeError(InvalidInputError):
    """What was asked for at once takes more than the server sends at once."""


class Wire:
    """The connection to one server.

    Args:
        url: Its address, such as ``http://127.0.0.1:7700``.
        key: What it is shown; None for none.
        timeout_s: Seconds to wait for an answer.
        transport: Carries the requests; None for the network.
    """

    def __init__(
        self, url: str, key: str | None, *, timeout_s: float, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._carrier = Carrier(url, key, timeout_s=timeout_s, transport=transport)
        self.scope: list[str] | None = None

    @property
    def name(self) -> str:
        """The server's address as it may be shown."""
        return self._carrier.name

    def close(self) -> None:
        """Close the connections; later requests raise ClosedError."""
        self._carrier.close()

    def send(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        repeat: bool = True,
    ) -> Any:  # noqa: ANN401 - JSON
        """Return the JSON that a request is answered with; None if there is none.

        Args:
            method: HTTP method.
            path: Path on the server, percent-encoded.
            body: Records, or anything made of them; None for no body.
            params: Query parameters; those that are None are left out.
            headers: Further headers.
            repeat: Whether the request may be sent again when its answer was lost. Writes carry an idempotency key, so
                that the server carries them out once.

        Raises:
            AgentMemoryError: What the server's problem stands for.
            StorageError: The server cannot be reached.
            ClosedError: The connection was closed.
        """
        sent = self._headers() | dict(headers or {})
        content = None
        if body is not None:
            content = _spell(body)
            sent["content-type"] = "application/json"
        if method != "GET" and repeat:
            sent["idempotency-key"] = uuid.uuid4().hex
        if method != "GET" and not path.endswith(_READING):
            begin_to_write()  # who is cancelled from here on waits for what comes of it
        given = {name: value for name, value in (params or {}).items() if value is not None}
        answer = self._repeat(lambda: self._carrier.ask(method, path, content, params=given, headers=sent), repeat)
        return self._parse(answer)

    def _parse(self, answer: httpx.Response) -> Any:  # noqa: ANN401 - JSON
        try:
            return json.loads(answer.content) if answer.content else None
        except ValueError as error:
            kind = answer.headers.get("content-type", "no type")
            raise StorageError(
                f"what answers at {self._carrier.name} is no server of agent-memory, or something before it answers in "
                f"its place: {kind[:60]} is no JSON"
            ) from error

    def _headers(self) -> dict[str, str]:
        return {} if self.scope is None else {"agent-memory-namespace": json.dumps(self.scope)}

    def _repeat(self, request: Callable[[], httpx.Response], repeat: bool) -> httpx.Response:
        turn, patience = 0, time.monotonic() + _PATIENCE * self._carrier.timeout_s
        while True:
            turn += 1
            wait_s = random.uniform(0.5, 1) * _FIRST_PAUSE_S * 2 ** min(turn, _TRIES)
            try:
                answer = request()
            except self._carrier.failures as error:
                safe = repeat or isinstance(error, self._carrier.unsent)
                if turn >= _TRIES or not safe:
                    raise StorageError(f"the server at {self._carrier.name} cannot be reached: {error}") from error
            else:
                if answer.status_code < 300:
                    return answer
                # The server carries it out, and has not come to an end: asking again tells what it came to.
                goes_on = answer.status_code == 409 and _kind(answer) == "under-way"
                if goes_on and time.monotonic() < patience:
                    turn = 0
                if turn >= _TRIES or not repeat or not (goes_on or answer.status_code in _LATER):
                    raise to_error(answer)
                wait_s = max(wait_s, _read_wait(answer))
            time.sleep(min(wait_s, _LONGEST_PAUSE_S))

    def operate(
        self,
        path: str,
        body: object,
        progress: Callable[[int, int], None] | None = None,
        *,
        file: Path | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - JSON
        """Return the result of something long, which the server is asked about until it is done.

        Args:
            path: Path on the server.
            body: As for ``send``.
            progress: Called with (done, total) when that changes.
            file: Sent as it is instead of a body.
            params: As for ``send``.
        """
        headers = {"prefer": "respond-async"}
        if file is None:
            answer = self.send("POST", path, body, headers=headers, params=params, repeat=False)
        else:
            answer = self._upload(path, file, headers, params)
        told, pause_s = (0, 0), 0.02
        while _is_operation(answer) and answer["state"] == "running":
            time.sleep(pause_s)
            pause_s = min(_POLL_S, pause_s * 1.5)
            answer = self.send("GET", f"/v1/operations/{answer['id']}")
            here = answer["done"], answer["total"]
            if progress is not None and here != told and here[1]:
                progress(*here)
                told = here
        if not _is_operation(answer):
            return answer
        if answer["state"] == "lost":
            raise StorageError(f"the server was stopped during {answer['kind']}; what it had committed stays")
        if answer["error"] is not None:
            raise rebuild(answer["error"])
        return answer["result"]

    def _upload(self, path: str, file: Path, headers: dict[str, str], params: Mapping[str, Any] | None) -> Any:  # noqa: ANN401
        begin_to_write()
        given = {name: value for name, value in (params or {}).items() if value is not None}
        sent = self._headers() | headers | {"content-type": "application/octet-stream"}

        def request() -> httpx.Response:
            with file.open("rb") as content:
                return self._carrier.ask("POST", path, content, params=given, headers=sent)

        return self._parse(self._repeat(request, repeat=False))

    @contextmanager
    def download(self, path: str) -> Iterator[tuple[int, Iterator[bytes]]]:
        """Yield (number of entries, parts of the content) of a file that the server sends."""
        try:
            with closing(self._carrier.begin("GET", path, headers=self._headers())) as answer:
                if answer.status_code >= 300:
                    answer.read()
                    raise to_error(answer)
                if "x-entries" not in answer.headers:
                    raise StorageError(f"what answers at {self._carrier.name} is no server of agent-memory")
                yield int(answer.headers["x-entries"]), answer.iter_bytes()
        except self._carrier.failures as error:
            raise StorageError(f"the server at {self._carrier.name} cannot be reached: {error}") from error


def _spell(body: object) -> bytes:
    """Return a body as JSON, in UTF-8 unless it holds what that cannot say."""
    try:
        return payload.dumps(body).encode()
    except UnicodeEncodeError:
        return payload.dumps(body, ascii_only=True).encode()


def _read_wait(answer: httpx.Response) -> float:
    """Return the seconds that an answer asks to wait; 0 if it does not, or names a moment instead."""
    given = answer.headers.get("retry-after", "")
    return float(given) if given.isascii() and given.isdigit() else 0.0


def _is_operation(answer: Any) -> bool:  # noqa: ANN401 - JSON
    return isinstance(answer, dict) and {"kind", "state", "done", "total", "result"} <= answer.keys()


def _members(answer: httpx.Response) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        found = None
    if isinstance(found, dict) and "detail" in found:
        return found
    if 300 <= answer.status_code < 400:
        where = answer.headers.get("location", "nowhere")
        return {
            "type": "",
            "status": answer.status_code,
            "detail": f"the server sends its callers to {where[:200]}: use that address, if you trust it",
        }
    return {"type": "", "status": answer.status_code, "detail": f"the server answered {answer.status_code}"}


def _kind(answer: httpx.Response) -> str:
    return str(_members(answer).get("type", "")).removeprefix(_URN)


def to_error(answer: httpx.Response) -> AgentMemoryError:
    """Return the error that an answer stands for."""
    return rebuild(_members(answer))


def rebuild(problem: Mapping[str, Any]) -> AgentMemoryError:
    """Return the error that a problem stands for, with its attributes."""
    name, detail = str(problem.get("type", "")).removeprefix(_URN), str(problem.get("detail", ""))
    if name == "answer-too-large":
        return AnswerTooLargeError(detail)
    kind = getattr(errors, name, None)
    if not (isinstance(kind, type) and issubclass(kind, AgentMemoryError)):
        status = problem.get("status")
        kind = InvalidInputError if status in (400, 412, 413, 422) else StorageError
    # Constructors compose their messages; here the message is there already.
    error = kind.__new__(kind, detail)
    Exception.__init__(error, detail)
    for attribute in ("expected", "actual", "extra", "timeout_s", "name", "holder"):
        if attribute in problem:
            setattr(error, attribute, problem[attribute])
    if "path" in problem:
        error.path = Path(problem["path"])  # type: ignore[attr-defined]
    return error
