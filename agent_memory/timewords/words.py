"""Words of time: what a language calls months, days and directions, and a text's tokens with their meanings."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

Meanings: TypeAlias = Mapping[str, Any]
"""What a token may mean, by kind: ``{"month": 5}``."""

_NOTHING: Meanings = {}


class Token(NamedTuple):
    """A word, number or sign of a text.

    Attributes:
        text: The word, case folded.
        start: Where it begins in the text.
        end: Where it ends.
        means: Its meanings.
        capital: Whether it is written with a capital letter.
    """

    text: str
    start: int
    end: int
    means: Meanings
    capital: bool = False


@dataclass(frozen=True)
class Language:
    """The words of time of one language.

    Attributes:
        code: ISO 639-1.
        words: Value of each word or phrase, by kind of meaning; several spellings are separated by ``|``.
        common: Frequent words by which the language is told from others.
        weak: Words of time that are other words as well, and count only beside other words of time.
        day_first: Whether 5/8/2023 is the 5th of August.
        spaced: Whether words are separated by spaces.
        trails: Whether "the last week" means the seven days before, unlike "last week".
    """

    code: str
    words: Mapping[str, Mapping[str, Any]]
    common: frozenset[str] = frozenset()
    weak: frozenset[str] = frozenset()
    day_first: bool = True
    spaced: bool = True
    trails: bool = False

    @cached_property
    def lexicon(self) -> Mapping[tuple[str, ...], Meanings]:
        """Meanings by phrase, a tuple of words; also without accents, where that is no other word."""
        found: dict[tuple[str, ...], dict[str, Any]] = {}
        for kind, spellings in self.words.items():
            for written, value in spellings.items():
                for spelling in written.split("|"):
                    means = found.setdefault(tuple(spelling.split()), {})
                    if kind == "weekdaypart":
                        means |= {"weekday": value[0], "partof": value[1]}
                    else:
                        means.setdefault(kind, value)
        for frequent in self.common:
            found.setdefault((frequent,), {}).setdefault("common", True)
        for phrase, means in list(found.items()):
            bare = tuple(strip_accents(word) for word in phrase)
            if bare != phrase:
                found.setdefault(bare, dict(means))
        return found

    @cached_property
    def singles(self) -> Mapping[str, Meanings]:
        """Meanings of the phrases of one word, by the word."""
        return {phrase[0]: means for phrase, means in self.lexicon.items() if len(phrase) == 1}

    @cached_property
    def longer(self) -> Mapping[str, Mapping[str, Sequence[tuple[str, ...]]]]:
        """The phrases of several words, by their first and second word, the longest first."""
        found: dict[str, dict[str, list[tuple[str, ...]]]] = {}
        for phrase in sorted((phrase for phrase in self.lexicon if len(phrase) > 1), key=len, reverse=True):
            found.setdefault(phrase[0], {}).setdefault(phrase[1], []).append(phrase)
        return found

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Finds the words of a language without spaces, the longest first, and numbers between them."""
        by_sign: dict[str, list[str]] = {}  # that no word is tried at a sign with which none begins
        for word in sorted((phrase[0] for phrase in self.lexicon), key=lambda word: -len(word)):
            by_sign.setdefault(word[0], []).append(_NOT_BEHIND.get(word, "") + re.escape(word))
        signs = "".join(map(re.escape, by_sign))
        return re.compile(f"(?=[{signs}])(?:{'|'.join(_join_words(*found) for found in by_sign.items())})")


def _join_words(sign: str, words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"(?={re.escape(sign)})(?:{'|'.join(words)})"


def write_digits(text: str) -> str:
    """Return a text with the years that are written in Chinese digits, such as 二〇二三年, in digits."""
    return _WRITTEN_YEAR.sub(lambda match: match.group().translate(_WRITTEN_DIGITS), text)


def strip_accents(word: str) -> str:
    """Return a word without accents."""
    return "".join(char for char in unicodedata.normalize("NFD", word) if not unicodedata.combining(char))


_COUNTED = r"(?<![\d〇零一二三四五六七八九十])"
# Words that begin with what counts behind a number: 三月 and 初, 2年前 and の.
_NOT_BEHIND = dict.fromkeys("月初 月底 月末 月中 年初 年底 年末 年中".split(), _COUNTED) | {"前の": "(?<![年月日週間])"}
# What is written alike in all languages. The first that matches counts; words and punctuation, the most, come early.
_SIGNS = re.compile(
    r"\s*+(?:(?P<era>(?:令和|平成|昭和)\s?(?:\d{1,2}|元)(?=年))|(?P<plain>[^\W\d_]++(?!\d))|(?P<mark>[^\w\s'’])|"
    r"(?P<iso>\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?)?(?:Z\b|[+-]\d\d:?\d\d\b)?(?![\d-]))|"
    r"(?P<isoweek>\b\d{4}-?W\d\d(?:-?\d)?\b)|"
    r"(?P<ymd>\b\d{4}(?P<sep>[/.])\d{1,2}(?P=sep)\d{1,2}\b)|"
    r"(?P<isomonth>\b(?:19|20)\d\d[-/](?:0[1-9]|1[0-2])\b(?![-/]\d))|"
    r"(?P<monthyear>\b(?:0?[1-9]|1[0-2])/(?:19|20)\d\d\b(?![/\d])|\b(?:0[1-9]|1[0-2])\.(?:19|20)\d\d\b(?!\.?\d))|"
    r"(?P<numeric>\b\d{1,2}(?P<cut>[/.-])\d{1,2}(?P=cut)(?:\d{4}|\d\d)\b(?![/.-]\d))|"
    r"(?P<clock>\b\d{1,2}[:h]\d\d(?::\d\d)?\b(?:\s?[ap]\.?m\b\.?)?|\b\d{1,2}\s?[ap]\.?m\b\.?|\b\d{1,2}\s?(?:h|uhr)\b|"
    r"(?<!\d)\d{1,2}\s?[時点點](?!間)(?:\d{1,2}分)?)|"
    r"(?P<decade>(?<![\w.])['’]?(?:1[6-9]|20)?\d0(?:['’]?s|er)\b)|"
    r"(?P<shortyear>(?<!\w)['’]\d\d\b(?!['’]))|(?P<quarter>\b[qt][1-4]\b)|(?P<half>\bh[12]\b)|"
    r"(?P<code>\b(?!kw|cw)[a-z]+\d\w*)|"
    r"(?P<monthday>\b\d{1,2}(?:/\d{1,2}\b(?!/)|\.\d{1,2}\.?(?![\d%])))|"
    r"(?P<ordinal>\b\d{1,2}(?:st|nd|rd|th|er|ère|ère|e|ème|ste|de|º|ª|°)\b)|"
    r"(?P<number>\d+(?:[.,]\d+)*)|(?P<apostrophe>['’](?:s\b)?)|(?P<word>[^\W\d_]+)|(?P<sign>\S))",
    re.IGNORECASE,
)
_WORDS = ("plain", "word")
_WRITTEN_YEAR = re.compile("[〇零一二三四五六七八九]{4}(?=年)")
_WRITTEN_DIGITS = str.maketrans("〇零一二三四五六七八九", "00123456789")
_SHORTENS = re.compile(r"\s*\d")  # behind the point of "Sept. 5"
_ERAS = {"令": 2018, "平": 1988, "昭": 1925}  # the years before their first
_SPOKEN_YEAR = 40  # of "the summer of '69"
_SHORT_YEAR = 70  # two digits from here on are of the last century


def give_meanings(pieces: Sequence[Token], language: Language) -> list[Token]:
    """Return tokens with the meanings that they have in a language, its phrases as one."""
    singles, longer = language.singles, language.longer
    tokens: list[Token] = []
    skip = 0  # pieces of a phrase that was found
    for at, piece in enumerate(pieces):
        if skip:
            skip -= 1
            continue
        phrase = _find_phrase(pieces, at, longer[piece.text]) if piece.text in longer else None
        if phrase is not None:
            skip, found = len(phrase) - 1, {**piece.means, **language.lexicon[phrase]}
            piece = Token(" ".join(phrase), piece.start, pieces[at + skip].end, found, piece.capital)
        elif (known := singles.get(piece.text)) is not None:
            means = {**piece.means, **known} if piece.means else known
            piece = tuple.__new__(Token, (piece.text, piece.start, piece.end, means, piece.capital))
        tokens.append(piece)
    return tokens


def _find_phrase(
    pieces: Sequence[Token], at: int, longer: Mapping[str, Sequence[tuple[str, ...]]]
) -> tuple[str, ...] | None:
    """Return the longest phrase of several words at a position."""
    for phrase in longer.get(pieces[at + 1].text, ()) if at + 1 < len(pieces) else ():
        if phrase == tuple([piece.text for piece in pieces[at : at + len(phrase)]]):
            return phrase
    return None


def split(text: str, language: Language | None = None) -> list[Token]:
    """Return the words, numbers and signs of a text, without the meanings that words have in a language.

    Args:
        text: The text.
        language: A language whose words are not separated by spaces.
    """
    tokens: list[Token] = []
    for match in _SIGNS.finditer(text):
        kind, end = match.lastgroup, match.end()
        raw = match.group().lstrip()
        start = end - len(raw)
        if kind in _WORDS:
            if language is not None and not raw.isascii():
                tokens += _split_unspaced(text, start, end, language)
            else:
                tokens.append(tuple.__new__(Token, (raw.casefold(), start, end, _NOTHING, raw[0].isupper())))
        elif kind != "apostrophe" and not (kind == "mark" and _is_part(text, start)):
            tokens.append(Token(raw.casefold(), start, end, _READERS[kind](raw.casefold())))
    return tokens


def _is_part(text: str, at: int) -> bool:
    """Return whether a sign belongs to the words beside it: the point of "Sept. 5", the hyphen of "e-mail"."""
    if text[at] == ".":
        return _SHORTENS.match(text, at + 1) is not None and text[at - 1 : at].isalpha()
    return text[at] == "-" and text[at - 1 : at].isalpha() and text[at + 1 : at + 2].isalpha()


def _split_unspaced(text: str, start: int, last: int, language: Language) -> Iterator[Token]:
    end = start
    for match in language.pattern.finditer(text, start, last):
        if match.start() > end:
            yield Token(text[end : match.start()], end, match.start(), _NOTHING)
        yield Token(match.group(), match.start(), match.end(), _NOTHING)
        end = match.end()
    if end < last:
        yield Token(text[end:last], end, last, _NOTHING)


def _read_iso(raw: str) -> Meanings:
    means: dict[str, Any] = {"date": tuple(map(int, raw[:10].split("-")))}
    if len(raw) >= 16 and raw[13] == ":":
        means["time"] = int(raw[11:13]) * 60 + int(raw[14:16])
    return means


def _read_numeric(raw: str) -> Meanings:
    sign = re.sub(r"\d", "", raw)[0]
    first, second, year = (int(part) for part in raw.split(sign))
    year = _lengthen(year)
    return {"numeric": (first, second, year, sign)}


def _lengthen(year: int, first: int = _SHORT_YEAR) -> int:
    """Return the year that two digits stand for; from ``first`` on it is one of the last century."""
    return year if year > 99 else year + (1900 if year >= first else 2000)


def _read_era(raw: str) -> Meanings:
    number = raw[2:].strip()
    return {"year": _ERAS[raw[0]] + (1 if number == "元" else int(number))}


def _read_month_day(raw: str) -> Meanings:
    sign = "/" if "/" in raw else "."
    first, second = (int(part) for part in raw.rstrip(".").split(sign))
    return {"monthday": (first, second, sign)} if sign == "/" or raw.endswith(".") else {}


def _read_clock(raw: str) -> Meanings:
    numbers = re.findall(r"\d+", raw)
    hour, minute = int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0
    noon = re.search(r"([ap])\.?m", raw)
    if noon:
        hour = hour % 12 + (12 if noon.group(1) == "p" else 0)
    return {"clock": hour * 60 + minute} if hour < 25 and minute < 60 else {}


def _read_number(raw: str) -> Meanings:
    if not raw.isdecimal() or len(raw) > 4:
        return {}
    value = int(raw)
    if len(raw) == 4:
        return {"year": value} if 1000 <= value < 2200 else {}
    return {"num": value}


@lru_cache(maxsize=256)
def _read_sign(raw: str) -> Meanings:
    return {"comma": True} if raw == "," else {"dash": True} if raw in "-–—~〜～" else {"sign": raw}


_READERS: Mapping[str | None, Any] = {
    "iso": _read_iso,
    "code": lambda raw: {},
    "isoweek": lambda raw: {"isoweek": tuple(map(int, re.findall(r"^\d{4}|(?<=w)\d\d|\d$(?<=w\d\d\d|\d\d-\d)", raw)))},
    "ymd": lambda raw: {"date": tuple(map(int, re.split("[/.]", raw)))},
    "isomonth": lambda raw: {"yearmonth": (int(raw[:4]), int(raw[5:]))},
    "monthyear": lambda raw: {"yearmonth": (int(raw[-4:]), int(re.split("[/.]", raw)[0]))},
    "shortyear": lambda raw: {"year": _lengthen(int(raw[1:]), _SPOKEN_YEAR)},
    "era": _read_era,
    "numeric": _read_numeric,
    "clock": _read_clock,
    "decade": lambda raw: {"decade": int(re.sub(r"\D", "", raw)), "bare": "er" not in raw},
    "quarter": lambda raw: {"quarter": int(raw[1])} if raw[0] == "q" else {"trimester": int(raw[1])},
    "half": lambda raw: {"halfyear": int(raw[1])},
    "monthday": _read_month_day,
    "ordinal": lambda raw: {"ord": int(re.sub(r"\D", "", raw))},
    "number": _read_number,
    "mark": _read_sign,
    "sign": _read_sign,
}
