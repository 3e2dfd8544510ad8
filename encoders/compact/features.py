"""Features of places, days and questions that the compact session encoder reads beside static vectors."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from agent_memory.types import FloatArray

DAY_FEATURES = 32
"""Dimension of the features of a day."""

_MONTHS = "January February March April May June July August September October November December".split()
_FIRST = re.compile(r"\b(?:first|earliest|initially|originally|(?:at|in) the (?:beginning|start))\b", re.IGNORECASE)
_LAST = re.compile(
    r"\b(?:latest|newest|most recent(?:ly)?|currently|now|these days|at the end|"
    r"last(?! (?:night|week|weekend|month|year|summer|winter|spring|fall|name|\w+day)))\b",
    re.IGNORECASE,
)
_RATES = 2 * np.pi / np.geomspace(3, 3000, DAY_FEATURES // 2)  # from days to years


def format_day(moment: datetime) -> str:
    """Return a date as people write it in questions: ``8 May 2023``."""
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"


def encode_place(before: npt.NDArray[np.integer], limit: int) -> FloatArray:
    """Encode a segment's place in its session as unit vectors that turn steadily from the first to the last.

    Args:
        before: Number of segments before each one, integers (n,).
        limit: Places from here on are not told apart.

    Returns:
        float32 (n, 4).
    """
    before = np.clip(before, 0, limit)
    shares = np.stack([np.log1p(before) / math.log1p(limit), np.sqrt(before / limit)], 1) * (np.pi / 2)
    result: FloatArray = (np.concatenate([np.cos(shares), np.sin(shares)], 1) / math.sqrt(2)).astype(np.float32)
    return result


def encode_days(days: npt.NDArray[np.integer]) -> FloatArray:
    """Encode days as unit vectors that are equal for the same day and less similar the further apart two days are.

    Args:
        days: Days counted from the year 1, integers (n,); 0 if unknown.

    Returns:
        float32 (n, 32); zeros for unknown days.
    """
    angles = np.multiply.outer(days.astype(np.float64), _RATES)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], 1) / math.sqrt(len(_RATES))
    result: FloatArray = (waves * (days > 0)[:, None]).astype(np.float32)
    return result


def _average_days(start: int, stop: int) -> FloatArray:
    """Return the mean of ``encode_days`` over consecutive days; float32 (32,).

    Evenly spaced waves add up to one at their middle (Dirichlet's kernel). "Since March" lasts for millions of days.
    """
    count, middle = stop - start, (start + stop - 1) / 2
    shares = np.sin(_RATES * (count / 2)) / (count * np.sin(_RATES / 2))
    waves = np.concatenate([np.cos(_RATES * middle) * shares, np.sin(_RATES * middle) * shares])
    result: FloatArray = (waves / math.sqrt(len(_RATES))).astype(np.float32)
    return result


def encode_dates(text: str, day: int) -> FloatArray:
    """Encode the dates and periods that a question mentions.

    Args:
        text: The question.
        day: The day it is asked on, counted from the year 1; 0 if unknown.

    Returns:
        float32 (32,), of unit length; zeros if the question mentions none or the day is unknown.
    """
    from agent_memory.timewords import intervals  # nine languages, which adding an entry can do without

    mentioned = intervals(text, datetime.fromordinal(day).replace(tzinfo=UTC)) if day else []
    spans = [(i.start.toordinal(), max(i.end.toordinal(), i.start.toordinal() + 1)) for i in mentioned]
    total = sum((_average_days(*span) for span in spans), np.zeros(DAY_FEATURES, np.float32))
    length = float(np.linalg.norm(total))
    return total / np.float32(length) if length > 1e-3 else np.zeros(DAY_FEATURES, np.float32)


def detect_order(text: str) -> FloatArray:
    """Detect whether an English question asks for the first or the last of something; float32 (2,), 1 for yes."""
    return np.array([_FIRST.search(text) is not None, _LAST.search(text) is not None], np.float32)


def measure_length(text: str) -> float:
    """Return the length of a text on a logarithmic scale on which a sentence is near 1."""
    return math.log1p(len(text)) / 5
