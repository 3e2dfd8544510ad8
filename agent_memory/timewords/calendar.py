"""The calendar of a wall clock: what day, week, month, season or night a moment belongs to, and its neighbours.

All times here are naive: those of a clock on the wall of the place where the question is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

Tense: TypeAlias = Literal["past", "present", "future", "untold"]

_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_CLOCK = {"hour": _HOUR, "minute": timedelta(minutes=1), "second": timedelta(seconds=1)}
_DAYS = {"day": 1, "week": 7, "weekend": 7, "night": 1, "fortnight": 14}
HALVES = {
    "minute": ("second", 60),
    "hour": ("minute", 60),
    "day": ("hour", 24),
    "week": ("day", 7),
    "month": ("day", 30),
    "year": ("month", 12),
    "decade": ("year", 10),
    "century": ("year", 100),
}
"""Smaller units in which halves of units are told, and how many a whole one has."""
_MONTHS = {"month": 1, "quarter": 3, "half": 6, "year": 12, "season": 12, "decade": 120, "century": 1200}
PARTS = {
    "morning": (5, 12),
    "noon": (11, 14),
    "afternoon": (12, 18),
    "evening": (17, 24),
    "night": (18, 30),
    "midnight": (23, 25),
}
"""First and last hour of the parts of a day; a night ends in the next one."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a wall clock's time.

    Attributes:
        start: Its start; ``datetime.min`` if it has none.
        end: Its end, exclusive; ``datetime.max`` if it has none.
        grain: The unit it is one of, such as ``day``; empty for any other stretch.
        floating: What nothing said: ``year`` or, for a weekday, ``week``; else empty.
    """

    start: datetime
    end: datetime
    grain: str = ""
    floating: str = ""


def midnight(moment: datetime) -> datetime:
    """Return the beginning of a moment's day."""
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def add(moment: datetime, unit: str, count: int) -> datetime:
    """Return the moment so many units later; the 31st becomes the last day of a shorter month.

    Raises:
        ValueError: It lies outside of the years 1 to 9999.
        OverflowError: As ValueError.
    """
    if unit in _CLOCK:
        return moment + count * _CLOCK[unit]
    if unit in _DAYS:
        return moment + timedelta(days=count * _DAYS[unit])
    months = moment.year * 12 + moment.month - 1 + count * _MONTHS[unit]
    first = moment.replace(year=months // 12, month=months % 12 + 1, day=1)
    return first.replace(day=min(moment.day, _count_days(first)))


def _count_days(first: datetime) -> int:
    return ((first + timedelta(days=32)).replace(day=1) - first).days


def cover(unit: str, moment: datetime) -> Span:
    """Return the day, week, month, … that a moment belongs to; of a clock's units, that around the moment."""
    if unit in _CLOCK:
        half = _CLOCK[unit] / 2
        return Span(moment - half, moment + half, unit)
    day = midnight(moment)
    if unit == "day":
        return Span(day, day + _DAY, unit)
    if unit == "night":
        return part_of(day, "night")
    if unit in ("week", "fortnight"):
        start = day - day.weekday() * _DAY
        return Span(start, add(start, unit, 1), unit)
    if unit == "weekend":
        start = day + (5 - day.weekday()) * _DAY
        return Span(start, start + 2 * _DAY, unit)
    size = _MONTHS[unit]
    months = (day.year * 12 + day.month - 1) // size * size
    if unit == "century":  # the 20th begins with 1901, but everybody means 1900
        months = day.year // 100 * 1200
    start = datetime(max(1, months // 12), months % 12 + 1, 1)
    return Span(start, add(start, unit, 1), unit)


def shift(unit: str, count: int, now: datetime) -> Span:
    """Return the unit that lies so many units after the present one."""
    return cover(unit, add(now, unit, count))


def part_of(day: datetime, part: str) -> Span:
    """Return a part of a day."""
    first, last = PARTS[part]
    return Span(day + first * _HOUR, day + last * _HOUR, "part")


def around(day: datetime, minutes: int) -> Span:
    """Return the hour around a time of day."""
    moment = day + timedelta(minutes=minutes)
    return Span(moment - _HOUR / 2, moment + _HOUR / 2, "clock")


def make_month(year: int, month: int) -> Span:
    """Return a month."""
    return cover("month", datetime(year, month, 1))


def make_season(year: int, season: int) -> Span:
    """Return a season of the northern half of the earth, 0 for spring to 3 for the winter that begins in that year."""
    start = datetime(year, 3 * season + 3, 1)
    return Span(start, add(start, "month", 3), "season")


def make_decade(value: int, now: datetime) -> Span:
    """Return a decade; one of two digits is that of the present or the last century."""
    if value < 100:
        value += now.year // 100 * 100
        value -= 100 if value > now.year else 0
    return cover("decade", datetime(value, 1, 1))


def choose(candidates: list[Span], now: datetime, tense: Tense) -> Span | None:
    """Return the one of several spans, earliest first, that somebody means who speaks in a tense."""
    began = [span for span in candidates if span.start <= now]
    ahead = [span for span in candidates if span.end > now]
    if tense == "future" and ahead:
        return ahead[0]
    if tense == "present":
        return min(candidates, key=lambda span: abs(span.start - now), default=None)
    return began[-1] if began else (ahead[0] if ahead else None)


def cut_edge(span: Span, edge: str) -> Span:
    """Return the early, middle or late third of a span, or its first or last half."""
    days = (span.end - span.start).days
    if span.grain in ("year", "season", "decade", "quarter", "half"):
        months = round(days / 30.44)
        first, second = (add(span.start, "month", months * part // 3) for part in (1, 2))
        middle = add(span.start, "month", months // 2)
    elif span.grain == "month":
        first, second, middle = (span.start + timedelta(days=day) for day in (10, 20, 15))
    else:
        first, second, middle = (span.start + timedelta(days=days * part // 6) for part in (2, 4, 3))
    return {
        "early": Span(span.start, first),
        "mid": Span(first, second),
        "late": Span(second, span.end),
        "first half": Span(span.start, middle),
        "second half": Span(middle, span.end),
    }[edge]


def easter(year: int) -> datetime:
    """Return Easter Sunday of the Gregorian calendar (the anonymous algorithm of Meeus, Astronomical Algorithms)."""
    a, b, c = year % 19, year // 100, year % 100
    d, e = divmod(b, 4)
    h = (19 * a + b - d - (b - (b + 8) // 25 + 1) // 3 + 15) % 30
    i, k = divmod(c, 4)
    el = (32 + 2 * e + 2 * i - h - k) % 7
    m = (a + 11 * h + 22 * el) // 451
    month, day = divmod(h + el - 7 * m + 114, 31)
    return datetime(year, month, day + 1)


def make_holiday(name: str, year: int) -> Span:
    """Return the days of a holiday: ``christmas``, ``easter`` or ``MM-DD``."""
    if name == "christmas":
        return Span(datetime(year, 12, 24), datetime(year, 12, 27), "holiday")
    if name == "easter":
        sunday = easter(year)
        return Span(sunday - 2 * _DAY, sunday + 2 * _DAY, "holiday")
    if name == "thanksgiving":
        first = datetime(year, 11, 1)
        day = first + ((3 - first.weekday()) % 7 + 21) * _DAY
        return Span(day, day + _DAY, "holiday")
    month, day_of_month = map(int, name.split("-"))
    start = datetime(year, month, day_of_month)
    return Span(start, start + _DAY, "holiday")
