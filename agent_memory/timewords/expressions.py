"""Reads whole expressions: dates with their parts of a day, and the directions and ranges they stand in."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from agent_memory.timewords.calendar import Span, around, cover, cut_edge, make_season, part_of, shift
from agent_memory.timewords.dates import read_date, read_month
from agent_memory.timewords.line import Found, Line
from agent_memory.timewords.relative import CLOCK, read_amount, read_relative, stretch

_DAY = timedelta(days=1)
_BETWEEN = ("of", "the", "in", "at", "comma")


def read_expression(line: Line, at: int) -> Found:
    """Return the span that an expression of time at a position means, open spans included."""
    found = _read_open(line, at) or _read_between(line, at) or _read_apart(line, at)
    if found is not None:
        return found
    if line.has(at, "in", "from", "of"):
        inner = line.skip(at + 1, "the", "in", most=2)
        found = _read_range(line, inner, told=True)
        if found is not None:
            return _read_behind(line, found, onward=line.has(at, "from"))
    found = _read_range(line, at, told=False)
    return None if found is None else _read_behind(line, found, onward=False)


# --- directions and ranges --------------------------------------------------------------------------------


def _read_open(line: Line, at: int) -> Found:
    """Read "since May", "after 2022", "before yesterday", "until March", "by Friday"."""
    kind = next((kind for kind in ("since", "after", "before", "until", "by") if line.has(at, kind)), None)
    if kind is None:
        return None
    inner = line.skip(at + 1, "the", "in", most=2)
    amount = read_amount(line, inner) if kind == "since" else None
    found = _read_range(line, inner, told=True)
    if amount is not None and found is None:
        return replace(stretch(line, amount[1], -amount[0][1]), end=datetime.max), amount[2]
    if found is None:
        return None
    span, end = found
    if span.grain == "range" and kind == "since":  # "dal 3 al 5 marzo", where one word means both
        return found
    return _open(span, "until" if kind == "by" else kind), end


def _open(span: Span, kind: str) -> Span:
    """Return the time since, after, before or until a span."""
    return {
        "since": Span(span.start, datetime.max),
        "after": Span(span.end, datetime.max),
        "before": Span(datetime.min, span.start),
        "until": Span(datetime.min, span.end),
    }[kind]


def _read_apart(line: Line, at: int) -> Found:
    """Read "three days before Christmas", "the week after Easter"."""
    amount = read_amount(line, at)
    if amount is None:
        unit = line.value(at, "unit")
        if unit not in ("day", "night", "week", "weekend", "month", "year"):
            return None
        amount = (1, 1), unit, at + 1
    end = amount[2]
    step = -1 if line.has(end, "before") else 1 if line.has(end, "after") else 0
    found = _read_period(line, line.skip(end + 1, "the", "in", most=2), told=True) if step else None
    apart = None if found is None else _step_away(found[0], amount[0], amount[1], step)
    return None if found is None or apart is None else (apart, found[1])


def _read_apart_behind(line: Line, span: Span, end: int) -> Found:
    """Read what stands behind a day in 圣诞节前三天 and クリスマスの3日前."""
    if line.language.spaced:
        return None
    for kind, own, step in (("postbefore", "ago", -1), ("postafter", "later", 1)):
        first = line.has(end, kind)
        amount = read_amount(line, end + 1 if first else line.skip(end, "of", most=1))
        if amount is None or not (first or line.has(amount[2], own)):
            continue
        apart = _step_away(span, amount[0], amount[1], step)
        return None if apart is None else (apart, amount[2] + (not first))
    return None


def _step_away(span: Span, counts: tuple[int, int], unit: str, step: int) -> Span | None:
    """Return what lies so many units before (``step`` -1) or after (1) a span; None for hours and less."""
    if unit in CLOCK:
        return None
    edges = [span.start if step < 0 else span.end - _DAY]
    if span.grain == "holiday":  # "two days before Christmas" may be told from its eve or its day
        middle = cover("day", span.start + (span.end - span.start) / 2).start
        edges = [*edges, middle] if unit in ("day", "night") else [middle]
    spans = [shift(unit, step * count, edge) for count in counts for edge in edges]
    return Span(min(one.start for one in spans), max(one.end for one in spans))


def _read_behind(line: Line, found: tuple[Span, int], *, onward: bool) -> Found:
    """Read what stands behind a span in some languages: "from 2022 on", 3月から, 2023年以前."""
    span, end = found
    if datetime.min == span.start or datetime.max == span.end:
        return found
    apart = _read_apart_behind(line, *found) if span.grain in ("day", "holiday") else None
    if apart is not None:
        return apart
    if onward and line.has(end, "onward") and not line.is_plain(end + 1):
        return _open(span, "since"), end + 1
    if line.has(end, "postsince"):
        right = _read_period(line, end + 1, told=True)
        if right is not None:
            return _join(span, right[0]), right[1] + line.has(right[1], "postuntil")
    for kind in ("since", "after", "before", "until"):
        if line.has(end, f"post{kind}"):
            return _open(span, kind), end + 1
    return found


def _read_between(line: Line, at: int) -> Found:
    """Read "between May and June 2023"."""
    if not line.has(at, "between"):
        return None
    first = line.skip(at + 1, "the", "in", most=2)
    hours = _read_clock_range(line, first)
    if hours is not None:
        return hours
    left = _read_shortened(line, first, "and") or _read_period(line, first, told=True)
    if left is None or not line.has(left[1], "and"):
        return None
    right = _read_period(line, line.skip(left[1] + 1, "the", "in", most=2), told=True)
    return None if right is None else (_join(left[0], right[0]), right[1])


def _read_range(line: Line, at: int, *, told: bool) -> Found:
    """Read a period, or two with "to" or a dash between them."""
    if not line.may_begin(at):
        return None
    left = _read_clock_range(line, at)
    if left is not None:
        return left
    told = told or (line.has(at, "month") and line.has(at + 1, "to", "dash") and line.has(at + 2, "month"))
    left = _read_shortened(line, at, "to") or _read_shortened(line, at, "dash")
    left = left or _read_year_pair(line, at) or _read_period(line, at, told=told)
    if left is None or not (line.has(left[1], "to", "dash") or _is_interval(line, left[1])):
        return left
    inner = line.skip(left[1] + 1, "the", "in", most=2)
    right = _read_days_right(line, left[0], inner) or _read_period(line, inner, told=True)
    if right is None:
        return left
    joined = _join(left[0], right[0])
    return (joined, right[1]) if joined.start < joined.end else left


def _is_interval(line: Line, at: int) -> bool:
    """Return whether a slash joins two dates of ISO 8601."""
    return line.value(at, "sign") == "/" and line.has(at - 1, "date") and line.has(at + 1, "date")


def _read_clock_range(line: Line, at: int) -> Found:
    """Read "from 5 pm to 7 pm yesterday"."""
    first = _read_clock(line, at)
    if first is None or not line.has(first[1], "to", "dash", "and"):
        return None
    part = line.value(first[1] + 1, "part")
    last = (12 * 60, first[1] + 2) if part == "noon" else _read_clock(line, first[1] + 1)
    found = None if last is None else _read_period(line, line.skip(last[1], *_BETWEEN, most=2), told=True)
    if last is None or found is None or found[0].grain != "day":
        return None
    start, end = (found[0].start + timedelta(minutes=clock[0]) for clock in (first, last))
    return (Span(start, end, "part"), found[1]) if start < end else None


def _read_shortened(line: Line, at: int, link: str) -> Found:
    """Read the "3" of "3 to 5 March 2023", whose month stands behind the second number."""
    first = line.day_number(at)
    if first is None or not line.has(first[1], link):
        return None
    inner = line.skip(first[1] + 1, "the", most=1)
    if line.day_number(inner) is None:
        return None
    right = read_date(line, inner, told=True)
    if right is None or right[0].grain != "day":
        return None
    try:
        start = right[0].start.replace(day=first[0])
    except ValueError:
        return None
    return Span(start, start + _DAY, "day", right[0].floating), first[1]


def _read_year_pair(line: Line, at: int) -> Found:
    """Read the first year of "2019-2021"."""
    pair = line.has(at, "year") and line.has(at + 1, "dash") and line.has(at + 2, "year")
    return (cover("year", datetime(line.value(at, "year"), 1, 1)), at + 1) if pair else None


def _read_days_right(line: Line, left: Span, at: int) -> Found:
    """Read the "5" of "March 3 to 5", with the year behind it."""
    day = line.day_number(at)
    if day is None or left.grain != "day" or line.has(day[1], "month", "monthsign", "unit", "of"):
        return None
    end = line.skip(day[1], "comma", most=1)
    year = line.value(end, "year")
    try:
        start = left.start.replace(day=day[0], year=year or left.start.year)
    except ValueError:
        return None
    return Span(start, start + _DAY, "day", "" if year else left.floating), end + 1 if year else day[1]


def _join(left: Span, right: Span) -> Span:
    """Return the time from one span to another; a year that only one of them names is that of both."""
    if right.floating == "week" and left.grain == "day":
        right = cover("day", left.start + (right.start.weekday() - left.start.weekday()) % 7 * _DAY)
    elif left.floating == "week":
        left = cover("day", right.start - (right.start.weekday() - left.start.weekday()) % 7 * _DAY)
    elif left.floating and not right.floating:
        left = _move(left, right.start.year - left.start.year)
        if left.start > right.start:
            left = _move(left, -1)
    elif right.floating and not left.floating and left.start <= right.start:
        earlier = _move(right, left.start.year - right.start.year)
        right = earlier if earlier.start >= left.start else _move(earlier, 1)
    elif right.floating and left.start > right.start:
        later = _move(right, left.start.year - right.start.year)
        right = later if later.start >= left.start else _move(later, 1)
    return Span(left.start, right.end, "range")


def _move(span: Span, years: int) -> Span:
    """Return a span so many years later."""
    try:
        return replace(
            span,
            start=span.start.replace(year=span.start.year + years),
            end=span.end.replace(year=span.end.year + years),
        )
    except ValueError:
        return span


# --- periods ----------------------------------------------------------------------------------------------


def _read_period(line: Line, at: int, *, told: bool) -> Found:
    """Read one period, without directions."""
    if not line.may_begin(at):
        return None
    found = _read_edge(line, at) or _read_hour_of(line, at) or _read_week_of(line, at)
    if found is None:
        found = read_date(line, at, told=told) or read_relative(line, at, told=told)
    if found is None:
        return None
    return _refine(line, *found, started=at)


def _read_edge(line: Line, at: int) -> Found:
    """Read "early May", "end of last month", "first half of 2023"."""
    edge = line.value(at, "edge")
    if edge is None:
        return None
    inner = line.skip(at + 1, *_BETWEEN, "dash", most=2)
    unit = line.value(inner, "unit")
    if unit in ("week", "month", "quarter", "year", "decade") and line.has(inner - 1, "the"):
        return cut_edge(shift(unit, 0, line.now), edge), inner + 1
    found = _read_period(line, inner, told=True)
    if found is None or found[0].grain not in (
        "week",
        "month",
        "quarter",
        "half",
        "year",
        "season",
        "decade",
        "century",
    ):
        return None
    return cut_edge(found[0], edge), found[1]


def _read_week_of(line: Line, at: int) -> Found:
    """Read "the week of 5 May", "the weekend of the 4th of May"."""
    unit = line.value(at, "unit")
    if unit not in ("week", "weekend") or not line.has(at + 1, "of"):
        return None
    found = read_date(line, line.skip(at + 1, "of", "the", most=2), told=True)
    return None if found is None or found[0].grain != "day" else (cover(unit, found[0].start), found[1])


def _read_hour_of(line: Line, at: int) -> Found:
    """Read "the morning of 5 May", "5 pm on Friday"."""
    clock, part = _read_clock(line, at), line.value(at, "part")
    if clock is None and (part is None or line.has(at, "day")):
        return None
    inner = line.skip(clock[1] if clock else at + 1, *_BETWEEN, most=2)
    close = part in ("noon", "midnight") and line.has(inner, "day")  # noon yesterday
    found = _read_period(line, inner, told=True) if clock or close or inner > at + 1 else None
    if found is None or found[0].grain != "day":
        return None
    day = found[0].start
    return (around(day, clock[0]) if clock else part_of(day, part)), found[1]


def _read_clock(line: Line, at: int) -> tuple[int, int] | None:
    """Return the minutes of a time of day, and the position behind it."""
    minutes = line.value(at, "clock")
    if minutes is not None:
        return minutes, at + 1
    hour = line.value(at, "num")
    spoken = line.has(at + 1, "spoken") or (line.has(at - 1, "at") and line.has(at + 1, "day", "daypart"))
    if hour is None or hour > 24 or not spoken:
        return None
    return hour * 60, at + 1 + line.has(at + 1, "spoken")


def _refine(line: Line, span: Span, end: int, *, started: int) -> Found:
    """Read what narrows a period down behind it: a month of a year, a weekday of a week, a time of a day."""
    if span.grain == "year":
        return _refine_year(line, span, end)
    if span.grain in ("week", "fortnight"):
        inner = line.skip(end, *_BETWEEN, most=2)
        weekday = line.value(inner, "weekday")
        if weekday is not None and not line.is_weak(inner):
            return _refine(line, cover("day", span.start + weekday * _DAY), inner + 1, started=started)
        number = line.value(end, "num") or (7 if line.has(end, "daysign") else 0)
        if not line.language.spaced and 1 <= number <= 7 and not line.has(end + 1, "unit", "monthsign"):
            return _refine(line, cover("day", span.start + (number - 1) * _DAY), end + 1, started=started)  # 上周五
    if span.grain == "day":
        return _refine_day(line, span, end, started)
    edge = line.value(end, "endedge")
    return (cut_edge(span, edge), end + 1) if edge else (span, end)


def _refine_year(line: Line, span: Span, end: int) -> Found:
    """Read "last year in May", "2023 Q3", 去年夏天."""
    inner = line.skip(end, *_BETWEEN, most=2)
    if not line.has(inner, "month", "season", "num", "ord", "quarter", "halfsign", "endedge", "nth"):
        return span, end
    year = span.start.year
    half = line.value(inner, "halfsign")
    if half is not None:
        return cover("half", datetime(year, 6 * half - 5, 1)), inner + 1
    if line.has(inner, "endedge") and inner == end:
        return cut_edge(span, line.value(inner, "endedge")), inner + 1
    season = line.value(inner, "season")
    if season is not None and not line.is_weak(inner) | (line.language.spaced and line.is_plain(inner + 1)):
        return make_season(year, season), inner + 1
    if season is not None and not line.language.spaced:
        return make_season(year, season), inner + 1
    found = read_date(line, inner, told=inner > end) or read_month(line, inner, told=True)
    if found is None or not found[0].floating:
        return span, end
    return _move(found[0], year - found[0].start.year), found[1]


def _refine_day(line: Line, span: Span, end: int, started: int) -> Found:
    """Read "yesterday evening", "Friday at 5 pm", "5 May in the morning"."""
    minutes = line.value(started, "time")
    if minutes is not None and end == started + 1:
        return around(span.start, minutes), end
    if own := line.value(end - 1, "partof"):  # Freitagabend
        return part_of(span.start, own), end
    inner = line.skip(end, *_BETWEEN)
    part = line.value(inner, "part")
    clock = _read_clock(line, inner)
    if clock is not None:
        return around(span.start, clock[0]), clock[1]
    if part is not None and (inner == end or line.has(inner - 1, "of", "the", "in", "at")):
        clock = _read_clock(line, line.skip(inner + 1, "at", "of", most=1))
        return (around(span.start, clock[0]), clock[1]) if clock else (part_of(span.start, part), inner + 1)
    return span, end
