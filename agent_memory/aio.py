"""``AsyncMemory``: ``Memory`` for asyncio."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Self, TypeVar

from agent_memory.errors import ClosedError
from agent_memory.live.attempt import Attempt, begin_to_write
from agent_memory.memory import Memory

if TYPE_CHECKING:
    from agent_memory.config import Config
    from agent_memory.encoders import Encoder, SessionEncoder
    from agent_memory.records import Copied, Erasure
    from agent_memory.types import Namespace, Progress

_P = ParamSpec("_P")
_R = TypeVar("_R")
_THREADS = 4


async def run_in_thread(
    call: Callable[[], _R],
    *,
    executor: Executor | None = None,
    whole: bool = False,
    stop: threading.Event | None = None,
) -> _R:
    """Return what a call returns that is made in a thread; if it is cancelled, its outcome is known.

    A call that has written nothing yet is given up: it never will, also where its thread has still to notice. One that
    has begun to write is carried out to its end before CancelledError is raised, however often it is cancelled.

    Args:
        call: What to call. It sees the context variables of the caller.
        executor: Whose thread; the event loop's own if left out.
        whole: True for a call that has effects other than transactions, and is carried out once it has begun.
        stop: Set at a cancellation, for a call that ends by it.
    """
    loop = asyncio.get_running_loop()
    attempt = Attempt(loop.is_closed)
    steps = functools.partial(_run_whole, call) if whole else call
    context = contextvars.copy_context()
    future = loop.run_in_executor(executor, context.run, attempt.run, steps)
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])  # unlike awaiting the future, this does not cancel it
        except asyncio.CancelledError as error:
            cancelled = cancelled or error
            if stop is not None:
                stop.set()
            if attempt.give_up():
                future.cancel()
                raise
    if cancelled is not None:
        raise cancelled from future.exception()
    return future.result()


def _run_whole(call: Callable[[], _R]) -> _R:
    begin_to_write()
    return call()


def _awaitable(
    method: Callable[Concatenate[Memory, _P], _R], *, whole: bool = False
) -> Callable[Concatenate[AsyncMemory, _P], Coroutine[Any, Any, _R]]:
    """Return a coroutine method that runs a method of ``Memory`` in this object's threads; see ``run_in_thread``."""

    @functools.wraps(method)
    async def call(self: AsyncMemory, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        return await self._run(functools.partial(method, self._memory, *args, **kwargs), whole=whole)

    return call


class AsyncMemory:
    """``Memory`` for asyncio: the same methods, with the same arguments, results and errors.

    Calls run in a few threads, so that the event loop is never blocked. Open it with
    ``await AsyncMemory.open(...)`` or ``async with AsyncMemory(...)``; the arguments are those of ``Memory``.

    A call that is cancelled, or whose time is up, has a known outcome when ``CancelledError`` or ``TimeoutError`` is
    raised. Reads end at once. A write that is still being validated or encoded, or waits for a thread or another
    writer, never happens. One that has begun to write happens whole: its end is waited for.
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

    async def _run(self, call: Callable[[], _R], *, whole: bool = False, stop: threading.Event | None = None) -> _R:
        try:
            return await run_in_thread(call, executor=self._executor, whole=whole, stop=stop)
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
    def path(self) -> Path | str:
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
    set_expiry = _awaitable(Memory.set_expiry)
    history = _awaitable(Memory.history)
    why = _awaitable(Memory.why)
    forget = _awaitable(Memory.forget)
    purge_expired = _awaitable(Memory.purge_expired, whole=True)
    recall = _awaitable(Memory.recall)
    recall_many = _awaitable(Memory.recall_many)
    get = _awaitable(Memory.get)
    get_many = _awaitable(Memory.get_many)
    entries = _awaitable(Memory.entries)
    sessions = _awaitable(Memory.sessions)
    namespaces = _awaitable(Memory.namespaces)
    vectors = _awaitable(Memory.vectors)
    topics = _awaitable(Memory.topics)
    stats = _awaitable(Memory.stats)
    check = _awaitable(Memory.check, whole=True)
    reindex = _awaitable(Memory.reindex, whole=True)
    rollback = _awaitable(Memory.rollback, whole=True)
    collect_generations = _awaitable(Memory.collect_generations, whole=True)
    generations = _awaitable(Memory.generations)
    maintenance = _awaitable(Memory.maintenance, whole=True)
    clear_queries = _awaitable(Memory.clear_queries, whole=True)
    save_snapshot = _awaitable(Memory.save_snapshot, whole=True)
    schedules = _awaitable(Memory.schedules)
    schedule = _awaitable(Memory.schedule)
    unschedule = _awaitable(Memory.unschedule)
    pause_schedule = _awaitable(Memory.pause_schedule)
    run_job = _awaitable(Memory.run_job, whole=True)
    backup = _awaitable(Memory.backup, whole=True)
    copies = _awaitable(Memory.copies)
    jobs = _awaitable(Memory.jobs)
    pause_job = _awaitable(Memory.pause_job)
    resume_job = _awaitable(Memory.resume_job)
    cancel_job = _awaitable(Memory.cancel_job)
    export = _awaitable(Memory.export, whole=True)
    import_ = _awaitable(Memory.import_, whole=True)

    async def work(self, stop: threading.Event) -> None:
        """Run the store's periodic jobs until ``stop`` is set; see ``Memory.work``. Cancelling it sets ``stop``."""
        await self._run(functools.partial(self._memory.work, stop), whole=True, stop=stop)

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
        restore = functools.partial(
            Memory.restore, backup, path, replace=replace, apply_forgets=apply_forgets, receipts=receipts
        )
        return await run_in_thread(restore, whole=True)

    @staticmethod
    async def copy(
        source: str | Path, target: str | Path, *, dry_run: bool = False, progress: Progress | None = None
    ) -> Copied:
        """Copy a store to another place; see ``Memory.copy``."""
        return await run_in_thread(
            functools.partial(Memory.copy, source, target, dry_run=dry_run, progress=progress), whole=True
        )

    async def close(self) -> None:
        """Write the index snapshot and close. Later calls raise ClosedError; a second close does nothing."""
        try:
            if self._opened is not None and not self._closed:
                await run_in_thread(self._opened.close, whole=True)
        finally:
            self._closed = True
            self._executor.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        if self._opened is None:
            try:
                await self._run(self._open_here, whole=True)
            except asyncio.CancelledError:
                await self.close()
                raise
        return self

    def _open_here(self) -> None:
        self._opened = self._open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()
