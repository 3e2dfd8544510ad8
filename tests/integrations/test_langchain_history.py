from __future__ import annotations

import pytest
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    ChatMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from support import WordEncoder
from support_langchain import ScriptedModel

from agent_memory import InvalidInputError, Memory
from agent_memory.integrations.langchain import AgentMemoryChatMessageHistory

CALL = {"name": "look_up", "args": {"z": 1, "a": [None, {"b": 2.5}]}, "id": "call-1", "type": "tool_call"}
MESSAGES = [
    SystemMessage("Be brief.", id="s"),
    HumanMessage([{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "x"}}]),
    HumanMessage("", name="al"),
    AIMessage("", tool_calls=[CALL], usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}),
    AIMessage(
        "bad \ud800 text\x00",
        invalid_tool_calls=[{"name": "f", "args": "{", "id": "i", "error": "e", "type": "invalid_tool_call"}],
        response_metadata={"logprobs": float("inf")},
    ),
    ToolMessage("42", tool_call_id="call-1", status="error", artifact={"rows": [1, 2]}),
    AIMessageChunk("part", id="c"),
    ChatMessage("hm", role="critic"),
    RemoveMessage(id="s"),
]


def test_messages_come_back_as_they_were(memory):
    history = AgentMemoryChatMessageHistory(memory, session="chat-1")
    history.add_messages(MESSAGES[:4])
    history.add_messages(MESSAGES[4:])
    assert history.messages == MESSAGES
    assert list(history.messages[3].tool_calls[0]["args"]) == ["z", "a"]  # even the order of keys


def test_sessions_are_apart_and_ordered(memory):
    first, second = (AgentMemoryChatMessageHistory(memory, session=name) for name in ("a", "b\n"))
    for number in range(30):
        first.add_user_message(f"first {number}")
        second.add_ai_message(f"second {number}")
    assert [message.content for message in first.messages] == [f"first {number}" for number in range(30)]
    assert all(isinstance(message, AIMessage) for message in second.messages)
    first.clear()
    assert first.messages == []
    assert len(second.messages) == 30


def test_equal_messages_are_all_kept(memory):
    history = AgentMemoryChatMessageHistory(memory, session="a")
    history.add_messages([HumanMessage("yes", id="1")] * 3)
    assert len(history.messages) == 3


def test_only_messages_are_read_and_cleared(memory):
    memory.add("a fact of the session", session="a")
    history = AgentMemoryChatMessageHistory(memory, session="a")
    history.add_user_message("hello there")
    assert len(history.messages) == 1
    history.clear()
    assert [entry.text for entry in memory.entries(session="a")] == ["a fact of the session"]


def test_messages_can_be_recalled(memory):
    AgentMemoryChatMessageHistory(memory, session="a").add_messages(MESSAGES)
    hit = memory.recall("(calls look_up)", k=1)[0]
    assert (hit.text, hit.entry.speaker, hit.entry.session) == ("(calls look_up)", "ai", "a")


def test_what_has_no_json_form_is_refused(memory):
    history = AgentMemoryChatMessageHistory(memory, session="a")
    with pytest.raises(InvalidInputError, match="tool message"):
        history.add_messages([HumanMessage("x"), ToolMessage("y", tool_call_id="1", artifact=object())])
    assert history.messages == []


async def test_async_and_from_a_folder(folder, monkeypatch):
    history = AgentMemoryChatMessageHistory(folder, session="a")
    await history.aadd_messages([HumanMessage("kept")])
    history.close()
    again = AgentMemoryChatMessageHistory(folder, session="a")
    assert await again.aget_messages() == [HumanMessage("kept")]
    await again.aclear()
    assert again.messages == []
    again.close()


@pytest.mark.filterwarnings("ignore:RunnableWithMessageHistory is deprecated")
def test_it_serves_a_chain(memory):
    model = ScriptedModel(replies=["Hello Al.", "You are Al."])
    prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
    chain = RunnableWithMessageHistory(
        prompt | model,
        lambda session_id: AgentMemoryChatMessageHistory(memory, session=session_id),
        input_messages_key="question",
        history_messages_key="history",
    )
    config = {"configurable": {"session_id": "s"}}
    chain.invoke({"question": "I am Al."}, config)
    assert chain.invoke({"question": "Who am I?"}, config).content == "You are Al."
    assert [message.content for message in model.seen[1]] == ["I am Al.", "Hello Al.", "Who am I?"]


def test_a_session_of_the_same_name_in_a_namespace_below_is_another_one(memory):
    above = AgentMemoryChatMessageHistory(memory, session="chat")
    below = AgentMemoryChatMessageHistory(memory, session="chat", namespace=("bob",))
    above.add_user_message("mine")
    below.add_user_message("Bob's")
    assert [message.content for message in above.messages] == ["mine"]
    above.clear()
    assert above.messages == []
    assert [message.content for message in below.messages] == ["Bob's"]


def test_a_photo_in_a_message_is_kept_whole(folder):
    photo = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 3_000_000}}
    messages = [HumanMessage([{"type": "text", "text": "What is this?"}, photo])]
    with AgentMemoryChatMessageHistory(folder, session="s") as history:
        history.add_messages(messages)
        assert history.messages == messages


def test_of_a_message_longer_than_a_text_may_be_the_text_is_cut_and_the_message_kept(tmp_path):
    messages = [AIMessage("long " * 300)]
    with Memory(tmp_path, encoder=WordEncoder(), config={"max_text_chars": 1_000}) as memory:
        history = AgentMemoryChatMessageHistory(memory, session="s")
        history.add_messages(messages)
        assert history.messages == messages
        assert [len(entry.text) for entry in memory.entries()] == [1_000]


def test_parts_that_other_frameworks_have_named_are_text_too(memory):
    history = AgentMemoryChatMessageHistory(memory, session="s")
    history.add_messages([HumanMessage([{"type": "input_text", "text": "the garden gate"}])])
    assert [entry.text for entry in memory.entries()] == ["the garden gate"]
