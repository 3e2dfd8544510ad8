"""One way for every adapter to be given a memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent_memory.errors import InvalidInputError
from agent_memory.memory import Memory
from agent_memory.types import Namespace


def opened(memory: Memory | str | Path) -> tuple[Memory, bool]:
    """Return a memory and whether it was opened here, from a memory or the folder of one."""
    if isinstance(memory, Memory):
        return memory, False
    if isinstance(memory, str | Path):
        return Memory(memory), True
    raise InvalidInputError(f"expected a Memory or the folder of one, got {type(memory).__name__}")


def below(memory: Memory, namespace: Sequence[str] | None) -> Namespace:
    """Return a namespace given relative to that of a memory in full."""
    return (*memory.namespace, *(namespace or ()))
