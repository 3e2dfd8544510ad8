"""HTTP/1.1 as this server speaks it: bounded in size and time, and an answer in one packet where it fits."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from typing_extensions import override
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from agent_memory.server.problems import Problem, respond

RECEIVE = "AGENT_MEMORY_SERVE_RECEIVE_S"
"""Variable of the environment that says how many seconds a client may take to send a head, or to take an answer."""

_MOST_HEAD_BYTES = 65_536


class _Joining:
    """A transport that sends the head of an answer with the beginning of its body: one packet, not two.

    A head that nothing follows is sent at the next turn of the loop.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop, self._head = transport, loop, b""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - the transport's
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, or keep them for a moment if they are a head."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self._flush)
            return
        self._transport.write(data)

    def close(self) -> None:
        """Send what was kept, and close."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._head:
            self.write(b"")


class BoundedProtocol(HttpToolsProtocol):
    """HTTP/1.1 that closes connections whose client does not finish its headers, or takes nothing of an answer."""

    def __init__(self, *args: Any, **options: Any) -> None:  # noqa: ANN401 - uvicorn's
        super().__init__(*args, **options)
        self._unread = 0  # bytes since the last that were more than a part of a head
        self._in_head = False
        self._patience: asyncio.TimerHandle | None = None
        self._full: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: Any) -> None:
        super().connection_made(_Joining(transport, self.loop))  # type: ignore[arg-type]
        self._expect()

    @override
    def data_received(self, data: bytes) -> None:
        self._unread += len(data)
        super().data_received(data)
        if self._unread > _MOST_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"the head of a request may have {_MOST_HEAD_BYTES} bytes")
        if self.cycle is None or self.cycle.response_complete:
            self._expect()
        else:
            self._forget()

    @override
    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request, and close: where the next one begins cannot be told."""
        answer = respond(Problem(400, "http", msg))
        fields = [*answer.raw_headers, (b"connection", b"close")]
        head = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
        self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" + head + b"\r\n" + bytes(answer.body))
        self.transport.close()

    @override
    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # what follows a body in parts must not replace what was checked before it
            super().on_header(name, value)

    @override
    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()

    @override
    def on_headers_complete(self) -> None:
        self._unread, self._in_head = 0, False
        super().on_headers_complete()

    @override
    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    @override
    def on_message_complete(self) -> None:
        self._unread = 0
        super().on_message_complete()

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._forget()
        self._drained()
        super().connection_lost(exc)

    @override
    def pause_writing(self) -> None:
        super().pause_writing()
        if self._full is None:
            self._full = self.loop.call_later(_read_patience(), self.transport.abort)

    @override
    def resume_writing(self) -> None:
        self._drained()
        super().resume_writing()

    def _drained(self) -> None:
        if self._full is not None:
            self._full.cancel()
            self._full = None

    def _expect(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(_read_patience(), self._give_up)

    def _forget(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


def _read_patience() -> float:
    return float(os.environ.get(RECEIVE, "20"))
