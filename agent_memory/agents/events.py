"""What the agents' hooks send and expect, each in its own form, as one kind of event.

The forms are those of the agents' own documentation in November 2026: Claude Code's hooks, Codex's (the schemas are in
its repository), Cursor's ``hooks.json`` version 1, and OpenCode's, which our own plug-in sends.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

CLAUDE_CODE, CODEX, CURSOR, OPENCODE = AGENTS = ("claude-code", "codex", "cursor", "opencode")
"""The agents that hooks are written for."""

_TAIL = 1 << 20  # bytes of a transcript's end in which the last answer is looked for


class Kind(StrEnum):
    """What happened."""

    START = "start"
    PROMPT = "prompt"
    ANSWER = "answer"
    END = "end"


KINDS: Mapping[str, Kind] = {
    "SessionStart": Kind.START,
    "UserPromptSubmit": Kind.PROMPT,
    "Stop": Kind.ANSWER,
    "SessionEnd": Kind.END,
    "sessionStart": Kind.START,
    "beforeSubmitPrompt": Kind.PROMPT,
    "afterAgentResponse": Kind.ANSWER,
    "stop": Kind.END,
    "sessionEnd": Kind.END,
}
"""By the name that an agent gives to an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One call of a hook.

    Attributes:
        name: As the agent names it.
        kind: What happened.
        agent: Whose hook.
        session: The agent's name of the session; empty if it has none.
        folder: Where the agent works.
        text: The person's words, or the agent's final answer; empty for other kinds.
        turn: The agent's name of the turn, if it replaces a turn's answer by a later one.
        source: Why a session starts: ``startup``, ``resume``, ``clear``, ``compact``.
        inner: Whether it is about a sub-agent.
    """

    name: str
    kind: Kind
    agent: str
    session: str
    folder: str
    text: str = ""
    turn: str = ""
    source: str = "startup"
    inner: bool = False


def read_event(name: str, agent: str, sent: str) -> Event:
    """Return the event that an agent has sent.

    Args:
        name: The event, as the agent names it.
        agent: Whose hook.
        sent: What came on standard input.

    Raises:
        ValueError: The name is unknown, or what was sent is no JSON object.
    """
    kind = KINDS.get(name)
    if kind is None:
        raise ValueError(f"event must be one of {', '.join(KINDS)}, got {name!r}")
    given = json.loads(sent.removeprefix("\ufeff")) if sent.strip() else {}
    if not isinstance(given, dict):
        raise ValueError(f"a hook is sent a JSON object, got {type(given).__name__}")
    return Event(
        name=name,
        kind=kind,
        agent=agent,
        session=_text(given, "session_id", "conversation_id"),
        folder=_find_folder(given),
        text=_find_text(given, kind),
        turn=_text(given, "generation_id") if agent == CURSOR and kind is Kind.ANSWER else "",
        source=_text(given, "source") or "startup",
        inner=bool(_text(given, "agent_id", "subagent_id")),
    )


def answer(event: Event, context: str) -> str:
    """Return what a hook prints, so that the agent's model sees a text; empty if there is nothing to say."""
    if event.agent == CURSOR:
        if event.kind is Kind.PROMPT:
            return json.dumps({"continue": True})
        return json.dumps({"additional_context": context}) if context and event.kind is Kind.START else "{}"
    if not context:
        return ""
    if event.agent == OPENCODE:
        return json.dumps({"context": context})
    return json.dumps({"hookSpecificOutput": {"hookEventName": event.name, "additionalContext": context}})


def _text(given: Mapping[str, Any], *names: str) -> str:
    return next((given[name] for name in names if isinstance(given.get(name), str)), "")


def _find_folder(given: Mapping[str, Any]) -> str:
    roots = given.get("workspace_roots")
    root = next((one for one in roots if isinstance(one, str)), "") if isinstance(roots, list) else ""
    return _text(given, "cwd") or root or os.environ.get("CLAUDE_PROJECT_DIR", "") or os.getcwd()


def _find_text(given: Mapping[str, Any], kind: Kind) -> str:
    if kind is Kind.PROMPT:
        return _text(given, "prompt", "user_prompt")
    if kind is not Kind.ANSWER:
        return ""
    said = _text(given, "last_assistant_message", "text")
    return said or find_last_answer(_text(given, "transcript_path"))


def find_last_answer(path: str) -> str:
    """Return the last answer in a transcript, for agents that do not send it; only the file's end is read."""
    if not path:
        return ""
    try:
        with Path(path).expanduser().open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read(_TAIL).split(b"\n")
    except (OSError, RuntimeError):
        return ""
    for line in reversed(lines):
        if b"assistant" in line and (said := _read_answer(line)):
            return said
    return ""


def _read_answer(line: bytes) -> str:
    """Return what the assistant says in a line of Claude Code's or Codex's transcript."""
    try:
        record = json.loads(line)
        message = record.get("message") or record.get("payload")
        if message.get("role") != "assistant" or record.get("isSidechain") is True:
            return ""
        parts = message.get("content")
        said = [parts] if isinstance(parts, str) else [part.get("text") for part in parts if "text" in part["type"]]
    except (ValueError, AttributeError, TypeError, KeyError):  # cut, or of another form
        return ""
    return "\n".join(text for text in said if isinstance(text, str)).strip()
