"""Named places where a crash test may kill this process.

A crash suite sets ``AGENT_MEMORY_FAILPOINT`` to a name in a child's environment before it starts; the
child then dies by SIGKILL when it reaches that place. Unset, a fail point costs one comparison.
"""

from __future__ import annotations

import os
import signal

_ARMED = os.environ.get("AGENT_MEMORY_FAILPOINT", "")


def failpoint(name: str) -> None:
    """Kill this process, without any clean-up, if ``name`` is the armed fail point."""
    if name == _ARMED:
        os.kill(os.getpid(), signal.SIGKILL)
