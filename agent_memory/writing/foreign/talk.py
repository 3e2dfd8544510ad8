"""Turns of a conversation as entries of a session: what was said is text; tools and attachments are metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent_memory.formats.names import encode_name
from agent_memory.writing.foreign.found import Found, Keys, refuse

MAX_TOOLS = 50
"""Calls of tools that the metadata of one turn tell of; of more, how many there were."""

_INPUT_CHARS = 500
_NAME_CHARS = 200
_WRITTEN_BY_TOOLS = ("tool", "function", "ipython")
_INSTRUCTIONS = ("system", "developer")
_ATTACHED = re.compile("image|audio|video|file|document|attachment")
_SPOKEN = ("text", "input_text", "output_text", "refusal")


@dataclass
class _Turn:
    place: str
    key: str
    speaker: str
    text: str
    time: object
    facts: dict[str, Any]
    answers: bool
    tools: list[dict[str, str]] = field(default_factory=list)
    attachments: list[str] = field(default_factory=list)


class Talk:
    """Makes entries of the turns of one conversation, in their order.

    A tool's call belongs to the assistant's turn before it, or else after it. So a turn is known whole only when the
    next one comes.

    Args:
        source: Name of the format.
        session: Name of the conversation, unique among all of that system.
        keys: Those of the file.
        title: What the conversation is called.
        time: When it began, for turns that have no time.
        facts: What else is known of it; becomes metadata of every turn.
    """

    def __init__(
        self,
        source: str,
        session: str,
        keys: Keys,
        *,
        title: str | None = None,
        time: object = None,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.source, self.session, self.title = source, session, title
        self.facts = dict(facts or {})
        self._keys, self._time = keys, time
        self._last: _Turn | None = None
        self._tools: list[dict[str, str]] = []
        self._attachments: list[str] = []

    def say(
        self,
        place: str,
        key: str,
        speaker: str,
        text: str,
        *,
        time: object = None,
        facts: Mapping[str, Any] | None = None,
        answers: bool | None = None,
    ) -> Iterator[Found]:
        """Add a turn; yields the one before it.

        Args:
            place: Where it is in the file.
            key: Its name in the conversation.
            speaker: Who said it.
            text: What was said.
            time: When; None for the time of the turn before it.
            facts: Metadata.
            answers: Whether it is the assistant's; by default that of every speaker but ``user``.
        """
        attachments, self._attachments = self._attachments, []
        if not text.strip():
            if attachments and self._last is not None:
                self._last.attachments += attachments
            yield Found(place, reason="empty")
            return
        yield from self._flush()
        self._time = self._time if time in (None, "") else time
        answers = speaker != "user" if answers is None else answers
        self._last = _Turn(place, key, speaker, text, self._time, dict(facts or {}), answers, attachments=attachments)
        if answers:
            self._last.tools, self._tools = self._tools, []

    def use_tool(self, place: str, name: object, given: object = None) -> Iterator[Found]:
        """Note that the assistant called a tool."""
        given = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False) if given else ""
        call = {"name": str(name)[:_NAME_CHARS]} | ({"input": given[:_INPUT_CHARS]} if given else {})
        (self._last.tools if self._last is not None and self._last.answers else self._tools).append(call)
        yield Found(place, reason="tool")

    def attach(self, name: object) -> None:
        """Note that the next turn has something attached to it."""
        self._attachments.append(str(name)[:_NAME_CHARS])

    def end(self) -> Iterator[Found]:
        """Yield the last turn."""
        if self._last is not None:
            self._last.tools += self._tools
            self._last.attachments += self._attachments
        yield from self._flush()

    def _flush(self) -> Iterator[Found]:
        turn, self._last = self._last, None
        if turn is None:
            return
        key = self._keys.take(f"{self.session}:{turn.key}", (turn.speaker, turn.text))
        if key is None:
            yield Found(turn.place, reason="repeated")
            return
        facts: dict[str, Any] = {"source": self.source}
        facts |= {"title": self.title} if self.title else {}
        facts |= {**self.facts, **turn.facts}
        if turn.tools:
            facts["tools"] = turn.tools[:MAX_TOOLS]
            facts |= {"tool_calls": len(turn.tools)} if len(turn.tools) > MAX_TOOLS else {}
        if turn.attachments:
            facts["attachments"] = turn.attachments[:MAX_TOOLS]
        yield Found(
            turn.place,
            {
                "key": encode_name(key),
                "text": turn.text,
                "session": encode_name(self.session),
                "speaker": encode_name(turn.speaker),
                "event_time": turn.time,
                "metadata": facts,
            },
        )


def read_content(place: str, content: object, talk: Talk) -> str:
    """Return what is said in the content of a message: a string, or a list of parts; notes what is attached."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        refuse(place, f"content must be a string or a list of parts, got {type(content).__name__}")
    said = []
    for part in content:
        if isinstance(part, str):
            said.append(part)
        elif not isinstance(part, Mapping):
            refuse(place, f"a part of the content must be a string or an object, got {type(part).__name__}")
        elif str(part.get("type", "text")) in _SPOKEN:
            text = part.get("text", part.get("refusal"))
            if not isinstance(text, str):
                refuse(place, f"the text of a part must be a string, got {type(text).__name__}")
            said.append(text)
        elif _ATTACHED.search(str(part.get("type"))):
            talk.attach(_name_attached(part))
    return "\n".join(text for text in said if text)


def _name_attached(part: Mapping[str, Any]) -> object:
    inner = part.get("file")
    for one in (part, inner if isinstance(inner, Mapping) else {}):
        for name in ("filename", "file_name", "name", "title"):
            if isinstance(one.get(name), str):
                return one[name]
    return part.get("type")


def read_message(message: Mapping[str, Any], place: str, key: str, talk: Talk) -> Iterator[Found]:
    """Add a message with ``role`` and ``content``, in the manner of OpenAI's interfaces, to a conversation."""
    role = message.get("role")
    if not isinstance(role, str):
        refuse(place, f"a message must have a role, got {type(role).__name__}")
    if role in _INSTRUCTIONS:
        yield Found(place, reason="instructions")
        return
    if role in _WRITTEN_BY_TOOLS:
        yield Found(place, reason="tool")
        return
    text = read_content(place, message.get("content"), talk)
    name = message.get("name")
    time = next((message[one] for one in _TIMES if message.get(one) not in (None, "")), None)
    speaker = name if isinstance(name, str) and name else role
    yield from talk.say(place, key, speaker, text, time=time, answers=role != "user")
    calls = message.get("tool_calls")
    for call in calls if isinstance(calls, list) else []:
        function = call.get("function") if isinstance(call, Mapping) else None
        called = function if isinstance(function, Mapping) else call
        if isinstance(called, Mapping):
            yield from talk.use_tool(place, called.get("name", "tool"), called.get("arguments", called.get("args")))


_TIMES = ("created_at", "timestamp", "create_time", "created", "time", "date")
