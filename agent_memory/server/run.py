"""Runs a server: one process or several, on a socket of its own or one that was handed over."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import resource
import signal
import socket
import tempfile
import threading
from collections.abc import Callable
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from typing_extensions import override

from agent_memory.config import Config
from agent_memory.errors import InvalidInputError
from agent_memory.memory import Memory
from agent_memory.server.app import create_app
from agent_memory.server.protocol import RECEIVE, BoundedProtocol
from agent_memory.server.serving import check_exposure, find_ledger, stop_all
from agent_memory.server.settings import Settings
from agent_memory.storage.sqlite.ledger import FILE, open_ledger
from agent_memory.telemetry.tracing import export_spans
from agent_memory.types import Namespace

_HANDED_OVER = 3  # the first descriptor of socket activation; see sd_listen_fds(3)
_LOOK_S = 0.5


class Server(uvicorn.Server):
    """A server whose event streams end when it is told to stop."""

    @override
    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        stop_all()
        await super().shutdown(sockets)
        exporter = getattr(getattr(self.config.app, "state", None), "exporter", None)
        if exporter is not None:  # sends what is left: the signal that stops a process lets it do nothing at exit
            await asyncio.to_thread(exporter.shutdown)


def serve(
    path: Path | str,
    settings: Settings,
    *,
    namespace: Namespace = (),
    encoder: str | None = None,
    config: Config | None = None,
    announce: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve a store until the process is told to stop (SIGINT, SIGTERM).

    Requests under way are finished first, and the store is closed.

    Args:
        path: The store's folder or address.
        settings: What to listen on, and the limits.
        namespace: The widest scope that any request gets.
        encoder: Encoder of a new store.
        config: Settings of the memory.
        announce: Called with the address once it is listened on.

    Raises:
        InvalidInputError: Others can reach the address, and there is no key; or the address cannot be listened on.
    """
    handed = _take_socket()
    by_file = handed is not None and handed.family == socket.AF_UNIX
    host = settings.host if handed is None or by_file else str(handed.getsockname()[0])
    has_keys = settings.require_keys or _has_keys(find_ledger(path, settings.ledger))
    check_exposure("localhost" if by_file else host, has_keys=has_keys)
    plan = {
        "path": str(path),
        "settings": settings.model_dump(),
        "namespace": namespace,
        "encoder": encoder,
        "config": None if config is None else config.dump(),
    }
    os.environ[RECEIVE] = str(settings.receive_s)
    _allow_files()
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "log_level": "warning",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "http": BoundedProtocol,
        "ws": "none",
        "timeout_keep_alive": max(1, int(settings.idle_s)),
        "timeout_graceful_shutdown": max(1, int(settings.grace_s)),
        "backlog": 2048,
    }
    if settings.workers == 1:
        sock = handed or listen(uvicorn.Config("", **options))
        announce(_name(sock))
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:  # a terminal was closed: as if told to stop
            signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
        Server(uvicorn.Config(_make_app(plan), **options)).run(sockets=[sock])
        return
    with tempfile.TemporaryDirectory(prefix="agent-memory-metrics-") as shared:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = shared
        Memory(path, encoder=encoder, namespace=namespace, config=config).close()  # makes it once, before many open it
        sock = handed or listen(uvicorn.Config("", **options))
        announce(_name(sock))
        _supervise(settings, plan, options, sock)


def _supervise(settings: Settings, plan: dict[str, Any], options: dict[str, Any], sock: socket.socket) -> None:
    """Keep that many processes serving one socket until this process is told to stop; then stop them in order."""
    context, stopped = multiprocessing.get_context("spawn"), threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is signal.SIG_DFL:  # nohup has it ignored
            signal.signal(number, lambda *_: stopped.set())

    def start() -> SpawnProcess:
        process = context.Process(target=_work, args=(plan, options, sock))
        process.start()
        return process

    processes = [start() for _ in range(settings.workers)]
    while not stopped.wait(_LOOK_S):
        processes = [process if process.is_alive() else start() for process in processes]
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(settings.grace_s + _LOOK_S)
        if process.is_alive():
            process.kill()
            process.join()


def _work(plan: dict[str, Any], options: dict[str, Any], sock: socket.socket) -> None:
    threading.Thread(target=_follow_parent, name="agent-memory-parent", daemon=True).start()
    Server(uvicorn.Config(_make_app(plan), **options)).run(sockets=[sock])


def _follow_parent() -> None:
    """Stop this process in order when the one that looks after it is gone: nobody else would free the port."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _make_app(plan: dict[str, Any]) -> FastAPI:
    def open_memory() -> Memory:
        namespace, config = tuple(plan["namespace"]), plan["config"]
        return Memory(plan["path"], encoder=plan["encoder"], namespace=namespace, config=config)

    settings = Settings(**plan["settings"])
    if not settings.otel:
        return create_app(open_memory, settings)
    provider = export_spans()
    app = create_app(open_memory, settings, tracer_provider=provider)
    app.state.exporter = provider
    return app


def _has_keys(path: Path) -> bool:
    if not (path / FILE).exists():
        return False
    with open_ledger(path) as ledger:
        return ledger.has_keys()


def _allow_files() -> None:
    """Take as many open files as the system grants: shells and systemd allow 1,024, and each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS grants fewer than it says
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _take_socket() -> socket.socket | None:
    """Return the socket that systemd has handed over, if it has."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()) or os.environ.get("LISTEN_FDS") != "1":
        return None
    os.environ.pop("LISTEN_PID")
    return _answer_at_once(socket.socket(fileno=_HANDED_OVER))


def _answer_at_once(sock: socket.socket) -> socket.socket:
    """Let no answer wait until its beginning is acknowledged, which takes 40 ms; connections inherit the setting.

    asyncio does so only for sockets that were made with the number of the protocol.
    """
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def listen(config: uvicorn.Config) -> socket.socket:
    """Return a socket that listens where the settings say."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((config.host, config.port))
        sock.listen(config.backlog)
    except OSError as error:
        sock.close()
        raise InvalidInputError(f"{config.host}:{config.port} cannot be listened on: {error.strerror}") from error
    sock.set_inheritable(True)
    return _answer_at_once(sock)


def _name(sock: socket.socket) -> str:
    if sock.family == socket.AF_UNIX:
        return f"unix:{sock.getsockname()}"
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
