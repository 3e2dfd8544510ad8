"""``Serving``: what a server process holds. The memory, the ledger, threads, limits."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import json
import logging
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from starlette.datastructures import Headers

from agent_memory import inputs
from agent_memory.encoders.registry import load_reranker
from agent_memory.encoders.reranker import CrossEncoderReranker, Reranker
from agent_memory.errors import InvalidInputError, StorageError
from agent_memory.files import make_folder, make_scratch, wait_for_scratch
from agent_memory.inputs import parse_path
from agent_memory.integrations._mcp_http import is_local
from agent_memory.memory import Memory
from agent_memory.server.keys import ANYBODY, Principal, find_principal
from agent_memory.server.problems import Problem
from agent_memory.server.settings import Settings
from agent_memory.storage.sqlite.ledger import FILE, Ledger
from agent_memory.telemetry.stages import Facts, observe
from agent_memory.types import Namespace

_log = logging.getLogger("agent_memory")
_R = TypeVar("_R")
_MOST_VIEWS = _MOST_PROBLEMS = 1_000
_PATIENCE_S = 0.2


class Serving:
    """One process of a server.

    Args:
        memory: What is served: its namespace is the widest scope that any key gets.
        settings: The limits.

    Attributes:
        ledger: Keys and records; None for a store that cannot be written and has none.
        stopping: Set when the server was told to stop.
        problems: Problems of operations that failed in this process, by their ids; the last ones.
    """

    def __init__(self, memory: Memory, settings: Settings) -> None:
        self.memory, self.settings = memory, settings
        self.ledger = _open_ledger(memory, settings)
        self.pool = ThreadPoolExecutor(settings.threads, thread_name_prefix="agent-memory-http")
        self.long_pool = ThreadPoolExecutor(4, thread_name_prefix="agent-memory-operation")
        self.lane = Lane(0 if isinstance(memory.path, str) else _PATIENCE_S)  # PostgreSQL answers several at once
        self._unwatch = observe(self.lane.watch)
        self.stopping = threading.Event()
        with memory._store.read() as tx:
            self._scratch = Path(tempfile.gettempdir()), f"agent-memory-{tx.read_store_id()}-"
        wait_for_scratch(*self._scratch, 0)  # deletes what killed servers have left
        self.waiting = 0
        self.problems: dict[str, dict[str, Any]] = {}
        self._views: dict[Namespace, Memory] = {}
        self.buckets = Buckets(settings.workers)
        _LIVE.add(self)
        self._reranker: Reranker | None = None

    @property
    def reranker(self) -> Reranker | None:
        """The cross-encoder that searches may ask for: the embedded one, unless the server was given another."""
        if self._reranker is None:
            folder = self.settings.reranker
            self._reranker = load_reranker("default" if folder is None else CrossEncoderReranker(folder))
        return self._reranker

    @property
    def needs_keys(self) -> bool:
        """Whether requests need a key."""
        return self.settings.require_keys or (self.ledger is not None and self.ledger.has_keys())

    def identify(self, headers: Headers) -> Principal:
        """Return who asks, by the key that is shown; narrowed to the namespace that the request asks for.

        Raises:
            Problem: A key is needed, and none that works was shown (401), or it does not reach that far (403).
        """
        found, wanted = self._find(headers.get("authorization")), headers.get("agent-memory-namespace")
        if wanted is None:
            return found
        try:
            scope = inputs.resolve_namespace(json.loads(wanted), found.home)
        except (ValueError, RecursionError) as error:
            raise Problem(403, "scope", f"Agent-Memory-Namespace must be a JSON list in the scope: {error}") from error
        return replace(found, namespace=scope)

    def _find(self, authorization: str | None) -> Principal:
        scheme, _, text = (authorization or "").partition(" ")
        shown = text.strip() if scheme.lower() == "bearer" else None
        made, found = (False, None) if self.ledger is None else find_principal(self.ledger, shown)
        home = self.memory.namespace
        if not made:
            if self.settings.require_keys:
                raise _unauthorized("this server needs keys, and none exist: agent-memory keys create")
            return Principal(home, ANYBODY.role, home)
        if shown is None:
            raise _unauthorized("this server needs a key: Authorization: Bearer am_…")
        if found is None or found.namespace[: len(home)] != home:
            raise _unauthorized("the key is unknown, was revoked or has expired")
        return found

    def make_scratch(self) -> AbstractContextManager[Path]:
        """Return what makes a private folder for files that are sent or fetched, and deletes it in the end."""
        return make_scratch(*self._scratch)

    def keep_problem(self, operation_id: str, problem: dict[str, Any]) -> None:
        """Keep the problem of an operation that failed, in memory alone."""
        if len(self.problems) >= _MOST_PROBLEMS:
            self.problems.clear()
        self.problems[operation_id] = problem

    def view(self, namespace: Namespace) -> Memory:
        """Return the memory as it is seen in a namespace: the same store, a narrower scope."""
        view = self._views.get(namespace)
        if view is None:
            view = copy.copy(self.memory)
            view._enter(namespace)
            if len(self._views) >= _MOST_VIEWS:
                self._views.clear()
            self._views[namespace] = view
        return view

    async def run(self, call: Callable[[], _R]) -> _R:
        """Return what a call returns, in one of this process's threads.

        Raises:
            Problem: Too many requests wait (503), or it took too long (504); the call is still carried out then.
        """
        if self.waiting >= self.settings.max_waiting + self.settings.threads:
            detail = f"{self.waiting} requests are under way; the limit is {self.settings.max_waiting} waiting"
            raise Problem(503, "busy", detail, headers={"retry-after": "1"})
        self.waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self.pool, contextvars.copy_context().run, call)
        future.add_done_callback(self._leave)
        done, _ = await asyncio.wait({future}, timeout=self.settings.timeout_s)
        if not done:
            limit = self.settings.timeout_s
            raise Problem(504, "timeout", f"the request took more than {limit:g} s; it may still be carried out")
        return future.result()

    def _leave(self, future: asyncio.Future[Any]) -> None:
        self.waiting -= 1
        if not future.cancelled():
            future.exception()  # nobody may be waiting for it any more

    def close(self) -> None:
        """Let what is under way end, and close the ledger; the memory stays open."""
        self.stopping.set()
        self._unwatch()
        self.pool.shutdown(wait=True)
        self.long_pool.shutdown(wait=True)
        if self.ledger is not None:
            self.ledger.close()


_LIVE: weakref.WeakSet[Serving] = weakref.WeakSet()


def stop_all() -> None:
    """Tell the servers of this process that they are about to stop: their streams end."""
    for serving in list(_LIVE):
        serving.stopping.set()


class Lane:
    """Lets one search at a time run, since threads that take Python's lock from each other all get less done.

    Encoding and reranking, which let go of that lock for long, are outside of it.

    Args:
        patience_s: Seconds after which a search goes on without its turn, so that a slow one holds up nobody for long.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s, self._lock, self._mine = patience_s, threading.Lock(), threading.local()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Be in the lane while the block runs."""
        self._enter()
        try:
            yield
        finally:
            self._leave()

    def watch(self, name: str, facts: Facts) -> AbstractContextManager[None]:
        """Step out for a stage that runs no Python code (an ``Observer``)."""
        return self._step_out() if name in ("encode", "rerank") else nullcontext()

    @contextmanager
    def _step_out(self) -> Iterator[None]:
        inside = getattr(self._mine, "inside", False)
        if inside:
            self._leave()
        try:
            yield
        finally:
            if inside:
                self._enter()

    def _enter(self) -> None:
        self._mine.inside, self._mine.holds = True, self._lock.acquire(timeout=self._patience_s)

    def _leave(self) -> None:
        if self._mine.holds:
            self._lock.release()
        self._mine.inside = self._mine.holds = False


class Buckets:
    """Counts requests a minute by namespace and rate: a token bucket each.

    Args:
        shares: Number of processes among which a rate is divided.
    """

    def __init__(self, shares: int) -> None:
        self._shares, self._lock = shares, threading.Lock()
        self._levels: dict[tuple[Namespace, int], tuple[float, float]] = {}

    def take(self, namespace: Namespace, rate: int) -> tuple[int, float]:
        """Take one token; returns (requests left, seconds to wait): the wait is 0 if there was one."""
        room, now, place = max(1.0, rate / self._shares), time.monotonic(), (namespace, rate)
        with self._lock:
            if len(self._levels) > 10_000:
                self._levels.clear()
            level, last = self._levels.get(place, (room, now))
            level = min(room, level + (now - last) * room / 60)
            if level < 1:
                self._levels[place] = level, now
                return 0, (1 - level) * 60 / room
            self._levels[place] = level - 1, now
            return int(level - 1), 0.0


def check_exposure(host: str, *, has_keys: bool) -> None:
    """Raise InvalidInputError for an address that others can reach while requests need no key."""
    if not has_keys and not is_local(host):
        raise InvalidInputError(
            f"others can reach {host or 'every address'!r}, and there is no key: "
            "make one with agent-memory keys create, or serve at 127.0.0.1"
        )


def find_ledger(place: Path | str, given: str | None) -> Path:
    """Return the folder of a server's own records.

    Raises:
        InvalidInputError: The store has no folder, and none is given.
    """
    if given is not None:
        return parse_path("ledger", given)
    if isinstance(place, str):
        raise InvalidInputError(
            "a server keeps its keys and records in a folder, which a store on PostgreSQL does not have: "
            "give one with --ledger FOLDER"
        )
    return place


def _open_ledger(memory: Memory, settings: Settings) -> Ledger | None:
    folder = find_ledger(memory.path, settings.ledger)
    if settings.ledger is not None:
        try:
            make_folder(folder)
        except OSError as error:
            raise StorageError(f"{folder} cannot be the folder of the server's records: {error}") from error
    elif memory._store.database.read_only and not (folder / FILE).exists():
        return None
    return Ledger(folder, lock_timeout_s=memory.config.lock_timeout_s)


def _unauthorized(detail: str) -> Problem:
    return Problem(401, "unauthorized", detail, headers={"www-authenticate": "Bearer"})
