"""What JSON has no form for and metadata keep all the same: NumPy's scalars, dates and times; and times in texts."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DATES = ("Y", "M", "W", "D")  # units of NumPy that name days, not moments
# ISO 8601 with all of year, month and day; other texts are hardly meant as times.
_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?", re.ASCII)

DAY = 86_400_000_000
"""Microseconds of a day."""


def to_plain(value: object) -> Any:  # noqa: ANN401 - whatever JSON has
    """Return the JSON form of a value that is not JSON: of a date or time in ISO 8601, of NumPy's a Python value.

    Args:
        value: A time without a zone is taken as UTC.

    Raises:
        TypeError: It has none.
    """
    value = to_python(value)
    if isinstance(value, datetime):
        if value != value:  # pandas' NaT
            raise TypeError("a time that is no time has no JSON form")
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).isoformat()
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def to_python(value: object) -> object:
    """Return NumPy's scalar as Python's; anything else as it is.

    Raises:
        TypeError: Python has none: complex numbers, stretches of time, times beyond its calendar.
    """
    if isinstance(value, np.datetime64):
        unit = "D" if np.datetime_data(value.dtype)[0] in _DATES else "us"
        found = value.astype(f"datetime64[{unit}]").item()
        if not isinstance(found, date):
            raise TypeError(f"the time {value} has no JSON form")
        return found
    for kind, python in ((np.bool_, bool), (np.integer, int), (np.floating, float)):
        if isinstance(value, kind) and not isinstance(value, np.timedelta64):
            return python(value)
    return value


def count_micros(moment: date) -> int:
    """Return the microseconds from 1970 to a moment, or to the beginning of a day (UTC)."""
    if not isinstance(moment, datetime):
        moment = datetime(moment.year, moment.month, moment.day)
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) // _MICROSECOND


def read_micros(text: object) -> int | None:
    """Return the microseconds from 1970 to the moment that a text names in ISO 8601; None if it names none."""
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        return None
    try:
        return count_micros(datetime.fromisoformat(text))
    except ValueError:
        return None
