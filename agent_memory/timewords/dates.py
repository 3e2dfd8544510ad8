"""Reads dates of the calendar: 5 May 2023, 2023-05-08, in March, Q3 2023, the 90s, Christmas, 2023年3月."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timedelta

from agent_memory.timewords.calendar import (
    Span,
    Tense,
    choose,
    cover,
    make_decade,
    make_holiday,
    make_month,
    make_season,
)
from agent_memory.timewords.line import Found, Line
from agent_memory.timewords.relative import choose_season, read_relative

_DAY = timedelta(days=1)
_BEHIND = ("of", "comma", "the", "in", "yearword")
_LOOSE = ("of", "on", "at", "for", "about", "around", "over", "within", "de", "von", "van", "di")
_FIRST = frozenset(
    (
        "date yearmonth isoweek numeric monthday weekday month ord num last year shifted quarter trimester halfyear "
        "nth decade decadeword weekword rel holiday season yearword"
    ).split()
)
"""What the first token of a date means."""
_EARLIEST, _LATEST = 1800, 2100  # years that a number by itself may stand for


def read_date(line: Line, at: int, *, told: bool) -> Found:
    """Return what a date of the calendar at a position means.

    Args:
        line: The line.
        at: The position.
        told: Whether a word before it, such as "in", says that a time follows.
    """
    if not line.begins(at, _FIRST):
        return None
    return (
        _read_signs(line, at, told=told)
        or _read_weekday_before(line, at, told=told)
        or _read_calendar_day(line, at, told=told)
        or _read_nth(line, at)
        or _read_year_sign(line, at)
        or _read_quarter(line, at)
        or _read_decade(line, at)
        or _read_week_number(line, at)
        or _read_holiday(line, at, told=told)
        or read_month(line, at, told=told)
        or _read_season(line, at, told=told)
        or _read_year_alone(line, at, told=told)
        or _read_day_of_month(line, at, told=told)
    )


# --- years ------------------------------------------------------------------------------------------------


def read_year(line: Line, at: int) -> tuple[int, int] | None:
    """Return a year that stands behind a month, quarter or season ("2023", "last year"), and the position behind it."""
    at = line.skip(at, *_BEHIND)
    if line.value(at, "sign") == "/":
        at += 1
    year = line.value(at, "year")
    if year is not None:
        return year, at + 1
    found = (
        read_relative(line, at, told=False) if line.has(at, "rel", "shifted", "num", "one", "agopre", "unit") else None
    )
    if found is not None and found[0].grain == "year":
        return found[0].start.year, found[1]
    return None


def _in_year(line: Line, make: Callable[[int], Span], at: int) -> tuple[Span, int] | None:
    """Return what is made for the year that is named at a position, or else for the year that is meant."""
    named = read_year(line, at)
    if named is not None:
        return make(named[0]), named[1]
    span = choose(list(_each_year(line, make)), line.now, line.tense)
    return None if span is None else (replace(span, floating="year"), at)


def _each_year(line: Line, make: Callable[[int], Span]) -> Iterable[Span]:
    reach = 8 if _never(make) else 1
    for year in range(max(1, line.now.year - reach), line.now.year + reach + 1):
        try:
            yield make(year)
        except ValueError:  # 29 February
            continue


def _never(make: Callable[[int], Span]) -> bool:
    """Return whether something is not made every year: 29 February."""
    try:
        return make(2023) is None
    except ValueError:
        return True


def _make_day(year: int, month: int, day: int) -> Span:
    start = datetime(year, month, day)
    return Span(start, start + _DAY, "day")


# --- signs ------------------------------------------------------------------------------------------------


def _read_signs(line: Line, at: int, *, told: bool) -> Found:
    """Read 2023-05-08, 2023-05, 2024-W18, 5/8/2023 and, if it is told to be a date, 5/8."""
    try:
        if day := line.value(at, "date"):
            return _make_day(*day), at + 1
        if month := line.value(at, "yearmonth"):
            return make_month(*month), at + 1
        if week := line.value(at, "isoweek"):
            first_day = datetime.fromisocalendar(week[0], week[1], week[2] if len(week) > 2 else 1)
            return cover("day" if len(week) > 2 else "week", first_day), at + 1
        if (numeric := line.value(at, "numeric")) and not line.has(at - 1, "label"):
            first, second, year, sign = numeric
            return _make_day(year, *_order(line, first, second, sign)), at + 1
        if told and (numeric := line.value(at, "monthday")):
            month_, day_ = _order(line, *numeric)
            return _in_year(line, lambda year: _make_day(year, month_, day_), at + 1)
    except ValueError:
        return None
    return None


def _order(line: Line, first: int, second: int, sign: str) -> tuple[int, int]:
    """Return month and day."""
    day_first = sign == "." or (line.day_first if first <= 12 and second <= 12 else first > 12)
    return (second, first) if day_first else (first, second)


# --- days and months --------------------------------------------------------------------------------------


def _read_weekday_before(line: Line, at: int, *, told: bool) -> Found:
    """Read "Friday, 5 May 2023": the date counts."""
    if not line.has(at, "weekday") or line.has(at - 1, "every"):
        return None
    inner = line.skip(at + 1, "comma", "the", "sign", "of")
    found = _read_calendar_day(line, inner, told=True) or _read_signs(line, inner, told=True)
    return None if found is None or found[0].grain != "day" else found


def _read_calendar_day(line: Line, at: int, *, told: bool) -> Found:
    """Read "5 May 2023", "the 5th of May", "May 5", "5th of last month"."""
    if line.has(at, "month"):
        return _read_month_first(line, at, told=told)
    numbered = line.day_number(at)
    if numbered is None:
        return None
    day, end = numbered
    month_at = line.skip(end, "of", "the", most=2)
    month = line.value(month_at, "month")
    try:
        if month is None:
            return _read_day_of_last_month(line, day, month_at) if month_at > end else None
        found = _in_year(line, lambda year: _make_day(year, month, day), month_at + 1)
    except ValueError:
        return None
    sure = found is not None and (not found[0].floating or line.has(at, "ord") or told or month_at > end)
    return found if sure or _is_day_first(line, at, month_at) else None


def _is_day_first(line: Line, at: int, month_at: int) -> bool:
    """Return whether a number before the name of a month is a day: not in "version 2 sept", "only 5 may enter"."""
    weak = line.is_weak(month_at)
    if line.has(at - 1, "label"):
        return not weak and line.tokens[month_at].capital
    return not weak or not line.is_plain(month_at + 1) or line.tokens[month_at].capital


def _read_month_first(line: Line, at: int, *, told: bool) -> Found:
    number_at = line.skip(at + 1, "the", most=1)
    numbered = line.day_number(number_at) if not line.has(number_at, "clock") else None
    if (
        numbered is None
        or line.has(numbered[1], "unit", "month")
        or line.language.code in ("fr", "es", "pt", "it", "nl")
    ):
        return None
    month, (day, end) = line.value(at, "month"), numbered
    try:
        found = _in_year(line, lambda year: _make_day(year, month, day), end)
    except ValueError:
        return None
    if found is None or not line.is_weak(at) or not found[0].floating or line.has(number_at, "ord") or told:
        return found
    small = not line.tokens[at].capital and line.has(end, "common") and not line.has(end, "in", "and", "to")
    return None if line.is_plain(end) or small else found


def _read_day_of_last_month(line: Line, day: int, at: int) -> Found:
    found = read_relative(line, at, told=False) if line.has(at, "rel", "unit", "shifted") else None
    if found is None or found[0].grain != "month":
        return None
    return _make_day(found[0].start.year, found[0].start.month, day), found[1]


def read_month(line: Line, at: int, *, told: bool) -> Found:
    """Read "May 2023", "last May", "mayo pasado" and, behind a word such as "in", "May"."""
    near, month_at = line.value(at, "rel"), at + 1
    if near is None or not line.has(month_at, "month"):
        near, month_at = None, at
    month, end = line.value(month_at, "month"), month_at + 1
    if month is None:
        return None
    if near is None and line.has(end, "rel") and not line.has(end + 1, "unit"):
        near, end = line.value(end, "rel"), end + 1
    if near is not None:
        return (_near_month(line, month, near), end) if line.is_trusted(month_at, end) else None
    found = _in_year(line, lambda year: make_month(year, month), end)
    if found is None or not found[0].floating:
        return found
    shared = _share_year(line, end)
    if shared is not None and (told or not line.is_weak(month_at)):
        return make_month(shared, month), end
    named = line.tokens[month_at].capital and not line.has(at - 1, "since", "before", "after", "until", "by")
    plain = line.is_plain(end) and line.is_weak(month_at) and not named
    return found if told and not plain and line.is_trusted(month_at, end) else None


def _share_year(line: Line, at: int) -> int | None:
    """Return the year of the last of several months: "May and June 2023"."""
    while line.has(at, "and", "comma") and line.has(at + 1, "month"):
        at += 2
        if line.has(at, "year"):
            return int(line.value(at, "year"))
    return None


def _near_month(line: Line, month: int, near: int) -> Span:
    year = line.now.year
    if near < 0:
        year += near + 1 - (month >= line.now.month)
    elif near > 0:
        year += near - (month > line.now.month)
    return make_month(year, month)


def _read_day_of_month(line: Line, at: int, *, told: bool) -> Found:
    """Read "on the 5th", where no noun follows."""
    day = line.value(at, "ord")
    digits = day is not None and line.tokens[at].text[0].isdecimal()
    if not (told and digits and line.has(at - 1, "the")) or line.is_plain(at + 1) or not 1 <= day <= 31:
        return None
    months = []
    for offset in (-2, -1, 0, 1, 2):
        year, month = divmod(line.now.year * 12 + line.now.month - 1 + offset, 12)
        try:
            months.append(_make_day(year, month + 1, day))
        except ValueError:
            continue
    span = choose(months, line.now, line.tense)
    return None if span is None else (span, at + 1)


def _read_nth(line: Line, at: int) -> Found:
    """Read "first Monday of May 2023", "last Sunday in March", "first week of June"."""
    nth = -1 if line.has(at, "last") else line.value(at, "ord")
    weekday, unit = line.value(at + 1, "weekday"), line.value(at + 1, "unit")
    if nth is None or (weekday is None and unit not in ("week", "day", "weekend")) or not line.has(at + 2, "of"):
        return None
    inner = line.skip(at + 2, "of", "the")
    found = read_month(line, inner, told=True) or read_relative(line, inner, told=False)
    if found is None or found[0].grain != "month":
        return None
    month, end = found
    days = [month.start + n * _DAY for n in range((month.end - month.start).days)]
    if weekday is not None or unit == "weekend":
        days = [day for day in days if day.weekday() == (5 if weekday is None else weekday)]
        kind = "day" if weekday is not None else "weekend"
    elif unit == "week":
        days, kind = ([*days[::7][:4], days[-7]] if nth < 0 else days[::7]), ""
        chosen = days[nth - 1] if 0 < nth <= 4 else days[-1]
        return Span(chosen, min(chosen + 7 * _DAY, month.end)), end  # seven days each from the 1st on
    else:
        kind = "day"
    chosen_at = nth if nth < 0 else nth - 1
    return (cover(kind, days[chosen_at]), end) if -len(days) <= chosen_at < len(days) else None


def _read_year_sign(line: Line, at: int) -> Found:
    """Read 2023年3月5日, 3月, 5日: numbers with a sign behind each."""
    year, start = _read_signed_year(line, at)
    end = start
    month = line.value(end, "num") if line.has(end + 1, "monthsign") else None
    if month is not None:
        end = line.skip(end + 2, "of", most=1)
    day = line.value(end, "num") if line.has(end + 1, "daysign") and not line.has(end + 2, "ago", "later") else None
    if day is not None and (month is not None or year is None):
        end += 2
    elif month is not None and line.has(end - 1, "of"):
        end -= 1
    try:
        if month is not None or (day is not None and year is None):
            return _make_signed(line, year, month, day, end)
        if year is not None and not line.has(at, "shifted"):
            return cover("year", datetime(year, 1, 1)), at + 2
    except ValueError:
        return None
    return None


def _read_signed_year(line: Line, at: int) -> tuple[int | None, int]:
    """Return the year of 2023年 or 去年, if there is one, and the position behind it."""
    if line.has(at, "year") and line.has(at + 1, "yearsign"):
        return line.value(at, "year"), line.skip(at + 2, "of", most=1)
    shifted = line.value(at, "shifted")
    if shifted is not None and shifted[0] == "year":
        return line.now.year + shifted[1], line.skip(at + 1, "of", most=1)
    return None, at


def _make_signed(line: Line, year: int | None, month: int | None, day: int | None, end: int) -> Found:
    def make(named: int) -> Span:
        return make_month(named, month or 1) if day is None else _make_day(named, month or line.now.month, day)

    return _in_year(line, make, end) if year is None else (make(year), end)


# --- quarters, seasons, decades, years --------------------------------------------------------------------


def _read_quarter(line: Line, at: int) -> Found:
    """Read "Q3 2023", "third quarter of last year", "H1 2024", 第3四半期."""
    number, end, months = line.value(at, "quarter"), at + 1, 3
    if number is None and line.language.code in ("fr", "es", "pt", "it"):
        number = line.value(at, "trimester")
    if number is None and line.has(at, "halfyear"):
        number, months = line.value(at, "halfyear"), 6
    if number is None:
        start = at + 1 if line.has(at, "nth") else at
        numbered = line.day_number(start)
        unit_at = numbered[1] if numbered else start
        quarter = line.value(unit_at, "unit") == "quarter" and (line.has(start, "ord", "nth") or unit_at > start + 1)
        if numbered and line.has(unit_at, "halfword"):
            number, end, months = numbered[0], unit_at + 1, 6
        elif numbered and (quarter or line.has(unit_at, "quartersign")):
            number, end = numbered[0], unit_at + 1
    if number is None or not 1 <= number <= 12 // months:
        return None
    month, unit = (number - 1) * months + 1, "quarter" if months == 3 else "half"
    return _in_year(line, lambda year: cover(unit, datetime(year, month, 1)), end)


def _read_season(line: Line, at: int, *, told: bool) -> Found:
    """Read "summer of 2023", "in the summer"."""
    season = line.value(at, "season")
    if season is None:
        return None
    named = read_year(line, at + 1)
    if named is not None:
        return make_season(named[0], season), named[1]
    if not told or line.has(at + 1, "rel") or (line.is_plain(at + 1) and line.language.spaced):
        return None
    found = choose_season(line, season)
    return None if found is None else (found, at + 1)


def _read_decade(line: Line, at: int) -> Found:
    """Read "the 90s", "1990s", "nineties", "années 90", 90年代, "19th century"."""
    if line.value(at + 1, "unit") == "century" and line.has(at, "ord", "num"):
        number = line.value(at, "ord") or line.value(at, "num")
        return (cover("century", datetime(100 * number - 99, 1, 1)), at + 2) if 1 < number < 30 else None
    value, end = line.value(at, "decade"), at + 1
    if value is None and line.has(at, "decadeword"):
        numbers = (line.value(at + 1, kind) for kind in ("tens", "num", "year"))
        value, end = next((number for number in numbers if number), None), at + 2
    elif value is None and line.has(at + 1, "decadesign"):
        value, end = line.value(at, "num") or line.value(at, "year"), at + 2
    elif value is not None and value < 100 and line.value(at, "bare") and not _is_era(line, at):
        return None
    if value is None or value % 10 or not (value in range(10, 100) or 1000 <= value < 2200):
        return None
    return make_decade(value, line.now), line.skip(end, "yearword", most=1)


def _is_era(line: Line, at: int) -> bool:
    """Return whether "nineties" are years rather than an age or a temperature."""
    return line.has(at - 1, "the", "in", "edge", "dash") and not line.has(at - 1, "owner")


def _read_week_number(line: Line, at: int) -> Found:
    """Read "week 18 of 2024", "KW 18"."""
    number = line.value(at + 1, "num") if line.has(at, "weekword") and not line.has(at - 1, "num", "rel") else None
    if number is None or not 1 <= number <= 53:
        return None

    def make(year: int) -> Span:
        return cover("week", datetime.fromisocalendar(year, number, 1))

    try:
        return _in_year(line, make, at + 2)
    except ValueError:
        return None


def _read_holiday(line: Line, at: int, *, told: bool) -> Found:
    """Read "last Christmas", "Easter 2023", "at Christmas"."""
    near, name_at = line.value(at, "rel"), at + 1
    if near is None or not line.has(name_at, "holiday"):
        near, name_at = None, at
    name = line.value(name_at, "holiday")
    if name is None:
        return None
    end = name_at + 1
    if near is None and line.has(end, "rel"):
        near, end = line.value(end, "rel"), end + 1
    if near is None:
        found = _in_year(line, lambda year: make_holiday(name, year), end)
        sure = told or not line.language.spaced
        return found if found and (sure or not found[0].floating) else None
    days = [make_holiday(name, line.now.year + offset) for offset in (-1, 0, 1)]
    tense: Tense = "past" if near < 0 else "future" if near > 0 else "present"
    span = days[1] if near == 0 else choose(days, line.now, tense)
    return None if span is None else (span, end)


def _read_year_alone(line: Line, at: int, *, told: bool) -> Found:
    """Read "2023" behind a word such as "in", if it counts nothing."""
    start = line.skip(at, "yearword", most=1)
    year = line.value(start, "year")
    told = told or start > at or line.has(at + 1, "quarter", "halfyear", "trimester")
    if year is None or not told or not _EARLIEST <= year < _LATEST:
        return None
    if start == at and (line.has(at + 1, "unit") or (line.is_plain(at + 1) and _counts(line, at))):
        return None
    return cover("year", datetime(year, 1, 1)), start + 1


def _counts(line: Line, at: int) -> bool:
    """Return whether a number counts the word behind it: "in 2000 steps", "a crowd of 2000 people"."""
    after = line.tokens[at + 1]
    return not after.capital and (after.text.endswith("s") or line.tokens[at - 1].text in _LOOSE)
