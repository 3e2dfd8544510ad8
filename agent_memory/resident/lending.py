"""A memory that is open already, for code that would open one: the helper lends it, everywhere else there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from agent_memory.types import Namespace  # brings NumPy, which --help can do without

Lender: TypeAlias = "Callable[[Path, Namespace], Any]"
"""Returns the memory of a folder as it is seen in a namespace, or None."""

_lender: Lender | None = None


def borrow(folder: str | Path, namespace: Namespace) -> Any | None:  # noqa: ANN401 - a Memory, which is of a layer above
    """Return a memory with its default settings, which stays open; None if there is none to lend.

    Args:
        folder: The store's folder.
        namespace: Where to see it from.
    """
    return None if _lender is None else _lender(Path(folder).expanduser().absolute(), namespace)


@contextmanager
def lending(lender: Lender) -> Iterator[None]:
    """Let ``borrow`` ask somebody while the block runs."""
    global _lender
    _lender = lender
    try:
        yield
    finally:
        _lender = None
