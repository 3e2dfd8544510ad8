"""Takes out of a database's files what deleted rows have left there."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from agent_memory.errors import LockTimeoutError
from agent_memory.files import failpoint
from agent_memory.storage.sqlite.connections import Connections
from agent_memory.storage.sqlite.slots import Link
from agent_memory.storage.sqlite.upkeep import truncate_log, vacuum

_PAUSE_S = 0.02


def erase_traces(connections: Connections, finish: Callable[[Link], None], *, wait_s: float) -> str | None:
    """See ``Database.erase_traces``.

    ``secure_delete`` has zeroed what was deleted. Older versions of its pages are in the log, which is moved into the
    file and cut to nothing; copies of rows in the unused space of pages are zeroed by ``scrub``.
    """
    if connections.is_reading():
        return "this thread is reading the store; what was forgotten is still in the log that it reads from"
    deadline, refused = time.monotonic() + wait_s, False
    while True:
        if truncate_log(connections, wait_s=_PAUSE_S):
            failpoint("erasure-log-truncated")
            with contextlib.suppress(LockTimeoutError), connections.write(wait_s=_PAUSE_S * 10) as connection:
                # Nobody has written since: the file is the whole database, and nobody writes to it before the commit.
                if connections.log_bytes() == 0:
                    refused = not connections.scrub()
                    if not refused:
                        failpoint("erasure-scrubbed")
                        finish(connection)
                        return None
            if refused:
                return _rewrite(connections, finish)
        if time.monotonic() >= deadline:
            return f"another reader or writer has kept the log in use for {wait_s:g} s"
        time.sleep(_PAUSE_S)


def _rewrite(connections: Connections, finish: Callable[[Link], None]) -> str | None:
    """Write the whole file again, where it is too large or the system refuses to write in place."""
    if not vacuum(connections) or connections.log_bytes():
        return "another reader or writer prevents that the file is written again"
    with connections.write() as connection:
        finish(connection)
    return None
