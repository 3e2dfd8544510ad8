"""Compares readers of expressions of time on the list of tests/data/expressions.tsv.

    python benchmarks/timewords.py own dateparser parsedatetime timefhuman metadate chrono recognizers

Right is a moment (or the start of a range) inside the span that is meant; "span" is a range with its very bounds.
Sentences without a time must give nothing. Each library that is named must be installed.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

NOW = datetime(2024, 6, 12, 9, 0)
LIST = Path(__file__).parents[1] / "tests" / "data" / "expressions.tsv"
Read = Callable[[str, str], list[tuple[datetime, datetime | None]]]


def own() -> Read:
    """Return the reader of this package."""
    from agent_memory import timewords

    def read(text: str, _: str) -> list[tuple[datetime, datetime | None]]:
        found = timewords.intervals(text, NOW.replace(tzinfo=UTC))
        return [(one.start.replace(tzinfo=None), one.end.replace(tzinfo=None)) for one in found]

    return read


def dateparser() -> Read:
    """Return ``dateparser.search``, told the language."""
    from dateparser.search import search_dates

    settings = {"RELATIVE_BASE": NOW, "PREFER_DATES_FROM": "past", "PREFER_DAY_OF_MONTH": "first"}

    def read(text: str, language: str) -> list[tuple[datetime, datetime | None]]:
        found = search_dates(text, languages=[language], settings=settings) or []
        return [(moment.replace(tzinfo=None), None) for _, moment in found]

    return read


def parsedatetime() -> Read:
    """Return ``parsedatetime``."""
    from parsedatetime import Calendar

    calendar = Calendar()

    def read(text: str, _: str) -> list[tuple[datetime, datetime | None]]:
        return [(moment, None) for moment, *_ in calendar.nlp(text, sourceTime=NOW) or ()]

    return read


def timefhuman() -> Read:
    """Return ``timefhuman``."""
    from timefhuman import tfhConfig
    from timefhuman import timefhuman as parse

    config = tfhConfig(now=NOW)

    def read(text: str, _: str) -> list[tuple[datetime, datetime | None]]:
        flat: list[Any] = []
        for one in parse(text, config=config) or ():
            flat += one if isinstance(one, list) else [one]
        return [_pair(one) for one in flat if _pair(one)[0] is not None]

    return read


def _pair(value: object) -> tuple[Any, Any]:
    if isinstance(value, tuple):
        return value[0] if isinstance(value[0], datetime) else None, value[1]
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, datetime.min.time()), None
    return value if isinstance(value, datetime) else None, None


def metadate() -> Read:
    """Return ``metadate``."""
    from metadate import parse_date

    def read(text: str, _: str) -> list[tuple[datetime, datetime | None]]:
        found = parse_date(text, reference_date=NOW, multi=True) or []
        return [(one.start_date, one.end_date) for one in found]

    return read


def chrono() -> Read:
    """Return ``chrono-python``."""
    import chrono_python

    def read(text: str, _: str) -> list[tuple[datetime, datetime | None]]:
        found = chrono_python.parse(text, NOW)
        return [(one.start.date(), one.end.date() if one.end else None) for one in found]

    return read


def recognizers() -> Read:
    """Return ``recognizers-text``, told the language."""
    from recognizers_date_time import recognize_datetime

    cultures = {"en": "en-us", "es": "es-es", "fr": "fr-fr", "pt": "pt-br", "zh": "zh-cn"}

    def read(text: str, language: str) -> list[tuple[datetime, datetime | None]]:
        found = []
        for one in recognize_datetime(text, cultures[language], reference=NOW):
            for value in (one.resolution or {}).get("values", ())[:1]:
                start = value.get("start") or value.get("value")
                try:
                    end = value.get("end")
                    found.append((datetime.fromisoformat(start), datetime.fromisoformat(end) if end else None))
                except (TypeError, ValueError):
                    continue
        return found

    return read


def parse_span(text: str) -> tuple[datetime, datetime]:
    """Return the bounds that a span of the list has."""
    start, end = text.split("/")
    first = datetime.min if start == ".." else datetime.fromisoformat(start)
    return first, datetime.max if end == ".." else datetime.fromisoformat(end)


def measure(name: str) -> None:
    """Print how a reader does on the list."""
    read = globals()[name]()
    rows = [line.split("\t") for line in LIST.read_text("utf-8").splitlines()]
    right: dict[str, list[int]] = {}
    false = sentences = bounds = failed = 0
    times = []
    read("warm up yesterday", "en")
    for language, text, spans in rows:
        began = time.perf_counter()
        try:
            found = read(text, language)
        except Exception:
            found, failed = [], failed + 1
        times.append(time.perf_counter() - began)
        if not spans:
            sentences, false = sentences + 1, false + bool(found)
            continue
        wanted = [parse_span(span) for span in spans.split()]
        hits = [any(s <= one[0] < e for one in found) for s, e in wanted]
        exact = all(any((one[0], one[1]) == (s, e) for one in found) for s, e in wanted)
        counts = right.setdefault(language, [0, 0])
        counts[0], counts[1] = counts[0] + all(hits), counts[1] + 1
        bounds += exact
    times.sort()
    english = right.pop("en")
    others = [sum(column) for column in zip(*right.values(), strict=True)]
    print(
        f"{name:14} English {english[0]}/{english[1]}  others {others[0]}/{others[1]}  with bounds {bounds}  "
        f"false {false}/{sentences}  failed {failed}  ms {1000 * times[len(times) // 2]:.2f} "
        f"(95 %: {1000 * times[int(len(times) * 0.95)]:.2f})"
    )


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    for one in sys.argv[1:]:
        measure(one)
