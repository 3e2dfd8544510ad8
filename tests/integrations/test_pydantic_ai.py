from __future__ import annotations

import pages
import pytest
from pydantic_ai import Agent, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.messages import BinaryContent, TextContent, ToolReturnPart
from pydantic_ai.models.function import FunctionModel

from agent_memory import format_hits
from agent_memory.integrations.pydantic_ai import memory_toolset, recalled


def scripted(*replies):
    script = list(replies)
    seen = []

    def answer(messages, info):
        seen.append((messages, info))
        return ModelResponse(parts=[script.pop(0)])

    return FunctionModel(answer), seen


@pytest.fixture
def tea(memory):
    memory.add("Al likes tea", namespace=("al",))
    return memory


async def test_tools(tea):
    model, seen = scripted(
        ToolCallPart("remember", {"text": "Al moved to Rome"}),
        ToolCallPart("recall", {"query": "Al moved"}),
        ToolCallPart("remember", {"text": format_hits(tea.recall("tea"))}),
        TextPart("Done."),
    )
    agent = Agent(model, toolsets=[memory_toolset(tea, namespace=("al",), session="s")])
    result = await agent.run("Hello")
    assert result.output == "Done."
    returned = [part.content for message in seen[-1][0] for part in message.parts if isinstance(part, ToolReturnPart)]
    assert returned[0] == "Remembered."
    assert returned[1].startswith("<recalled-memory>")
    assert "Al moved to Rome" in returned[1]
    assert returned[2] == "That is remembered already."
    assert [(entry.text, entry.session) for entry in tea.entries()] == [
        ("Al likes tea", None),
        ("Al moved to Rome", "s"),
    ]
    tools = {tool.name: tool for tool in seen[0][1].function_tools}
    assert set(tools) == {"recall", "remember"}
    assert "earlier conversations" in tools["recall"].description


async def test_instructions(tea):
    model, seen = scripted(TextPart("Tea."), TextPart("?"))
    agent = Agent(model, instructions=["Be kind.", recalled(tea, namespace=("al",))])
    assert (await agent.run("What does Al like?")).output == "Tea."
    assert "Be kind." in seen[0][1].instructions
    assert "Al likes tea" in seen[0][1].instructions
    await agent.run("  ")
    assert seen[1][1].instructions.strip() == "Be kind."


async def test_instructions_for_a_prompt_of_several_parts(tea):
    model, seen = scripted(TextPart("Tea."), TextPart("?"))
    agent = Agent(model, instructions=["Be kind.", recalled(tea, namespace=("al",))])
    picture = BinaryContent(b"x", media_type="image/png")
    await agent.run([picture, "What does", TextContent("Al like?")])
    assert "Al likes tea" in seen[0][1].instructions
    await agent.run([picture])
    assert seen[1][1].instructions.strip() == "Be kind."


def test_the_page(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    model, seen = scripted(TextPart("Berlin."))
    names = pages.run("pydantic-ai", model=model)
    assert names["result"].output == "Berlin."
    assert "Alice moved to Berlin." in seen[0][1].instructions
    names["memory"].close()
