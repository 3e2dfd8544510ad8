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

from agent_memory.errors import MissingDependencyError

REMOVED = "[secret removed]"

_SHORTEST = 16  # characters of the shortest token that a detector knows
_PASSWORDS = (
    r"pass(?:word|wd|phrase|code)|pwd|contraseñ?n?a|passwort|kennwort|mot de passe|\bsenha\b|wachtwoord|hasło"
    r"|пароль|密码|密碼|パスワード|비밀번호"
)
_WORDS = rf"{_PASSWORDS}|\bclave\b|secret|token|(?:api|auth|access|private|client|service)[_ -]?key"
_PASSWORD = re.compile(_PASSWORDS, re.IGNORECASE)
_SUSPICIOUS = re.compile(
    rf"\S{{{_SHORTEST}}}|{_WORDS}|_?key|_?pass\b|://|-----BEGIN|bearer |basic |\bpw\b|\bPIN\b|\bcodes?\b|\bphrase\b"
    r"|\s-(?:u|p)\b|\s-p\S|\s--user|\b\d{4}[ -]\d{4,6}[ -]\d",
    re.IGNORECASE,
)

_KEY_BLOCK = re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[A-Z ]*-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL)
_FORMS = re.compile(
    r"sk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic and others of the kind
    r"|AIza[\w-]{30,}|ya29\.[\w-]{20,}"  # Google
    r"|gh[oprsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|hf_\w{30,}|xapp-[\w-]{20,}|xox[a-z]-[\w-]{10,}|npm_\w{30,}|pypi-[\w-]{40,}"
    r"|AGE-SECRET-KEY-\w{20,}|A(?:KIA|SIA|GPA|IDA)[A-Z0-9]{12,}"
    r"|dapi[0-9a-f]{32}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sbp_[0-9a-f]{40}|pplx-\w{40,}|nvapi-[\w-]{40,}|xai-\w{40,}"
    r"|dop_v1_\w{40,}|figd_[\w-]{30,}|sntry[su]_[\w-]{30,}|NRAK-\w{20,}|ntn_\w{30,}|rubygems_[0-9a-f]{40,}|pul-[0-9a-f]{40}"
    r"|ATATT3x[\w=-]{30,}|sq0(?:atp|csp)-[\w-]{20,}|dckr_pat_[\w-]{20,}|gl(?:rt|dt|ptt|cbt)-[\w-]{16,}|hv[bsr]\.[\w-]{20,}"
    r"|(?<=[Bb]earer )[\w.~+/-]{8,}=*|(?<=[Bb]asic )[A-Za-z0-9+/]{12,}=*"
    r"|(?<=://)[^\s/@:]*:[^\s@/]+(?=@)"
)
# No repetition here is without an end: over a long row of spaces, two of them would take minutes.
_GAP = r"\s{0,20}"
_ABOUT_WHAT = r"(?:\s\(\w{1,20}\)|\s(?:for|of|to|on|für|de|del|di|da|pour|от|для)(?:\s(?!is\b)[\w.-]{1,30}){1,3}?)?"
# What is a secret by the words before it: the group.
_SPOKEN = re.compile(
    rf"\bPIN\b(?: code)?{_GAP}(?:is|ist|:|=)?{_GAP}(\d{{4,8}})\b"
    rf"|\b(?:recovery|backup|verification|one-time|security|unlock|2FA|OTP)[ -]?codes?{_GAP}(?:is|are|:|=){_GAP}"
    r"(?-i:((?=[A-Z0-9-]*\d)[A-Z0-9]{4,}(?:-[A-Z0-9]{3,})*))"
    rf"|\b(?:seed|recovery|mnemonic|backup|secret) phrase{_GAP}(?:is|:|=){_GAP}"
    r"((?:[a-z]{3,8}\s{1,20}){11,23}[a-z]{3,8})"
    rf"|\bpassphrase{_GAP}(?:is|:|=){_GAP}((?:[a-z]{{1,30}} ){{3,30}}[a-z]+)"
    r"|\s(?:-u|--user)[ =][\"']?[\w.@+-]+:([^\s\"']{4,})"
    r"|\b(?:mysql|mysqldump|mariadb|sshpass)\b[^\n]{0,300}?\s-p[ =]?[\"']?([^\s\"']{4,})"
    rf"|\b(?:{_WORDS})[^\S\n]{{0,20}}[:=]?[^\S\n]{{0,20}}\n{_GAP}((?=\S{{0,200}}\d)[^\s\"'`]{{6,}})[^\S\n]{{0,20}}(?:\n|\Z)"
    rf"|\b(?:{_WORDS})\w{{0,30}}{_ABOUT_WHAT} (?:to|as|auf|en|in) [\"'`]?((?=\S{{0,200}}\d)[^\s\"'`]{{6,}})"
    rf"|(?:{_WORDS})\w{{0,30}}[\"']?{_GAP}(?:is|=|:){_GAP}"
    r"(?P<quote>[\"'])((?:[^\s\"']{1,40} ){1,8}[^\s\"']{1,40})(?P=quote)"
    rf"|\b(?:pw|pass){_GAP}[:=]{_GAP}((?=\S{{0,200}}\d)[^\s\"'`]{{6,}})"
    rf"|\b(?:{_WORDS})[ ]((?=\S{{0,200}}\d)(?=\S{{0,200}}[A-Za-z])(?=\S{{0,200}}[!@#$%^&*?]\w)[^\s\"'`]{{6,}})",
    re.IGNORECASE,
)
_CARD = re.compile(r"\b(?:\d{4}[ -]\d{4}[ -]\d{4}[ -]\d{4}|\d{4}[ -]\d{6}[ -]\d{5})\b")
_COUNT = re.compile(r"token\w*[\"'`]?\s*(?::=|=>|=|:|is|are)\s*\d{1,7}\Z", re.IGNORECASE)
# "the password is hunter2", "api_key: abc": the value, unless it is a word that one says about a password.
_SAID = re.compile(
    rf"(?:{_WORDS})\w{{0,30}}[\"'`*_]{{0,3}}(?P<about>{_ABOUT_WHAT}){_GAP}"
    rf"(?:is|are|was|ist|lautet|est|es|é|è|为|是|は|:=|=>|->|=|:|：){_GAP}(?:[:*]{{1,3}}{_GAP})?"
    r"(?:now\s{1,20}|set\s{1,20}to\s{1,20})?(?P<quote>[\"'`]?)"
    r"(?P<value>[^\s\"'`]{4,})(?P=quote)",
    re.IGNORECASE,
)
_ABOUT = frozenset(
    "a an the not in of on at by for from with to and or my your our this that it its too also only always never often "
    "required optional needed necessary missing empty stored saved kept hashed encrypted salted rotated expired "
    "invalid valid wrong right correct incorrect unknown known set unset reset read sent given passed used generated "
    "created checked validated verified rejected accepted refused ignored removed redacted none null true false string "
    "str short long weak strong secret secrets public private what where when how why stale fresh loaded cached "
    "que los las un una el la obligatoria obligatorio necesaria falsch richtig erforderlich obligatoire requis "
    "incorrecta incorrecte password passwort token await input getpass pflicht users".split()
)
_SENTENCE = re.compile(r"[.;!?]\s+(?=[A-ZÄÖÜÉ])")
_TOKEN = re.compile(r"[A-Za-z0-9+/_=-]{20,4096}")
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_DIGIT = re.compile(r"\d")
_CODE = re.compile(r"[A-Za-z_]\w*(?:\.\w+)+[(\[]|[A-Za-z_]\w{2,}\(\)?;?\Z")
_HEX = re.compile(r"[0-9a-f]+|[0-9A-F]+")
_DIGESTS = (40, 64)  # hexadecimal digits of git's names of commits: they are no secrets
_PRIVATE = re.compile(
    r"(?:<|＜|&lt;)\s{0,3}(/?)\s{0,3}private\b(?:[^<>＜＞&]|&(?!lt;|gt;))*(?:>|＞|&gt;)", re.IGNORECASE
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
    wide = text if text.isascii() else unicodedata.normalize("NFKC", text)
    if not _SUSPICIOUS.search(text) and not _SUSPICIOUS.search(wide):
        return text
    if wide != text:
        spelt = _redact(wide)  # letters of full width, say, are read like others
        if spelt.count(REMOVED) > _redact(text).count(REMOVED):
            return spelt
    return _redact(text)


def _redact(text: str) -> str:
    text = _FORMS.sub(REMOVED, _KEY_BLOCK.sub(REMOVED, text))
    seen = _SPACES.sub(lambda row: ("\n" if "\n" in row[0] else "") + _FEW_SPACES, text)
    spoken = (max(filter(None, said.groups()), key=len) for said in _SPOKEN.finditer(seen))
    found = {value for value in spoken if _is_value(value)}
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
    for said in _SAID.finditer(line):
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
