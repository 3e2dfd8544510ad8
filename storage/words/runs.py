"""Takes runs of scripts that do not separate words into terms.

The index holds every pair of neighbouring characters of a run, and every single one. A query is searched for by its
pairs, and by a single character where neither of its pairs is found. So whatever stretch of a text is asked for is
found, and no dictionary decides what a word is: see ``docs/decisions/0046-words.md``.
"""

from __future__ import annotations

import re
from itertools import pairwise

_UNSPACED = (
    "\u1100-\u11ff\u3130-\u318f\ua960-\ua97f\uac00-\ud7ff"  # Korean, whose endings are written to the word
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u3096\u3099\u309a\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff"
    "\u31f0-\u31ff\u3105-\u312f\u3400-\u4dbf\u4e00-\ua48c\uf900-\ufaff\U0001b000-\U0001b16f\U00020000-\U0003ffff"
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ebd\u0ec0-\u0ece\u0edc-\u0edf"  # Thai, Lao
    "\u1000-\u103f\u1050-\u108f\u109a-\u109f\ua9e0-\ua9ef\ua9fa-\ua9fe\uaa60-\uaa7f"  # Burmese
    "\u1780-\u17d3\u17d7\u17dc\u17dd"  # Khmer
    "\u1950-\u197c\u1980-\u19c9\u1a20-\u1a7f\uaa80-\uaaf6\u1b00-\u1b4c\ua980-\ua9c0"  # Tai scripts, Balinese, Javanese
)
RUN = re.compile(f"([{_UNSPACED}]+)")
_SYLLABLE = re.compile("[\u3400-\u9fff\ua000-\ua48c\uac00-\ud7a3\uf900-\ufaff\U00020000-\U0003ffff]")
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
    return [first + second for first, second in pairwise(units)]


def is_telling(unit: str) -> bool:
    """Return whether a unit may be a word of its own, as ideographs and syllables are, and letters are not."""
    return len(unit) > 1 or _SYLLABLE.match(unit) is not None
