"""Expressions of time in a query: "last week", "in May 2023", "yesterday", "on 24 January"."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|march|mar|april|apr|may|june|jun|july|jul|aug(?:ust)?|sept?(?:ember)?|"
    "oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_DAY = "(?:mon|tues|wednes|thurs|fri|satur|sun)day"
_NUMBER = "(?:\\d{1,3}|a|an|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)"
_YEAR = "(?:19|20)\\d\\d"

_Span = Callable[[datetime], tuple[datetime, datetime]]


def _day(moment: datetime) -> tuple[datetime, datetime]:
    start = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    return start, start + timedelta(days=1)


def _week(moment: datetime) -> tuple[datetime, datetime]:
    start = _day(moment)[0] - timedelta(days=moment.weekday())
    return start, start + timedelta(days=7)


def _month(moment: datetime) -> tuple[datetime, datetime]:
    start = _day(moment)[0].replace(day=1)
    return start, (start + timedelta(days=32)).replace(day=1)


def _year(moment: datetime) -> tuple[datetime, datetime]:
    start = _day(moment)[0].replace(month=1, day=1)
    return start, start.replace(year=start.year + 1)


# The longest spelling first: what one pattern has taken is not offered to the next.
_PATTERNS: tuple[tuple[str, _Span], ...] = (
    (f"{_YEAR}-\\d\\d-\\d\\d", _day),
    (f"\\d{{1,2}}(?:st|nd|rd|th)?(?: of)? {_MONTH},?(?: {_YEAR})?", _day),
    (f"{_MONTH} \\d{{1,2}}(?:st|nd|rd|th)?(?:,? {_YEAR})?(?!\\d)", _day),
    (f"(?:in )?(?:early |late |mid )?{_MONTH},?(?: of)? {_YEAR}", _month),
    ("(?:the )?day before yesterday", _day),
    ("yesterday|today|tonight|tomorrow", _day),
    (f"(?:last|this past|on) {_DAY}", _day),
    ("last week|this week|next week", _week),
    ("last month|this month|next month", _month),
    ("last year|this year|next year", _year),
    (f"{_NUMBER} days? ago", _day),
    (f"{_NUMBER} weeks? ago", _week),
    (f"{_NUMBER} months? ago", _month),
    (f"{_NUMBER} years? ago", _year),
    (f"(?:in|during|since|last|this) {_MONTH}\\b", _month),
    (f"(?:in|during|of|since) {_YEAR}\\b", _year),
)
_COMPILED = tuple((re.compile(rf"\b(?:{pattern})", re.IGNORECASE), span) for pattern, span in _PATTERNS)
_LEADING = re.compile(
    rf"^(?:in|on|during|of|since|the|this past|early|late|mid|(?:last|this)(?= {_MONTH}\b))\s+", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Interval:
    """A stretch of time that a query speaks of.

    Attributes:
        words: How the query put it.
        start: First moment (UTC).
        end: The moment after the last (UTC).
    """

    words: str
    start: datetime
    end: datetime


def intervals(query: str, now: datetime) -> list[Interval]:
    """Return the stretches of time that an English query speaks of, relative to ``now`` (UTC).

    Dates without a year are taken to lie in the past. What an expression means is decided by the dateparser library;
    how long a stretch it covers (day, week, month, year), by its form.
    """
    found = []
    for pattern, span in _COMPILED:
        match = pattern.search(query)
        while match:
            query = query[: match.start()] + "\x00" * len(match.group()) + query[match.end() :]
            moment = _parse(match.group(), now)
            if moment is not None:
                found.append(Interval(match.group(), *span(moment)))
            match = pattern.search(query)
    return found


def _parse(words: str, now: datetime) -> datetime | None:
    import dateparser  # its import takes a while, and few queries speak of time

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
