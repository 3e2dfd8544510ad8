"""Files that appear whole or not at all, locks that survive a fork, and places where a crash test may kill the process.

A crash suite sets ``AGENT_MEMORY_FAILPOINT`` to a name in a child's environment before it starts; the
child then dies by SIGKILL when it reaches that place. Unset, a fail point costs one comparison.
``NAME:N`` kills at the N-th time instead of the first.
"""

from __future__ import annotations

import os
import secrets
import signal
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_ARMED, _, _TIMES = os.environ.get("AGENT_MEMORY_FAILPOINT", "").partition(":")
_left = int(_TIMES or 1)

_LOCKS: weakref.WeakSet[threading.Lock] = weakref.WeakSet()

PRIVATE = 0o600
"""Mode of files that hold memories: for their owner alone."""

SHARED = 0o644
"""Mode of files that others may read, such as model weights."""


def failpoint(name: str) -> None:
    """Kill this process, without any clean-up, if ``name`` is the armed fail point."""
    global _left
    if name == _ARMED:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def write_atomically(path: Path, *, mode: int = PRIVATE) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of ``path`` when the block ends.

    After a crash at any moment there is the old file or the new one, never a part. If the block raises, the old one
    stays and nothing is left behind.

    Args:
        path: The file to create or replace; its folder must exist.
        mode: Permissions of the new file, before the process's umask.

    Raises:
        OSError: It cannot be written.
    """
    part = part_of(path)
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def write_bytes(path: Path, content: bytes, *, mode: int = PRIVATE) -> None:
    """Write a file in one go, as ``write_atomically`` does."""
    with write_atomically(path, mode=mode) as file:
        file.write(content)


def part_of(path: Path) -> Path:
    """Return a name beside ``path``, unused by anybody, under which to write what will take its place."""
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")


def put_in_place(part: Path, path: Path) -> None:
    """Rename a synced file to its final name, and make that last through a power loss."""
    os.replace(part, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def new_lock() -> threading.Lock:
    """Return a lock that is free in a child process, whoever held it in the parent when that was forked."""
    lock = threading.Lock()
    _LOCKS.add(lock)
    return lock


def _free_locks() -> None:
    for lock in list(_LOCKS):
        lock._at_fork_reinit()  # type: ignore[attr-defined] # as the standard library's own modules do


os.register_at_fork(after_in_child=_free_locks)
