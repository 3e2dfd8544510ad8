"""Reads what is told from the present: yesterday, last week, three days ago, next Friday, this morning."""

from __future__ import annotations

from datetime import timedelta

from agent_memory.timewords.calendar import (
    HALVES,
    Span,
    add,
    choose,
    cover,
    cut_edge,
    make_holiday,
    make_season,
    midnight,
    part_of,
    shift,
)
from agent_memory.timewords.line import Found, Line

_DAY = timedelta(days=1)
CLOCK = ("second", "minute", "hour")
_BLOCKS = ("weekend", "quarter", "decade", "century", "night")
_AMOUNT = frozenset("num one fuzzy sesqui half unit".split())
_FIRST = _AMOUNT | frozenset("day daypart rel shifted shiftededge season agopre inpre past weekday".split())
"""What the first token of an amount, and of an expression told from the present, means."""
_FOLLOWS = ("fr", "es", "pt", "it")  # languages in which "last" follows its noun


def read_relative(line: Line, at: int, *, told: bool) -> Found:
    """Return what an expression at a position means, told from the present.

    Args:
        line: The line.
        at: The position.
        told: Whether a word before it, such as "on", says that a time follows.
    """
    if not line.begins(at, _FIRST):
        return None
    return (
        _read_day(line, at)
        or _read_shifted(line, at)
        or _read_before_last(line, at)
        or read_ago(line, at)
        or _read_ahead(line, at)
        or _read_counted(line, at)
        or _read_neighbour(line, at)
        or _read_weekend(line, at, told=told)
        or read_weekday(line, at, told=told)
    )


def _read_day(line: Line, at: int) -> Found:
    """Read "yesterday", "last night", "this morning"."""
    daypart = line.value(at, "daypart")
    today = midnight(line.now)
    if daypart is not None:
        return part_of(today + daypart[0] * _DAY, daypart[1]), at + 1
    offset = line.value(at, "day")
    if offset == 0 and line.has(at + 1, "agopre"):  # heute vor einem Jahr
        amount = read_amount(line, at + 2)
        if amount is not None and amount[1] not in CLOCK:
            return cover("day", add(today, amount[1], -amount[0][0])), amount[2]
    if offset is not None:
        return cover("day", today + offset * _DAY), at + 1
    near, part = line.value(at, "rel"), line.value(at + 1, "part")
    if near in (-1, 0) and part is not None and not line.has(at + 1, "unit"):
        return part_of(today + near * _DAY, part), at + 2
    if near == 0 and part == "night":
        return part_of(today, part), at + 2
    return None


def _read_shifted(line: Line, at: int) -> Found:
    """Read one word for a unit near the present, such as 先週, or for an edge of it, such as 年末."""
    shifted, edge = line.value(at, "shifted"), line.value(at, "shiftededge")
    if edge is not None:
        return cut_edge(shift(edge[0], 0, line.now), edge[1]), at + 1
    return None if shifted is None else (shift(shifted[0], shifted[1], line.now), at + 1)


def _read_before_last(line: Line, at: int) -> Found:
    """Read "the week before last", "the weekend after next"."""
    unit, near = line.value(at, "unit"), line.value(at + 2, "rel")
    season = line.value(at, "season")
    if season is not None and line.has(at + 1, "before", "after") and near in (-1, 1):
        found = _near_season(line, season, 2 * near)
        return None if found is None else (found, at + 3)
    if unit is None or unit in CLOCK:
        return None
    if line.has(at + 1, "before") and near == -1:
        return shift(unit, -2, line.now), at + 3
    if line.has(at + 1, "after") and near == 1:
        return shift(unit, 2, line.now), at + 3
    return None


def read_amount(line: Line, at: int) -> tuple[tuple[int, int], str, int] | None:
    """Return the least and greatest number of an amount of time, its unit, and the position behind it."""
    if not line.begins(at, _AMOUNT):
        return None
    halves = _read_halves(line, at)
    if halves is not None:
        return halves
    counts = _read_counts(line, at)
    at = line.skip(at + 1, "rel", "past", most=1) if counts and line.language.code in _FOLLOWS else at + 1
    unit = line.value(at, "unit")
    return None if counts is None or unit is None else (counts, unit, at + 1)


def _read_counts(line: Line, at: int) -> tuple[int, int] | None:
    number = line.value(at, "num") or line.value(at, "one")
    found: tuple[int, int] | None = line.value(at, "fuzzy") or (None if number is None else (number, number))
    return found


def _read_halves(line: Line, at: int) -> tuple[tuple[int, int], str, int] | None:
    """Read "half a year", "two and a half hours", "a year and a half", "anderthalb Jahre", as ``read_amount`` does."""
    number = line.value(at, "num") or line.value(at, "one")
    first = at if number is None else at + 1
    whole = 0
    if line.has(at, "sesqui"):
        whole, first = line.value(at, "sesqui"), at + 1
    elif line.has(first, "half") and number in (None, 1):
        first += 1
    elif line.has(first, "andhalf") and number is not None:
        whole, first = number, first + 1
    elif line.has(first + 1, "andhalf"):
        whole = number or 1
    else:
        return None
    unit = line.value(first, "unit")
    if unit not in HALVES:
        return None
    smaller, count = HALVES[unit]
    count = whole * count + count // 2
    return (count, count), smaller, first + 1 + line.has(first + 1, "andhalf")


def _read_turns_ago(line: Line, at: int) -> Found:
    """Read "two summers ago", "three Christmases ago"."""
    before = line.has(at, "agopre")
    at += before
    counts, end = _read_counts(line, at), at + 2
    if counts is None or not (before or line.has(end, "ago")):
        return None
    season = line.value(at + 1, "season") if line.has(at + 1, "season") else line.value(at + 1, "seasons")
    name = line.value(at + 1, "holiday")
    weekday = line.value(at + 1, "pluralday" if line.has(at + 1, "pluralday") else "weekday")
    if season is not None:
        found = [_near_season(line, season, -count) for count in reversed(counts)]
    elif name is not None:
        years = range(line.now.year - counts[1] - 1, line.now.year + 1)
        over = [span for span in (make_holiday(name, year) for year in years) if span.end <= line.now]
        found = [over[-count] for count in reversed(counts)]
    elif weekday is not None:
        behind = (line.now.weekday() - weekday) % 7 or 7
        found = [cover("day", line.now - (behind + 7 * count - 7) * _DAY) for count in reversed(counts)]
    else:
        return None
    first, last = found[0], found[-1]
    return None if first is None or last is None else (Span(first.start, last.end), end + line.has(end, "ago"))


def read_ago(line: Line, at: int) -> Found:
    """Read "three days ago", "vor drei Tagen", "a few weeks ago", "a year ago today"."""
    before = line.has(at, "agopre")
    amount = read_amount(line, at + 1 if before else at)
    if amount is None:
        return _read_turns_ago(line, at)
    (least, most), unit, end = amount
    after = line.has(end, "ago")
    if not (before or after):
        return None
    end += after
    if line.value(end, "day") == 0 and unit not in CLOCK:
        return cover("day", add(line.now, unit, -least)), end + 1
    weekday = line.value(end, "weekday")
    if unit in ("week", "fortnight") and weekday is not None:
        return _pick_weekday(shift(unit, -least, line.now), weekday), end + 1
    first, last = shift(unit, -most, line.now), shift(unit, -least, line.now)
    return (last if least == most else Span(first.start, last.end)), end


def _read_ahead(line: Line, at: int) -> Found:
    """Read "in two weeks", "two weeks from now"."""
    before = line.has(at, "inpre") and line.tense != "past"
    amount = read_amount(line, at + 1 if before else at)
    if amount is None:
        return None
    (least, most), unit, end = amount
    after = line.has(end, "later")
    if not (before or after):
        return None
    if after and line.tokens[end].text == "from today" and least == most:
        return cover("day", add(line.now, unit, least)), end + 1
    first, last = shift(unit, least, line.now), shift(unit, most, line.now)
    return (first if least == most else Span(first.start, last.end)), end + after


def _read_counted(line: Line, at: int) -> Found:
    """Read "last three days", "past week", "les trois derniers jours", "next 2 months"."""
    near = line.value(at, "rel")
    trailing = line.has(at, "past")
    if near is None and not trailing:
        return _read_counted_behind(line, at)
    at += 1
    if near is None and line.has(at, "rel"):
        at += 1
    halves = _read_halves(line, at)
    if halves is not None and near != 0:
        return stretch(line, halves[1], (-1 if trailing or near == -1 else 1) * halves[0][0]), halves[2]
    counts = line.value(at, "fuzzy") or ((line.value(at, "num"),) * 2 if line.has(at, "num") else None)
    unit = line.value(at + 1 if counts else at, "unit")
    if unit is None or (near == 0 and not trailing):
        return None
    if counts is None:
        only = trailing and near is None
        closed = unit in _BLOCKS or unit == "second"
        the = line.language.trails and near == -1 and line.has(at - 2, "the")
        if closed or not (only or the) or line.has(at + 1, "of"):
            return None
        return stretch(line, unit, -1), at + 1
    direction = -1 if trailing or near == -1 else 1
    return stretch(line, unit, direction * max(counts)), at + 2


def _read_counted_behind(line: Line, at: int) -> Found:
    """Read "trois derniers jours", where the number comes first."""
    number, near = line.value(at, "num"), line.value(at + 1, "rel")
    unit = line.value(at + 2, "unit") if near else None
    follows = line.language.code in _FOLLOWS
    if number is None or unit is None or not follows or abs(near) != 1:
        return None
    return stretch(line, unit, near * number), at + 3


def stretch(line: Line, unit: str, count: int) -> Span:
    """Return the days of the last or next so many units, today included; of hours, to the minute."""
    now = line.now
    if unit in CLOCK:
        other = add(now, unit, count)
        return Span(min(now, other), max(now, other) + timedelta(microseconds=1))
    if unit in _BLOCKS:
        near, far = shift(unit, 1 if count > 0 else -1, now), shift(unit, count, now)
        return Span(far.start, near.end) if count < 0 else Span(near.start, far.end)
    today, outermost = cover("day", now), cover("day", add(now, unit, count))
    return Span(outermost.start, today.end) if count < 0 else Span(today.start, outermost.end)


def _read_neighbour(line: Line, at: int) -> Found:
    """Read "last week", "this month", "la semaine dernière", "last summer"."""
    near, noun = line.value(at, "rel"), at + 1
    if near is None and line.has(at, "past"):
        near = -1
        noun = at + 1
    if near is None and line.language.code in _FOLLOWS and line.has(at + 1, "rel"):
        near, noun = line.value(at + 1, "rel"), at
    if near is None:
        return None
    end = max(at + 1, noun) + 1
    season, unit = line.value(noun, "season"), line.value(noun, "unit")
    if season is not None and line.is_trusted(noun, end):
        found = _near_season(line, season, near)
        return None if found is None else (found, end)
    if unit is None or unit in (*CLOCK, "day") or (unit == "night" and near != -1 and near != 0):
        return None
    if unit == "weekend" and near == 1 and line.has(at, "nearest"):
        near = 0
    return shift(unit, near, line.now), end


def _read_weekend(line: Line, at: int, *, told: bool) -> Found:
    """Read "at the weekend", which weekends are not."""
    if not told or line.value(at, "unit") != "weekend" or line.has(at - 1, "every") or line.has(at, "weekdays"):
        return None
    return shift("weekend", -1 if line.tense in ("past", "untold") else 0, line.now), at + 1


def _near_season(line: Line, season: int, near: int) -> Span | None:
    """Return the last season of its kind that is over, the next that begins, or this year's."""
    year, now = line.now.year, line.now
    seasons = [make_season(year + offset, season) for offset in range(-abs(near) - 2, abs(near) + 3)]
    if near == 0:
        holding = [span for span in seasons if span.start <= now < span.end]
        return holding[0] if holding else make_season(year, season)
    if near < 0:
        over = [span for span in seasons if span.end <= now]
        return over[near] if len(over) >= -near else None
    ahead = [span for span in seasons if span.start > now]
    return ahead[near - 1] if len(ahead) >= near else None


def _pick_weekday(week: Span, weekday: int) -> Span:
    return cover("day", week.start + weekday * _DAY)


def read_weekday(line: Line, at: int, *, told: bool) -> Found:
    """Read "last Friday", "Friday", "vendredi prochain", "Monday last week"."""
    near, day_at = line.value(at, "rel"), at + 1
    if near is None and line.has(at, "past"):
        near = -1
    weekday = line.value(day_at, "weekday") if near is not None else None
    if weekday is None:
        near, day_at = None, at
        weekday = line.value(at, "weekday")
    if weekday is None or line.has(at - 1, "every"):
        return None
    end = day_at + 1
    if near is None and line.has(end, "rel") and (line.language.code in _FOLLOWS) and not line.has(end + 1, "unit"):
        near, end = line.value(end, "rel"), end + 1
    for kind, step in (("before", -1), ("after", 1)):
        if near is None and line.has(end, kind) and line.value(end + 1, "rel") == step:
            near, end = 2 * step, end + 2  # the Saturday after next
    told = (told and not line.has(day_at - 1, "the")) or near is not None  # not "in the sun"
    if line.is_weak(day_at) and (not told or line.is_plain(end)):
        return None
    return _place_weekday(line, weekday, near, end)


def _place_weekday(line: Line, weekday: int, near: int | None, end: int) -> Found:
    today = midnight(line.now)
    if near is None:
        inner = line.skip(end, "of", "the", "comma", "in", most=2)
        week = read_relative(line, inner, told=False) if not line.has(inner, "weekday") else None
        if week is None and inner > end and line.has(inner - 1, "inpre"):
            week = _read_ahead(line, inner - 1)
        if week is not None and week[0].grain in ("week", "fortnight"):
            return _pick_weekday(week[0], weekday), week[1]
        near = -1 if line.tense in ("past", "untold") else 1
        floating = "week"
    else:
        floating = ""
    behind = (today.weekday() - weekday) % 7 or 7
    ahead = (weekday - today.weekday()) % 7 or 7
    if near == 0:
        start = today + (weekday - today.weekday()) * _DAY
    else:
        start = today - behind * _DAY + (near + 1) * 7 * _DAY if near < 0 else today + (ahead + (near - 1) * 7) * _DAY
    return Span(start, start + _DAY, "day", floating), end


def choose_season(line: Line, season: int) -> Span | None:
    """Return the season that "in the summer" means."""
    seasons = [make_season(line.now.year + offset, season) for offset in (-1, 0, 1)]
    return choose(seasons, line.now, line.tense)
