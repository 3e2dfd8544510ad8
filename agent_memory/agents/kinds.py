"""Which sentences decide, prefer or leave something open: told by the words that people use for it, in four languages.

It is a rule, not a model: a sentence without such a word is found by recall, not by the brief.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

DECISION, PREFERENCE, OPEN = "decision", "preference", "open"

_CUES = {
    DECISION: r"we(?:'ll| will| are going to|'re going to)? (?:decided|agreed|chose|settled|go(?:ing)? with|use|keep"
    r"|stay with|switch(?:ed)? to|drop(?:ped)?|stick(?:ing)? (?:to|with))|(?:i|let'?s|let us) (?:decided?|chose"
    r"|agree on|go with|use|settle on|stick (?:to|with)|switch to)|decision|decided|from now on|instead of|the plan is"
    r"|agreed|wir (?:haben )?(?:beschlossen|entschieden|nehmen|verwenden|bleiben bei)|beschlossen|entschieden|ab jetzt"
    r"|on a décidé|nous avons décidé|décidé|désormais|on (?:garde|utilise|prend)"
    r"|decidimos|hemos decidido|acordamos|a partir de ahora|vamos a usar",
    PREFERENCE: r"(?:i|we|they) (?:\w+ )?(?:prefer|like|want|dislike|hate|insist)|prefers?|preferred|always|never"
    r"|please (?:use|don'?t|do not|avoid|keep)|don'?t (?:use|add|write|touch|commit|push)|do not (?:use|add|write|touch"
    r"|commit|push)|make sure|ich (?:mag|bevorzuge|möchte|will)|lieber|immer|niemals|nie|bitte (?:nicht|nur|immer)"
    r"|je préfère|toujours|jamais|prefiero|siempre|nunca",
    OPEN: r"todo|fixme|to do|open question|left open|still (?:need|have|open|missing|to)|not yet|next (?:step|time|up)"
    r"|remaining|unfinished|tomorrow|remains? to|(?:is|are) (?:still )?(?:open|pending|blocked)|follow[- ]up|later on"
    r"|noch (?:offen|nicht|zu)|morgen|offene frage|reste à|pas encore|demain|à faire|pendiente|falta|mañana|todavía",
}
_KINDS = {kind: re.compile(rf"(?<!\w)(?:{cues})(?!\w)", re.IGNORECASE) for kind, cues in _CUES.items()}
_SENTENCES = re.compile(r"(?<=[.!?…])\s+|\n+|(?<=[。！？])")
_CODE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_MARKUP = re.compile(r"^[\s>#*\-+\d.)]+(?=\S)|[*_`]{1,3}")
_SHORTEST, _LONGEST = 12, 300  # characters of a sentence that says something, and of one that can be shown


def find_kinds(text: str) -> dict[str, list[str]]:
    """Return the sentences of a text that decide, prefer or leave something open, by kind; code is passed over."""
    found: dict[str, list[str]] = {}
    for sentence in _split(_CODE.sub("\n", text)):
        if sentence.endswith("?"):
            continue
        for kind, cue in _KINDS.items():
            if cue.search(sentence):
                found.setdefault(kind, []).append(sentence)
    return found


def _split(text: str) -> Iterable[str]:
    for part in _SENTENCES.split(text):
        sentence = " ".join(_MARKUP.sub("", part).split())
        if _SHORTEST <= len(sentence) <= _LONGEST:
            yield sentence
