"""Messages with role and content, as the interfaces of OpenAI and others have them.

A list of messages is one conversation, on one line or a line each; ``{"messages": [...]}`` is one too, and a file may
hold many of those. ``{"conversations": [{"from": "human", "value": ...}]}``, as ShareGPT has it, is the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain, islice
from typing import Any

from agent_memory.writing.foreign.found import Found, Keys, Options, get_list, get_object, get_text, refuse
from agent_memory.writing.foreign.talk import Talk, read_message
from agent_memory.writing.foreign.values import Value

_HEAD = 20
_LISTS = ("messages", "conversations")
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant"}
_NAMES = ("id", "conversation_id", "session_id", "thread_id", "uuid")
_TIMES = ("created_at", "create_time", "timestamp", "created", "time", "date")


def is_mine(value: object) -> bool:
    """Return whether a value is a message, a list of messages, or an object that holds such a list."""
    if isinstance(value, Mapping):
        value = next((value[name] for name in _LISTS if isinstance(value.get(name), list)), value)
    if isinstance(value, list):
        return bool(value) and _is_message(value[0])
    return _is_message(value)


def _is_message(value: object) -> bool:
    if not isinstance(value, Mapping):
        return False
    if isinstance(value.get("from"), str):
        return isinstance(value.get("value"), str)
    return isinstance(value.get("role"), str) and ("content" in value or "tool_calls" in value)


def read(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield the turns of conversations; see ``registry.Format``."""
    keys, sessions = Keys(), Keys()
    values = iter(values)
    for first in values:
        if isinstance(first.value, list) or (isinstance(first.value, Mapping) and not _is_message(first.value)):
            yield from _read_conversation(first, stem, keys, sessions)
        else:  # one message a line, or one an item of the array: all of them are one conversation
            head = [first, *islice(values, _HEAD)]
            talk = Talk("messages", _name(stem, [message for _, message in head]), keys)
            for number, (line, message) in enumerate(chain(head, values), start=1):
                yield from _read_one(message, f"line {line}, message {number}", number, talk)
            yield from talk.end()


def _read_conversation(found: Value, stem: str, keys: Keys, sessions: Keys) -> Iterator[Found]:
    place = f"line {found.line}"
    whole = {"messages": found.value} if isinstance(found.value, list) else get_object(place, found.value, "it")
    messages = next((turns for one in _LISTS if (turns := get_list(place, whole, one))), [])
    name = next((get_text(place, whole, one) for one in _NAMES if isinstance(whole.get(one), str)), None)
    if name is None:
        name = sessions.take(_name(stem, messages), messages)
        if name is None:
            yield Found(place, reason="repeated")
            return
    time = next((whole[one] for one in _TIMES if whole.get(one) not in (None, "")), None)
    talk = Talk("messages", name, keys, title=get_text(place, whole, "title", "name"), time=time)
    for number, message in enumerate(messages, start=1):
        yield from _read_one(message, f"{place}, message {number}", number, talk)
    yield from talk.end()


def _read_one(message: Any, place: str, number: int, talk: Talk) -> Iterator[Found]:  # noqa: ANN401 - whatever JSON has
    if not isinstance(message, Mapping):
        refuse(place, f"a message must be an object, got {type(message).__name__}")
    if "role" not in message and "from" in message:
        message = {**message, "role": _tell_role(message), "content": message.get("value")}
    key = message.get("id")
    yield from read_message(message, place, key if isinstance(key, str) and key else str(number), talk)


def _tell_role(message: Mapping[str, Any]) -> object:
    """Return the role of a message as ShareGPT names who it is from."""
    return _ROLES.get(str(message.get("from")), message.get("from"))


def _name(stem: str, messages: list[Any]) -> str:
    """Return a name for a conversation that has none: the same as long as its file's name and first question are."""
    asked = (one for one in messages if isinstance(one, Mapping) and "user" in (one.get("role"), _tell_role(one)))
    first = next(asked, messages[0] if messages else None)
    digest = hashlib.sha256(repr(first).encode("utf-8", "replace")).hexdigest()[:8]
    return f"{stem}-{digest}"
