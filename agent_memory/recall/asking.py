"""What the words of a question say about its answer: who said it, and whether words find it."""

from __future__ import annotations

import functools
import re

AGENTS = ("ai", "assistant", "bot", "chatbot", "model")
"""Speakers, in lower case, by whom formats of conversations mean the model that answers a person."""

# "What did you suggest?" and "what you suggested" are about the past; "could you suggest" is a wish.
_SAY = (
    "advise answer ask come describe explain find give help list make mention offer outline pick promise propose "
    "provide recommend say send share show suggest tell write"
)
_SAID = (
    "advised answered asked came described explained found gave helped listed mentioned offered outlined promised "
    "proposed provided recommended said sent shared showed suggested told wrote"
)
_EITHER = "|".join(f"{_SAY} {_SAID} given made picked shown written".split())
_PATTERNS = {
    "en": rf"\b(?:did|had|have|that|what|which|as) you (?:\w+ )?(?:{_EITHER})\b"
    rf"|\byou (?:\w+ )?(?:{'|'.join(_SAID.split())})\b|\b(?:assistant|chatbot)\b"
    r"|\byour (?:\w+ )?(?:suggest|advice|recommend|answer|reply|response|proposal|explanation)",
    "de": r"\b(?:hast|hattest) du\b|\bdu (?:\w+ ){0,8}(?:hast|hattest)\b|\bhaben sie (?:mir|uns)\b"
    r"|\bdein\w* (?:vorschl|rat\b|tipp|empfehl|antwort)",
    "fr": r"\b(?:as-tu|avez-vous)\b|\b(?:tu|vous) (?:m['’]|nous )(?:as|avais|avez|aviez)\b"
    r"|\b(?:ta|ton|tes|votre|vos) (?:suggestion|conseil|recommandation|réponse|proposition)",
    "es": r"\b(?:aconsejaste|dijiste|diste|encontraste|explicaste|mencionaste|propusiste|recomendaste|sugeriste)\b"
    r"|\bhas (?:dicho|dado|recomendado|sugerido)\b|\btus? (?:sugerenci|consej|recomendaci|respuesta)",
    "pt": r"\b(?:você|tu) (?:me |nos )?(?:aconselhou|deu|disse|explicou|mencionou|propôs|recomendou|sugeriu)\b"
    r"|\b(?:deste|disseste|recomendaste|sugeriste)\b|\b(?:tua|sua)s? (?:sugest|recomendaç|resposta)",
    "it": r"\bhai (?:consigliato|dato|detto|menzionato|proposto|raccomandato|spiegato|suggerito|trovato)\b"
    r"|\b(?:tuo|tua|tuoi|tue) (?:consigli|rispost|propost|suggeriment|raccomandazion)",
    "nl": r"\b(?:heb|had) (?:je|jij) |\b(?:je|jij|u) (?:me |mij |ons )?(?:hebt|had|zei|gaf|raadde|stelde)\b"
    r"|\b(?:je|jouw|uw) (?:advies|suggestie|antwoord|aanbeveling|voorstel|tip)",
    "ja": "(?:教えて|言って|勧めて|すすめて|提案して|説明して|紹介して|して)くれた|アシスタント",
    "zh": "你(?:之前|上次|刚才|曾经?)?(?:[给向跟对]我们?)?(?:说|讲|建议|推荐|告诉|提到|提议|解释|介绍)"
    "|你的(?:建议|回答|推荐|答案)|助[手理]",
}

_WORK = (
    r"\b(?:can|could|would|will) you\b|\bhow (?:can|do|should|would) (?:I|we)\b|\bhelp me\b"
    r"|\bI['’]m (?:having|looking|planning|setting|thinking|trying|using|working)\b"
    r"|\bwhat (?:approach|should|steps|would)\b"
)
_PAST = (
    r"\bsummar|\b(?:remember|remind|recall)\b|\bthe order\b|\bour conversation"
    r"|\bI (?:brought|learned|mentioned|said|told|went)\b|\bwe (?:discussed|talked)\b"
)
_LONGEST_WISH = 160  # characters: a longer message tells what it is about, too


@functools.cache
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.IGNORECASE)


def asks_for_the_agent(text: str) -> bool:
    """Return whether a question asks for what the agent said ("what did you suggest?"), in one of nine languages."""
    return _compile("|".join(_PATTERNS.values())).search(text) is not None


def asks_for_work(text: str) -> bool:
    """Return whether a short message asks for work ("could you help me plan …") rather than for what was said.

    Reads English alone. What a person said that matters for the work, such as a preference, is said in other words.
    """
    return (
        len(text) <= _LONGEST_WISH and _compile(_WORK).search(text) is not None and _compile(_PAST).search(text) is None
    )
