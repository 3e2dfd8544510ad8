"""Tools by which a LangChain agent itself recalls and remembers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent_memory.errors import MissingDependencyError
from agent_memory.integrations._names import encode_name
from agent_memory.integrations._opening import below, opened
from agent_memory.integrations._text import block, own_text
from agent_memory.memory import Memory

try:
    from langchain_core.runnables import RunnableConfig
    from langchain_core.tools import BaseTool, tool
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error


def memory_tools(memory: Memory | str | Path, *, namespace: Sequence[str] = (), k: int = 5) -> list[BaseTool]:
    """Return the tools ``recall`` and ``remember`` over a memory.

    What is remembered belongs to the session named by the ``thread_id`` of the run, if there is one.

    Args:
        memory: A memory, or the folder of one.
        namespace: Where to look and write, within the memory's namespace.
        k: How many memories ``recall`` returns at most.
    """
    store, _ = opened(memory)
    scope = below(store, namespace)

    @tool
    def recall(query: str) -> str:
        """Look up what is known from earlier conversations.

        Args:
            query: A question or statement, e.g. "Where does Alice live?"
        """
        return block(store.recall(query, k=k, namespace=scope)) or "Nothing is known about that."

    @tool
    def remember(text: str, config: RunnableConfig) -> str:
        """Keep a fact for later conversations.

        Args:
            text: The fact as one self-contained sentence.
            config: Set by the framework.
        """
        fact = own_text(text)
        if not fact:
            return "That is remembered already."
        store.add(fact, session=session_of(config), namespace=scope)
        return "Remembered."

    return [recall, remember]


def session_of(config: RunnableConfig | None) -> str | None:
    """Return the session of a run: its ``thread_id``, if it has one."""
    thread = ((config or {}).get("configurable") or {}).get("thread_id")
    return None if thread is None else encode_name(str(thread))
