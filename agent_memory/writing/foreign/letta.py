"""Letta (MemGPT): agent files (``.af``), and lists of archival passages as its interface gives them.

Both forms of agent files are read: one agent to a file, and, since 2025, a list of agents beside a list of blocks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent_memory.formats.names import encode_name
from agent_memory.writing.foreign.found import Found, Keys, Options, get_list, get_object, get_text, refuse
from agent_memory.writing.foreign.talk import Talk, read_content
from agent_memory.writing.foreign.values import Value

_SAYS = "send_message"
_PASSAGE = ("archive_id", "agent_id", "source_id", "embedding", "embedding_config")


def is_mine(value: object) -> bool:
    """Return whether a value is an agent file or an archival passage."""
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("agents"), list) or isinstance(value.get("passages"), list):
        return True
    return _is_agent(value) or _is_passage(value)


def _is_agent(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("messages"), list) and ("core_memory" in value or "agent_type" in value)


def _is_passage(value: Mapping[str, Any]) -> bool:
    return isinstance(value.get("text"), str) and "role" not in value and any(name in value for name in _PASSAGE)


def read(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield what agents and people said, blocks of core memory, and archival passages; see ``registry.Format``."""
    keys = Keys()
    for line, value in values:
        place = f"line {line}"
        whole = get_object(place, value, "it")
        if _is_passage(whole):
            yield from _read_passage(whole, place, keys)
            continue
        if not is_mine(whole):
            refuse(place, "it is neither an agent file nor an archival passage")
        blocks = {str(block.get("id")): block for block in _objects(whole, place, "blocks")}
        for number, agent in enumerate(_objects(whole, place, "agents") or [whole], start=1):
            where = f"{place}, agent {number}"
            yield from _read_agent(agent, where, f"{stem}-{number}", blocks, keys)
        for number, passage in enumerate(_objects(whole, place, "passages"), start=1):
            yield from _read_passage(passage, f"{place}, passage {number}", keys)


def _objects(whole: Mapping[str, Any], place: str, name: str) -> list[Mapping[str, Any]]:
    return [get_object(place, one, f"an item of {name}") for one in get_list(place, whole, name)]


def _read_agent(
    agent: Mapping[str, Any], place: str, fallback: str, blocks: Mapping[str, Mapping[str, Any]], keys: Keys
) -> Iterator[Found]:
    name = get_text(place, agent, "name") or fallback
    own = [*_objects(agent, place, "core_memory"), *_objects(agent, place, "memory_blocks")]
    own += [blocks[one] for one in get_list(place, agent, "block_ids") if one in blocks]
    for block in own:
        yield from _read_block(block, place, name, keys)
    talk = Talk("letta", name, keys, time=agent.get("created_at"))
    thinks = str(agent.get("agent_type", "")).startswith("memgpt")
    for number, message in enumerate(_objects(agent, place, "messages"), start=1):
        key = get_text(place, message, "id") or str(number)
        yield from _read_message(message, f"{place}, message {number}", key, talk, thinks)
    yield from talk.end()


def _read_block(block: Mapping[str, Any], place: str, agent: str, keys: Keys) -> Iterator[Found]:
    label, text = get_text(place, block, "label") or "block", get_text(place, block, "value") or ""
    facts = {"source": "letta", "block": label, "agent": agent}
    yield _make(place, f"{agent}:block:{label}", text, block, facts, keys)


def _read_passage(passage: Mapping[str, Any], place: str, keys: Keys) -> Iterator[Found]:
    text = get_text(place, passage, "text") or ""
    name = get_text(place, passage, "id") or hashlib.sha256(text.encode()).hexdigest()[:16]
    given = passage.get("metadata", passage.get("metadata_"))
    facts = {**(given if isinstance(given, Mapping) else {}), "source": "letta"}
    facts |= {"tags": passage["tags"]} if passage.get("tags") else {}
    yield _make(place, f"passage:{name}", text, passage, facts, keys)


def _make(place: str, key: str, text: str, given: Mapping[str, Any], facts: dict[str, Any], keys: Keys) -> Found:
    if not text.strip():
        return Found(place, reason="empty")
    name = keys.take(key, text)
    if name is None:
        return Found(place, reason="repeated")
    time = given.get("updated_at") or given.get("created_at")
    return Found(place, {"key": encode_name(name), "text": text, "event_time": time, "metadata": facts})


def _read_message(message: Mapping[str, Any], place: str, key: str, talk: Talk, thinks: bool) -> Iterator[Found]:
    role = get_text(place, message, "role")
    if role not in ("user", "assistant"):
        yield Found(place, reason="tool" if role == "tool" else "instructions")
        return
    text = get_text(place, message, "text") if "text" in message else read_content(place, message.get("content"), talk)
    calls = [_read_call(call, place) for call in get_list(place, message, "tool_calls")]
    if role == "user":
        text = _unwrap(text or "")
    elif any(name == _SAYS for name, _ in calls):
        text = "\n".join(_said(given) for name, given in calls if name == _SAYS)
    elif calls and thinks:  # beside a call, agents of this type only think
        text = ""
    if text is None:
        yield Found(place, reason="event")
        return
    yield from talk.say(place, key, role, text, time=message.get("created_at"))
    for name, given in calls:
        if name != _SAYS:
            yield from talk.use_tool(place, name, given)


def _read_call(call: object, place: str) -> tuple[str, object]:
    call = get_object(place, call, "a tool call")
    function = call.get("function")
    called = function if isinstance(function, Mapping) else call
    return str(called.get("name", "tool")), called.get("arguments")


def _said(given: object) -> str:
    """Return the message that ``send_message`` was called with."""
    parsed = _parse(given) if isinstance(given, str) else given
    said = parsed.get("message") if isinstance(parsed, Mapping) else None
    return said if isinstance(said, str) else ""


def _unwrap(text: str) -> str | None:
    """Return what a user said, of an envelope that says of what kind a message is; None for an event."""
    envelope = _parse(text) if text.lstrip().startswith("{") else None
    if not isinstance(envelope, Mapping) or not isinstance(envelope.get("type"), str):
        return text
    said = envelope.get("message")
    return said if envelope["type"] == "user_message" and isinstance(said, str) else None


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
