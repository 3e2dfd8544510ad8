"""What the hooks note for ``status`` and for each other: when one last ran, its last error, which sessions began."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent_memory.agents.places import FOLDER
from agent_memory.files import create_file, make_folder, write_bytes
from agent_memory.resident import once

_KEPT_S = 30 * 24 * 3600  # how long a session is known to have had its first prompt
_CHARS = 300
_CLOCKS_S = 0.05  # by which times of files lag behind


def note_run(store: Path, agent: str, event: str, started: float) -> None:
    """Note that a hook has run.

    Args:
        store: The store's folder.
        agent: Whose hook.
        event: As the agent names it.
        started: ``time.monotonic()`` when it began.
    """
    facts = {"event": event, "at": _now(), "ms": round((time.monotonic() - started) * 1000)}
    _write(store, f"{agent}.run.json", facts)


def note_error(store: Path, agent: str, event: str, error: BaseException) -> None:
    """Note why a hook failed, without what it was about: messages of errors may quote their input."""
    from agent_memory.agents.secrets import drop_private, redact

    try:
        message = redact(drop_private(str(error)))
    except Exception:  # the detectors are what is missing
        message = "agent-memory[coding-agents] is not installed, so nothing can be captured"
    facts = {"event": event, "at": _now(), "error": f"{type(error).__name__}: {' '.join(message.split())}"[:_CHARS]}
    _write(store, f"{agent}.error.json", facts)


def read_note(store: Path, agent: str, kind: str) -> dict[str, Any] | None:
    """Return the last note of a kind, ``run`` or ``error``; None if there is none."""
    with contextlib.suppress(OSError, ValueError):
        facts = json.loads((_folder(store) / f"{agent}.{kind}.json").read_bytes())
        return facts if isinstance(facts, dict) else None
    return None


def is_first(store: Path, agent: str, session: str) -> bool:
    """Return whether nobody has asked this of a session before: of two hooks at once, one is told so."""
    folder = _folder(store) / "sessions"
    make_folder(folder)
    name = hashlib.sha256(f"{agent}\0{session}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
    try:
        os.close(create_file(folder / name))
    except FileExistsError:
        # A helper may have made it for this very hook, and died.
        return bool(once.since) and (folder / name).stat().st_mtime >= once.since - _CLOCKS_S
    return True


def forget_sessions(store: Path) -> None:
    """Delete the marks of sessions that began long ago."""
    with contextlib.suppress(OSError), os.scandir(_folder(store) / "sessions") as marks:
        for mark in marks:
            if mark.stat().st_mtime < time.time() - _KEPT_S:
                os.unlink(mark.path)


def _folder(store: Path) -> Path:
    return store / FOLDER / "notes"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(store: Path, name: str, facts: dict[str, Any]) -> None:
    make_folder(_folder(store))
    write_bytes(_folder(store) / name, json.dumps(facts).encode())
