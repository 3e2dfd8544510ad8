"""Pydantic AI: a toolset to recall and remember, and instructions that recall by themselves.

    agent = Agent(model, toolsets=[memory_toolset(memory)], instructions=recalled(memory))

Both are optional and independent of each other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from agent_memory.errors import MissingDependencyError
from agent_memory.integrations._opening import below, opened
from agent_memory.integrations._text import block, own_text
from agent_memory.memory import Memory

try:
    from pydantic_ai import FunctionToolset, RunContext
except ModuleNotFoundError as error:
    raise MissingDependencyError("pydantic-ai-slim", "pydantic-ai") from error


def memory_toolset(
    memory: Memory | str | Path, *, namespace: Sequence[str] = (), session: str | None = None, k: int = 5
) -> FunctionToolset[Any]:
    """Return the tools ``recall`` and ``remember``.

    Args:
        memory: A memory, or the folder of one.
        namespace: Where to look and write, within the memory's namespace.
        session: The session of what is remembered.
        k: How many memories ``recall`` returns at most.
    """
    store, _ = opened(memory)
    scope = below(store, namespace)

    async def recall(query: str) -> str:
        """Look up what is known from earlier conversations.

        Args:
            query: A question or statement, e.g. "Where does Alice live?"
        """
        hits = await asyncio.to_thread(store.recall, query, k=k, namespace=scope) if query.strip() else []
        return block(hits) or "Nothing is known about that."

    async def remember(text: str) -> str:
        """Keep a fact for later conversations.

        Args:
            text: The fact as one self-contained sentence.
        """
        fact = own_text(text)
        if not fact:
            return "That is remembered already."
        await asyncio.to_thread(store.add, fact, session=session, namespace=scope)
        return "Remembered."

    return FunctionToolset([recall, remember])


def recalled(
    memory: Memory | str | Path, *, namespace: Sequence[str] = (), k: int = 5
) -> Callable[[RunContext[Any]], Awaitable[str]]:
    """Return instructions for an agent: what the prompt of the run reminds of, tagged.

    Args:
        memory: A memory, or the folder of one.
        namespace: Where to look, within the memory's namespace.
        k: How many memories are recalled at most.
    """
    store, _ = opened(memory)
    scope = below(store, namespace)

    async def instructions(context: RunContext[Any]) -> str:
        asked = context.prompt if isinstance(context.prompt, str) else ""
        query = own_text(asked)
        return block(await asyncio.to_thread(store.recall, query, k=k, namespace=scope)) if query else ""

    return instructions
