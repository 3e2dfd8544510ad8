"""Text on its way from other frameworks into a memory, and back into their prompts."""

from __future__ import annotations

from collections.abc import Iterable

from agent_memory.prompt import format_hits, without_recalled
from agent_memory.records import Hit

NO_TEXT = "(no text)"


def usable_text(text: str) -> str:
    """Return a text that the store can hold: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def own_text(text: str) -> str:
    """Return what a text says itself: without blocks of recalled text, for instance those that a model repeated."""
    return without_recalled(usable_text(text)).strip()


def entry_text(text: str) -> str:
    """Return the text of an entry whose whole content is kept elsewhere; never blank."""
    return own_text(text) or NO_TEXT


def block(hits: Iterable[Hit]) -> str:
    """Return hits as one tagged block; empty if there are none."""
    return format_hits(hits)
