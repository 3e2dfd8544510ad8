"""Takes out of a database's files what deleted rows have left there."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection

from agent_memory.errors import LockTimeoutError
from agent_memory.files import failpoint
from agent_memory.storage.sqlite import scrub
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.upkeep import truncate_log, vacuum

_PAUSE_S = 0.02
_SCRUB_S = 600


def erase_traces(connections: Connections, finish: Callable[[Connection], None], *, wait_s: float) -> str | None:
    """See ``Database.erase_traces``.

    ``secure_delete`` has zeroed what was deleted. Older versions of its pages are in the log, which is moved into the
    file and cut to nothing; copies of rows in the unused space of pages are zeroed by ``scrub``.
    """
    if connections.is_reading():
        return "this thread is reading the store; what was forgotten is still in the log that it reads from"
    deadline = time.monotonic() + wait_s
    while True:
        if truncate_log(connections, wait_s=_PAUSE_S):
            failpoint("erasure-log-truncated")
            with contextlib.suppress(LockTimeoutError), connections.write(wait_s=_PAUSE_S * 10) as connection:
                # Nobody has written since: the file is the whole database, and nobody writes to it before the commit.
                if connections.log_bytes() == 0 and _scrub(connections.path):
                    failpoint("erasure-scrubbed")
                    finish(connection)
                    return None
            if connections.log_bytes() == 0 and not can_scrub(connections.path):
                return _rewrite(connections, finish)
        if time.monotonic() >= deadline:
            return f"another reader or writer has kept the log in use for {wait_s:g} s"
        time.sleep(_PAUSE_S)


def can_scrub(path: Path) -> bool:
    """Return whether this Python can start another one, and the file is of a size that ``scrub`` handles."""
    return bool(sys.executable) and path.stat().st_size < scrub.MOST_PAGES * 512


def _scrub(path: Path) -> bool:
    if not can_scrub(path):
        return False
    command = [sys.executable, "-I", "-S", os.fspath(Path(scrub.__file__)), os.fspath(path)]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SCRUB_S, check=False)
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _rewrite(connections: Connections, finish: Callable[[Connection], None]) -> str | None:
    """Write the whole file again, where no program can be started that would do it in place."""
    if not vacuum(connections) or connections.log_bytes():
        return "another reader or writer prevents that the file is written again"
    with connections.write() as connection:
        finish(connection)
    return None
