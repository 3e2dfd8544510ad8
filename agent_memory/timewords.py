"""Time expressions in a query: "last week", "in May 2023", "yesterday", "on 24 January"."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|march|mar|april|apr|may|june|jun|july|jul|aug(?:ust)?|sept?(?:ember)?|"
    "oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY = "(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_NUMBER = "(?:\\d{1,3}|a|an|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_YEAR = "(?:19|20)\\d\\d"

_MOST = 32  # periods of a query; who names more asks for none in particular

_Cover: TypeAlias = Callable[[datetime], tuple[datetime, datetime]]
"""From a moment to the start and end of the day, week, month or year around it."""


def _cover_day(moment: datetime) -> tuple[datetime, datetime]:
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=1)


def _cover_week(moment: datetime) -> tuple[datetime, datetime]:
    start = _cover_day(moment)[0] - timedelta(days=moment.weekday())
    return start, start + timedelta(days=7)


def _cover_month(moment: datetime) -> tuple[datetime, datetime]:
    start = _cover_day(moment)[0].replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def _cover_year(moment: datetime) -> tuple[datetime, datetime]:
    start = _cover_day(moment)[0].replace(month=1, day=1)
    return start, start.replace(year=start.year + 1)


# Longest spelling first: text that one pattern has matched is hidden from the next.
_PATTERNS: tuple[tuple[str, _Cover], ...] = (
    (f"{_YEAR}-\\d\\d-\\d\\d", _cover_day),
    (f"\\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH},?(?: {_YEAR})?", _cover_day),
    (f"{_MONTH} \\d{{1,2}}(?:st|nd|rd|th)?(?:,? {_YEAR})?(?!\\d)", _cover_day),
    (f"(?:in )?(?:early |late |mid )?{_MONTH},?(?: of)? {_YEAR}", _cover_month),
    ("(?:the )?day before yesterday", _cover_day),
    ("yesterday|today|tonight|tomorrow", _cover_day),
    (f"(?:last|this past|on) {_DAY}", _cover_day),
    ("last week|this week|next week", _cover_week),
    ("last month|this month|next month", _cover_month),
    ("last year|this year|next year", _cover_year),
    (f"{_NUMBER} days? ago", _cover_day),
    (f"{_NUMBER} weeks? ago", _cover_week),
    (f"{_NUMBER} months? ago", _cover_month),
    (f"{_NUMBER} years? ago", _cover_year),
    (f"(?:in|during|since|last|this) {_MONTH}\\b", _cover_month),
    (f"(?:in|during|of|since) {_YEAR}\\b", _cover_year),
)
_COMPILED = tuple((re.compile(rf"\b(?:{pattern})", re.IGNORECASE), cover) for pattern, cover in _PATTERNS)
_LEADING = re.compile(
    rf"^(?:in|on|during|of|since|the|this past|early|late|mid|(?:last|this)(?= {_MONTH}\b))\s+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A period that a query mentions.

    Attributes:
        words: The words of the query.
        start: Start of the period (UTC).
        end: End of the period (UTC), exclusive.
    """

    words: str
    start: datetime
    end: datetime


def intervals(query: str, now: datetime, stop: Callable[[], bool] = lambda: False) -> list[Interval]:
    """Return the periods that an English query mentions, relative to ``now`` (UTC).

    Dates without a year are assumed to lie in the past. The dateparser library decides which moment an expression
    means; the form of the expression decides whether it covers a day, a week, a month or a year. Of several words for
    the same period the first count, and of more than 32 periods the first that are found.

    Args:
        query: The query.
        now: What "yesterday" and the like refer to (UTC).
        stop: Asked before each expression; True ends the search.
    """
    found: dict[tuple[datetime, datetime], Interval] = {}
    for words, cover in _find_expressions(query):
        if len(found) == _MOST or stop():
            break
        moment = _parse(words, now)
        if moment is not None:
            interval = Interval(words, *cover(moment))
            found.setdefault((interval.start, interval.end), interval)
    return list(found.values())


def _find_expressions(query: str) -> Iterator[tuple[str, _Cover]]:
    """Yield the different expressions of time in a query."""
    seen: set[str] = set()
    for pattern, cover in _COMPILED:
        matches = [match.group() for match in pattern.finditer(query)]
        query = pattern.sub(lambda match: "\x00" * len(match.group()), query) if matches else query
        for words in matches:
            if words.lower() not in seen:
                seen.add(words.lower())
                yield words, cover


def _parse(words: str, now: datetime) -> datetime | None:
    import dateparser  # slow to import, and few queries mention a time

    plain = _LEADING.sub("", _LEADING.sub("", words))
    weekday = re.fullmatch(rf"(?:last )?({_DAY})", plain, re.IGNORECASE)
    settings = {
        "RELATIVE_BASE": now.replace(tzinfo=None),
        "PREFER_DATES_FROM": "past",
        "PREFER_DAY_OF_MONTH": "first",
        "RETURN_AS_TIMEZONE_AWARE": False,
    }
    parsed = dateparser.parse(weekday.group(1) if weekday else plain, languages=["en"], settings=settings)
    return None if parsed is None else parsed.replace(tzinfo=UTC)
