"""Named places where a crash test may kill this process.

A crash suite sets ``AGENT_MEMORY_FAILPOINT`` to a name in a child's environment before it starts; the
child then dies by SIGKILL when it reaches that place. Unset, a fail point costs one comparison.
``NAME:N`` kills at the N-th time instead of the first.
"""

from __future__ import annotations

import os
import signal

_ARMED, _, _TIMES = os.environ.get("AGENT_MEMORY_FAILPOINT", "").partition(":")
_left = int(_TIMES or 1)


def failpoint(name: str) -> None:
    """Kill this process, without any clean-up, if ``name`` is the armed fail point."""
    global _left
    if name == _ARMED:
        _left -= 1
        if _left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
