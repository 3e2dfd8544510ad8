"""What a session is told at its start, and about its first prompt: short blocks of remembered text, as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.agents.kinds import DECISION, OPEN, PREFERENCE, find_kinds
from agent_memory.agents.spool import read_waiting
from agent_memory.formats.prompt import format_hits
from agent_memory.records import Entry, Hit
from agent_memory.resident.lending import borrow

if TYPE_CHECKING:
    from agent_memory.memory import Memory

_HEADINGS = {
    DECISION: "What this project decided, latest first:",
    PREFERENCE: "What is preferred here:",
    OPEN: "What was left open:",
}
_LINES = {DECISION: 6, PREFERENCE: 5, OPEN: 4}
_LOOKED_AT = 40  # entries of a kind
_OPEN_FOR = timedelta(days=14)
_CHARS = 1200  # of one block; three of them are far below what agents cut
_HITS = 4
_WAIT_S = 0.3

MIN_CONFIDENCE = 0.1
"""Chance that an entry answers, by the words of a prompt alone, from which it is shown unasked."""

WORDS_FLOOR = 1 / 3
"""Share of the words, each counted alike, that is enough too if two are held: in a small store no word is rare, so that
words give little confidence."""


def make_brief(store: Path, namespace: tuple[str, ...], session: str | None = None) -> str:
    """Return what a project decided, prefers and has left open; empty if nothing of the kind is known.

    What waits in the spool counts too: yesterday's last words may not be in the store yet.

    Args:
        store: The store's folder, which need not exist.
        namespace: The project.
        session: A session whose own entries are no news to it.

    Raises:
        AgentMemoryError: The store cannot be read.
    """
    waiting = [_make_entry(item) for item in reversed(read_waiting(store, namespace))]
    parts = []
    with _opened(store, namespace) as memory:
        for kind, heading in _HEADINGS.items():
            since = datetime.now(UTC) - _OPEN_FOR if kind == OPEN else None
            entries = [entry for entry in waiting if kind in entry.metadata.get("kinds", ())]
            if memory is not None:
                entries += memory.entries(where={"kinds": kind}, since=since, limit=_LOOKED_AT, newest_first=True)
            hits = list(_quote((entry for entry in entries if session is None or entry.session != session), kind))
            if hits:
                parts.append(f"{heading}\n{format_hits(hits, max_chars=_CHARS)}")
    return "\n\n".join(parts)


def recall_first(store: Path, namespace: tuple[str, ...], prompt: str, session: str) -> str:
    """Return what is remembered about a session's first prompt; empty if nothing is near enough.

    It is searched by words alone, because loading an encoder takes longer than a hook may.

    Args:
        store: The store's folder, which need not exist.
        namespace: The project.
        prompt: The person's words, without secrets and private passages.
        session: The session, whose own entries are not news to it.

    Raises:
        AgentMemoryError: The store cannot be read.
    """
    with _opened(store, namespace) as memory:
        if memory is None or not prompt:
            return ""
        query = prompt[-memory.config.max_query_chars :]
        from agent_memory.storage.words.terms import choose_words

        hits = memory.recall(query, k=_HITS * 3, mode="lexical", explain=True)
        words = len(choose_words(query, list))
        near = [hit for hit in hits if hit.entry.session != session and _is_near(hit, words)]
    if not near:
        return ""
    return f"Remembered from earlier sessions, found by the words of the prompt:\n{format_hits(near[:_HITS])}"


def _is_near(hit: Hit, words: int) -> bool:
    lexical: dict[str, Any] = (hit.trace or {}).get("lexical") or {}
    held = len(lexical.get("words", ()))
    return (hit.confidence or 0.0) >= MIN_CONFIDENCE or (held > 1 and held >= words * WORDS_FLOOR)


@contextmanager
def _opened(store: Path, namespace: tuple[str, ...]) -> Iterator[Memory | None]:
    """Open the store, which is not made if it is missing."""
    if not (store / "memory.db").is_file():
        yield None
        return
    if (lent := borrow(store, namespace)) is not None:
        yield lent
        return
    from agent_memory.memory import Memory

    with Memory(store, namespace=namespace, config={"lock_timeout_s": _WAIT_S}) as memory:
        yield memory


def _quote(entries: Iterable[Entry], kind: str) -> Iterator[Hit]:
    """Yield the sentences of a kind, each once; whole texts that are marked as such by whoever remembered them."""
    seen: set[str] = set()
    for entry in entries:
        for sentence in find_kinds(entry.text).get(kind, [entry.text] if "agent" not in entry.metadata else []):
            if sentence.casefold() in seen:
                continue
            seen.add(sentence.casefold())
            yield Hit(entry=replace(entry, text=sentence), score=1.0, rank=len(seen))
            if len(seen) == _LINES[kind]:
                return


def _make_entry(item: dict[str, Any]) -> Entry:
    time = datetime.fromisoformat(item["event_time"])
    return Entry(
        key=item["key"],
        text=item["text"],
        namespace=tuple(item["namespace"]),
        session=item.get("session"),
        speaker=item.get("speaker"),
        metadata=item.get("metadata") or {},
        event_time=time,
        created_at=time,
        updated_at=time,
    )
