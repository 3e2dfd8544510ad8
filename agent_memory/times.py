"""Times as callers write them: ISO 8601 in all its precisions, datetimes, dates; and the zone they are meant in.

``2024``, ``2024-05``, ``2024-W18``, ``2024-W18-3``, ``2024-123``, ``2024-05-01`` and ``20240501`` name a period, and so
does a ``date``. With a time of day behind it (``2024-05-01T10``, ``T10:30``, ``T103000.5``, each with ``Z``, ``+02:00``
or nothing), a text names a moment, and so does a ``datetime``. What names no zone is meant in the caller's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from agent_memory.errors import InvalidInputError

_DAY = timedelta(days=1)
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)
_TICK = timedelta(microseconds=1)
_LONGEST = 60  # characters of a value that a message shows

_DATE = re.compile(
    r"(?P<year>\d{4})(?:"
    r"-?(?P<ordinal>\d{3})(?!\d)|"
    r"-(?P<month>\d\d)(?:-(?P<day>\d\d))?|(?P<month2>\d\d)(?P<day2>\d\d)|"
    r"-W(?P<week>\d\d)(?:-(?P<weekday>\d))?|W(?P<week2>\d\d)(?P<weekday2>\d)?"
    r")?",
    re.ASCII,
)
_TIME = re.compile(
    r"(?P<hour>\d\d)(?::?(?P<minute>\d\d)(?::?(?P<second>\d\d))?)?(?:[.,](?P<fraction>\d+))?"
    r" ?(?P<zone>Z|z|UTC|[+\-\u2212]\d\d(?::?\d\d)?)?",
    re.ASCII,
)
_OFFSET = re.compile(r"(?:UTC)?([+\-\u2212])(\d\d)(?::?(\d\d))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """What a caller's time stands for.

    Attributes:
        start: Its first moment (UTC).
        end: The moment at which it is over (UTC); ``start`` if it is a moment itself.
    """

    start: datetime
    end: datetime

    @property
    def last(self) -> datetime:
        """The last moment that belongs to it, to the microsecond."""
        return self.end if self.end in (self.start, _LAST) else self.end - _TICK


def parse_zone(what: str, value: object) -> tzinfo:
    """Return the time zone that a name (``Europe/Berlin``), an offset (``+02:00``) or a ``tzinfo`` gives.

    Args:
        what: Name of the argument, for messages.
        value: The zone.

    Raises:
        InvalidInputError: There is no such zone.
    """
    if isinstance(value, tzinfo):
        return value
    if not isinstance(value, str):
        raise InvalidInputError(
            f"{what} must be the name of a time zone, an offset or a tzinfo, got {type(value).__name__}"
        )
    if value in ("UTC", "Z"):
        return UTC
    if match := _OFFSET.fullmatch(value):
        return _make_offset(what, value, *match.groups())
    try:
        return ZoneInfo(value)
    except (KeyError, ValueError, OSError) as error:  # unknown; a path; a folder of zones
        raise InvalidInputError(
            f"{what} must be a time zone such as 'Europe/Berlin', 'UTC' or '+02:00', got {value[:_LONGEST]!r}"
        ) from error


def name_zone(what: str, zone: tzinfo) -> str:
    """Return the text from which ``parse_zone`` makes a zone.

    Raises:
        InvalidInputError: It has neither a name nor an offset that is always the same, in whole minutes.
    """
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)  # zoneinfo, pytz
    offset = zone.utcoffset(None) if name is None else None
    if isinstance(name, str):
        return name
    minutes, rest = divmod(offset, timedelta(minutes=1)) if offset is not None else (0, _TICK)
    if rest:
        raise InvalidInputError(f"{what} must have a name such as 'Europe/Berlin', or an offset, got {zone!r}")
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"


def parse_period(what: str, value: object, zone: tzinfo = UTC) -> Period:
    """Return the period or moment that a datetime, a date or an ISO 8601 text stands for.

    Args:
        what: Name of the argument, for messages.
        value: The time.
        zone: What a time without a zone is meant in, and where days and longer periods begin.

    Raises:
        InvalidInputError: It is none of these, or lies outside of the years 1 to 9999.
    """
    try:
        if isinstance(value, datetime):
            return _make_moment(value, zone)
        if isinstance(value, date):
            return _make_days(value, 1, zone)
        if isinstance(value, str):
            return _parse_text(value, zone)
    except (ValueError, OverflowError) as error:
        raise InvalidInputError(f"{what} is not a usable date and time: {_show(value)} ({error})") from error
    hint = "; a number is no time, datetime.fromtimestamp makes one of it" if isinstance(value, int | float) else ""
    raise InvalidInputError(
        f"{what} must be a datetime, a date or an ISO 8601 string, got {type(value).__name__}{hint}"
    )


def to_utc(local: datetime, zone: tzinfo) -> datetime:
    """Return the UTC time of a wall clock's.

    A time that the clock skips is moved on; of two equal ones the first counts. Times beyond the years 1 to 9999 become
    their end.
    """
    try:
        return local.replace(tzinfo=zone).astimezone(UTC)
    except OverflowError:
        return _FIRST if local.year < 5000 else _LAST


def _show(value: object) -> str:
    text = str(value)
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "…")


def _make_offset(what: str, value: str, sign: str, hours: str, minutes: str | None) -> tzinfo:
    offset = timedelta(hours=int(hours), minutes=int(minutes or 0))
    if offset >= _DAY or int(minutes or 0) > 59:
        raise InvalidInputError(f"{what} has an offset beyond 23:59: {value!r}")
    return timezone(offset if sign == "+" else -offset)


def _make_moment(value: datetime, zone: tzinfo) -> Period:
    # By arithmetic for what is naive: its own conversion would ask for the zone of the machine.
    moment = value.replace(tzinfo=zone) if value.utcoffset() is None else value
    moment = datetime.astimezone(moment, UTC)
    return Period(moment, moment)


def _make_days(first: date, days: int, zone: tzinfo) -> Period:
    """Return a period of whole days."""
    start = datetime.combine(first, time())
    end = datetime.max if (datetime.max - start).days < days else start + days * _DAY
    return Period(to_utc(start, zone), to_utc(end, zone))


def _parse_text(text: str, zone: tzinfo) -> Period:
    if not text or text.isspace():
        raise ValueError("it is empty")
    match = _DATE.match(text)
    if text.isdigit() and (match is None or match.end() < len(text)):
        raise ValueError("a number is no time: datetime.fromtimestamp makes one of it")
    if match is None:
        raise ValueError("ISO 8601 begins with a year of four digits, as in 2024-05-01T10:30:00+02:00")
    rest = text[match.end() :]
    if not rest:
        return _make_days(*_read_date(match), zone)
    clock = _TIME.fullmatch(rest, 1) if rest[0] in "Tt " else None
    if clock is None:
        raise ValueError(f"ISO 8601 has no {rest[:20]!r} after {match.group()!r}")
    return _read_moment(match, clock, zone)


def _read_date(match: re.Match[str]) -> tuple[date, int]:
    """Return the first day of a period that a date names, and its length in days."""
    part = match.groupdict().get
    year = int(match["year"])
    if week := part("week") or part("week2"):
        weekday = part("weekday") or part("weekday2")
        return date.fromisocalendar(year, int(week), int(weekday or 1)), 1 if weekday else 7
    if ordinal := part("ordinal"):
        day = date(year, 1, 1) + timedelta(days=int(ordinal) - 1)
        if day.year != year or ordinal == "000":
            raise ValueError(f"{year} has no day {ordinal}")
        return day, 1
    month, day_of_month = part("month") or part("month2"), part("day") or part("day2")
    if month is None:
        return date(year, 1, 1), (date(year, 12, 31) - date(year, 1, 1)).days + 1
    first = date(year, int(month), int(day_of_month or 1))
    if day_of_month:
        return first, 1
    return first, 31 if first.month == 12 else (first.replace(month=first.month + 1) - first).days


def _read_moment(match: re.Match[str], clock: re.Match[str], zone: tzinfo) -> Period:
    day, days = _read_date(match)
    if days > 1:
        raise ValueError("a time of day needs a day before it")
    hour, minute, second = (int(clock[name] or 0) for name in ("hour", "minute", "second"))
    if hour > 24 or minute > 59 or second > 60 or (hour == 24 and minute + second):
        raise ValueError("there is no such time of day")
    lowest = (
        timedelta(seconds=1) if clock["second"] else timedelta(minutes=1) if clock["minute"] else timedelta(hours=1)
    )
    fraction = clock["fraction"]
    passed = timedelta(hours=hour, minutes=minute, seconds=second)
    if fraction:
        passed += timedelta(microseconds=int(fraction[:18]) * (lowest // _TICK) // 10 ** len(fraction[:18]))
    local = datetime.combine(day, time()) + passed
    if clock["zone"]:
        zone = UTC if clock["zone"] in ("Z", "z", "UTC") else parse_zone("the zone", clock["zone"])
    moment = local.replace(tzinfo=zone).astimezone(UTC)
    return Period(moment, moment)
