"""The store under deepagents' ``StoreBackend``: files that outlive a conversation."""

from __future__ import annotations

import pytest
from deepagents import create_deep_agent
from deepagents.backends import CompositeBackend, StateBackend, StoreBackend
from langchain_core.messages import AIMessage, HumanMessage
from support_langchain import ScriptedModel

from agent_memory.integrations.langgraph import AgentMemoryStore


@pytest.fixture
def store(memory):
    return AgentMemoryStore(memory)


def test_files(store):
    backend = StoreBackend(store=store, namespace=lambda runtime: ("al", "files"))
    for number in range(3):
        assert backend.write(f"/notes/{number}.md", f"line one\nnumber {number}\n").error is None
    assert "number 2" in str(backend.read("/notes/2.md"))
    assert backend.edit("/notes/2.md", "number 2", "number two").error is None
    assert "number two" in str(backend.read("/notes/2.md"))
    assert {info["path"] for info in backend.ls("/notes/").entries} == {f"/notes/{number}.md" for number in range(3)}
    assert [match["path"] for match in backend.grep("number two").matches] == ["/notes/2.md"]
    assert len(backend.glob("*.md", "/notes").matches) == 3
    other = StoreBackend(store=store, namespace=lambda runtime: ("bo", "files"))
    assert other.ls("/").entries == []


def call(name, **arguments):
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": "1"}])


def test_an_agent_keeps_its_files(store):
    model = ScriptedModel(
        replies=[
            call("write_file", file_path="/memories/tea.md", content="Al likes tea"),
            "Kept.",
            call("read_file", file_path="/memories/tea.md"),
            "Al likes tea.",
        ]
    )
    kept = StoreBackend(namespace=lambda runtime: ("al", "files"))
    backend = CompositeBackend(default=StateBackend(), routes={"/memories/": kept})
    agent = create_deep_agent(model=model, backend=backend, store=store)
    agent.invoke({"messages": [HumanMessage("I like tea.")]})
    messages = agent.invoke({"messages": [HumanMessage("What do I like?")]})["messages"]
    assert "Al likes tea" in messages[-2].content
    assert [item.key for item in store.search(("al", "files"))] == ["/tea.md"]
