"""Tells by the words whether an entry says what an earlier one says with another value: an update, or a contradiction.

Without a language model this is a guess, so nothing is ever changed by it: a later entry is reported when it is added
(``Entry.may_supersede``), and an earlier one is marked when it is found (``Hit.stale_by``).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from agent_memory.records import Entry
from agent_memory.storage.words.terms import list_first_forms
from agent_memory.types import Namespace

LIKENESS = 0.65
"""Cosine of the static vectors from which two entries may be about the same."""

_SHARED = 0.5  # of the words of the entry that has fewer
_SURELY_SHARED = 0.6  # enough for a value that is neither a number nor a name
_MOST_WORDS = 40  # a longer text says many things, of which one may have changed
_MOST_CHARS = 2_000  # nor are the words of one counted that is longer by far
_NAME = re.compile(r"(?<![.!?:;\n\"“(\[])[ \t]+([^\W\d_]\w*)")
_DENIALS = frozenset(
    "not no never n't nothing without anymore longer stopped quit cancelled canceled nicht kein keine keinen nie mehr "
    "ne pas plus jamais rien sans aucun nunca ya dejó nada sin ninguno".split()
)
_COUNTS = frozenset(
    "one two three four five six seven eight nine ten eleven twelve eins zwei drei vier fünf sechs sieben acht neun "
    "zehn deux trois quatre cinq sept huit neuf dix dos tres cuatro cinco seis siete ocho nueve diez".split()
)
_TOKEN = re.compile(r"n't\b|n’t\b|\w+")
_QUESTION = ("?", "？", "؟")


@dataclass(frozen=True)
class Statement:
    """What an entry says, as far as words tell.

    Attributes:
        entry: The entry.
    """

    entry: Entry

    @cached_property
    def words(self) -> frozenset[str]:
        """Its words, folded, without those that only give it form."""
        text = self.entry.text
        return _choose_words(text) if len(text) <= _MOST_CHARS else list_first_forms(text)

    @cached_property
    def values(self) -> frozenset[str]:
        """Those of them that are names or numbers."""
        return _choose_values(self.entry.text)

    @cached_property
    def denies(self) -> bool:
        """Whether it says that something is not, or no longer, so."""
        return _find_denial(self.entry.text)

    @cached_property
    def asks(self) -> bool:
        """Whether it is a question, which states nothing."""
        return self.entry.text.rstrip(" \n\t\"'”»)").endswith(_QUESTION)

    @cached_property
    def source(self) -> tuple[str | None, Namespace]:
        """Whose statement it is: nobody updates what another has said."""
        return self.entry.speaker, self.entry.namespace

    @cached_property
    def can_update(self) -> bool:
        """Whether it states one thing: it is no question, and not so long that it says many."""
        return not self.asks and len(self.entry.text) <= _MOST_CHARS and 0 < len(self.words) <= _MOST_WORDS

    def updates(self, earlier: Statement) -> bool:
        """Return whether it probably says the same as an earlier statement of like meaning, with another value."""
        if self.source != earlier.source or not self.can_update or not earlier.can_update:
            return False
        mine, theirs = self.words, earlier.words
        share = len(mine & theirs) / min(len(mine), len(theirs))
        if share < min(_SHARED, _SURELY_SHARED):
            return False
        if self.denies != earlier.denies:
            return share >= _SURELY_SHARED
        if share < _SHARED or mine <= theirs or theirs <= mine:
            return False
        return bool(self.values - theirs) or share >= _SURELY_SHARED


# Questions about one thing find the same entries again; reading the words of twenty takes longer than the search.
_choose_words = lru_cache(maxsize=8_192)(list_first_forms)


@lru_cache(maxsize=8_192)
def _choose_values(text: str) -> frozenset[str]:
    names = {found.group(1) for found in _NAME.finditer(text) if found.group(1)[0].isupper()}
    folded = _choose_words(" ".join(names)) if names else frozenset()
    return frozenset(word for word in _choose_words(text) if word in folded or word in _COUNTS or not _is_plain(word))


@lru_cache(maxsize=8_192)
def _find_denial(text: str) -> bool:
    return not _DENIALS.isdisjoint(_TOKEN.findall(text.lower().replace("’", "'")))


def _is_plain(word: str) -> bool:
    """Return whether a word has no digit, and is of a script in which a capital would mark a name."""
    return not any(char.isdigit() or (char.isalpha() and char.lower() == char.upper()) for char in word)


def is_later(one: Entry, other: Entry) -> bool:
    """Return whether an entry happened after another; of two that happened at once, whether it was added later."""
    return (one.event_time, one.created_at) > (other.event_time, other.created_at)


def find_updated(statement: Statement, others: Sequence[tuple[Entry, float]]) -> tuple[str, ...]:
    """Return the keys of earlier entries that a statement probably updates, the most alike first.

    Args:
        statement: The statement.
        others: Entries, and the cosine of each to that of the statement.
    """
    entry = statement.entry
    found = [
        (-cosine, other.key)
        for other, cosine in others
        if cosine >= LIKENESS and other.key != entry.key and not is_later(other, entry)
        if statement.updates(Statement(other))
    ]
    return tuple(key for _, key in sorted(found))
