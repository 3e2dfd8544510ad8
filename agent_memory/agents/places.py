"""Where things of the coding agents are kept: beside the store, in its folder, for their owner alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

FOLDER = "agents"
VARIABLE = "AGENT_MEMORY_PATH"
DEFAULT = "~/.agent-memory"


def find_store(path: str | None = None) -> Path:
    """Return the folder of the store: the given one, ``AGENT_MEMORY_PATH``, or that in the home folder.

    Raises:
        FileNotFoundError: There is no home folder, or an address was given; nothing was made.
    """
    given = path or os.environ.get(VARIABLE) or DEFAULT
    if "://" in given:
        raise FileNotFoundError(f"hooks need a folder, and {given.split(':')[0]}:// is an address")
    try:
        folder = Path(given).expanduser()
    except RuntimeError as error:
        raise FileNotFoundError(f"{given} cannot be found: there is no home folder") from error
    if not folder.is_absolute():
        folder = Path.cwd() / folder
    return folder


@contextlib.contextmanager
def hold(lock: Path, *, wait: bool) -> Iterator[bool]:
    """Hold a lock file in a folder that is there; without ``wait``, yields False at once if another process has it."""
    handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True
    finally:
        os.close(handle)
