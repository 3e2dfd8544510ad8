"""Model libraries after a fork: their threads are not in the child, and waiting for them would last for ever."""

from __future__ import annotations

import os
import sys


def _use_one_thread() -> None:
    """Let the child compute in its own thread alone: a team of OpenMP threads of the parent does not exist there."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)


os.register_at_fork(after_in_child=_use_one_thread)
