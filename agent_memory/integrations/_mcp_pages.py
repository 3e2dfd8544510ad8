"""What an MCP client gets to read: entries as JSON, in answers of bounded size with a cursor to the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_memory.errors import InvalidInputError
from agent_memory.formats.passages import excerpt_passage
from agent_memory.formats.payload import dumps, to_json
from agent_memory.records import Entry, Hit

Object = dict[str, Any]

PAGE = 100  # most items of an answer
_ANSWER_CHARS = 60_000  # most JSON of an answer, unless its first item alone is longer
_TEXT_CHARS = 4_000  # most text of an item among others
_METADATA_CHARS = 4_000
READ_CHARS = 50_000  # most text of an entry that is read alone


def start_of(cursor: str | None) -> int:
    """Return the place that a cursor stands for: the number of items before it.

    Raises:
        InvalidInputError: It is no cursor.
    """
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > 9:
        raise InvalidInputError(f"cursor must be the 'next' of an earlier answer, got {cursor[:40]!r}")
    return int(cursor)


def page(name: str, items: Sequence[Object], cursor: str | None, *, more: bool = False) -> Object:
    """Return as many items as an answer holds, and the cursor to the others if there are any.

    Args:
        name: What the items are called in the answer.
        items: From the cursor's place on.
        cursor: Where the items begin.
        more: Whether there are others behind them.
    """
    taken, room = 0, _ANSWER_CHARS
    for item in items[:PAGE]:
        room -= len(dumps(item))
        if room < 0 and taken:
            break
        taken += 1
    answer: Object = {name: list(items[:taken])}
    if more or taken < len(items):
        answer["next"] = str(start_of(cursor) + taken)
    return answer


def whole(entry: Entry, start: int = 0) -> Object:
    """Return an entry with its text from a character on; ``next`` tells where that stops short of the end.

    Its metadata come with the beginning, unless they are longer than an answer may be, which is told.
    """
    shown = _facts(entry)
    shown["text"] = entry.text[start : start + READ_CHARS]
    size = len(dumps(shown.get("metadata", {})))
    fits = size <= _ANSWER_CHARS - len(shown["text"])
    if start or not fits:
        shown.pop("metadata", None)
    if not fits:
        shown["metadata_chars"] = size
    if start + READ_CHARS < len(entry.text):
        shown["next"] = str(start + READ_CHARS)
    return shown


def brief(entry: Entry) -> Object:
    """Return an entry as one of many: a long text is cut, long metadata are left out, and both are told."""
    shown = _facts(entry)
    if len(entry.text) > _TEXT_CHARS:
        shown |= {"text": entry.text[:_TEXT_CHARS] + "…", "text_chars": len(entry.text)}
    size = len(dumps(shown.get("metadata", {})))
    if size > _METADATA_CHARS:
        del shown["metadata"]
        shown["metadata_chars"] = size
    return shown


def ranked(hit: Hit) -> Object:
    """Return a hit as one of many; of a long text that is cut, it shows the passage that answers."""
    shown = {"rank": hit.rank, "score": hit.score, **brief(hit.entry)}
    if hit.confidence is not None:
        shown["confidence"] = round(hit.confidence, 3)
    if hit.stale_by is not None:
        shown["stale_by"] = hit.stale_by
    if hit.passage is not None:
        shown["passage"] = list(hit.passage)
        if len(hit.text) > _TEXT_CHARS:
            shown["text"] = excerpt_passage(hit.text, hit.passage, _TEXT_CHARS)
    return shown


def _facts(entry: Entry) -> Object:
    found: Object = to_json(entry, brief=True)
    return found
