"""Chooses the words of a text to index, and of a query to search for; the same rules for every back end."""

from __future__ import annotations

import re

_QUERY_WORDS = 200  # longer queries mostly repeat themselves
_UNSPACED = re.compile(
    "[\u2e80-\u2fdf\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r'"([^"]{2,200})"|“([^”]{2,200})”')
# Words that carry the form of a question, not its subject. Kept if a query has no others.
_STOP = frozenset(
    "a about am an and any are as at be been but by can could d did do does doing for from had has have he her hers "
    "him his how i if in into is it its just ll m me my no not of on or our re s she should so some t than that the "
    "their them then there these they this those to us ve was we were what when where which who whom whose why will "
    "with would you your".split()
)


def list_terms(text: str, speaker: str | None = None) -> str:
    """Return the terms of an entry to index, separated by spaces, the speaker first."""
    spaced = text if text.isascii() else _UNSPACED.sub(lambda run: f" {_split_pairs(run.group())} ", text)
    return f"{speaker} {spaced}" if speaker else spaced


def _split_pairs(run: str) -> str:
    return run if len(run) == 1 else " ".join(run[place : place + 2] for place in range(len(run) - 1))


def choose_words(query: str) -> list[str]:
    """Return the distinct words of a query to search for, in order, quoted phrases first."""
    quoted = [first or second for first, second in _QUOTED.findall(query)]
    words = [word.lower() for word in _WORD.findall(list_terms(query))][:_QUERY_WORDS]
    telling = [word for word in words if word not in _STOP] or words
    phrases = [" ".join(_WORD.findall(list_terms(phrase))) for phrase in quoted]
    return list(dict.fromkeys([phrase for phrase in phrases if " " in phrase] + telling))
