"""Takes secrets and private passages out of texts before they are kept anywhere.

Secrets are found by the detectors of ``detect-secrets``, by a few forms that these do not know, and as what follows
words such as "password". Loading the detectors takes a quarter of a second, so texts in which none of them could find
anything are told first.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

from agent_memory.agents.secret_forms import BLOCKS, FORMS, NAMED, PASSWORDS, QUOTED, SAID, SAYINGS, SUSPICIOUS
from agent_memory.errors import MissingDependencyError

REMOVED = "[secret removed]"

_PASSWORD = re.compile(PASSWORDS, re.IGNORECASE)
_CARD = re.compile(
    r"\b(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4}|\d{4}[ -]\d{6}[ -]\d{5}|(?:4\d|5[1-5]|6[05]|2[2-7])\d{14}|3[47]\d{13})\b"
)
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_COUNT = re.compile(r"token\w*[\"'`]?\s*(?::=|=>|=|:|is|are)\s*\d{1,7}\Z", re.IGNORECASE)
_ABOUT = frozenset(
    "a an the not in of on at by for from with to and or my your our this that it its too also only always never often "
    "required optional needed necessary missing empty stored saved kept hashed encrypted salted rotated expired "
    "invalid valid wrong right correct incorrect unknown known set unset reset read sent given passed used generated "
    "created checked validated verified rejected accepted refused ignored removed redacted none null true false string "
    "str short long weak strong secret secrets public private what where when how why stale fresh loaded cached "
    "que los las un una el la obligatoria obligatorio necesaria falsch richtig erforderlich obligatoire requis "
    "incorrecta incorrecte password passwort token await input getpass pflicht users".split()
)
_CELLS = re.compile(r"[|,;\t]")
_NAME, _CELL = re.compile(r"[\w .-]{1,30}"), re.compile(r"(?![-:]+\Z)[^\s()\[\]{}\"'=]{4,200}")
_HEAD = re.compile(rf"(?:\w{{1,20}}[ _-])?(?:{PASSWORDS}|api[ _-]?key|secret(?:[ _-]key)?|token)", re.IGNORECASE)
_SENTENCE = re.compile(r"[.;!?]\s+(?=[A-ZÄÖÜÉ])")
_TOKEN = re.compile(r"[A-Za-z0-9+/_=-]{20,4096}")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_CODE = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+[(\[]|[A-Za-z_]\w{2,}\([a-z_.,]*\)?;?\Z")
_HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_DIGESTS = (40, 64)  # hexadecimal digits of git's names of commits: they are no secrets
_PRIVATE = re.compile(
    r"(?:<|＜|&lt;)\s{0,3}(/?)\s{0,3}private\b(?:[^<>＜＞&]|&(?!lt;|gt;))*(?:>|＞|&gt;)"
    r"|<private\b[^<>]*(?=<|\Z)",  # a tag that nothing closes hides what follows all the same
    re.IGNORECASE,
)
_PIECE = 4000  # characters of a line that are searched at once
# Expressions of the detectors take time by the square or cube of a row of spaces, or of a word: they see less of it.
_SPACES, _FEW_SPACES = re.compile(r"\s{9,}"), " " * 7
_LONG_WORD, _SHOWN = re.compile(r"\w{200,}"), 100
_LONG_END = re.compile(rf"\w{{{_SHOWN}}}\Z")
_WHOLE = 20  # characters from which on a secret is taken out wherever it stands, also within a longer word


def drop_private(text: str) -> str:
    """Return a text without its ``<private>…</private>`` passages; one that is not closed reaches to the end."""
    kept: list[str] = []
    depth, at = 0, 0
    for tag in _PRIVATE.finditer(text):
        if depth == 0:
            kept.append(text[at : tag.start()])
        depth = max(0, depth - 1) if tag[1] else depth + 1
        at = tag.end()
    if depth == 0:
        kept.append(text[at:])
    return "".join(kept).strip() if at else text


def check_installed() -> None:
    """Raise MissingDependencyError if the detectors are not installed."""
    if find_spec("detect_secrets") is None:
        raise MissingDependencyError("detect-secrets", "coding-agents")


def redact(text: str) -> str:
    """Return a text in which ``[secret removed]`` stands for each secret.

    Raises:
        MissingDependencyError: ``detect-secrets`` is not installed, and the text may hold a secret.
    """
    wide = text if text.isascii() else _INVISIBLE.sub("", unicodedata.normalize("NFKC", text))
    if not SUSPICIOUS.search(text) and not SUSPICIOUS.search(wide):
        return text
    if wide != text:
        spelt = _redact(wide)  # letters of full width, or with invisible ones between, are read like others
        if spelt.count(REMOVED) > _redact(text).count(REMOVED):
            return spelt
    return _redact(text)


def _redact(text: str) -> str:
    text = FORMS.sub(REMOVED, BLOCKS.sub(REMOVED, text))
    seen = _SPACES.sub(lambda row: ("\n" if "\n" in row[0] else "") + _FEW_SPACES, text)
    spoken = (said[1] for saying in SAYINGS for said in saying.finditer(seen))
    found = {value.rstrip(".,;:!?)") for value in spoken if _is_value(value) and not NAMED.fullmatch(value)}
    found |= {said[2] for said in QUOTED.finditer(seen)} | set(_read_tables(seen))
    found |= {card[0] for card in _CARD.finditer(seen) if _is_card(card[0])}
    found |= {value for line in seen.splitlines() for value in _find(line)}
    for value in sorted(found, key=len, reverse=True):
        pattern = _write_pattern(value)
        # A short one may be a part of other words, too.
        text, count = re.subn(rf"(?<!\w){pattern}(?!\w)" if len(value) < _WHOLE else pattern, REMOVED, text)
        if not count:
            text = re.sub(pattern, REMOVED, text)
    return text


def _write_pattern(value: str) -> str:
    """Return what finds a secret, of which the detectors may have seen a part, in the text."""
    pattern = r"\s{7,}".join(map(re.escape, value.split(_FEW_SPACES)))
    return pattern + r"\w*" if _LONG_END.search(value) else pattern


def _find(line: str) -> Iterator[str]:
    """Yield the secrets of a line."""
    for said in SAID.finditer(line):
        value = said["value"].rstrip(".,;:!?)")
        if (said["about"] and not _DIGIT.search(value)) or _is_plain(value, said[0]):
            continue  # "the token for the build is fetched", "the token is issued by Keycloak"
        if _is_value(value) and not _COUNT.search(line[max(0, said.start("value") - 80) : said.start("value")] + value):
            yield value
    detectors = _load()
    for start in range(0, len(line), _PIECE):
        piece = line[max(0, start - 200) : start + _PIECE]
        for detector in detectors["forms"]:
            for form in detector.denylist:
                yield from (match[0] for match in form.finditer(piece) if len(match[0]) >= 8)
        shown = _LONG_WORD.sub(lambda word: word[0][:_SHOWN], piece)
        for secret in detectors["keyword"].analyze_line(filename="config.yaml", line=shown):
            # Unquoted, it reaches to the end of the line, but hardly into the next sentence.
            value = _SENTENCE.split(str(secret.secret_value or ""))[0].strip("\"'` .,;")
            if _is_value(value) and not _is_plain(value, shown):
                yield value
        yield from (token for token in _TOKEN.findall(piece) if _looks_random(token, detectors["entropy"]))


def _read_tables(text: str) -> Iterator[str]:
    """Yield what stands below a head that is a word for a secret, in tables of Markdown and in CSV."""
    heads: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip("\"'` *") for cell in _CELLS.split(line.strip().strip("|"))]
        if len(cells) != len(heads):
            heads = cells if len(cells) > 1 and all(map(_NAME.fullmatch, cells)) else []
            continue
        for head, value in zip(heads, cells, strict=True):
            if _HEAD.fullmatch(head) and _CELL.fullmatch(value) and _is_value(value):
                yield value


def _is_card(number: str) -> bool:
    """Return whether the digits of a number are those of a payment card, by the sum that the last one makes."""
    digits = [int(one) for one in number if one.isdigit()]
    doubled = (sum(divmod(2 * one, 10)) for one in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0 and len(set(digits)) > 1


def _is_plain(value: str, words: str) -> bool:
    """Return whether a value is an ordinary word, which may be a password, but no token or key."""
    word = value.split()[0].rstrip(".,;:!?)") if value.split() else ""
    ordinary = word.isalpha() and (word.islower() or word.istitle()) and not _DIGIT.search(value)
    return ordinary and _PASSWORD.search(words) is None


def _is_value(value: str) -> bool:
    """Return whether what follows such a word is more than a remark about it."""
    first = value.split()[0].strip(".,;:!?()").casefold() if value.split() else ""
    remark = (first in _ABOUT and not (" " in value and _DIGIT.search(value))) or _CODE.match(value) is not None
    return len(value) >= 4 and not remark and not value.startswith("[secret")


@cache
def _load() -> dict[str, Any]:
    """Load the detectors."""
    try:
        from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
        from detect_secrets.plugins.base import RegexBasedDetector
        from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString
        from detect_secrets.plugins.ip_public import IPPublicDetector
        from detect_secrets.plugins.keyword import KeywordDetector
    except ModuleNotFoundError as error:
        raise MissingDependencyError("detect-secrets", "coding-agents") from error
    kinds: Iterable[Any] = get_mapping_from_secret_type_to_class().values()
    forms = [kind() for kind in kinds if issubclass(kind, RegexBasedDetector) and kind is not IPPublicDetector]
    return {"forms": forms, "keyword": KeywordDetector(), "entropy": Base64HighEntropyString()}


def _looks_random(token: str, entropy: Any) -> bool:  # noqa: ANN401 - a class of detect-secrets
    """Return whether a long token is none that a person or a program has named."""
    token = token.strip("-_=/")
    if len(token) < 20 or _UUID.fullmatch(token):
        return False
    if _HEX.fullmatch(token):
        return len(token) >= 32 and len(token) not in _DIGESTS and entropy.calculate_shannon_entropy(token) > 3
    kinds = ["d" if c.isdigit() else "u" if c.isupper() else "l" if c.islower() else "" for c in token]
    named = [kind for kind in kinds if kind]
    if len(set(named)) < 2 or "d" not in named:
        return False
    # A capital letter before small ones begins a word; all other changes are rare in names.
    turns = sum(one + other in ("lu", "ld", "ud", "dl", "du") for one, other in pairwise(named))
    return turns * 5 >= len(named) and float(entropy.calculate_shannon_entropy(token)) > 3.3
