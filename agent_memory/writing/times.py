"""Times as other people's files write them; each is understood as one moment, or refused."""

from __future__ import annotations

import re
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import Any

from agent_memory import inputs
from agent_memory.errors import InvalidInputError

# Fast, and for what the library below reads differently; it takes the rest.
_FORMATS = (
    "%B-%d-%Y",
    "%Y/%m/%d (%a) %H:%M",
    "%Y/%m/%d",
    "%I:%M %p on %d %B, %Y",
    "%d %B %Y",
    "%a, %d %b %Y %H:%M:%S %z",
    "%a, %d %b %Y %H:%M:%S GMT",
    "%d.%m.%Y, %H:%M:%S",
    "%d.%m.%Y, %H:%M",
    "%d.%m.%Y",
)
_LANGUAGES = ["en", "de", "fr", "es", "it", "pt", "nl"]
_SETTINGS = {"STRICT_PARSING": True, "PARSERS": ["absolute-time"]}
_NUMBER = re.compile(r"\d{9,19}(\.\d+)?")
_NUMERIC_DATE = re.compile(r"(?<!\d)\d{1,2}([/.-])\d{1,2}\1\d{2,4}(?!\d)")
_ODD_MONTH = re.compile(r"\d{4}[/.-](?!(0?[1-9]|1[0-2])[/.-])\d")  # which the library takes for a day
_MOST_CHARS = 100
# Of seconds, milliseconds, microseconds and nanoseconds since 1970: each from 1973 to 5138.
_UNITS = ((1e8, 1e11, 1), (1e11, 1e14, 1e3), (1e14, 1e17, 1e6), (1e17, 1e20, 1e9))


def read_time(value: object, zone: tzinfo = UTC) -> datetime | None:
    """Return the moment (UTC) that a value of a file names; None for a value that is missing or blank.

    Understood are numbers of seconds, milliseconds, microseconds or nanoseconds since 1970, ISO 8601, RFC 2822, and
    dates that are spelled out, such as "1:56 pm on 8 May, 2023".

    Args:
        value: The value.
        zone: What a time that names no zone is meant in.

    Raises:
        InvalidInputError: It names no day, or 05/08/2023 could be one of two.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float | datetime):
        raise InvalidInputError(f"a time must be a string or a number, got {inputs.type_name(value)}")
    if isinstance(value, int | float):
        return _from_number(value)
    if isinstance(value, datetime):
        return inputs.parse_time("time", value, zone)
    text = value.strip()
    if _NUMBER.fullmatch(text):
        return _from_number(float(text))
    return _from_text(text, zone)


def _from_number(value: float) -> datetime:
    for least, most, unit in _UNITS:
        if least <= value < most:
            return datetime.fromtimestamp(value / unit, UTC)
    raise InvalidInputError(f"the time {str(value)[:40]} is no number of seconds or milliseconds since 1970")


@lru_cache(maxsize=4096)
def _from_text(text: str, zone: tzinfo) -> datetime:
    for form in _FORMATS:
        try:
            found = [inputs.parse_time("time", datetime.strptime(text, form), zone)]
            break
        except ValueError:
            continue
    else:
        found = _parse_iso(text, zone) or _parse_spelled(text, zone)
    if len(found) > 1:
        raise InvalidInputError(f"the time {text[:60]!r} could be either of two days; write it as year-month-day")
    if not found or found[0] is None:
        raise InvalidInputError(f"the time {text[:60]!r} is not understood")
    return found[0]


def _parse_iso(text: str, zone: tzinfo) -> list[datetime | None]:
    """Return the moment of a text in ISO 8601; nothing if it is in another form."""
    if not re.match(r"\d{4}-|\d{8}(?!\d)", text):  # four digits alone are hardly a moment
        return []
    try:
        return [inputs.parse_time("time", datetime.fromisoformat(text), zone)]
    except ValueError:
        pass
    try:
        return [inputs.parse_time("time", text, zone)] if text[4] == "-" else []
    except InvalidInputError:
        return []


def _parse_spelled(text: str, zone: tzinfo) -> list[datetime | None]:
    """Return the moments that a date in words or numbers may mean."""
    if len(text) > _MOST_CHARS or text.isdigit() or not any(map(str.isdigit, text)) or _ODD_MONTH.match(text):
        return []
    orders = ("DMY", "MDY") if _NUMERIC_DATE.search(text) else ("MDY",)
    return list({_parse_in_order(text, order, zone) for order in orders} - {None})


def _parse_in_order(text: str, order: str, zone: tzinfo) -> datetime | None:
    import dateparser  # takes half a second, and few files need it

    settings: dict[str, Any] = {**_SETTINGS, "DATE_ORDER": order}
    try:
        found = dateparser.parse(text, languages=_LANGUAGES, settings=settings)
    except (ValueError, OverflowError, RecursionError):
        return None
    return inputs.parse_time("time", found, zone)
