"""The ground a connection stands on: the files that it opened, and the lock that says a store is in use."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from pathlib import Path
from typing import TypeAlias

from agent_memory.errors import LockTimeoutError, StorageError
from agent_memory.files import create_file

_PAUSE_S = 0.005
_TAILS = ("", "-wal", "-shm")
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EBADF)

_SUPER = bytes.fromhex("d9d505f920a163d7")
"""What ends a journal that names a super-journal. Source: readSuperJournal in SQLite's pager.c."""

Identity: TypeAlias = tuple[int, int]
"""Device and inode of a file."""

MOVED = (
    "is no longer the file that was opened: the store was moved, deleted, restored or copied over while it was open. "
    "What was being written may be lost; close this memory and open it again."
)


def refuse_links(path: Path) -> None:
    """Raise StorageError if a database file, or what SQLite keeps beside it, is a link or no regular file.

    A store from a stranger could otherwise make writes go to another file; and a rollback journal that names a
    "super-journal", as those of transactions over several databases do, makes SQLite delete the file of that name.
    """
    for tail in (*_TAILS, "-journal"):
        file = path.with_name(path.name + tail)
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(os.lstat(file).st_mode):
                raise StorageError(f"{file} is a link or no regular file: it is not opened")
    journal = path.with_name(path.name + "-journal")
    with contextlib.suppress(FileNotFoundError), open(journal, "rb") as content:
        content.seek(-min(len(_SUPER), os.fstat(content.fileno()).st_size), os.SEEK_END)
        if content.read() == _SUPER:
            raise StorageError(f"{journal} names another file: no journal of agent-memory does, it is not opened")


def create_private(path: Path) -> None:
    """Make an empty file for its owner alone, unless there is one; SQLite gives its log the same mode."""
    with contextlib.suppress(FileExistsError):
        os.close(create_file(path))


def identify(path: Path | str) -> Identity | None:
    """Return what a file is, whatever its name; None if there is none."""
    try:
        facts = os.stat(path, follow_symlinks=False)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return facts.st_dev, facts.st_ino


class Ground:
    """The files that a connection has open: the database, and once they are there its log and shared memory.

    Args:
        path: The database file.
        home: What it was when it was opened.
    """

    def __init__(self, path: Path, home: Identity | None) -> None:
        self._files = [str(path) + tail for tail in _TAILS]
        self._known: list[Identity | None] = [home, None, None]

    def settle(self) -> None:
        """Note the log and the shared memory, once a connection has them open: from then on they stay what they are."""
        for place, file in enumerate(self._files):
            self._known[place] = self._known[place] or identify(file)

    def check(self) -> None:
        """Raise StorageError if the files are no longer where they were when they were opened."""
        for file, known in zip(self._files, self._known, strict=True):
            if known is not None and identify(file) != known:
                raise StorageError(f"{file} {MOVED}")


class FolderLock:
    """Says that a store is in use, to whoever would replace its files: a shared lock on the folder.

    The kernel drops it with the process. File systems without such locks are used without.

    Args:
        folder: The store's folder.
        timeout_s: Seconds to wait for a restore that is under way.
    """

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder, self._timeout_s = folder, timeout_s
        self._handle: int | None = None
        self._once = threading.Lock()

    def hold(self) -> None:
        """Take the lock, unless it is held already.

        Raises:
            LockTimeoutError: The store is being restored.
            StorageError: The folder is gone.
        """
        with self._once:
            if self._handle is None:
                self._handle = self._wait()

    def _wait(self) -> int:
        deadline = time.monotonic() + self._timeout_s
        handle = self._open()
        try:
            while not _try_lock(handle, fcntl.LOCK_SH):
                if time.monotonic() >= deadline:
                    raise LockTimeoutError(self._timeout_s)
                time.sleep(_PAUSE_S)
        except BaseException:
            os.close(handle)
            raise
        return handle

    def hold_alone(self) -> None:
        """Take the lock for this process alone.

        Raises:
            StorageError: Somebody has the store open.
        """
        handle = self._open()
        if not _try_lock(handle, fcntl.LOCK_EX):
            os.close(handle)
            raise StorageError(f"{self._folder} is in use; close every memory that has it open")
        self._handle = handle

    def _open(self) -> int:
        try:
            return os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be opened: {error}") from error

    def release(self) -> None:
        """Give the lock back; a child that was forked keeps nothing of it by closing its copy."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise StorageError(f"the store's folder cannot be locked: {error}") from error
    return True


def is_writable(path: Path) -> bool:
    """Return whether a database can be written, or made, with its log beside it."""
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))
