"""Pydantic AI: a toolset to recall and remember, and instructions that recall by themselves.

    agent = Agent(model, toolsets=[memory_toolset(memory)], instructions=recalled(memory))

Both are optional and independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.errors import MissingDependencyError
from agent_memory.formats.names import encode_name
from agent_memory.integrations._opening import Adapter, Given, opened
from agent_memory.integrations._prompting import NOTHING_KNOWN, Prompting
from agent_memory.integrations._text import text_of

try:
    from pydantic_ai import FunctionToolset, RunContext
except ModuleNotFoundError as error:
    raise MissingDependencyError("pydantic-ai-slim", "pydantic-ai") from error


class MemoryToolset(Adapter, FunctionToolset[Any]):
    """The tools ``recall`` and ``remember`` over a memory; leaving an agent's context does not close it."""

    # An agent enters and leaves its toolsets at every run; a memory outlives that.
    __aenter__ = FunctionToolset.__aenter__
    __aexit__ = FunctionToolset.__aexit__


def memory_toolset(
    memory: Given,
    *,
    namespace: Sequence[str] = (),
    session: str | None = None,
    k: int = 5,
    where: Mapping[str, Any] | None = None,
    min_score: float | None = None,
) -> MemoryToolset:
    """Return the tools ``recall`` and ``remember``.

    Args:
        memory: A memory, or the folder of one, which ``close`` of the toolset closes.
        namespace: Where to look and write, within the memory's namespace.
        session: The session of what is remembered.
        k: How many memories ``recall`` returns at most.
        where: Only entries whose metadata match are recalled.
        min_score: Entries that score lower are left out.
    """
    store, own = opened(memory)
    prompting = Prompting(memory=store, namespace=namespace, k=k, where=where, min_score=min_score)
    fixed = None if session is None else encode_name(session)

    async def recall(query: str) -> str:
        """Look up what is known from earlier conversations.

        Args:
            query: A question or statement, e.g. "Where does Alice live?"
        """
        return await run_in_thread(lambda: prompting.block(query)) or NOTHING_KNOWN

    async def remember(text: str) -> str:
        """Keep a fact for later conversations.

        Args:
            text: The fact as one self-contained sentence.
        """
        return await run_in_thread(lambda: prompting.remember(text, fixed))

    toolset = MemoryToolset([recall, remember])
    toolset.memory, toolset._own = store, own
    return toolset


class Recalled(Adapter):
    """Instructions for an agent: what the prompt of the run reminds of, tagged."""

    def __init__(self, prompting: Prompting, own: bool) -> None:
        self.memory, self._own = prompting.memory, own
        self._prompting = prompting

    async def __call__(self, context: RunContext[Any]) -> str:
        """Return what the prompt of a run reminds of."""
        return await run_in_thread(lambda: self._prompting.block(text_of(context.prompt)))


def recalled(
    memory: Given,
    *,
    namespace: Sequence[str] = (),
    k: int = 5,
    where: Mapping[str, Any] | None = None,
    min_score: float | None = None,
) -> Recalled:
    """Return instructions for an agent: what the prompt of the run reminds of, tagged.

    Args:
        memory: A memory, or the folder of one, which ``close`` of the instructions closes.
        namespace: Where to look, within the memory's namespace.
        k: How many memories are recalled at most.
        where: Only entries whose metadata match are recalled.
        min_score: Entries that score lower are left out.
    """
    store, own = opened(memory)
    return Recalled(Prompting(memory=store, namespace=namespace, k=k, where=where, min_score=min_score), own)
