"""A server within the test's process, and one of its own."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from support import TESTS

from agent_memory import Memory, RemoteMemory
from agent_memory.server.app import create_app
from agent_memory.server.keys import create_key
from agent_memory.server.protocol import BoundedProtocol
from agent_memory.server.run import Server
from agent_memory.server.serving import Serving
from agent_memory.server.settings import Settings


class Served:
    """A server on a thread of the test's process."""

    def __init__(self, app: FastAPI, url: str) -> None:
        self.app, self.url, self.clients = app, url, []
        self.client = self._open({})

    @property
    def serving(self) -> Serving:
        return self.app.state.serving

    @property
    def memory(self) -> Memory:
        return self.serving.memory

    def _open(self, headers: dict[str, str]) -> httpx.Client:
        self.clients.append(httpx.Client(base_url=self.url, headers=headers, timeout=60))
        return self.clients[-1]

    def key(self, *namespace: str, role: str = "admin", **options: object) -> str:
        return create_key(self.serving.ledger, namespace=namespace, role=role, **options)[1]

    def as_key(self, *namespace: str, role: str = "admin", **options: object) -> httpx.Client:
        """A client that shows a key of that scope and role."""
        return self._open({"authorization": f"Bearer {self.key(*namespace, role=role, **options)}"})

    def remote(self, **options: object) -> RemoteMemory:
        self.clients.append(RemoteMemory(self.url, **options))
        return self.clients[-1]


_OPENERS: dict[FastAPI, Callable[[], Memory]] = {}
_IDLE: dict[str, list[FastAPI]] = {}


@contextmanager
def borrow_app(open_memory: Callable[[], Memory], settings: Settings) -> Iterator[FastAPI]:
    """Yield an application that starts with a memory: one that has stopped, if any, since making routes is slow."""
    idle = _IDLE.setdefault(repr(settings), [])
    app = idle.pop() if idle else create_app(lambda: _OPENERS[app](), settings)
    _OPENERS[app] = open_memory
    yield app
    idle.append(app)  # not after a failure: a test may have changed it


@contextmanager
def serve_in_process(open_memory: Callable[[], Memory], settings: Settings) -> Iterator[Served]:
    with borrow_app(open_memory, settings) as app:
        yield from _serve(app)


def _serve(app: FastAPI) -> Iterator[Served]:
    options = {"log_level": "error", "http": BoundedProtocol, "ws": "none", "timeout_graceful_shutdown": 5}
    server = Server(uvicorn.Config(app, **options))
    failed = []

    def run() -> None:
        try:
            server.run(sockets=[sock])
        except BaseException as error:
            failed.append(error)

    with socket.create_server(("127.0.0.1", 0)) as sock:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.002)
        if not server.started:
            raise failed[0] if failed else RuntimeError("the server did not start")
        served = Served(app, f"http://127.0.0.1:{sock.getsockname()[1]}")
        try:
            yield served
        finally:
            for client in served.clients:
                client.close()
            server.should_exit = True
            thread.join(30)


@contextmanager
def serve_alone(
    folder: Path, *arguments: str, env: dict[str, str] | None = None
) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run ``agent-memory serve`` on a free port; yields its address and its process."""
    command = [sys.executable, "-W", "ignore", "-m", "agent_memory.cli", "serve", "--path", str(folder), "--port", "0"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        **(env or {}),
    }
    process = subprocess.Popen(
        [*command, "--json", *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        line = process.stdout.readline()
        assert line, process.stderr.read()
        url = line.split('"')[3]
        wait_until_ready(url)
        yield url, process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        process.stderr.close()


def wait_until_ready(url: str, seconds: float = 60) -> None:
    began = datetime.now(UTC)
    while (datetime.now(UTC) - began).total_seconds() < seconds:
        try:
            if httpx.get(f"{url}/health/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
    raise AssertionError(f"{url} was not ready within {seconds} s")
