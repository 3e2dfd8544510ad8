"""One way for every adapter to be given a memory, and to close what it has opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self, cast

from agent_memory.aio import AsyncMemory, run_in_thread
from agent_memory.config import Config
from agent_memory.errors import InvalidInputError
from agent_memory.memory import Memory
from agent_memory.records import Entry
from agent_memory.remote.client import RemoteMemory
from agent_memory.types import Address, Namespace

if TYPE_CHECKING:
    from agent_memory.encoders import Encoder

Given = Memory | AsyncMemory | RemoteMemory | str | Path

_WHOLE = 64_000_000
"""Characters of metadata in which whole messages are kept, with their images."""


class Adapter:
    """Holds a memory, and closes it if it was opened here.

    Attributes:
        memory: What the adapter reads and writes.
    """

    if TYPE_CHECKING:  # Pydantic would take an annotation of a base class for a field
        memory: Memory
        _own: bool

    def close(self) -> None:
        """Close the memory if it was opened here; a memory that was handed over stays open."""
        self._release()

    def _release(self) -> None:
        if self._own:
            self.memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await run_in_thread(self._release, whole=True)


def opened(memory: Given, *, encoder: Encoder | None = None, config: Config | None = None) -> tuple[Memory, bool]:
    """Return a memory and whether it was opened here.

    Args:
        memory: A memory, or the folder of one.
        encoder: The encoder that a folder is opened with; None for the store's own.
        config: The settings that a folder is opened with; if left out, those by default with room for whole messages.

    Raises:
        InvalidInputError: It is neither, or an encoder or settings were given for an open memory.
        ClosedError: An ``AsyncMemory`` that is not open.
    """
    if isinstance(memory, str | Path):
        return Memory(memory, encoder=encoder, config=config or Config(max_metadata_chars=_WHOLE)), True
    held = held_by(memory)
    if encoder is not None or config is not None:
        raise InvalidInputError("an open memory has its own encoder and config: give the folder instead")
    return held, False


def held_by(memory: object) -> Memory:
    """Return the memory of an open ``Memory``, ``AsyncMemory`` or ``RemoteMemory``.

    Raises:
        InvalidInputError: It is neither.
        ClosedError: An ``AsyncMemory`` that is not open.
    """
    if isinstance(memory, AsyncMemory):
        return memory._memory  # an adapter has threads of its own
    if isinstance(memory, RemoteMemory):
        return cast(Memory, memory)  # has all of its public methods
    if not isinstance(memory, Memory):
        kind = type(memory).__name__
        raise InvalidInputError(
            f"memory must be a Memory, an AsyncMemory, a RemoteMemory or the folder of one, got {kind}"
        )
    return memory


def relative(namespace: Sequence[str] | None) -> Namespace:
    """Return a namespace given to an adapter, relative to that of its memory.

    Raises:
        InvalidInputError: It is a text, of which each letter would be a name.
    """
    if isinstance(namespace, str | bytes):
        raise InvalidInputError(f"namespace must be a tuple of strings, got {type(namespace).__name__}")
    return tuple(namespace or ())


def below(memory: Memory, namespace: Sequence[str] | None) -> Namespace:
    """Return a namespace given relative to that of a memory in full; raises as ``relative`` does."""
    return (*memory.namespace, *relative(namespace))


def session_and_memory(
    memory: Given, former: Given | None, session: str | None, session_id: str | None
) -> tuple[str, Given]:
    """Return session and memory of an adapter that once took them in the frameworks' order, session first.

    Raises:
        InvalidInputError: No session was given, or more than one.
    """
    if former is not None:
        memory, session_id = former, memory if session_id is None else None  # type: ignore[assignment]
    chosen = session if session_id is None else session_id
    if not isinstance(chosen, str) or (session is not None and session_id is not None):
        raise InvalidInputError('give one session: AgentMemory…(memory, session="chat-7")')
    return chosen, memory


def read_at(memory: Memory | RemoteMemory, places: Sequence[Address]) -> dict[Address, Entry]:
    """Return the entries at (namespace, key), by place; of a memory in this process in one read."""
    if isinstance(memory, Memory):
        return memory._reader.get_at(places)
    keys: dict[Namespace, list[str]] = {}
    for namespace, key in places:
        keys.setdefault(namespace, []).append(key)
    found = {scope: memory.get_many(names, namespace=scope) for scope, names in keys.items()}
    return {(scope, key): entry for scope, entries in found.items() for key, entry in entries.items()}
