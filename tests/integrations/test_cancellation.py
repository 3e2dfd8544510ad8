"""A cancelled write of any asynchronous adapter happened, or never will, when its caller hears of the cancellation."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from support import WordEncoder
from support_cancel import HoldingEncoder, cancel_at, hold_in_transaction

from agent_memory import Memory

pytestmark = pytest.mark.filterwarnings("ignore:::crewai", "ignore:::pydantic")
TEXTS = [f"held {number}" for number in range(70)]
Write = Callable[[Any], Awaitable[object]]


def vectorstore(memory):
    from agent_memory.integrations.langchain import AgentMemoryVectorStore

    return AgentMemoryVectorStore(memory).aadd_texts(TEXTS)


def deleting_documents(memory):
    from agent_memory.integrations.langchain import AgentMemoryVectorStore

    return AgentMemoryVectorStore(memory).adelete()


def history(memory):
    from langchain_core.messages import HumanMessage

    from agent_memory.integrations.langchain import AgentMemoryChatMessageHistory

    return AgentMemoryChatMessageHistory(memory, session="s").aadd_messages([HumanMessage(text) for text in TEXTS])


def clearing_a_history(memory):
    from agent_memory.integrations.langchain import AgentMemoryChatMessageHistory

    history = AgentMemoryChatMessageHistory(memory, session="s")
    with Memory(memory.path, encoder=WordEncoder()) as other:
        other.add("x", session="s", metadata={"langchain_message": "{}"})
    return history.aclear()


def tool(memory):
    from agent_memory.integrations.langchain import memory_tools

    return memory_tools(memory)[1].ainvoke({"text": "held"})


def store(memory):
    from langgraph.store.base import PutOp

    from agent_memory.integrations.langgraph import AgentMemoryStore

    return AgentMemoryStore(memory).abatch([PutOp(("a",), text, {"text": text}) for text in TEXTS])


def session(memory):
    from agent_memory.integrations.openai_agents import AgentMemorySession

    session = AgentMemorySession(memory, session="s")
    return session.add_items([{"role": "user", "content": text} for text in TEXTS])


def autogen(memory):
    from autogen_core.memory import MemoryContent, MemoryMimeType

    from agent_memory.integrations.autogen import AutoGenMemory

    return AutoGenMemory(memory).add(MemoryContent(content="held", mime_type=MemoryMimeType.TEXT))


def nodes(memory):
    from llama_index.core.schema import TextNode

    from agent_memory.integrations.llama_index import AgentMemoryLlamaStore

    vector = WordEncoder().encode_documents(["x"])[0].tolist()
    return AgentMemoryLlamaStore(memory).async_add([TextNode(text=text, embedding=vector) for text in TEXTS])


def block(memory):
    from llama_index.core.llms import ChatMessage

    from agent_memory.integrations.llama_index import AgentMemoryBlock

    return AgentMemoryBlock(memory)._aput([ChatMessage(role="user", content=text) for text in TEXTS])


def crew(memory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from crewai.memory.types import MemoryRecord

        from agent_memory.integrations.crewai import AgentMemoryStorage
    vector = WordEncoder().encode_documents(["x"])[0].tolist()
    return AgentMemoryStorage(memory).asave([MemoryRecord(content=text, embedding=vector) for text in TEXTS])


def toolset(memory):
    from agent_memory.integrations.pydantic_ai import memory_toolset

    return memory_toolset(memory).tools["remember"].function("held")


def mcp_tool(memory):
    from agent_memory.integrations._mcp_tools import Tools

    return Tools(memory, RuntimeError).remember("held")


# The package that each needs, and how many entries there are when it has happened.
WRITES: dict[Write, tuple[str, int]] = {
    vectorstore: ("langchain_core", 70),
    deleting_documents: ("langchain_core", 0),
    history: ("langchain_core", 70),
    clearing_a_history: ("langchain_core", 0),
    tool: ("langchain_core", 1),
    store: ("langgraph", 70),
    session: ("agents", 70),
    autogen: ("autogen_core", 1),
    nodes: ("llama_index", 70),
    block: ("llama_index", 70),
    crew: ("crewai", 70),
    toolset: ("pydantic_ai", 1),
    mcp_tool: ("mcp", 1),
}
GIVEN_VECTORS = (nodes, crew, deleting_documents, clearing_a_history)  # nothing is encoded
HERE = [write for write, (package, _) in WRITES.items() if find_spec(package) is not None]


@pytest.fixture
def encoder():
    encoder = HoldingEncoder()
    yield encoder
    encoder.barrier.free.set()


@pytest.mark.parametrize("write", [each for each in HERE if each not in GIVEN_VECTORS], ids=lambda each: each.__name__)
async def test_what_was_being_encoded_never_happens(write, open_memory, encoder):
    memory = open_memory(encoder=encoder)
    task = await cancel_at(encoder.barrier, write(memory))
    await asyncio.wait([task], timeout=30)
    assert task.cancelled() and not encoder.barrier.free.is_set()
    encoder.barrier.free.set()
    memory.close()  # waits for the thread
    assert open_memory().entries() == []


@pytest.mark.parametrize("write", HERE, ids=lambda each: each.__name__)
async def test_what_had_begun_to_be_written_has_happened(write, open_memory, monkeypatch):
    memory = open_memory()
    if write is deleting_documents:
        memory.add("a document")
    call = write(memory)
    barrier = hold_in_transaction(monkeypatch)
    task = await cancel_at(barrier, call, times=3)
    assert not task.done()
    barrier.free.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(memory.entries()) == WRITES[write][1]


@pytest.mark.parametrize("way", ["a scope of anyio", "a timeout"])
async def test_a_server_that_limits_the_time_of_a_tool_knows_the_outcome(way, open_memory, monkeypatch):
    anyio = import_module("anyio")
    memory = open_memory()
    barrier = hold_in_transaction(monkeypatch)
    scope, limit = anyio.CancelScope(), asyncio.timeout(None)

    async def let_go():
        await barrier.wait_for_thread()
        if way == "a timeout":
            limit.reschedule(0)
        else:
            scope.cancel()
        await asyncio.sleep(0.1)
        barrier.free.set()

    helper = asyncio.ensure_future(let_go())
    if way == "a timeout":
        with pytest.raises(TimeoutError):
            async with limit:
                await mcp_tool(memory)
    else:
        with scope:
            await mcp_tool(memory)
        assert scope.cancelled_caught
    assert len(memory.entries()) == 1
    await helper
