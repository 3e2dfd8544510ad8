"""Tools by which a LangChain agent itself recalls and remembers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.errors import MissingDependencyError
from agent_memory.formats.names import encode_name
from agent_memory.integrations._opening import Adapter, Given, opened
from agent_memory.integrations._prompting import NOTHING_KNOWN, Prompting

try:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool, tool
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error


class MemoryTools(Adapter, list[BaseTool]):
    """The tools ``recall`` and ``remember`` over a memory, as a list that closes what it has opened."""


def memory_tools(
    memory: Given,
    *,
    namespace: Sequence[str] = (),
    session: str | None = None,
    k: int = 5,
    where: Mapping[str, Any] | None = None,
    min_score: float | None = None,
) -> MemoryTools:
    """Return the tools ``recall`` and ``remember`` over a memory.

    Args:
        memory: A memory, or the folder of one, which ``close`` of the returned list closes.
        namespace: Where to look and write, within the memory's namespace.
        session: The session of what is remembered; the ``thread_id`` of the run, if it has one, if left out.
        k: How many memories ``recall`` returns at most.
        where: Only entries whose metadata match are recalled.
        min_score: Entries that score lower are left out.
    """
    store, own = opened(memory)
    prompting = Prompting(memory=store, namespace=namespace, k=k, where=where, min_score=min_score)
    fixed = None if session is None else encode_name(session)

    @tool
    def recall(query: str) -> str:
        """Look up what is known from earlier conversations.

        Args:
            query: A question or statement, e.g. "Where does Alice live?"
        """
        return prompting.block(query) or NOTHING_KNOWN

    @tool
    def remember(text: str, config: RunnableConfig) -> str:
        """Keep a fact for later conversations.

        Args:
            text: The fact as one self-contained sentence.
            config: Set by the framework.
        """
        return prompting.remember(text, fixed or session_of(config))

    async def aremember(text: str, config: RunnableConfig) -> str:
        return await run_in_thread(lambda: prompting.remember(text, fixed or session_of(config)))

    remember.coroutine = aremember  # LangChain's own would go on after a cancellation
    tools = MemoryTools([recall, remember])
    tools.memory, tools._own = store, own
    return tools


def session_of(config: RunnableConfig | None) -> str | None:
    """Return the session of a run: its ``thread_id``, if it has one."""
    thread = ((config or {}).get("configurable") or {}).get("thread_id")
    return None if thread is None else encode_name(str(thread))
