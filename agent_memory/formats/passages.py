"""Cuts long texts into passages: stretches of bounded size that begin and end where the text does.

Sizes are in UTF-8 bytes, because models spend about as many tokens on a byte in every script. What the default encoder
reads at a time, 256 tokens, is about 1,000 bytes of prose: a text of that size is whole. A passage is smaller, because
its vector is to tell of a single fact in it; see docs/decisions/0051-passages.md.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agent_memory.types import IdArray

Span = tuple[int, int]
"""Where a passage begins and ends, in characters of its text: ``text[start:stop]``."""

_SHORT = 1_000
_SIZE = 400
_OVERLAP = 60
_LEAST = 0.5
"""A passage is cut short for a better seam, but not below this share of the size that is aimed at."""

_SEAMS = (
    re.compile(r"\n[ \t\r]*\n"),  # paragraphs
    # Lines that are not indented, in code and lists; parts of JSON and of other brackets.
    re.compile(r"\n(?=[^\s}\])])|[}\]],?(?=[\s{\[\"])"),
    re.compile(r"[.!?…][\"'”’»)\]]*\s+|[。！？｡؟۔।][」』”’）]*|\n"),  # sentences, lines
    re.compile(r"[,;:،؛、，；：][\"']?\s*"),  # clauses, items
    re.compile(r"\s+"),  # words
)
"""Ends of what belongs together, the best ones first. Each takes linear time on any text."""

_BLOCK = 1  # the last of the seams between what is whole by itself
_SPACE = re.compile(r"\s+")
_INK = re.compile(r"\S")
_JOINERS = frozenset("\u200d\ufe0e\ufe0f")
_LONGEST_CLUSTER = 32


@dataclass(frozen=True, slots=True)
class _Text:
    """A text, and how many bytes its first characters take: int64 of shape (len(text) + 1,)."""

    text: str
    bytes_to: IdArray

    def find(self, size: float) -> int:
        """Return the most characters that take no more than a number of bytes."""
        return int(np.searchsorted(self.bytes_to, int(size), side="right")) - 1


def split_passages(text: str) -> list[Span]:
    """Cut a text into passages, in the order of the text; a short one is a single passage.

    Neighbours overlap by up to 60 bytes, unless they meet between paragraphs, blocks of code or items of JSON. White
    space between and around them belongs to none.

    Args:
        text: Any text.

    Returns:
        Spans of at most 400 bytes each, or the whole text if it has no more than 1,000; empty if the text is blank.
    """
    if len(text.encode("utf-8", "surrogatepass")) <= _SHORT:
        return _strip(text, 0, len(text))
    return list(_cut(_measure(text)))


def excerpt_passage(text: str, span: Span, most: int) -> str:
    """Return a passage with what surrounds it, at most ``most`` characters long; dots mark where something is left out.

    Args:
        text: The text.
        span: The passage.
        most: Maximum number of characters, at least 3.
    """
    if len(text) <= most:
        return text
    start, stop = span
    room = max(0, most - 2 - (stop - start))
    before = min(start, max(room // 2, room - (len(text) - stop)))
    first, last = start - before, min(len(text), start - before + most - 2)
    if first > 0:
        first = _to_word(text, first, start)
    if last < len(text):
        last = _avoid_cluster(text, last, min(stop, last - 1))
    dots = "…" if last < len(text) else ""
    return f"{'…' if first else ''}{text[first:last].rstrip()}{dots}"


def _to_word(text: str, first: int, start: int) -> int:
    """Return where the first whole word from a place on begins, but no place behind another one."""
    found = _SPACE.search(text, max(0, first - 1), start)
    if found:
        return found.end()
    while first < start and _is_joined(text[first - 1], text[first]):
        first += 1
    return first


def _measure(text: str) -> _Text:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    sizes = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
    return _Text(text, np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)]))


def _strip(text: str, start: int, stop: int) -> list[Span]:
    """Return a span without the white space around it; nothing if there is nothing else."""
    piece = text[start:stop]
    left = start + len(piece) - len(piece.lstrip())
    return [(left, start + len(piece.rstrip()))] if piece.strip() else []


def _cut(measured: _Text) -> Iterator[Span]:
    text, at = measured.text, measured.bytes_to
    last = len(text.rstrip())
    start = _skip_space(text, 0)
    while start < last:
        left = int(at[last] - at[start])
        if left <= _SIZE:
            yield start, last
            return
        # Parts of equal size: a full one would leave a rest too short to mean anything.
        aim = left / -(-left // _SIZE)
        low, high = measured.find(at[start] + _LEAST * aim), measured.find(at[start] + _SIZE)
        stop, seam = _find_seam(text, start, low, high, measured.find(at[start] + aim))
        yield from _strip(text, start, stop)
        start = _skip_space(text, stop if seam <= _BLOCK else _step_back(measured, start, stop))


def _skip_space(text: str, start: int) -> int:
    found = _INK.search(text, start)
    return len(text) if found is None else found.start()


def _find_seam(text: str, start: int, low: int, high: int, aim: int) -> tuple[int, int]:
    """Return the best place to cut between two others, near a third, and its rank among the seams."""
    for rank, seam in enumerate(_SEAMS):
        ends = [found.end() for found in seam.finditer(text, low, min(high + 1, len(text))) if found.end() <= high]
        if ends:
            return min(ends, key=lambda end: abs(end - aim)), rank
    return _avoid_cluster(text, max(start + 1, min(aim, high)), start + 1), len(_SEAMS)


def _step_back(measured: _Text, start: int, stop: int) -> int:
    """Return where the next passage begins so that it overlaps with one by whole sentences, clauses or words."""
    text = measured.text
    low = max(start + 1, measured.find(measured.bytes_to[stop] - _OVERLAP) + 1)
    for seam in _SEAMS[2:]:
        ends = [found.end() for found in seam.finditer(text, low, stop) if found.end() < stop]
        if ends:
            return ends[0]
    return min(_avoid_cluster(text, low, start + 1), stop)


def _avoid_cluster(text: str, place: int, least: int) -> int:
    """Return the nearest place before one that does not cut what is drawn as a single character, if there is one."""
    for back in range(place, max(least, place - _LONGEST_CLUSTER), -1):
        if back >= len(text) or not _is_joined(text[back - 1], text[back]):
            return back
    return place


def _is_joined(before: str, after: str) -> bool:
    return (
        after in _JOINERS
        or before == "\u200d"
        or unicodedata.category(after).startswith("M")
        or "\U0001f3fb" <= after <= "\U0001f3ff"
        or ("\ud800" <= before <= "\udbff" and "\udc00" <= after <= "\udfff")
        or ("\U0001f1e6" <= before <= "\U0001f1ff" and "\U0001f1e6" <= after <= "\U0001f1ff")
        or (before == "\r" and after == "\n")
    )
