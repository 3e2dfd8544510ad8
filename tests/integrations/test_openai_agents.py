from __future__ import annotations

import pages
import pytest
from agents import Agent, Model, ModelResponse, Runner, Usage, function_tool, set_tracing_disabled
from agents.memory import Session, SessionSettings
from openai.types.responses import (
    Response,
    ResponseCompletedEvent,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseOutputText,
)
from support_cancel import HoldingEncoder

from agent_memory import InvalidInputError
from agent_memory.integrations.openai_agents import AgentMemorySession

set_tracing_disabled(True)

ITEMS = [
    {"role": "user", "content": "What is six times seven?"},
    {"type": "function_call", "call_id": "1", "name": "multiply", "arguments": '{"b": 7, "a": 6}'},
    {"type": "function_call_output", "call_id": "1", "output": "42"},
    {"role": "assistant", "content": [{"type": "output_text", "text": "It is 42. \ud83d", "annotations": []}]},
    {"role": "user", "content": [{"type": "input_image", "image_url": "x", "detail": "auto"}]},
    {"type": "reasoning", "id": "r", "summary": []},
]


class Scripted(Model):
    def __init__(self, *outputs):
        self.outputs = list(outputs)
        self.seen = []

    async def get_response(self, system_instructions, input, *args, **kwargs):
        self.seen.append(input)
        return ModelResponse(output=[self.outputs.pop(0)], usage=Usage(), response_id=None)

    async def stream_response(self, system_instructions, input, *args, **kwargs):
        self.seen.append(input)
        facts = {"id": "r", "created_at": 0, "model": "scripted", "object": "response", "tools": []}
        response = Response(output=[self.outputs.pop(0)], tool_choice="auto", parallel_tool_calls=False, **facts)
        yield ResponseCompletedEvent(type="response.completed", response=response, sequence_number=0)


def says(text):
    part = ResponseOutputText(text=text, type="output_text", annotations=[])
    return ResponseOutputMessage(id="m", role="assistant", type="message", status="completed", content=[part])


async def test_items_come_back_as_they_were(memory):
    session = AgentMemorySession(memory, session="s\n1")
    assert isinstance(session, Session)
    await session.add_items(ITEMS[:2])
    await session.add_items(ITEMS[2:])
    assert await session.get_items() == ITEMS
    assert await session.get_items(limit=2) == ITEMS[-2:]
    assert await session.get_items(limit=0) == []
    assert await session.pop_item() == ITEMS[-1]
    assert await session.get_items(limit=99) == ITEMS[:-1]
    other = AgentMemorySession(memory, session="s2")
    assert await other.get_items() == []
    assert await other.pop_item() is None
    await other.add_items([])
    await session.clear_session()
    assert await session.get_items() == []
    assert memory.entries() == []


async def test_settings_limit_the_history(memory):
    session = AgentMemorySession(memory, session="s", session_settings=SessionSettings(limit=2))
    await session.add_items(ITEMS)
    assert await session.get_items() == ITEMS[-2:]
    assert await session.get_items(limit=3) == ITEMS[-3:]


async def test_items_can_be_recalled(memory):
    await AgentMemorySession(memory, session="s").add_items(ITEMS)
    texts = [entry.text for entry in memory.entries()]
    assert texts[0] == "What is six times seven?"
    assert texts[1] == "(function_call: multiply)"
    assert texts[2] == "(function_call_output: 42)"
    assert memory.recall("six times seven?", k=1)[0].entry.speaker == "user"
    with pytest.raises(InvalidInputError):
        await AgentMemorySession(memory, session="s").add_items([{"role": "user", "content": object()}])


async def test_text_inside_lists_of_parts_can_be_recalled(memory):
    session = AgentMemorySession(memory, session="s")
    picture = {"type": "input_image", "image_url": "x", "detail": "auto"}
    await session.add_items(
        [
            {"role": "user", "content": [picture, {"type": "input_text", "text": "What is on it?"}]},
            {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "a red car"}]},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot say."}]},
        ]
    )
    assert [entry.text for entry in memory.entries()] == [
        "What is on it?",
        "(function_call_output: a red car)",
        "I cannot say.",
    ]


async def test_settings_may_be_a_mapping(memory):
    session = AgentMemorySession(memory, session="s", session_settings={"limit": 2})
    assert session.session_settings == SessionSettings(limit=2)
    await session.add_items(ITEMS)
    assert await session.get_items() == ITEMS[-2:]
    with pytest.raises(InvalidInputError, match="'limitt'"):
        AgentMemorySession(memory, session="s", session_settings={"limitt": 2})


async def test_an_agent_goes_on_where_it_stopped(folder, memory):
    @function_tool
    def multiply(a: int, b: int) -> int:
        """Multiply."""
        return a * b

    call = ResponseFunctionToolCall(name="multiply", arguments='{"a": 6, "b": 7}', call_id="1", type="function_call")
    model = Scripted(call, says("It is 42."), says("You asked for six times seven."))
    agent = Agent(name="a", model=model, tools=[multiply])
    session = AgentMemorySession(memory, session="s")
    first = await Runner.run(agent, "What is six times seven?", session=session)
    assert first.final_output == "It is 42."
    again = AgentMemorySession(memory, session="s")
    second = await Runner.run(agent, "What did I ask?", session=again)
    assert second.final_output == "You asked for six times seven."
    assert [item.get("role") or item["type"] for item in model.seen[-1]] == [
        "user",
        "function_call",
        "function_call_output",
        "assistant",
        "user",
    ]
    assert len(await session.get_items()) == 6
    session.close()


async def test_streamed_turns_are_remembered_too(memory):
    model = Scripted(says("It is 42."), says("You asked for six times seven."))
    agent, session = Agent(name="a", model=model), AgentMemorySession(memory, session="s")
    for question, answer in (("What is six times seven?", "It is 42."), ("And?", "You asked for six times seven.")):
        result = Runner.run_streamed(agent, question, session=session)
        async for _ in result.stream_events():
            pass
        assert result.final_output == answer
    assert [item["role"] for item in model.seen[-1]] == ["user", "assistant", "user"]
    assert len(await session.get_items()) == 4


def test_the_page(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    names = pages.run("openai-agents", agent=Agent(name="a", model=Scripted(says("Noted."))))
    assert names["hits"][0].text == "Alice moved to Berlin."
    names["session"].close()


async def test_only_what_is_said_has_a_vector(memory):
    session = AgentMemorySession(memory, session="s")
    await session.add_items(ITEMS)
    said = {"What is six times seven?", "It is 42. ?"}
    assert {hit.text for hit in memory.recall("six", mode="dense", k=9)} == said
    assert memory.recall("multiply", k=1)[0].text == "(function_call: multiply)"
    assert memory.check().ok


async def test_what_is_encoded_later_is_kept_and_found_at_once(open_memory):
    encoder = HoldingEncoder()
    memory = open_memory(encoder=encoder)
    session = AgentMemorySession(memory, session="s", encode="later")
    items = [{"role": "user", "content": f"held zebra {number}"} for number in range(100)]
    await session.add_items(items[:1])
    encoder.barrier.reached.wait(30)
    for item in items[1:]:
        await session.add_items([item])
    assert await session.get_items() == items
    assert "held zebra 77" in [hit.text for hit in memory.recall("zebra 77", k=3)]
    assert await session.pop_item() == items[-1]
    encoder.barrier.free.set()
    memory.close()
    assert len(open_memory().recall("zebra", mode="dense", k=200)) == 99
    with pytest.raises(InvalidInputError, match="'sometimes'"):
        AgentMemorySession(memory, session="s", encode="sometimes")


async def test_the_end_of_a_long_session_is_read_and_taken_alone(memory):
    first, other = (AgentMemorySession(memory, session="s", namespace=place) for place in ([], ["below"]))
    items = [{"role": "user", "content": f"message {number}"} for number in range(30)]
    await first.add_items(items[:15])
    memory.add("not of the SDK", session="s")
    await first.add_items(items[15:])
    assert await first.get_items(limit=20) == items[10:]
    assert await first.pop_item() == items[29]
    await other.add_items(items[:3])
    assert await other.get_items(limit=2) == items[1:3]
    assert await other.pop_item() == items[2]
    # A session of the same name below is another one.
    assert await first.get_items(limit=2) == items[27:29]
    assert await first.pop_item() == items[28]
    await first.clear_session()
    assert await other.get_items() == items[:2]
    assert [entry.text for entry in memory.entries() if entry.namespace == ()] == ["not of the SDK"]


async def test_an_item_that_is_no_object_is_refused_by_name(folder):
    async with AgentMemorySession(folder, session="s") as session:
        with pytest.raises(InvalidInputError, match="an item must be an object such as .*, got str"):
            await session.add_items([{"role": "user", "content": "x"}, "y"])
        assert await session.get_items() == []


async def test_a_photo_in_an_item_is_kept_whole(folder):
    photo = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 3_000_000}
    items = [{"role": "user", "content": [{"type": "input_text", "text": "What is this?"}, photo]}]
    items.append({"type": "function_call_output", "call_id": "1", "output": "long " * 300_000})
    async with AgentMemorySession(folder, session="s") as session:
        await session.add_items(items)
        assert await session.get_items() == items


async def test_a_negative_limit_is_none(memory):
    session = AgentMemorySession(memory, session="s")
    await session.add_items(ITEMS)
    assert await session.get_items(limit=-1) == ITEMS
