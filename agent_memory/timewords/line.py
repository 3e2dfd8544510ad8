"""A text's tokens beside what is known of the asker: the line along which the grammar reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, TypeAlias

from agent_memory.timewords.calendar import Span, Tense
from agent_memory.timewords.words import Language, Token

Found: TypeAlias = tuple[Span, int] | None
"""What was read, and the position behind it."""


STARTS = frozenset(
    (
        "month weekday date numeric monthday yearmonth isoweek quarter trimester halfyear halfword season day "
        "daypart shifted unit part ord decade decadeword decadesign holiday year yearsign monthsign daysign "
        "weekword nth quartersign seasons pluralday shiftededge"
    ).split()
)
"""Meanings without which a text mentions no time."""

_BEGINS = STARTS | frozenset(
    "rel past num fuzzy one agopre inpre edge clock half sesqui weekword yearword last".split()
)
_OPENS = _BEGINS | frozenset("since after before until by between in from of".split())
_ASIDE = frozenset("common lapsed coming present label every owner bare nearest weekdays".split())
"""Meanings of words that no expression holds; they only say what the words beside them mean."""


@dataclass(frozen=True)
class Line:
    """Tokens, read from left to right.

    Attributes:
        tokens: The tokens.
        language: Their language.
        now: The wall clock's time of the question.
        date_order: As for ``intervals``.
    """

    tokens: Sequence[Token]
    language: Language
    now: datetime
    date_order: str

    @cached_property
    def tense(self) -> Tense:
        """Whether the question is about the past, the present or the future."""
        kinds = {kind for token in self.tokens for kind in token.means}
        if "lapsed" in kinds:
            return "past"
        return "future" if "coming" in kinds else "present" if "present" in kinds else "untold"

    @cached_property
    def day_first(self) -> bool:
        """Whether 5/8/2023 is the 5th of August, by another date of the text or else by its language."""
        if self.date_order != "auto":
            return self.date_order == "day-first"
        for token in self.tokens:
            first, second, _, sign = token.means.get("numeric", (0, 0, 0, "."))
            if sign != "." and (first > 12) != (second > 12):
                return bool(first > 12)
        return self.language.day_first

    def list_openings(self) -> list[int]:
        """Return the positions at which an expression, with the directions before it, may begin.

        Each expression holds a token without which a text mentions no time, and none before that has no meaning. Most
        words that may open one, such as "in", stand before neither.
        """
        found, near = [], False
        for at in range(len(self.tokens) - 1, -1, -1):
            means = self.tokens[at].means
            if not means:
                near = False
            elif not STARTS.isdisjoint(means):
                near = True
            elif near:
                near = not means.keys() <= _ASIDE
            if near and not _OPENS.isdisjoint(means):
                found.append(at)
        return found[::-1]

    def value(self, at: int, kind: str) -> Any:  # noqa: ANN401 - what the kind has
        """Return a meaning of the token at a position, or None."""
        return self.tokens[at].means.get(kind) if 0 <= at < len(self.tokens) else None

    def has(self, at: int, *kinds: str) -> bool:
        """Return whether the token at a position has one of several meanings."""
        return 0 <= at < len(self.tokens) and not self.tokens[at].means.keys().isdisjoint(kinds)

    def begins(self, at: int, kinds: frozenset[str]) -> bool:
        """Return whether the token at a position has one of many meanings: a cheap test before several readers."""
        return 0 <= at < len(self.tokens) and not kinds.isdisjoint(self.tokens[at].means)

    def may_begin(self, at: int) -> bool:
        """Return whether a period may begin with the token at a position."""
        return self.begins(at, _BEGINS)

    def skip(self, at: int, *kinds: str, most: int = 3) -> int:
        """Return the position behind up to ``most`` tokens that have one of several meanings."""
        end = at + most
        while at < end and self.has(at, *kinds):
            at += 1
        return at

    def is_plain(self, at: int) -> bool:
        """Return whether there is a word without any meaning at a position."""
        return 0 <= at < len(self.tokens) and not self.tokens[at].means and self.tokens[at].text.isalpha()

    def is_weak(self, at: int) -> bool:
        """Return whether the word at a position may as well be no word of time."""
        return 0 <= at < len(self.tokens) and self.tokens[at].text in self.language.weak

    def is_trusted(self, at: int, end: int) -> bool:
        """Return whether the word at a position is one of time, by itself or because no plain word is behind it."""
        if not self.is_weak(at):
            return True
        return not self.is_plain(end) or (self.tokens[at].capital and not self.tokens[end].capital and at > 0)

    def day_number(self, at: int) -> tuple[int, int] | None:
        """Return a day of a month and the position behind it."""
        day = self.value(at, "ord") or self.value(at, "num")
        if day is None or not 1 <= day <= 31:
            return None
        dotted = self.value(at + 1, "sign") == "." and self.tokens[at].text.isdecimal()
        return day, at + 2 if dotted else at + 1
