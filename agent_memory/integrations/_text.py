"""Text on its way from other frameworks into a memory, and back into their prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from agent_memory.formats.prompt import format_hits, without_recalled
from agent_memory.inputs import is_blank
from agent_memory.memory import Memory
from agent_memory.records import Hit
from agent_memory.writing.langgraph_items import NO_TEXT as NO_TEXT

if TYPE_CHECKING:
    from langchain_core.messages import BaseMessage

_TEXT_FIELDS = ("text", "content", "refusal")


def text_of(content: object) -> str:
    """Return the text of a message's content: a string, or a list of parts some of which hold text.

    A part is a string, or an object or mapping that keeps its text under ``text``, ``content`` or ``refusal``;
    images, audio, files and markers have none of these and are passed over.
    """
    if isinstance(content, str):
        return content
    if isinstance(content, list | tuple):
        return "\n".join(text for text in map(text_of, content) if text)
    if content is None or isinstance(content, bytes | int | float):
        return ""
    return next((text for name in _TEXT_FIELDS if (text := _text_at(content, name))), "")


def _text_at(part: object, name: str) -> str:
    """Return the text of a field of a part; what is neither text nor a list of parts is not looked into."""
    value = part.get(name) if isinstance(part, Mapping) else getattr(part, name, None)
    return text_of(value) if isinstance(value, str | list | tuple) else ""


def said_in(message: BaseMessage) -> str:
    """Return the text of a message of LangChain, also of parts that other frameworks have named (``input_text``)."""
    return str(message.text) or text_of(message.content)


def usable_text(text: str) -> str:
    """Return a text that the store can hold: lone surrogates become question marks."""
    return text.encode("utf-8", "replace").decode()


def own_text(text: str) -> str:
    """Return what a text says itself: without blocks of recalled text, for instance those that a model repeated."""
    own = without_recalled(usable_text(text)).strip()
    return "" if is_blank(own) else own


def query_text(text: str, memory: Memory) -> str:
    """Return the part of a text to ask with: its end, where a long message puts its question."""
    return text.strip()[-min(memory.config.max_query_chars, memory.config.max_text_chars) :]


def entry_text(text: str) -> str:
    """Return the text of an entry whose whole content is kept elsewhere; never blank."""
    return own_text(text) or NO_TEXT


def block(hits: Iterable[Hit]) -> str:
    """Return hits as one tagged block; empty if there are none."""
    return format_hits(hits)
