"""Which language a text is in, and the stems of its words.

Scripts that one stemmer serves need no guess: a word in them is stemmed wherever it stands. Languages in Latin letters
are told by their commonest words. A text of such a language is indexed by its words and by their stems, and a query
searches for both: a wrong guess costs other forms of a word, and never the word itself. If a query does not tell its
language, its words are tried in each language that some text of the store is marked with.

Words are folded before they are stemmed, so that spellings which fold to the same word have the same stem.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from agent_memory.storage.words.common import COMMON, ENGLISH

if TYPE_CHECKING:
    from Stemmer import Stemmer

_LANGUAGES: dict[str, tuple[str, ...]] = {}
for _name, _words in COMMON.items():
    for _word in set(_words.split()):
        _LANGUAGES[_word] = (*_LANGUAGES.get(_word, ()), _name)

_ENGLISH = frozenset(COMMON[ENGLISH].split())
_FOREIGN = frozenset(_LANGUAGES) - _ENGLISH

MARKS = {name: chr(0x2B9 + place) for place, name in enumerate(COMMON) if name != ENGLISH}
"""A term of every text in a language, by language: characters that no folded text holds."""

MARKED = chr(0x2B9)
"""A term of every text that has one of the marks."""

_SCRIPTS = (
    (re.compile("[\u0370-\u03ff]+"), "greek"),
    (re.compile("[\u0400-\u052f]+"), "russian"),
    (re.compile("[\u0620-\u064a]+"), "arabic"),
    (re.compile("[\u0900-\u097f]+"), "hindi"),
    (re.compile("[\u0531-\u0587]+"), "armenian"),
    (re.compile("[\u0b80-\u0bff]+"), "tamil"),
)
"""Scripts whose words one stemmer serves. Letters that only Persian and Urdu have are not among the Arabic ones."""


def find_language(words: Sequence[str]) -> str | None:
    """Return the language of folded words in Latin letters, of ``MARKS`` or English; None if they do not tell.

    A text is in a language if it has two of that language's commonest words at least, and more of them than English
    ones; in English if it has one, and no more of another's.
    """
    if _FOREIGN.isdisjoint(words):  # no language can have more of them than English
        return None if _ENGLISH.isdisjoint(words) else ENGLISH
    there = set(words)
    english = len(_ENGLISH & there)
    counts: dict[str, int] = {}
    for word in _LANGUAGES.keys() & there:
        for name in _LANGUAGES[word]:
            counts[name] = counts.get(name, 0) + 1
    best = max(MARKS, key=lambda name: counts.get(name, 0))  # the first of equals: sets have no order
    if counts.get(best, 0) >= max(2, english + 1):
        return best
    return ENGLISH if english and english >= counts.get(best, 0) else None


class _Stemmers(threading.local):
    """A thread's stemmers; they keep the stems of the latest words, and are not made for several threads."""

    def __init__(self) -> None:
        self._made: dict[str, Stemmer] = {}

    def stem(self, language: str, words: Iterable[str]) -> list[str]:
        from Stemmer import Stemmer

        if language not in self._made:
            self._made[language] = Stemmer(language)
        stems: list[str] = self._made[language].stemWords(list(words))
        return stems


_STEMMERS = _Stemmers()


def stem_latin(language: str, words: Iterable[str]) -> list[str]:
    """Return the stems of folded words in Latin letters; ``porter`` gives those that back ends make of them."""
    return _STEMMERS.stem(language, words)


def stem_by_script(word: str) -> str:
    """Return the stem of a folded word whose script tells its stemmer; any other word as it is."""
    for letters, language in _SCRIPTS:
        if letters.fullmatch(word):
            return _STEMMERS.stem(language, (word,))[0] or word
    return word
