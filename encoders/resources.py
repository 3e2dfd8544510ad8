"""Threads and memory, for encoders that run a model in this process; loaded weights exist once."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TypeVar, cast
from weakref import WeakValueDictionary

from agent_memory.errors import EncoderError, MissingDependencyError
from agent_memory.files import new_lock

_T = TypeVar("_T")

_SHARED: WeakValueDictionary[Hashable, object] = WeakValueDictionary()
_LOADING: WeakValueDictionary[Hashable, threading.Lock] = WeakValueDictionary()
_LOCK = new_lock()  # held while a key's own lock is looked up, never while anything loads

_OUT_OF_MEMORY = ("out of memory", "enough memory", "allocate memory", "alloc_failed")


def prepare_threads() -> None:
    """Let idle worker threads sleep; call this before torch starts them.

    Torch and FAISS each keep a pool of OpenMP threads. By default, idle threads spin, so the idle pool takes the
    cores from the busy one. No effect if the user has set ``OMP_WAIT_POLICY`` or OpenMP is already running.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def require_sentence_transformers() -> None:
    """Raise unless sentence-transformers, which is an extra, can be imported; it is not imported yet.

    Raises:
        MissingDependencyError: It is not installed.
    """
    try:
        found = find_spec("sentence_transformers") is not None
    except (ImportError, ValueError):  # something keeps it from being imported
        found = False
    if not found:
        raise MissingDependencyError("sentence-transformers", "sentence-transformers")


def share(key: Hashable, load: Callable[[], _T]) -> _T:
    """Return what is loaded under a key, loading it only if nobody in this process uses it.

    It lives as long as a caller holds it. Calls for one key wait for each other, calls for others do not. A child
    process that was forked during a load loads for itself.

    Args:
        key: Everything that decides what is loaded: the kind, the files with their stamps, the options.
        load: Loads it; the result must allow weak references, must not be None, and is not to be changed by anybody.
    """
    with _LOCK:
        lock = _LOADING.get(key)
        if lock is None:
            lock = _LOADING[key] = new_lock()
    with lock:
        found = cast("_T | None", _SHARED.get(key))
        if found is None:
            found = load()
            _SHARED[key] = found
        return found


@contextmanager
def catch_out_of_memory(activity: str) -> Iterator[None]:
    """Turn a failed allocation into an error of this package; a context manager or a decorator.

    Args:
        activity: What was being done, for the message, e.g. ``embedding``.

    Raises:
        EncoderError: Python raised ``MemoryError``, or one of torch's allocators (CPU or device) failed.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and not any(sign in text for sign in _OUT_OF_MEMORY):
            raise
        raise EncoderError(f"memory ran out while {activity}; use shorter texts or fewer at once: {error}") from error


def _use_one_thread() -> None:
    """Let a forked child compute in its own thread alone: waiting for the parent's OpenMP threads would never end."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_use_one_thread)
