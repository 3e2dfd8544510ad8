"""``AsyncMemory``: ``Memory`` for asyncio."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from agent_memory.errors import ClosedError
from agent_memory.memory import Memory

if TYPE_CHECKING:
    from agent_memory.config import Config
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.records import Erasure
    from agent_memory.types import Namespace

_P = ParamSpec("_P")
_R = TypeVar("_R")
_THREADS = 4


def _awaitable(
    method: Callable[Concatenate[Memory, _P], _R],
) -> Callable[Concatenate[AsyncMemory, _P], Coroutine[Any, Any, _R]]:
    """Return a coroutine method that runs a method of ``Memory`` in this object's threads."""

    @functools.wraps(method)
    async def call(self: AsyncMemory, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await self._run(functools.partial(method, self._memory, *args, **kwargs))

    return call


class AsyncMemory:
    """``Memory`` for asyncio: the same methods, with the same arguments, results and errors.

    Calls run in a few threads, so that the event loop is never blocked. Open it with
    ``await AsyncMemory.open(...)`` or ``async with AsyncMemory(...)``; the arguments are those of ``Memory``.
    Cancelling a running call does not stop it: it is still carried out.
    """

    def __init__(self, path: str | Path = "~/.agent-memory", **options: Any) -> None:  # noqa: ANN401
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="agent-memory")
        self._open = functools.partial(Memory, path, **options)
        self._opened: Memory | None = None
        self._closed = False

    @classmethod
    async def open(cls, path: str | Path = "~/.agent-memory", **options: Any) -> Self:  # noqa: ANN401
        """Open a memory; arguments and errors as for ``Memory``."""
        return await cls(path, **options).__aenter__()

    @property
    def _memory(self) -> Memory:
        if self._opened is None:
            raise ClosedError("this memory is not open: use 'async with' or 'await AsyncMemory.open(...)'")
        return self._opened

    async def _run(self, call: Callable[[], _R]) -> _R:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._executor, call)
        except RuntimeError as error:
            if "shutdown" in str(error):
                raise ClosedError("this memory is closed") from error
            raise

    @property
    def encoder(self) -> Encoder:
        """The encoder that turns texts and queries into vectors."""
        return self._memory.encoder

    @property
    def session_encoder(self) -> SessionEncoder | None:
        """The session encoder that evolves the vectors of a session's entries, or None."""
        return self._memory.session_encoder

    @property
    def path(self) -> Path:
        """The store's folder."""
        return self._memory.path

    @property
    def namespace(self) -> Namespace:
        """The namespace of this memory."""
        return self._memory.namespace

    @property
    def config(self) -> Config:
        """The memory's settings."""
        return self._memory.config

    def __repr__(self) -> str:
        return f"Async{self._opened!r}" if self._opened is not None else "AsyncMemory(not open)"

    add = _awaitable(Memory.add)
    add_many = _awaitable(Memory.add_many)
    update = _awaitable(Memory.update)
    supersede = _awaitable(Memory.supersede)
    history = _awaitable(Memory.history)
    why = _awaitable(Memory.why)
    forget = _awaitable(Memory.forget)
    purge_expired = _awaitable(Memory.purge_expired)
    recall = _awaitable(Memory.recall)
    recall_many = _awaitable(Memory.recall_many)
    get = _awaitable(Memory.get)
    get_many = _awaitable(Memory.get_many)
    entries = _awaitable(Memory.entries)
    sessions = _awaitable(Memory.sessions)
    namespaces = _awaitable(Memory.namespaces)
    vectors = _awaitable(Memory.vectors)
    stats = _awaitable(Memory.stats)
    check = _awaitable(Memory.check)
    reindex = _awaitable(Memory.reindex)
    rollback = _awaitable(Memory.rollback)
    collect_generations = _awaitable(Memory.collect_generations)
    generations = _awaitable(Memory.generations)
    maintenance = _awaitable(Memory.maintenance)
    clear_queries = _awaitable(Memory.clear_queries)
    save_snapshot = _awaitable(Memory.save_snapshot)
    schedules = _awaitable(Memory.schedules)
    schedule = _awaitable(Memory.schedule)
    unschedule = _awaitable(Memory.unschedule)
    pause_schedule = _awaitable(Memory.pause_schedule)
    run_job = _awaitable(Memory.run_job)
    work = _awaitable(Memory.work)
    backup = _awaitable(Memory.backup)
    copies = _awaitable(Memory.copies)
    jobs = _awaitable(Memory.jobs)
    pause_job = _awaitable(Memory.pause_job)
    resume_job = _awaitable(Memory.resume_job)
    cancel_job = _awaitable(Memory.cancel_job)
    export = _awaitable(Memory.export)
    import_ = _awaitable(Memory.import_)

    @staticmethod
    async def restore(
        backup: str | Path,
        path: str | Path,
        *,
        replace: bool = False,
        apply_forgets: bool = False,
        receipts: Sequence[Erasure | Mapping[str, Any]] = (),
    ) -> int:
        """Create a store from a backup; see ``Memory.restore``."""
        return await asyncio.to_thread(
            lambda: Memory.restore(backup, path, replace=replace, apply_forgets=apply_forgets, receipts=receipts)
        )

    async def close(self) -> None:
        """Write the index snapshot and close. Later calls raise ClosedError; a second close does nothing."""
        if self._opened is not None and not self._closed:
            await asyncio.to_thread(self._opened.close)
        self._closed = True
        self._executor.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        if self._opened is None:
            self._opened = await self._run(self._open)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
