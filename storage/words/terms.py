"""The terms of a text, which back ends index as they are, and the words of a query, which they look up."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from agent_memory.storage.words.common import ENGLISH
from agent_memory.storage.words.folding import fold
from agent_memory.storage.words.languages import MARKED, MARKS, find_language, stem_by_script, stem_latin
from agent_memory.storage.words.runs import RUN, is_telling, list_units, pair

RULES = 1
"""Number of the rules by which rows are written; it grows when the terms of any text change."""

_QUERY_WORDS = 200  # longer queries mostly repeat themselves
_QUERY_PHRASES = 8  # each is looked up in the full-text index by itself; of further ones only the words count
_QUOTED = re.compile(r'"([^"]{2,200})"|“([^”]{2,200})”')
_WORD = re.compile("[a-z0-9\x80-\U0010ffff]+")
_EDGES = " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»‘’‚“”„…–—。、「」"
_ROOM = 18  # characters that one may become by folding, at most
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
        forms: The sequences of terms that stand for it; what holds several of them holds the very word.
        place: Where it begins among the characters of scripts without spaces; None in other scripts.
        instead_of: Terms of which none may be found, or else the word is not searched for.
    """

    label: str
    forms: tuple[tuple[str, ...], ...]
    place: int | None = None
    instead_of: tuple[str, ...] = ()


def list_terms(text: str, speaker: str | None = None) -> str:
    """Return the terms of an entry to index, separated by spaces or ASCII punctuation, the speaker's first.

    The words come in their order, then what stands for them too: single characters of scripts without spaces, stems of
    a language that is not English, and its mark. Back ends stem what is of ASCII letters as English (Porter).
    """
    folded = fold(f"{speaker} {text}" if speaker else text)
    if folded.isascii():
        if find_language(folded.split()) in (None, ENGLISH):
            return folded
    terms, units = _split(folded)
    latin = [term for term in terms if term.isascii() and term.isalpha()]
    # A few foreign words do not make a text foreign.
    language = find_language(latin) if 2 * sum(map(len, latin)) > sum(map(len, terms)) else None
    if language is None or language == ENGLISH:
        return " ".join([*terms, *units])
    stems = set(stem_latin(language, dict.fromkeys(latin))) - set(latin)
    return " ".join([*terms, *units, *sorted(stems), MARKED, MARKS[language]])


def _split(folded: str) -> tuple[list[str], Iterable[str]]:
    """Return the terms of a folded text in order, and the distinct units of its scripts without spaces."""
    terms: list[str] = []
    units: dict[str, None] = {}
    for word in _list_words(folded):
        if word.isascii():
            terms.append(word)
        elif RUN.match(word):
            found = list_units(word)
            terms += pair(found) or found
            if len(found) > 1:
                units |= dict.fromkeys(found)
        else:
            terms.append(stem_by_script(word))
    return terms, units


def _list_words(folded: str) -> list[str]:
    """Return the words of a folded text; runs of scripts without spaces apart from what stands beside them."""
    found: list[str] = _WORD.findall(folded)
    if folded.isascii():
        return found
    words: list[str] = []
    for word in found:
        if word.isascii():
            words.append(word)
        else:
            words += filter(None, RUN.split(word))
    return words


def choose_words(query: str, list_languages: Callable[[], Collection[str]]) -> list[Word]:
    """Return the distinct words of a query to search for, in order, quoted phrases first.

    Args:
        query: The query.
        list_languages: Returns the languages that texts of the store are marked with; keys of ``MARKS``.
    """
    told = find_language(_list_words(fold(query)))
    languages = [] if told == ENGLISH else [told] if told is not None else list_languages()
    quoted = dict.fromkeys(first or second for first, second in _QUOTED.findall(query))
    phrases = [_make_phrase(text) for text in list(quoted)[:_QUERY_PHRASES]]
    found: list[Word] = []
    for place, chunk in _split_chunks(query):
        found += _find_words(chunk, place, languages)
        if len(found) >= _QUERY_WORDS:
            break
    found = found[:_QUERY_WORDS]
    telling = [word for word in found if word.forms[0][0] not in _STOP] or found
    distinct: dict[object, Word] = {}
    for word in (*phrases, *telling):
        if word is not None:
            distinct.setdefault(word.forms, word)
    return list(distinct.values())


def list_first_forms(text: str) -> frozenset[str]:
    """Return the first form of each word that ``choose_words`` finds in a text, looking for no other language.

    ASCII without quotes is read in less than half of the time.
    """
    if text.isascii() and '"' not in text:
        words = _WORD.findall(fold(text))
        if find_language(words) in (None, ENGLISH):
            words = words[:_QUERY_WORDS]
            return frozenset(word for word in words if word not in _STOP) or frozenset(words)
    return frozenset(word.forms[0][0] for word in choose_words(text, tuple))


def _make_phrase(quoted: str) -> Word | None:
    terms, _ = _split(fold(quoted))
    return Word(quoted, (tuple(terms),)) if len(terms) > 1 else None


def _split_chunks(query: str) -> Iterator[tuple[int, str]]:
    """Yield the stretches of a query without spaces, and a place for each that leaves room for all its characters."""
    place = 0
    for chunk in query.split():
        yield place, chunk
        place += _ROOM * (len(chunk) + 1)


def _find_words(chunk: str, place: int, languages: Collection[str]) -> Iterator[Word]:
    """Yield the words of a stretch of a query without spaces."""
    words = _list_words(fold(chunk))
    for word in words:
        if not word.isascii() and RUN.match(word):
            yield from _find_stretches(word, place)
            place += len(word) + 1
        else:
            label = chunk.lower().strip(_EDGES) if len(words) == 1 else word
            yield Word(label, tuple((form,) for form in _list_forms(word, languages)))


def _list_forms(word: str, languages: Collection[str]) -> list[str]:
    """Return a folded word, and its stems if they do not become the same in the back end."""
    if not (word.isascii() and word.isalpha()):
        return [word if word.isascii() else stem_by_script(word)]
    if not languages:
        return [word]
    forms = [word, *(stem_latin(name, [word])[0] for name in languages)]
    distinct = dict(zip(reversed(stem_latin("porter", forms)), reversed(forms), strict=True))
    return list(reversed(distinct.values()))


def _find_stretches(run: str, place: int) -> Iterator[Word]:
    """Yield the pairs of a run of a script without spaces, then the single characters that may stand in for them."""
    units = list_units(run)
    pairs = pair(units)
    starts = [place, *(place + end for end in accumulate(map(len, units)))]
    for start, term in zip(starts, pairs or units, strict=False):
        yield Word(term, ((term,),), start)
    for at, (start, unit) in enumerate(zip(starts, units, strict=False)):
        if pairs and is_telling(unit):
            yield Word(unit, ((unit,),), start, tuple(pairs[max(0, at - 1) : at + 1]))


def join_labels(matched: Sequence[tuple[str, int | None]]) -> list[str]:
    """Return the words that a person recognises: (label, place) of ``Word``, overlapping ones as one stretch."""
    placed = {place: label for label, place in matched if place is not None}
    stretches: list[tuple[int, str]] = []
    for place, label in sorted(placed.items()):
        begun, text = stretches[-1] if stretches else (0, "")
        shared = begun + len(text) - place
        if stretches and shared > 0:
            stretches[-1] = begun, text + label[shared:]
        else:
            stretches.append((place, label))
    plain = [label for label, place in matched if place is None]
    # Folding takes these vowels apart.
    whole = (text.replace("\u0e4d\u0e32", "\u0e33").replace("\u0ecd\u0eb2", "\u0eb3") for _, text in stretches)
    return list(dict.fromkeys([*plain, *whole]))
