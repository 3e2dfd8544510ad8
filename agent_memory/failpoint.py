"""Named points at which a test may kill the process, to prove that nothing acknowledged is lost there."""

from __future__ import annotations

import os
import signal

_VARIABLE = "AGENT_MEMORY_FAILPOINT"


def failpoint(name: str) -> None:
    """Kill this process at once if the environment names this point; otherwise do nothing."""
    if os.environ.get(_VARIABLE) == name:
        os.kill(os.getpid(), signal.SIGKILL)
