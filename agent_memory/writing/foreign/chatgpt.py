"""ChatGPT's export: ``conversations.json``, a list of conversations that are trees of messages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent_memory.writing.foreign.found import Found, Keys, Options, follow_branch, get_object, get_text, refuse
from agent_memory.writing.foreign.talk import Talk
from agent_memory.writing.foreign.values import Value

_SPOKEN = ("text", "multimodal_text")
_HIDDEN = "is_visually_hidden_from_conversation"


def is_mine(value: object) -> bool:
    """Return whether a value is a conversation of this format."""
    return isinstance(value, Mapping) and isinstance(value.get("mapping"), Mapping)


def read(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield the turns of conversations, of each the branch that was open last; see ``registry.Format``."""
    keys = Keys()
    for number, (line, value) in enumerate(values, start=1):
        place = f"line {line}, conversation {number}"
        if not is_mine(value):
            refuse(place, "it has no mapping of messages")
        yield from _read_conversation(value, place, f"{stem}-{number}", keys, options)


def _read_conversation(
    conversation: Mapping[str, Any], place: str, fallback: str, keys: Keys, options: Options
) -> Iterator[Found]:
    session = get_text(place, conversation, "conversation_id", "id") or fallback
    talk = Talk(
        "chatgpt",
        session,
        keys,
        title=get_text(place, conversation, "title"),
        time=conversation.get("create_time"),
    )
    nodes = {str(name): get_object(place, node, f"node {name!r}") for name, node in conversation["mapping"].items()}
    parents = {name: get_text(place, node, "parent") for name, node in nodes.items()}
    leaf = get_text(place, conversation, "current_node")
    current = list(follow_branch(parents, leaf if leaf in nodes else _find_leaf(parents)))[::-1]
    for name in current:
        yield from _read_message(nodes[name].get("message"), f"{place}, message {name}", name, talk)
    yield from talk.end()
    on_branch = set(current)
    for name in nodes:
        if name not in on_branch and nodes[name].get("message"):
            where = f"{place}, message {name}"
            if options.all_branches:
                yield from _read_message(nodes[name]["message"], where, name, talk)
            else:
                yield Found(where, reason="another branch")
    yield from talk.end() if options.all_branches else ()


def _find_leaf(parents: Mapping[str, str | None]) -> str | None:
    """Return the last node that no other follows: what is open last where the file does not say it."""
    followed = set(parents.values())
    return next((name for name in reversed(list(parents)) if name not in followed), None)


def _read_message(message: object, place: str, name: str, talk: Talk) -> Iterator[Found]:
    if message is None:  # the root
        return
    message = get_object(place, message, "a message")
    author = get_object(place, message.get("author") or {}, "author")
    content = get_object(place, message.get("content") or {}, "content")
    facts = get_object(place, message.get("metadata") or {}, "metadata")
    role, kind = get_text(place, author, "role"), get_text(place, content, "content_type") or "text"
    if role == "system" or facts.get(_HIDDEN) is True or kind.endswith("editable_context"):
        yield Found(place, reason="instructions")
    elif role == "tool" or message.get("recipient", "all") not in ("all", None):
        called = author.get("name") if role == "tool" else message["recipient"]
        given = None if role == "tool" else content.get("text")
        yield from talk.use_tool(place, called or "tool", given)
    elif kind not in _SPOKEN:
        yield Found(place, reason="thoughts" if kind in ("thoughts", "reasoning_recap") else "tool")
    else:
        text = _read_parts(place, content, talk)
        for attached in facts.get("attachments") or []:
            talk.attach(attached.get("name", "file") if isinstance(attached, Mapping) else attached)
        model = facts.get("model_slug")
        said = {"model": model} if isinstance(model, str) and role == "assistant" else {}
        key = get_text(place, message, "id") or name
        yield from talk.say(place, key, role or "unknown", text, time=message.get("create_time"), facts=said)


def _read_parts(place: str, content: Mapping[str, Any], talk: Talk) -> str:
    parts = content.get("parts")
    if parts is None:
        return get_text(place, content, "text") or ""
    if not isinstance(parts, list):
        refuse(place, f"parts must be a list, got {type(parts).__name__}")
    said = []
    for part in parts:
        if isinstance(part, str):
            said.append(part)
        elif isinstance(part, Mapping):
            if isinstance(part.get("text"), str):  # a transcript of what was spoken
                said.append(part["text"])
            else:
                talk.attach(part.get("name") or str(part.get("content_type", "file")).removesuffix("_asset_pointer"))
        elif part is not None:
            refuse(place, f"a part must be a string or an object, got {type(part).__name__}")
    return "\n".join(text for text in said if text.strip())
