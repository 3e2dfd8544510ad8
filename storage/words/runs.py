"""Takes runs of scripts that do not separate words into terms, and what is asked for into words.

The index holds every pair of neighbouring characters of a run, and every single one: whatever stretch of it is asked
for is found as a phrase of pairs, and no dictionary decides at the time of writing what a word is. ICU's dictionaries
are asked at the time of the query alone, where a mistake costs precision, not the find: a word that they cut wrongly is
searched for by its pairs.
"""

from __future__ import annotations

import re
from functools import lru_cache

HANGUL = "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"
_UNSPACED = (
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3105-\u312f\u3400-\u4dbf\u4e00-\ua48c\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ebd\u0ec0-\u0ece\u0edc-\u0edf"  # Thai, Lao
    "\u1000-\u103f\u1050-\u108f\u109a-\u109f\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\u1950-\u197c\u1980-\u19c9\u1a20-\u1a7f\uaa80-\uaaf6\u1b00-\u1b4c\ua980-\ua9c0"  # Tai scripts, Balinese, Javanese
)
RUN = re.compile(f"([{_UNSPACED}{HANGUL}]+)")
_HANGUL_RUN = re.compile(f"[{HANGUL}]+|[^{HANGUL}]+")
_MARKS = (
    "\u3099\u309a\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ece\u102b-\u103e\u1056-\u1059\u105e-\u1060"
    "\u1062-\u1064\u1067-\u106d\u1071-\u1074\u1082-\u108d\u108f\u109a-\u109d\ua9e5\uaa7b-\uaa7d\u17b6-\u17d3\u17dd"
    "\u19b0-\u19c0\u19c8\u19c9\u1a55-\u1a7f\uaab0\uaab2-\uaab4\uaab7\uaab8\uaabe\uaabf\uaac1\uaaeb-\uaaef\uaaf5\uaaf6"
    "\u1b00-\u1b04\u1b34-\u1b44\ua980-\ua983\ua9b3-\ua9c0"
)
# A character with the signs on it; a Khmer, Burmese or Tai consonant written below another belongs to it.
_UNIT = re.compile(f".(?:[\u17d2\u1039\u1a60\u1b44\ua9c0][^{_MARKS}]|[{_MARKS}])*", re.DOTALL)


def list_units(run: str) -> list[str]:
    """Return the characters of a run, each with the signs that belong to it."""
    return _UNIT.findall(run)


def pair(units: list[str]) -> list[str]:
    """Return the pairs of neighbouring units."""
    return [first + second for first, second in zip(units, units[1:], strict=False)]


@lru_cache(maxsize=1024)
def split_words(run: str) -> list[str]:
    """Return the words of a run as a dictionary has them; Korean words stay whole."""
    from icu4py.breakers import WordBreaker

    words: list[str] = []
    for part in _HANGUL_RUN.findall(run):
        words += [part] if re.match(f"[{HANGUL}]", part) else WordBreaker(part, "root")
    return words
