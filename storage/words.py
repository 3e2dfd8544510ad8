"""Which words of a text are indexed, and which of a query are looked for: the same rules for every back end."""

from __future__ import annotations

import re

_QUERY_WORDS = 200  # of a query longer than this, the rest only repeats
_UNSPACED = re.compile(
    "[\u2e80-\u2fdf\u3005-\u30ff\u31f0-\u31ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]+"
)
_WORD = re.compile(r"\w+")
_QUOTED = re.compile(r'"([^"]{2,200})"|“([^”]{2,200})”')
# Words that say how a question is asked, not what about. Left in when a query has no others.
_STOP = frozenset(
    "a about am an and any are as at be been but by can could d did do does doing for from had has have he her hers "
    "him his how i if in into is it its just ll m me my no not of on or our re s she should so some t than that the "
    "their them then there these they this those to us ve was we were what when where which who whom whose why will "
    "with would you your".split()
)


def list_terms(text: str, speaker: str | None = None) -> str:
    """Return the terms of an entry that are indexed, its speaker's first, separated by spaces."""
    spaced = text if text.isascii() else _UNSPACED.sub(lambda run: f" {_pairs(run.group())} ", text)
    return f"{speaker} {spaced}" if speaker else spaced


def _pairs(run: str) -> str:
    return run if len(run) == 1 else " ".join(run[place : place + 2] for place in range(len(run) - 1))


def choose_words(query: str) -> list[str]:
    """Return the words of a query worth looking for, in order and once each; quoted phrases come first."""
    quoted = [first or second for first, second in _QUOTED.findall(query)]
    words = [word.lower() for word in _WORD.findall(list_terms(query))][:_QUERY_WORDS]
    telling = [word for word in words if word not in _STOP] or words
    phrases = [" ".join(_WORD.findall(list_terms(phrase))) for phrase in quoted]
    return list(dict.fromkeys([phrase for phrase in phrases if " " in phrase] + telling))
