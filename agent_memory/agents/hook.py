"""``agent-memory hook EVENT``: what an agent runs when a session starts, a prompt is sent, a turn or a session ends.

A hook never stands in the way: whatever happens, it ends within seconds with exit code 0, and keeps its error for
``agent-memory agent status``. It never runs a model, writes nothing to the store itself, and loads what it needs when
it needs it. What it captures goes to the spool, which a process of its own takes into the store afterwards.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from agent_memory.agents import events, notes, spool
from agent_memory.agents.events import Event, Kind
from agent_memory.agents.places import find_store
from agent_memory.agents.projects import find_project

SWITCH = "AGENT_MEMORY_HOOKS"
"""Environment variable that turns the hooks off for whoever has set it to ``off``."""

LIMIT = "AGENT_MEMORY_HOOK_LIMIT"
"""Environment variable with the seconds after which a hook gives up; what it has captured by then is kept."""

_LIMIT_S = 5.0

_INPUT = 16 << 20  # bytes of standard input
_TAKE_IN = "take-in"


class _Call(NamedTuple):
    event: str
    agent: str
    store: str | None
    strict: bool = False  # whether errors are raised instead of noted


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a hook; returns the exit code, which is always 0.

    Args:
        arguments: ``EVENT [--agent NAME] [--path FOLDER]``; those of the process if left out.
    """
    started = time.monotonic()
    call = _parse(sys.argv[1:] if arguments is None else arguments)
    try:
        if call.event == _TAKE_IN:
            _take_in(call)
        elif not _is_off():
            _run_limited(call, started)
    except (Exception, KeyboardInterrupt) as error:
        _note(call, error)
    return 0


def run_resident(arguments: Sequence[str], started: float) -> int:
    """Run a hook in a process that stays; returns the exit code, which is always 0.

    Args:
        arguments: As for ``main``.
        started: ``time.monotonic()`` when the hook began.

    Raises:
        Exception: Whatever went wrong; the hook is to be run by its own process then.
    """
    if not _is_off():
        _run(_parse(arguments)._replace(strict=True), started)
    return 0


def _is_off() -> bool:
    return os.environ.get(SWITCH, "").casefold() in ("off", "0", "no", "false")


def _parse(arguments: Sequence[str]) -> _Call:
    """Read the arguments; one that is unknown must not make a hook fail."""
    rest, named = list(arguments), {"--agent": events.CLAUDE_CODE, "--path": ""}
    event = ""
    while rest:
        word = rest.pop(0)
        name, joined, value = word.partition("=")
        if name in named:
            named[name] = value if joined else rest.pop(0) if rest else ""
        elif not event and not word.startswith("-"):
            event = word
    agent = named["--agent"] if named["--agent"] in events.AGENTS else "unknown"
    return _Call(event, agent, named["--path"] or None)


def _run_limited(call: _Call, started: float) -> None:
    limit = _read_limit()
    timer = threading.Timer(limit, _give_up, [call, limit])
    timer.daemon = True
    timer.start()
    try:
        _run(call, started)
    finally:
        timer.cancel()


def _run(call: _Call, started: float) -> None:
    context, event = "", None
    try:
        event = events.read_event(call.event, call.agent, _read_input())
        store = find_store(call.store)
        if not event.inner:
            context = _answer(event, store, call)
        notes.note_run(store, call.agent, call.event, started)
    finally:
        # Cursor waits for JSON whatever happened to the hook.
        if event is not None:
            _print(events.answer(event, context))


def _answer(event: Event, store: Path, call: _Call) -> str:
    """Capture what an event brings, and return what the agent's model is to see."""
    namespace = find_project(event.folder)
    if event.kind is Kind.START:
        notes.forget_sessions(store)
        context = "" if event.source == "resume" else _try(call, _make_brief, store, namespace)
        _start_taking_in(store)
        return context
    if event.kind is Kind.END:
        _start_taking_in(store)
        return ""
    _capture(event, store, namespace)
    if event.kind is Kind.ANSWER:
        if not event.turn:  # a later answer of the turn may replace it
            _start_taking_in(store)
        return ""
    if event.agent == events.CURSOR or not notes.is_first(store, event.agent, event.session):
        return ""
    parts = [_try(call, _recall, store, namespace, event)]
    if event.agent == events.OPENCODE:  # it has no other moment to be told something
        parts.insert(0, _try(call, _make_brief, store, namespace, _name(event)))
    return "\n\n".join(part for part in parts if part)


def _capture(event: Event, store: Path, namespace: tuple[str, ...]) -> None:
    from agent_memory.agents.capture import MODEL, PERSON, make_item

    person = event.kind is Kind.PROMPT
    item = make_item(
        event.text,
        agent=event.agent,
        session=event.session,
        speaker=PERSON if person else MODEL,
        provenance="user" if person else "agent",
        namespace=namespace,
        turn=event.turn,
    )
    if item is not None:
        spool.put(store, item)


def _make_brief(store: Path, namespace: tuple[str, ...], session: str | None = None) -> str:
    from agent_memory.agents.brief import make_brief

    return make_brief(store, namespace, session)


def _recall(store: Path, namespace: tuple[str, ...], event: Event) -> str:
    from agent_memory.agents.brief import recall_first
    from agent_memory.agents.capture import clean

    return recall_first(store, namespace, clean(event.text), _name(event))


def _name(event: Event) -> str:
    from agent_memory.agents.capture import name_session

    return name_session(event.session)


def _try(call: _Call, make: Callable[..., str], *given: object) -> str:
    """Return a context, or none if it cannot be had: the capture is done, and must not look failed."""
    try:
        return make(*given)
    except Exception as error:
        if call.strict:
            raise
        _note(call, error)
        return ""


def _start_taking_in(store: Path) -> None:
    """Let a process of its own, which outlives the agent, write what waits into the store."""
    if not spool.list_files(store):
        return
    import subprocess

    command = [sys.executable, "-P", "-m", "agent_memory.agents.hook", _TAKE_IN, "--path", str(store)]
    nowhere = subprocess.DEVNULL
    # Its folder is not the agent's, which may be deleted, or hold modules of somebody else.
    subprocess.Popen(
        command, stdin=nowhere, stdout=nowhere, stderr=nowhere, start_new_session=True, cwd=store, close_fds=True
    )


def _take_in(call: _Call) -> None:
    with contextlib.suppress(OSError):
        os.nice(10)
    spool.take_in(find_store(call.store))


def _read_input() -> str:
    if sys.stdin is None or sys.stdin.isatty():
        return ""
    return sys.stdin.buffer.read(_INPUT).decode("utf-8", "replace")


def _print(text: str) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(f"{text}\n" if text else "")
        sys.stdout.flush()


def _note(call: _Call, error: BaseException) -> None:
    with contextlib.suppress(Exception):
        notes.note_error(find_store(call.store), call.agent, call.event, error)


def _give_up(call: _Call, limit: float) -> None:
    _note(call, TimeoutError(f"the hook took more than {limit:g} seconds"))
    os._exit(0)


def _read_limit() -> float:
    try:
        return max(0.1, min(float(os.environ.get(LIMIT, _LIMIT_S)), 600.0))
    except ValueError:
        return _LIMIT_S


if __name__ == "__main__":
    sys.exit(main())
