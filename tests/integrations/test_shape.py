"""Every adapter is given a memory in the same way, and closes what it has opened, and nothing else."""

from __future__ import annotations

import asyncio
import inspect
import warnings
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
from support import WordEncoder

from agent_memory import AsyncMemory, ClosedError, InvalidInputError, Memory

# Module, the package that it needs, name, and arguments beside the memory.
ADAPTERS = [
    ("langchain", "langchain", "AgentMemoryVectorStore", {}),
    ("langchain", "langchain", "AgentMemoryRetriever", {}),
    ("langchain", "langchain", "AgentMemoryMiddleware", {}),
    ("langchain", "langchain", "AgentMemoryChatMessageHistory", {"session": "s"}),
    ("langchain", "langchain", "memory_tools", {}),
    ("langgraph", "langgraph", "AgentMemoryStore", {}),
    ("openai_agents", "agents", "AgentMemorySession", {"session": "s"}),
    ("autogen", "autogen_core", "AutoGenMemory", {}),
    ("llama_index", "llama_index", "AgentMemoryBlock", {}),
    ("llama_index", "llama_index", "AgentMemoryLlamaStore", {}),
    ("crewai", "crewai", "AgentMemoryStorage", {}),
    ("pydantic_ai", "pydantic_ai", "memory_toolset", {}),
    ("pydantic_ai", "pydantic_ai", "recalled", {}),
]
LATE = {"AgentMemoryLlamaStore", "AgentMemoryStorage"}  # opened when the size of the first vector is known
pytestmark = pytest.mark.filterwarnings("ignore:::crewai", "ignore:::pydantic")


@dataclass
class Adapter:
    kind: Any
    arguments: dict[str, Any]
    late: bool

    def __call__(self, *given: Any, **named: Any) -> Any:
        return self.kind(*given, **named, **self.arguments)

    def held(self, made: Any) -> Memory:
        return made._late.sized(96) if self.late else made.memory


@pytest.fixture(params=[each for each in ADAPTERS if find_spec(each[1]) is not None], ids=lambda each: each[2])
def adapter(request) -> Adapter:
    module, _, name, arguments = request.param
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # CrewAI and what it imports warn about one another
        return Adapter(getattr(import_module(f"agent_memory.integrations.{module}"), name), arguments, name in LATE)


def close(made):
    closing = made.close()
    if inspect.isawaitable(closing):
        asyncio.run(closing)


def test_the_memory_is_the_first_argument_and_may_be_named(adapter, memory):
    first = next(iter(inspect.signature(adapter.kind).parameters.values()))
    assert (first.name, first.kind) == ("memory", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    for made in (adapter(memory), adapter(memory=memory)):
        assert adapter.held(made) is memory


@pytest.mark.parametrize("form", [str, lambda folder: folder], ids=["text", "path"])
def test_a_folder_is_opened_and_closed_again(adapter, folder, form):
    if not adapter.late:
        Memory(folder).close()
    made = adapter(form(folder))
    opened = adapter.held(made)
    assert opened.path == folder
    close(made)
    with pytest.raises(ClosedError):
        opened.entries()


def test_what_was_closed_stays_closed_also_if_nothing_was_ever_written(adapter, folder):
    if not adapter.late:
        pytest.skip("it is open from the beginning")
    made = adapter(folder)
    close(made)
    close(made)
    with pytest.raises(ClosedError):
        adapter.held(made)
    assert not folder.exists()


def test_a_memory_that_was_handed_over_stays_open(adapter, memory):
    made = adapter(memory)
    with made:
        assert adapter.held(made) is memory
    close(made)

    async def use():
        async with made:
            pass

    asyncio.run(use())
    assert memory.entries() == []


async def test_an_asynchronous_memory_is_taken_if_it_is_open(adapter, folder):
    memory = AsyncMemory(folder, encoder=WordEncoder())
    with pytest.raises(ClosedError, match="not open"):
        adapter(memory)
    async with memory:
        await memory.add("Al likes tea")
        made = adapter(memory)
        assert [entry.text for entry in adapter.held(made).entries()] == ["Al likes tea"]
        closing = made.close()
        if inspect.isawaitable(closing):
            await closing
        assert len(await memory.entries()) == 1


def test_anything_else_is_refused_by_name(adapter):
    with pytest.raises(InvalidInputError, match=r"a RemoteMemory or the folder of one, got int"):
        adapter(7)


NAMED = ("AgentMemoryChatMessageHistory", "AgentMemorySession")
SESSIONS = [each for each in ADAPTERS if each[2] in NAMED and find_spec(each[1]) is not None]


@pytest.mark.parametrize("each", SESSIONS, ids=lambda each: each[2])
def test_a_session_may_be_named_as_the_frameworks_do_and_in_their_order(each, memory):
    kind = getattr(import_module(f"agent_memory.integrations.{each[0]}"), each[2])
    for made in (
        kind(memory, session="s"),
        kind(memory, session_id="s"),
        kind("s", memory),
        kind(session_id="s", memory=memory),
    ):
        assert (made.session_id, made.memory) == ("s", memory)
    for wrong in ((memory,), (memory, memory)):
        with pytest.raises(InvalidInputError, match="one session"):
            kind(*wrong)
    with pytest.raises(InvalidInputError, match="one session"):
        kind(memory, session="s", session_id="t")


def test_a_text_is_no_namespace(adapter, memory):
    """Each letter would be a name, and the namespace "al" would hold that of "alice"."""
    with pytest.raises((InvalidInputError, ValueError), match="namespace"):
        made = adapter(memory, namespace="alice")
        adapter.held(made)
