from __future__ import annotations

from datetime import datetime

import pages
import PIL.Image
import pytest
from autogen_core import Image
from autogen_core.memory import Memory as Base
from autogen_core.memory import MemoryContent, MemoryMimeType
from autogen_core.model_context import UnboundedChatCompletionContext
from autogen_core.models import (
    AssistantMessage,
    FunctionExecutionResult,
    FunctionExecutionResultMessage,
    SystemMessage,
    UserMessage,
)

from agent_memory import InvalidInputError
from agent_memory.integrations.autogen import AutoGenMemory


def text(content, **metadata):
    return MemoryContent(content=content, mime_type=MemoryMimeType.TEXT, metadata=metadata)


async def test_add_query_clear(memory):
    adapter = AutoGenMemory(memory, namespace=("al",), k=1)
    assert isinstance(adapter, Base)
    await adapter.add(text("Al likes tea", sure=True))
    await adapter.add(MemoryContent(content={"drink": "coffee", "who": ["Bo"]}, mime_type=MemoryMimeType.JSON))
    await adapter.add(MemoryContent(content="# Cy likes juice", mime_type="text/markdown"))
    (found,) = (await adapter.query("Al likes tea")).results
    assert (found.content, found.mime_type) == ("Al likes tea", MemoryMimeType.TEXT)
    assert found.metadata["sure"] is True
    assert found.metadata["score"] > 0.9
    results = (await adapter.query(text("drink"), k=3)).results
    assert {str(each.content) for each in results} >= {"{'drink': 'coffee', 'who': ['Bo']}", "# Cy likes juice"}
    assert [each.content for each in (await adapter.query("x", k=3, where={"sure": True})).results] == ["Al likes tea"]
    assert (await adapter.query("")).results == []
    memory.add("elsewhere")
    await adapter.clear()
    assert [entry.text for entry in memory.entries()] == ["elsewhere"]


async def test_what_is_neither_text_nor_json_is_refused(memory):
    with pytest.raises(InvalidInputError, match="Markdown and JSON .* got bytes of type application/octet-stream"):
        await AutoGenMemory(memory).add(MemoryContent(content=b"x", mime_type=MemoryMimeType.BINARY))
    assert memory.entries() == []
    assert (await AutoGenMemory(memory).query(MemoryContent(content=b"x", mime_type="image/png"))).results == []


async def test_metadata_come_back_as_their_json_form(memory):
    adapter = AutoGenMemory(memory)
    await adapter.add(text("Al likes tea", **{"$price": 3, "when": datetime(2025, 5, 1)}))
    (found,) = (await adapter.query("tea")).results
    assert {**found.metadata, "score": 0} == {"$price": 3, "when": "2025-05-01T00:00:00", "score": 0}


@pytest.mark.parametrize("name", ["min_score", "score_threshold"])
async def test_what_scores_too_low_is_left_out(memory, name):
    for content in ("Al likes tea", "Bo drives home"):
        memory.add(content)
    adapter = AutoGenMemory(memory, **{name: 0.9})
    assert [each.content for each in (await adapter.query("Al likes tea")).results] == ["Al likes tea"]
    assert len((await adapter.query("Al likes tea", **{name: -1.0})).results) == 2
    assert adapter.dump_component().config["min_score"] == 0.9


async def test_the_user_is_heard_also_in_lists_of_parts_and_before_tools(memory):
    memory.add("Al likes tea")
    adapter = AutoGenMemory(memory)
    picture = Image(PIL.Image.new("RGB", (1, 1)))
    asked = UserMessage(content=["What does Al", "like?", picture], source="user")
    result = FunctionExecutionResult(content="42", name="f", call_id="1", is_error=False)
    for messages in ([asked], [asked, FunctionExecutionResultMessage(content=[result])]):
        context = UnboundedChatCompletionContext(initial_messages=messages)
        assert [each.content for each in (await adapter.update_context(context)).memories.results] == ["Al likes tea"]
    context = UnboundedChatCompletionContext(initial_messages=[UserMessage(content=[picture], source="user")])
    assert (await adapter.update_context(context)).memories.results == []


async def test_the_context_gets_what_the_last_message_reminds_of(memory):
    adapter = AutoGenMemory(memory, k=1)
    context = UnboundedChatCompletionContext()
    assert (await adapter.update_context(context)).memories.results == []
    await adapter.add(text("Al likes tea"))
    await adapter.add(text("Bo likes coffee"))
    await context.add_message(UserMessage(content="what does Al drink", source="user"))
    result = await adapter.update_context(context)
    assert [each.content for each in result.memories.results] == ["Al likes tea"]
    added = (await context.get_messages())[-1]
    assert isinstance(added, SystemMessage)
    assert "Al likes tea" in added.content
    await adapter.add(text(added.content + " and sugar"))
    assert [entry.text for entry in memory.entries()][-1] == "and sugar"
    await context.add_message(AssistantMessage(content="ok", source="assistant"))


async def test_it_is_a_component(folder):
    adapter = AutoGenMemory(folder, namespace=("al",), k=3, where={"sure": True}, min_score=0.5)
    dumped = adapter.dump_component()
    await adapter.close()
    again = AutoGenMemory.load_component(dumped)
    assert again.memory.path == folder
    assert again.dump_component() == dumped
    await again.close()


def test_the_page(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    names = pages.run("autogen")
    assert names["found"].results[0].content == "Alice moved to Berlin."
    names["memory"].memory.close()


async def test_metadata_of_our_own_name_come_back(memory):
    adapter = AutoGenMemory(memory)
    await adapter.add(text("tea at four", autogen="theirs", sure=True))
    (found,) = (await adapter.query("tea at four")).results
    assert {**found.metadata, "score": 0} == {"autogen": "theirs", "sure": True, "score": 0}
