"""Deleting through adapters: many deletions are one erasure, at once or left to maintenance."""

from __future__ import annotations

import asyncio
import warnings
from importlib import import_module
from importlib.util import find_spec

import pytest
from support import WordEncoder

from agent_memory import InvalidInputError, Memory

pytestmark = pytest.mark.filterwarnings("ignore:::crewai", "ignore:::pydantic")
SECRET = "zebraqq"
TEXTS = [f"{SECRET} {number}" for number in range(12)]


def documents(memory, **options):
    from agent_memory.integrations.langchain import AgentMemoryVectorStore

    store = AgentMemoryVectorStore(memory, **options)
    ids = store.add_texts(TEXTS)
    return lambda: [store.delete([*ids[:3], "not there"]), store.delete([*ids[3:], "not there"])], 2


def history(memory, **options):
    from langchain_core.messages import HumanMessage

    from agent_memory.integrations.langchain import AgentMemoryChatMessageHistory

    messages = AgentMemoryChatMessageHistory(memory, session="s", **options)
    messages.add_messages([HumanMessage(text) for text in TEXTS])
    return messages.clear, 1


def items(memory, **options):
    from agent_memory.integrations.langgraph import AgentMemoryStore

    store = AgentMemoryStore(memory, **options)

    async def use():
        await asyncio.gather(*(store.aput((f"user {text}",), text, {"text": text}) for text in TEXTS))

    async def delete():
        await asyncio.gather(*(store.adelete((f"user {text}",), text) for text in [*TEXTS, "not there"]))

    asyncio.run(use())
    return lambda: asyncio.run(delete()), 1


def session(memory, **options):
    from agent_memory.integrations.openai_agents import AgentMemorySession

    made = AgentMemorySession(memory, session="s", **options)
    asyncio.run(made.add_items([{"role": "user", "content": text} for text in TEXTS]))

    async def delete():
        assert (await made.pop_item())["content"] == TEXTS[-1]
        await made.clear_session()

    return lambda: asyncio.run(delete()), 2


def records(memory, **options):
    from crewai.memory.types import MemoryRecord

    from agent_memory.integrations.crewai import AgentMemoryStorage

    storage = AgentMemoryStorage(memory, **options)
    vectors = WordEncoder().encode_documents(TEXTS)
    made = [MemoryRecord(content=text, embedding=row.tolist()) for text, row in zip(TEXTS, vectors, strict=True)]
    storage.save(made)
    return lambda: [storage.delete(record_ids=[each.id for each in made[:5]]), storage.reset()], 2


def nodes(memory, **options):
    from llama_index.core.schema import TextNode

    from agent_memory.integrations.llama_index import AgentMemoryLlamaStore

    store = AgentMemoryLlamaStore(memory, **options)
    vectors = WordEncoder().encode_documents(TEXTS)
    made = [TextNode(text=text, embedding=row.tolist()) for text, row in zip(TEXTS, vectors, strict=True)]
    store.add(made)
    return lambda: [store.delete_nodes([each.node_id for each in made[:5]]), store.clear()], 2


ADAPTERS = [
    (documents, "langchain", "langchain", "AgentMemoryVectorStore", {}),
    (history, "langchain", "langchain", "AgentMemoryChatMessageHistory", {"session": "s"}),
    (items, "langgraph", "langgraph", "AgentMemoryStore", {}),
    (session, "agents", "openai_agents", "AgentMemorySession", {"session": "s"}),
    (records, "crewai", "crewai", "AgentMemoryStorage", {}),
    (nodes, "llama_index", "llama_index", "AgentMemoryLlamaStore", {}),
]


@pytest.fixture(params=[each for each in ADAPTERS if find_spec(each[1]) is not None], ids=lambda each: each[0].__name__)
def adapter(request):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import_module(f"agent_memory.integrations.{request.param[2]}")
    return request.param


@pytest.fixture
def erasures(memory, monkeypatch):
    """How often traces were taken out of the store's files."""
    real, done = memory._store.database.erase_traces, []

    def count(*given, **named):
        done.append(1)
        return real(*given, **named)

    monkeypatch.setattr(memory._store.database, "erase_traces", count)
    return done


def is_in_files(memory):
    return any(SECRET.encode() in path.read_bytes() for path in memory.path.rglob("*") if path.is_file())


def test_what_is_deleted_together_is_one_erasure_and_in_no_file(adapter, memory, erasures):
    delete, calls = adapter[0](memory)
    assert is_in_files(memory)
    delete()
    assert memory.entries() == []
    assert not is_in_files(memory)
    assert len(erasures) == calls


def test_files_are_left_to_maintenance_if_that_is_asked_for(adapter, memory, erasures):
    delete, _ = adapter[0](memory, erase="later")
    delete()
    assert memory.entries() == []
    assert erasures == [] and is_in_files(memory)
    memory.maintenance()
    assert not is_in_files(memory)


def test_when_to_erase_must_be_one_of_the_two(adapter, memory):
    kind = getattr(import_module(f"agent_memory.integrations.{adapter[2]}"), adapter[3])
    with pytest.raises(InvalidInputError, match="'now' or 'later', got 'soon'"):
        kind(memory, erase="soon", **adapter[4])


def test_a_deletion_that_finds_nothing_finishes_those_that_left_it_to_maintenance(memory, erasures):
    memory.add(SECRET, key="a")
    memory.forget("a", deferred=True)
    assert is_in_files(memory) and erasures == []
    assert memory.forget("a", deferred=True) == 0
    assert erasures == []
    receipt = memory.forget("a")
    assert (receipt, receipt.pending) == (0, ())
    assert not is_in_files(memory)
    memory.forget("a")
    assert len(erasures) == 1


def test_deletions_of_more_users_than_sqlite_takes_conditions_are_one_erasure(folder):
    with Memory(folder, encoder=WordEncoder()) as memory:
        users = [("user", str(number)) for number in range(1100)]
        memory.add_many([{"text": SECRET, "namespace": user, "vector": False} for user in users])
        memory.recall("a question", namespace=users[7])
        assert memory.forget(everything=True) == 1100
        assert not is_in_files(memory)
