"""Files that appear whole or not at all, locks that survive a fork, and places where a crash test may kill the process.

A crash suite sets ``AGENT_MEMORY_FAILPOINT`` to a name in a child's environment before it starts; the
child then dies by SIGKILL when it reaches that place. Unset, a fail point costs one comparison.
``NAME:N`` kills at the N-th time instead of the first.
"""

from __future__ import annotations

import _imp
import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import signal
import stat
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO, TypeVar

_ARMED, _, _TIMES = os.environ.get("AGENT_MEMORY_FAILPOINT", "").partition(":")
_left = int(_TIMES or 1)

_T = TypeVar("_T")
_RESETS: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()

PRIVATE = 0o600
"""Mode of files that hold memories: for their owner alone."""

PRIVATE_FOLDER = 0o700
"""Mode of folders that hold memories."""

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
    with write_beside(path, mode=mode) as part:
        with open(part, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        put_in_place(part, path)


def write_bytes(path: Path, content: bytes, *, mode: int = PRIVATE) -> None:
    """Write a file in one go, as ``write_atomically`` does."""
    with write_atomically(path, mode=mode) as file:
        file.write(content)


def make_folder(path: Path) -> None:
    """Make a folder, and those above it that are missing, for their owner alone; one that exists stays as it is.

    What was made lasts through a power loss.

    Raises:
        OSError: It cannot be made, or something else has its name.
    """
    missing = []
    place = path
    while not place.exists():
        missing.append(place)
        place = place.parent
    for folder in reversed(missing):
        try:
            folder.mkdir(mode=PRIVATE_FOLDER)
            folder.chmod(PRIVATE_FOLDER)  # whatever the umask
        except FileExistsError:
            pass  # made by another process just now, which may not have flushed it yet
        sync_folder(folder.parent)
    if not path.is_dir():
        raise FileExistsError(errno.EEXIST, "there is something else of that name", str(path))


class _Handle:
    """An open file or folder, closed when nobody refers to it any more at the latest.

    Its lock would stay for as long as the process if an interrupt came between opening it and a ``finally``, or in one.
    """

    __slots__ = ("number",)

    def __init__(self, number: int) -> None:
        self.number = number

    def close(self) -> None:
        number, self.number = self.number, -1
        if number >= 0:
            os.close(number)

    __del__ = close


def remove_folder(path: Path) -> None:
    """Delete a folder with all that is in it, as far as that can be done."""
    try:
        shutil.rmtree(path, ignore_errors=True)
    except OSError as error:
        # Interrupted right after it has closed a file, shutil closes it again: it is the interrupt that counts.
        if error.__context__ is not None and not isinstance(error.__context__, OSError):
            raise error.__context__ from None


def create_file(path: Path, *, mode: int = PRIVATE) -> int:
    """Make an empty file, for its owner alone unless said otherwise; returns its open handle.

    Args:
        path: The file; its folder must exist.
        mode: Permissions; the umask is taken from them unless they are ``PRIVATE``.

    Raises:
        FileExistsError: There is something of that name.
    """
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    if mode == PRIVATE:
        os.fchmod(handle, mode)
    return handle


@contextmanager
def write_beside(path: Path, *, mode: int = PRIVATE) -> Iterator[Path]:
    """Make an empty file beside ``path`` in which to write what will take its place; see ``put_in_place``.

    It is gone afterwards if it was not put in place, with what SQLite has put beside it. Files of that kind that
    killed processes have left in the folder are deleted first: they are told by their locks, which nobody holds.

    Args:
        path: The file to be; its folder must exist.
        mode: Permissions, as of ``create_file``.

    Raises:
        OSError: It cannot be made.
    """
    clean_parts(path.parent)
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
        handle = _Handle(create_file(part, mode=mode))
        _lock(handle)
        if part.exists():
            break
        handle.close()  # another process has found it before it was locked
    try:
        yield part
    finally:
        _remove_part(part)
        handle.close()


def clean_parts(folder: Path) -> None:
    """Delete the unfinished files of killed processes in a folder."""
    try:
        names = {match[1] for name in os.listdir(folder) if (match := _PART.fullmatch(name))}
    except OSError:
        return
    for name in names:
        part = folder / name
        try:
            handle = _Handle(os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC))
        except FileNotFoundError:
            _remove_part(part)
            continue
        except OSError:
            continue
        try:
            if stat.S_ISREG(os.fstat(handle.number).st_mode) and _lock(handle, fcntl.LOCK_NB):
                _remove_part(part)
        finally:
            handle.close()


@contextmanager
def make_scratch(folder: Path, prefix: str) -> Iterator[Path]:
    """Make a private folder inside another one, which is deleted afterwards unless it was renamed.

    It is locked as long as it is used, which tells it from those of killed processes: these are deleted first.

    Args:
        folder: Where to make it.
        prefix: What its name begins with, followed by sixteen hexadecimal digits.

    Raises:
        OSError: It cannot be made.
    """
    _clean_scratch(folder, prefix)
    while True:
        work = folder / f"{prefix}{secrets.token_hex(8)}"
        work.mkdir(mode=PRIVATE_FOLDER)  # not synced: what is left of it after a crash is deleted
        work.chmod(PRIVATE_FOLDER)  # whatever the umask
        handle = _Handle(os.open(work, os.O_RDONLY | os.O_DIRECTORY))
        _lock(handle)
        if work.exists():
            break
        handle.close()
    try:
        yield work
    finally:
        remove_folder(work)
        handle.close()


def wait_for_scratch(folder: Path, prefix: str, wait_s: float) -> bool:
    """Wait until nobody uses a folder that ``make_scratch`` made, and delete the rest; False if somebody still does."""
    deadline = time.monotonic() + wait_s
    while True:
        _clean_scratch(folder, prefix)
        if not any(folder.glob(f"{prefix}*")):
            return True
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)


def _clean_scratch(folder: Path, prefix: str) -> None:
    for work in folder.glob(f"{prefix}*"):
        if not re.fullmatch(r"[0-9a-f]{16}", work.name.removeprefix(prefix)):
            continue
        try:
            handle = _Handle(os.open(work, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW))
        except OSError:
            continue
        try:
            if _lock(handle, fcntl.LOCK_NB):
                remove_folder(work)
        finally:
            handle.close()


_PART = re.compile(r"(\..+\.[0-9a-f]{12}\.part)(?:-journal|-wal|-shm)?")


def _lock(handle: _Handle, how: int = 0) -> bool:
    """Lock a file for as long as it is open; file systems without such locks are used without, and not cleaned."""
    try:
        fcntl.flock(handle.number, fcntl.LOCK_EX | how)
    except OSError:
        return False
    return True


def _remove_part(part: Path) -> None:
    for tail in ("", "-journal", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            part.with_name(part.name + tail).unlink(missing_ok=True)


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
    reset_in_child(lock, lambda lock: lock._at_fork_reinit())  # type: ignore[attr-defined] # as the standard library does
    return lock


class _Whole(threading.Thread):
    """A call that no interrupt takes apart.

    Attributes:
        error: What it has raised.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(name="whole call")
        self._call = call
        self._value: Any = None
        self.error: BaseException | None = None
        self._over = False

    def run(self) -> None:
        try:
            self._value = self._call()
        except BaseException as error:
            self.error = error
        self._over = True

    def wait(self) -> Any:  # noqa: ANN401 - what the call returns
        """Wait for the call, and return or raise what it does."""
        while not self._over:  # to Python, a thread that was joined until an interrupt came has ended
            release_import_lock()  # which the call may wait for
            time.sleep(_LOOK_S)
        if self.error is not None:
            raise self.error
        return self._value


def call_whole(call: Callable[[], _T]) -> _T:
    """Return what a call returns, in a thread of its own: interrupts end the thread that waits, not the call.

    For what leaves a lock of Python taken for good if it is interrupted, as the locks of imports and of logging.
    """
    whole = _Whole(call)
    whole.start()
    value: _T = whole.wait()
    return value


_LOOK_S = 0.001
_imports: dict[str, _Whole] = {}
os.register_at_fork(after_in_child=_imports.clear)


def import_whole(name: str) -> ModuleType:
    """Return a module, imported in a thread of its own if it is not imported yet.

    Interrupts end the thread that waits, not the import: PyTorch and FAISS cannot be imported again after half of it.
    The thread that waits stays out of Python's import system, whose lock an interrupt can leave taken for good.
    """
    module = sys.modules.get(name)
    if module is not None and not getattr(module.__spec__, "_initializing", False):
        return module
    with _importing:
        found = _imports.get(name)
        if found is None:
            found = _Whole(lambda: import_module(name))
            found.start()
            _imports[name] = found
    try:
        found.wait()
    finally:
        if found.error is not None:
            _imports.pop(name, None)
    return sys.modules[name]


def release_import_lock() -> None:
    """Release Python's import lock if an interrupt has left it to this thread: no other could import anything.

    ``importlib`` holds it for a few lines at a time, in which no code of a module runs. It takes it just before the
    ``try`` that releases it, so that an interrupt can come between.
    """
    if _imp.lock_held():
        with contextlib.suppress(RuntimeError):  # another thread's
            while True:
                _imp.release_lock()


def reset_in_child(owner: _T, reset: Callable[[_T], None]) -> None:
    """Call ``reset(owner)`` in each child process that is forked, as long as the owner lives."""
    _RESETS[owner] = reset


def _reset_all() -> None:
    for owner, reset in list(_RESETS.items()):
        reset(owner)


os.register_at_fork(after_in_child=_reset_all)
_importing = new_lock()
