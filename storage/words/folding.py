"""Folds characters, so that two spellings of a word which a person would call the same become one string.

Case, accents and points, composed and decomposed forms, compatibility forms (full and half width, ligatures,
presentation forms), digits of every script, invisible characters: none of them tells words apart afterwards. Marks
that are letters of their own (vowel signs of Indic and South East Asian scripts, the voicing of kana, Cyrillic short i)
stay. What separates words becomes a space.

The rules are part of how rows of the full-text index are written: whoever changes them raises ``terms.RULES``.
"""

from __future__ import annotations

import re
import unicodedata

from agent_memory.inputs import INVISIBLE

_UNSEEN = re.compile(f"[{INVISIBLE}]")
# Marks on letters, as opposed to signs that are letters: accents, stress, Hebrew and Arabic points, nuktas, tone marks
# of ideographs. Only characters of the categories M are removed.
_DROPPED_MARKS = re.compile(
    "[\u0300-\u036f\u0483-\u0489\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u0711\u0730-\u074a"
    "\u08ca-\u08ff\u093c\u09bc\u0a3c\u0abc\u0b3c\u0c3c\u0cbc\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\u302a-\u302f"
    "\ufe20-\ufe2f\U000110ba\U00011173\U000111ca\U00011236\U000112e9\U0001133b\U0001133c\U00011446\U000114c3]"
)
_LETTERS = {
    # Latin letters that Unicode does not take apart.
    **dict(zip("æœøđðħıłþŧŋƒɓɗɖəɛɔ", "ae oe o d d h i l th t ng f b d d e e o".split(), strict=True)),
    # Arabic letters that are written one for another, by language, keyboard or habit.
    **dict(zip("ٱىةکیېہەھے", "ايهكييهههي", strict=True)),
    "ـ": "",
    "ґ": "г",
    "ँ": "ं",
}
_APOSTROPHES_AND_TONES = re.compile("[\u02b9-\u02df\u02e5-\u02ff]")
_PICTURES = re.compile("[\u2600-\u27bf\u2b50\u2b55\U0001f000-\U0001faff]")
_BEYOND_ASCII = re.compile("[^\x00-\x7f]+")
_SPACED_FIRST = re.compile("[\u2120\u2122]|[\xbc-\xbe\u2150-\u215f\u2189]")
"""Signs that would run into the word before them when taken apart: trade marks and fractions."""


class _Folds(dict[int, str]):
    """What each character of a text in NFKD becomes."""

    def __missing__(self, code: int) -> str:
        self[code] = folded = _fold_character(chr(code))
        return folded


def _fold_character(char: str) -> str:
    kind = unicodedata.category(char)
    if char in "йЙ":
        return "й"
    if char in _LETTERS:
        return _LETTERS[char]
    if _UNSEEN.match(char) or kind == "Cf":
        return ""
    if kind[0] == "M":
        return "" if _DROPPED_MARKS.match(char) else char
    if kind == "Nd":
        return str(unicodedata.decimal(char))
    if _PICTURES.match(char):
        return f" {char} "
    if kind in ("Cc", "Cs") or kind[0] in "PSZ" or _APOSTROPHES_AND_TONES.match(char):
        return " "
    plain = unicodedata.normalize("NFKD", char.casefold())
    return "".join(_LETTERS.get(one, "" if _DROPPED_MARKS.match(one) else one) for one in plain)


_FOLDS = _Folds()


def fold(text: str) -> str:
    """Return a text whose words are folded, with spaces or ASCII punctuation between them; ASCII changes its case."""
    if text.isascii():
        return text.lower()
    if _SPACED_FIRST.search(text):
        text = _SPACED_FIRST.sub(lambda sign: " " if sign.group() in "\u2120\u2122" else f" {sign.group()} ", text)
    apart = unicodedata.normalize("NFKD", text)
    if "\u0306" in apart:  # the breve makes another letter of Cyrillic i, and of no other
        apart = apart.replace("и\u0306", "й").replace("И\u0306", "й")
    folded = _BEYOND_ASCII.sub(lambda run: run.group().translate(_FOLDS), apart).lower()
    return unicodedata.normalize("NFC", folded)
