"""Transcripts of Codex: ``~/.codex/sessions/YYYY/MM/DD/rollout-*.jsonl``, one record a line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from agent_memory.writing.foreign.found import Found, Keys, Options, get_object, get_text
from agent_memory.writing.foreign.talk import Talk, read_content
from agent_memory.writing.foreign.values import Value

_RECORDS = ("session_meta", "response_item", "event_msg", "turn_context", "compacted")
_SPEAKERS = ("user", "assistant")
# What the program itself writes in the user's name.
_WRAPPED = re.compile(
    r"\s*(# AGENTS\.md instructions|<(environment_context|user_instructions|INSTRUCTIONS|turn_aborted"
    r"|permissions instructions|collaboration_mode|skill|user_shell_command)>)"
)
_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")


def is_mine(value: object) -> bool:
    """Return whether a value is a record of this format that tells it from others."""
    if not isinstance(value, Mapping):
        return False
    if value.get("type") in _RECORDS:
        return isinstance(value.get("payload"), Mapping)
    return "instructions" in value and "timestamp" in value and "id" in value  # the first line, until autumn 2025


def read(values: Iterable[Value], stem: str, options: Options) -> Iterator[Found]:
    """Yield what user and assistant said in a transcript; see ``registry.Format``."""
    match = _ID.search(stem)
    talk = Talk("codex", match[0] if match else stem, Keys())
    turns, begun = 0, False
    for line, value in values:
        place = f"line {line}"
        record = get_object(place, value, "a record")
        kind, payload = record.get("type"), record.get("payload", record)
        payload = get_object(place, payload, "payload")
        if kind == "session_meta" or (kind is None and "instructions" in record):
            if not begun:  # a session that was resumed tells of its beginning once more
                _read_start(payload, place, talk)
            begun = True
        elif kind == "turn_context" and isinstance(payload.get("model"), str):
            talk.facts["model"] = payload["model"]
        elif kind != "event_msg" and payload.get("type") == "message":
            turns += 1  # counted whoever speaks: the number is the turn's name
            yield from _read_message(payload, record, place, str(turns), talk)
            continue
        elif kind != "event_msg" and str(payload.get("type")).endswith("_call"):
            yield from _read_call(payload, place, talk)
            continue
        yield Found(place, reason="not talk")
    yield from talk.end()


def _read_start(payload: Mapping[str, Any], place: str, talk: Talk) -> None:
    talk.session = get_text(place, payload, "id", "session_id") or talk.session
    if payload.get("cwd"):
        talk.facts["cwd"] = payload["cwd"]
    git = payload.get("git")
    if isinstance(git, Mapping) and isinstance(git.get("branch"), str):
        talk.facts["branch"] = git["branch"]


def _read_message(
    payload: Mapping[str, Any], record: Mapping[str, Any], place: str, name: str, talk: Talk
) -> Iterator[Found]:
    role = get_text(place, payload, "role") or "unknown"
    if role not in _SPEAKERS:
        yield Found(place, reason="instructions")
        return
    text = read_content(place, payload.get("content"), talk)
    if _WRAPPED.match(text):
        yield Found(place, reason="instructions")
        return
    yield from talk.say(place, name, role, text, time=record.get("timestamp"))


def _read_call(payload: Mapping[str, Any], place: str, talk: Talk) -> Iterator[Found]:
    action = payload.get("action")
    given = payload.get("arguments", payload.get("input", action))
    yield from talk.use_tool(place, payload.get("name") or str(payload.get("type")).removesuffix("_call"), given)
