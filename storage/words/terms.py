"""The terms of a text, which back ends index as they are, and the words of a query, which they look up."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

from agent_memory.storage.words.folding import fold
from agent_memory.storage.words.languages import MARKED, MARKS, find_language, stem_by_script, stem_marked
from agent_memory.storage.words.runs import HANGUL, RUN, list_units, pair, split_words

RULES = 1
"""Number of the rules by which rows are written; it grows when the terms of any text change."""

_QUERY_WORDS = 200  # longer queries mostly repeat themselves
_QUOTED = re.compile(r'"([^"]{2,200})"|“([^”]{2,200})”')
_LATIN = re.compile("[a-z0-9]+")
_EDGES = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»‘’‚“”„…–—。、「」"
_IDEOGRAPHS = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_KOREAN = re.compile(f"[{HANGUL}]+")
# Words that carry the form of a question, not its subject. Kept if a query has no others.
_STOP = frozenset(
    "a about am an and any are as at be been but by can could d did do does doing for from had has have he her hers "
    "him his how i if in into is it its just ll m me my no not of on or our re s she should so some t than that the "
    "their them then there these they this those to us ve was we were what when where which who whom whose why will "
    "with would you your".split()
)


@dataclass(frozen=True, slots=True)
class Word:
    """A word or quoted phrase to search for.

    Attributes:
        label: How the query spells it.
        forms: The sequences of terms that stand for it; a text holds at most one of them for each language.
        parts: What to search for instead if no text holds it.
    """

    label: str
    forms: tuple[tuple[str, ...], ...]
    parts: tuple[Word, ...] = ()


def list_terms(text: str, speaker: str | None = None) -> str:
    """Return the terms of an entry to index, separated by spaces or ASCII punctuation, the speaker's first.

    Terms of ASCII letters are English as far as anybody knows, and are stemmed by the back end (Porter).
    """
    folded = fold(f"{speaker} {text}" if speaker else text)
    words = _LATIN.findall(folded) if folded.isascii() else folded.split(" ")
    language = find_language(words)
    if language is None and folded.isascii():
        return folded
    terms: list[str] = []
    units: dict[str, None] = {}
    for part in _split_runs(words):
        run = None if part.isascii() else RUN.match(part)
        if run is None:
            terms.append(part)
        else:
            found = list_units(part)
            terms += pair(found) or found
            units |= dict.fromkeys(found)
    marked = [] if language is None else [MARKED, MARKS[language]]
    return " ".join([*_stem(terms, language), *units, *marked])


def _split_runs(words: Iterable[str]) -> Iterator[str]:
    """Yield words; those of scripts that do not separate words apart from what stands beside them."""
    for word in words:
        if word.isascii():
            if word:
                yield word
        else:
            yield from (part for part in RUN.split(word) if part)


def _stem(words: Iterable[str], language: str | None) -> list[str]:
    """Return the terms of folded words of a text in a language; those of ASCII letters as they are if it is None."""
    found = [word if word.isascii() else stem_by_script(word) for word in words]
    if language is None:
        return found
    plain = [word for word in found if word.isascii() and word.isalpha()]
    stems = iter(stem_marked(language, plain))
    return [next(stems) if word.isascii() and word.isalpha() else word for word in found]


def choose_words(query: str, languages: Collection[str]) -> list[Word]:
    """Return the distinct words of a query to search for, in order, quoted phrases first.

    Args:
        query: The query.
        languages: The languages that texts of the store are marked with; keys of ``MARKS``.
    """
    phrases = [_make_phrase(first or second, languages) for first, second in _QUOTED.findall(query)]
    found = [word for chunk in query.split() for word in _find_words(chunk, languages)][:_QUERY_WORDS]
    telling = [word for word in found if word.forms[0][0] not in _STOP] or found
    distinct = {word.forms: word for word in reversed([*phrases, *telling]) if word is not None}
    return list(reversed(distinct.values()))


def _list_words(text: str) -> list[str]:
    folded = fold(text)
    return _LATIN.findall(folded) if folded.isascii() else list(_split_runs(folded.split(" ")))


def _make_phrase(quoted: str, languages: Collection[str]) -> Word | None:
    words: list[str] = []
    for word in _list_words(quoted):
        units = list_units(word) if RUN.match(word) else []
        words += pair(units) or units or [word]
    if len(words) < 2:
        return None
    return Word(quoted.lower(), tuple(dict.fromkeys(tuple(_stem(words, name)) for name in (None, *languages))))


def _find_words(chunk: str, languages: Collection[str]) -> list[Word]:
    """Return the words of a stretch of a query without spaces."""
    words = _list_words(chunk)
    found: list[Word] = []
    for word in words:
        if RUN.match(word):
            found += _find_run_words(word)
        else:
            label = chunk.lower().strip(_EDGES) if len(words) == 1 else word
            found.append(Word(label, tuple(dict.fromkeys(tuple(_stem([word], name)) for name in (None, *languages)))))
    return found


def _find_run_words(run: str) -> Iterator[Word]:
    for word in split_words(run):
        units = list_units(word)
        singles = [Word(word, ((unit,),)) for unit in units]
        pairs = [
            Word(word, ((term,),), tuple(beside) if _IDEOGRAPHS.match(term) else ())
            for term, beside in zip(pair(units), zip(singles, singles[1:], strict=False), strict=False)
        ]
        if len(pairs) > 1 and not _KOREAN.match(word):  # Korean endings are written to the word
            yield Word(word, (tuple(pair(units)),), tuple(pairs))
        else:
            yield from pairs or singles
