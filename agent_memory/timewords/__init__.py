"""Expressions of time in a text: "last week", "since May 2023", "letzten Freitag", 昨天.

``intervals`` reads them by the rules of ``expressions`` from the words of nine languages (``languages``).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo

from agent_memory.times import to_utc
from agent_memory.timewords.calendar import Span
from agent_memory.timewords.expressions import read_expression
from agent_memory.timewords.languages import SPACED, UNSPACED
from agent_memory.timewords.line import STARTS, Line
from agent_memory.timewords.words import Language, Token, give_meanings, split, write_digits

_MOST = 32  # periods of a query; who names more asks for none in particular
_MOST_READ = 256  # expressions, the same ones counted again
_DATED = frozenset("month date numeric monthday monthsign yearmonth isoweek decade decadeword decadesign year".split())
_FIRST, _LAST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
# Numbers that may be years, days or times of day, and signs of quarters: what ``words`` reads without a word.
_NUMERIC = re.compile(r"\d(?:[^\W\d_]|[/.:-]\d|[’'°]|(?<![a-z0-9].)\d{3})|\b[qth]\d|['’]\d\d\b", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_WORD = re.compile(r"[^\W\d_]+")
_OWNING = re.compile(r"['’]s\b", re.IGNORECASE)
_LETTERS = "".join(chr(code).lower() if chr(code).isalpha() else " " for code in range(128))
_ALIKE = {"es": "fr", "pt": "fr", "it": "fr"}  # read numbers in the same way
_CLOSE = 1  # words by which a language may lag behind the likeliest
_ASIAN, _KANA = re.compile("[\u3040-\u9fff\uff10-\uff19]"), re.compile("[\u3040-\u30ff]")


@dataclass(frozen=True, slots=True)
class Interval:
    """A period that a text mentions.

    Attributes:
        words: The words of the text.
        start: Start of the period (UTC); the year 1 if it has none.
        end: End of the period (UTC), exclusive; the year 9999 if it has none.
        dated: Whether the words name a month, a year or a decade; else they are told from now ("last week").
    """

    words: str
    start: datetime
    end: datetime
    dated: bool

    @property
    def open(self) -> bool:
        """Whether it has no start or no end."""
        return self.start == _FIRST or self.end == _LAST


def intervals(
    text: str, now: datetime, *, date_order: str = "auto", stop: Callable[[], bool] = lambda: False
) -> list[Interval]:
    """Return the periods that a text mentions, told from ``now``, with the bounds that days have in its zone.

    Dates without a year are assumed to lie in the past, unless the text speaks of the present or the future. Of several
    words for the same period the first count, and of more than 32 periods the first.

    Args:
        text: A question or statement in English, German, French, Spanish, Portuguese, Italian, Dutch, Japanese or
            Chinese.
        now: What "yesterday" and the like refer to, in the zone whose days are meant.
        date_order: What 5/8/2023 means: ``day-first``, ``month-first``, or ``auto`` for the order that another date of
            the text shows, else that of its language.
        stop: Asked before each expression; True ends the search.
    """
    readings = _choose_languages(text)
    if not readings:
        return []
    zone = now.tzinfo or UTC
    found: dict[tuple[datetime, datetime], Interval] = {}
    for count, (words, span, dated) in enumerate(_read(text, readings, now.replace(tzinfo=None), date_order)):
        if len(found) == _MOST or count == _MOST_READ or stop():
            break
        interval = _place(words, span, zone, dated=dated)
        if interval.start < interval.end:
            found.setdefault((interval.start, interval.end), interval)
    return list(found.values())


def _place(words: str, span: Span, zone: tzinfo, *, dated: bool) -> Interval:
    start = _FIRST if datetime.min == span.start else to_utc(span.start, zone)
    return Interval(words, start, _LAST if datetime.max == span.end else to_utc(span.end, zone), dated)


def _read(
    text: str, readings: Sequence[tuple[Language, list[Token]]], now: datetime, date_order: str
) -> Iterator[tuple[str, Span, bool]]:
    """Yield the expressions of a text, their spans, and whether they are dated, by the languages it may be in."""
    taken: set[int] = set()  # characters that an expression of a likelier language covers
    for language, tokens in readings:
        line = Line(tokens, language, now, date_order)
        for first, last, span in _scan(line):
            place = range(tokens[first].start, tokens[last].end)
            if taken.isdisjoint(place):
                taken.update(place)
                dated = any(line.has(at, *_DATED) for at in range(first, last + 1))
                yield text[place.start : place.stop], span, dated


def _scan(line: Line) -> Iterator[tuple[int, int, Span]]:
    """Yield the positions of the first and last token of each expression, and its span."""
    behind = 0
    for at in line.list_openings():
        if at < behind:
            continue
        try:
            found = read_expression(line, at)
        except (ValueError, OverflowError):  # beyond the years 1 to 9999
            found = None
        if found is None:
            continue
        span, behind = found
        first = at
        if not line.has(at, "since", "before", "after", "until", "by", "between") or not _is_open(span):
            first = line.skip(at, "in", "the", "from", "of") if _begins_later(line, at) else at
        yield min(first, behind - 1), behind - 1, span


def _is_open(span: Span) -> bool:
    return datetime.min == span.start or datetime.max == span.end


def _begins_later(line: Line, at: int) -> bool:
    return not line.has(at, *STARTS, "rel", "past", "num", "ord", "between", "agopre", "inpre", "edge")


def _choose_languages(text: str) -> list[tuple[Language, list[Token]]]:
    """Return the languages that a text may be in, the likeliest first, with its tokens in each."""
    if not text.isascii() and _ASIAN.search(text):
        text = write_digits(text)
        told = _find_asian().search(text) or (_DIGIT.search(text) and _NUMERIC.search(text))
        return _read_unspaced(text) if told else []
    if _DIGIT.search(text):
        if not _NUMERIC.search(text) and _list_starts().isdisjoint(_list_words(text)):
            return []
        pieces = split(text)
        languages = list(_list_likely([piece.text for piece in pieces], numeric=_may_mention(pieces)))
    else:  # then the words are those of the pieces, which need not be made where no language names a time
        words = _list_words(text)
        languages = [] if _list_starts().isdisjoint(words) else list(_list_likely(words, numeric=False))
        pieces = split(text) if languages else []
    return [(language, give_meanings(pieces, language)) for language in languages]


def _read_unspaced(text: str) -> list[tuple[Language, list[Token]]]:
    written = UNSPACED[:1] if _KANA.search(text) else UNSPACED
    found = [(language, give_meanings(split(text, language), language)) for language in written]
    return sorted(found, key=lambda pair: _cover(pair[1]), reverse=True)


def _list_words(text: str) -> list[str]:
    """Return the words of a text, case folded, but for the "s" of "Ann's"."""
    if "'" in text or "’" in text:
        text = _OWNING.sub(" ", text)
    if text.isascii():  # in a fifth of the time
        return text.translate(_LETTERS).split()
    return [word.casefold() for word in _WORD.findall(text)]


def _list_likely(words: Sequence[str], *, numeric: bool) -> Iterator[Language]:
    """Yield the languages of words between spaces in which a text may mention a time, the likeliest first.

    Args:
        words: The words of the text.
        numeric: Whether it holds numbers that may be times.
    """
    index, scores = _index_words(), [0.0] * len(SPACED)
    for word in words:
        for one, weight in index.get(word, ()):
            scores[one] += weight
    best = max(scores)
    read: set[str] = set()
    for one in sorted(range(len(scores)), key=lambda one: -scores[one]):
        if scores[one] < max(best - _CLOSE, best / 2):
            break
        language, known = SPACED[one], scores[one] > 0
        if not numeric and not (known and not _list_needed(one).isdisjoint(words)):
            continue
        grammar = _ALIKE.get(language.code, language.code)
        if known or grammar not in read:
            yield language
        if not known:
            read.add(grammar)


def _may_mention(tokens: Sequence[Token]) -> bool:
    return any(not STARTS.isdisjoint(token.means) for token in tokens if token.means)


@functools.cache
def _index_words() -> Mapping[str, Sequence[tuple[int, float]]]:
    """Return, by word, the languages that have it, and how much it tells for each."""
    index: dict[str, dict[int, float]] = {}
    for number, language in enumerate(SPACED):
        for phrase, means in language.lexicon.items():
            for word in phrase:
                weight = index.setdefault(word, {}).get(number, 0.0)
                index[word][number] = max(weight, 1.0 if "common" in means else 0.9)
    return {word: list(found.items()) for word, found in index.items()}


@functools.cache
def _list_starts() -> frozenset[str]:
    """Return the words without one of which a text in words mentions no time.

    Most texts that are remembered hold none, which is told in a tenth of the time that reading them takes. Weak words
    that are frequent ones of another language ("do" is a German Thursday) stand beside numbers or others of these.
    """
    found: set[str] = set()
    for number, language in enumerate(SPACED):
        found |= _list_needed(number)
        found -= {word for word in language.weak if _is_everyday(word, language)}
    return frozenset(found)


@functools.cache
def _find_asian() -> re.Pattern[str]:
    """Return what finds the words without one of which, and without numbers, a text without spaces mentions no time."""
    words = {phrase[0] for one in UNSPACED for phrase, means in one.lexicon.items() if not STARTS.isdisjoint(means)}
    shortest = [word for word in words if not any(other in word for other in words - {word})]
    return re.compile("|".join(sorted(map(re.escape, shortest), key=len)), re.IGNORECASE)


@functools.cache
def _list_common() -> frozenset[str]:
    return frozenset(word for language in SPACED for word in language.common)


@functools.cache
def _list_needed(number: int) -> frozenset[str]:
    """Return one word, the rarest, of each phrase of a language without which a text in words mentions no time."""
    common = _list_common()
    language, found = SPACED[number], set[str]()
    for phrase, means in sorted(language.lexicon.items(), key=lambda item: len(item[0])):
        told = any(word in found and not _is_everyday(word, language) for word in phrase)
        if not told and not STARTS.isdisjoint(means):
            found.add(max(phrase, key=lambda word: (word not in common, len(word))))
    return frozenset(found)


def _is_everyday(word: str, language: Language) -> bool:
    """Return whether a weak word of time is a frequent one of some language."""
    return len(word) == 2 and word in language.weak and word in _list_common()


def _cover(tokens: Sequence[Token]) -> tuple[int, int]:
    """Return how many characters are words of time, and, negative, how many words they are."""
    known = [len(token.text) for token in tokens if token.means]
    return sum(known), -len(known)
