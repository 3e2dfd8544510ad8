"""Claude's export: ``conversations.json``, a list of conversations with ``chat_messages``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent_memory.writing.foreign.found import (
    Found,
    Keys,
    Options,
    follow_branch,
    get_list,
    get_object,
    get_text,
    refuse,
)
from agent_memory.writing.foreign.talk import Talk
from agent_memory.writing.foreign.values import Value

_SPEAKERS = {"human": "user"}
_THOUGHTS = ("thinking", "redacted_thinking")


def is_mine(value: object) -> bool:
    """Return whether a value is a conversation of this format."""
    return isinstance(value, Mapping) and isinstance(value.get("chat_messages"), list)


def read(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield the turns of conversations; see ``registry.Format``."""
    keys = Keys()
    for number, (line, value) in enumerate(values, start=1):
        place = f"line {line}, conversation {number}"
        if not is_mine(value):
            refuse(place, "it has no list of chat_messages")
        yield from _read_conversation(value, place, f"{stem}-{number}", keys, options)


def _read_conversation(
    conversation: Mapping[str, Any], place: str, fallback: str, keys: Keys, options: Options
) -> Iterator[Found]:
    talk = Talk(
        "claude",
        get_text(place, conversation, "uuid", "id") or fallback,
        keys,
        title=get_text(place, conversation, "name", "title"),
        time=conversation.get("created_at"),
    )
    messages = [
        get_object(f"{place}, message {number}", message, "a message")
        for number, message in enumerate(conversation["chat_messages"], start=1)
    ]
    names = [get_text(place, message, "uuid", "id") or str(number) for number, message in enumerate(messages, start=1)]
    open_ = _find_branch(conversation, messages, names, place)
    for number, (name, message) in enumerate(zip(names, messages, strict=True), start=1):
        where = f"{place}, message {number}"
        if name in open_ or options.all_branches:
            yield from _read_message(message, where, name, talk)
        else:
            yield Found(where, reason="another branch")
    yield from talk.end()


def _find_branch(
    conversation: Mapping[str, Any], messages: list[Mapping[str, Any]], names: list[str], place: str
) -> set[str]:
    """Return the messages of the branch that was open last; all where the file does not tell."""
    leaf = get_text(place, conversation, "current_leaf_message_uuid")
    parents = {
        name: get_text(place, message, "parent_message_uuid") for name, message in zip(names, messages, strict=True)
    }
    return set(follow_branch(parents, leaf)) if leaf in parents else set(names)


def _read_message(message: Mapping[str, Any], place: str, name: str, talk: Talk) -> Iterator[Found]:
    sender = get_text(place, message, "sender", "role") or "unknown"
    said, tools = [], []
    for block in get_list(place, message, "content"):
        block = get_object(place, block, "a block of the content")
        kind = block.get("type", "text")
        if kind == "text":
            said.append(get_text(place, block, "text") or "")
        elif kind == "tool_use":
            tools.append((block.get("name", "tool"), block.get("input")))
        elif kind not in (*_THOUGHTS, "tool_result", "token_budget"):
            talk.attach(kind)
    for one in ("attachments", "files", "files_v2"):
        for attached in get_list(place, message, one):
            talk.attach(attached.get("file_name", "file") if isinstance(attached, Mapping) else attached)
    text = "\n".join(part for part in said if part.strip()) or get_text(place, message, "text") or ""
    yield from talk.say(place, name, _SPEAKERS.get(sender, sender), text, time=message.get("created_at"))
    for called, given in tools:
        yield from talk.use_tool(place, called, given)
