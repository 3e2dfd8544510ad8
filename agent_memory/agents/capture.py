"""What is kept of a session: the person's words and the agent's final answers, without secrets and private passages."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Any

from agent_memory.agents.kinds import find_kinds
from agent_memory.agents.secrets import drop_private, redact
from agent_memory.formats.names import encode_name
from agent_memory.records import PROVENANCE

MOST_CHARS = 100_000
"""Longer texts are cut; ``chars`` in the metadata says how long they were."""

PERSON, MODEL = "user", "assistant"
"""The speakers."""

_FROM_PROGRAMS = re.compile(
    r"<(system-reminder|recalled-memory|task-notification|local-command-\w{1,40}|command-(?:name|message|args)"
    r"|bash-(?:input|stdout|stderr))>"
)


def clean(text: str) -> str:
    """Return what a text says to people, cut if it is very long: no private passages, no secrets, no programs' notes.

    Raises:
        MissingDependencyError: ``detect-secrets`` is not installed, and the text may hold a secret.
    """
    text = drop_private(text).encode("utf-8", "replace").decode("utf-8")
    # Cut in the middle of a secret, it would no longer be recognised: so at the end of a line, or of a word.
    if len(text) > MOST_CHARS:
        text = text[: MOST_CHARS + 1].rsplit(None, 1)[0][:MOST_CHARS]
    return redact(_drop_notes(text)).strip()


def _drop_notes(text: str) -> str:
    """Return a text without what programs have put into it; a note that is not closed is none."""
    kept, at = [], 0
    unclosed: set[str] = set()
    for opening in _FROM_PROGRAMS.finditer(text):
        closing = f"</{opening[1]}>"
        if opening.start() < at or closing in unclosed:
            continue
        end = text.find(closing, opening.end())
        if end < 0:
            unclosed.add(closing)
            continue
        kept.append(text[at : opening.start()])
        at = end + len(closing)
    return "".join([*kept, text[at:]])


def name_session(session: str) -> str:
    """Return the store's name of an agent's session."""
    return encode_name(redact(session) or "unnamed")


def make_item(
    text: str,
    *,
    agent: str,
    session: str,
    speaker: str,
    namespace: tuple[str, ...],
    provenance: str,
    turn: str = "",
    time: str | None = None,
) -> dict[str, Any] | None:
    """Return a message as arguments of ``Memory.add``, in JSON; None if nothing is left of it.

    The key is made of the agent, the session, the speaker and the words: what comes twice is kept once, whether a hook
    or a transcript brings it.

    Args:
        text: What was said, as the agent sent it.
        agent: Whose session.
        session: The agent's name of the session.
        speaker: ``user`` or ``assistant``.
        namespace: The project.
        provenance: ``user``, ``agent`` or ``import``.
        turn: The agent's name of the turn, if a later answer of the turn replaces this one.
        time: When it was said, ISO 8601; now if left out.

    Raises:
        MissingDependencyError: ``detect-secrets`` is not installed, and the text may hold a secret.
    """
    kept = clean(text)
    if not kept:
        return None
    named = name_session(session)
    words = turn or hashlib.sha256(kept.encode()).hexdigest()[:24]
    metadata: dict[str, Any] = {PROVENANCE: provenance, "agent": agent}
    if kinds := sorted(find_kinds(kept)):
        metadata["kinds"] = kinds
    if len(text) > MOST_CHARS:
        metadata["chars"] = len(text)
    return {
        "text": kept,
        "key": encode_name(f"{agent}:{named}:{speaker}:{words}"),
        "session": named,
        "speaker": speaker,
        "namespace": list(namespace),
        "metadata": metadata,
        "event_time": time or datetime.now(UTC).isoformat(),
    }
