"""Transcripts of Claude Code: ``~/.claude/projects/<project>/<session>.jsonl``, one record a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent_memory.writing.foreign.found import Found, Keys, Options, get_object, get_text, refuse
from agent_memory.writing.foreign.talk import Talk
from agent_memory.writing.foreign.values import Value

_SPEAKERS = ("user", "assistant")
_RECORDS = (*_SPEAKERS, "summary", "system", "file-history-snapshot", "queue-operation", "progress", "attachment")
# What the program itself writes in the user's name.
_REMINDER = re.compile(r"<system-reminder>.*?</system-reminder>", re.DOTALL)
_WRAPPED = re.compile(
    r"\s*<(command-(name|message|args)|local-command-\w+|bash-(input|stdout|stderr)|user-memory-input)>"
)
_INTERRUPTED = "[Request interrupted by user"


def is_mine(value: object) -> bool:
    """Return whether a value is a record of this format that tells it from others."""
    if not isinstance(value, Mapping) or value.get("type") not in _RECORDS or "payload" in value:
        return False
    return any(name in value for name in ("sessionId", "leafUuid", "parentUuid", "snapshot"))


def read(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield what user and assistant said in a transcript; see ``registry.Format``."""
    keys, talks, titles = Keys(), dict[str, Talk](), dict[str, str]()
    for line, value in values:
        place = f"line {line}"
        record = get_object(place, value, "a record")
        kind = record.get("type")
        if kind == "summary":
            titles[stem] = get_text(place, record, "summary") or ""
        if kind not in _SPEAKERS:
            yield Found(place, reason=str(kind)[:40] if isinstance(kind, str) else "not talk")
        elif record.get("isMeta") is True or record.get("isCompactSummary") is True:
            yield Found(place, reason="instructions")
        elif record.get("isSidechain") is True and not options.all_branches:
            yield Found(place, reason="another branch")
        else:
            session = get_text(place, record, "sessionId") or stem
            if session not in talks:
                talks[session] = Talk("claude-code", session, keys)
            talks[session].title = titles.get(stem)
            yield from _read_message(record, place, kind, talks[session])
    for talk in talks.values():
        yield from talk.end()


def _read_message(record: Mapping[str, Any], place: str, speaker: str, talk: Talk) -> Iterator[Found]:
    message = get_object(place, record.get("message"), "message")
    said, tools = _read_blocks(place, message.get("content"), talk)
    facts = {name: record[given] for name, given in (("cwd", "cwd"), ("branch", "gitBranch")) if record.get(given)}
    if speaker == "assistant" and isinstance(message.get("model"), str):
        facts["model"] = message["model"]
    text = _REMINDER.sub("", "\n".join(said)).strip()
    if _WRAPPED.match(text) or text.startswith(_INTERRUPTED):
        yield Found(place, reason="command")
    else:
        name = get_text(place, record, "uuid") or place.removeprefix("line ")
        yield from talk.say(place, name, speaker, text, time=record.get("timestamp"), facts=facts)
    for called, given in tools:
        yield from talk.use_tool(place, called, given)


def _read_blocks(place: str, content: object, talk: Talk) -> tuple[list[str], list[tuple[object, object]]]:
    """Return what was said, and the tools that were called."""
    said: list[str] = []
    tools: list[tuple[object, object]] = []
    if isinstance(content, str):
        return [content], tools
    if not isinstance(content, list):
        refuse(place, f"content must be a string or a list of blocks, got {type(content).__name__}")
    for block in content:
        block = get_object(place, block, "a block of the content")
        kind = block.get("type")
        if kind == "text":
            said.append(get_text(place, block, "text") or "")
        elif kind == "tool_use":
            tools.append((block.get("name", "tool"), block.get("input")))
        elif kind in ("image", "document"):
            talk.attach(kind)
    return said, tools
