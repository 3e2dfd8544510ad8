"""How secrets look, and how people and programs write that something is one.

No repetition here is without an end: over a long row of spaces, two of them would take minutes.
"""

from __future__ import annotations

import re

PASSWORDS = (
    r"pass(?:word|wd|phrase|code)|pwd|contraseñ?n?a|contrasenya|passwort|kennwort|mot de passe|\bsenha\b|palavra-passe"
    r"|wachtwoord|hasło|lösenord|adgangskode|passord|salasana|jelszó|slaptažodis|lozinka|parolă|пароль|парола|密码|密碼|口令"
    r"|パスワード|비밀번호|암호|mật khẩu|kata sandi|รหัสผ่าน|पासवर्ड|סיסמ[הא]|كلمة (?:المرور|السر)|رمز عبور"
    r"|κωδικός πρόσβασης"
)
"""Words after which any word may be the secret."""

WORDS = (
    rf"{PASSWORDS}|\bclave\b|\bşifre\b|\bparola\b|\bheslo\b|\bκωδικός\b|secret|token"
    r"|(?:api|auth|access|private|client|service)[_ -]?key"
)
"""Words that also stand before what is none."""

SPACES = r"\s{0,20}"
ABOUT_WHAT = (
    r"(?:\s\(\w{1,20}\)|\s#?\d{1,4}|\s(?:for|of|to|on|für|de|del|di|da|pour|от|для)(?:\s(?!is\b)[\w.-]{1,30}){1,3}?)?"
)

SUSPICIOUS = re.compile(
    rf"\S{{16}}|{WORDS}|_?key|_?pass\b|://|-----? ?BEGIN|bearer\b|basic |\bpw\b|\bPIN\b|\bcodes?\b|\bphrase\b"
    r"|\s-(?:u|p|a)\b|\s-[pu]\S|\s--user|\b\d{4}[ -]\d{4,6}[ -]\d|\b\d{15,16}\b|\bSSN\b|social security|\$\w{1,4}\$"
    r"|\b(?:TOTP|2FA|MFA|OTP)\b|\bcreds?\b|credential|\blog ?ins?\b|\bsign ?in\b|zugangsdaten|anmeldedaten|identifiants"
    r"|credenciales|credenziali|inloggegevens|cookie|sudo|net use|authorization",
    re.IGNORECASE,
)
"""What a text holds in which anything here, or a detector, could find a secret."""

BLOCKS = re.compile(
    r"-{4,5} ?BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-{4,5}.*?(?:-{4,5} ?END [A-Z0-9 ]{0,50}-{4,5}|\Z)"
    r"|PuTTY-User-Key-File-\d.*?(?:Private-MAC:[^\n]*|\Z)"
    r"|\bMII[EJ][A-Za-z0-9+/]{20,}={0,2}(?:\s{1,4}[A-Za-z0-9+/]{16,}={0,2})*",
    re.DOTALL | re.IGNORECASE,
)
"""Private keys over many lines."""

_BROKEN = (
    r"\b(?:sk-(?:ant|proj|or)-|gh[oprsu]_|github_pat_|glpat-|xox[a-z]-|AIza|hf_|npm_|pypi-|whsec_|gsk_|[rs]k_live_)"
    r"[\w-]{0,100}\n[^\S\n]{0,20}(?=[\w+/=-]{0,100}\d)[\w+/=-]{8,200}(?=\s|\Z)"
)
_CRYPTED = r"\$2[abxy]\$\d\d\$[./\w]{50,}|\$(?:apr1|argon2\w{1,2}|[156y])\$[^\s\"']{1,60}\$[\w./+]{8,}"
FORMS = re.compile(
    rf"{_BROKEN}|{_CRYPTED}"
    r"|sk-[A-Za-z0-9_-]{20,}"  # OpenAI, Anthropic and others of the kind
    r"|(?<![\w-])eyJ[\w-]{10,}\s{0,2}\.\s{0,2}[\w-]{10,}(?:\s{0,2}\.\s{0,2}[\w-]{10,})?"  # JWT, also over several lines
    r"|AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}|\b1//0[\w-]{20,}"  # Google
    r"|gh[oprsu]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}"
    r"|hf_\w{30,}|xapp-[\w-]{20,}|xox[a-z]-[\w-]{10,}|npm_\w{30,}|pypi-[\w-]{40,}"
    r"|AGE-SECRET-KEY-\w{20,}|A(?:KIA|SIA|GPA|IDA)[A-Z0-9]{12,}"
    r"|dapi[0-9a-f]{32}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sbp_[0-9a-f]{40}|pplx-\w{40,}|nvapi-[\w-]{40,}|xai-\w{40,}"
    r"|dop_v1_\w{40,}|figd_[\w-]{30,}|sntry[su]_[\w-]{30,}|NRAK-\w{20,}|ntn_\w{30,}|rubygems_[0-9a-f]{40,}|pul-[0-9a-f]{40}"
    r"|ATATT3x[\w=-]{30,}|sq0(?:atp|csp)-[\w-]{20,}|dckr_pat_[\w-]{20,}|gl(?:rt|dt|ptt|cbt|sa)[-_][\w-]{16,}"
    r"|hv[bsr]\.[\w-]{20,}|whsec_\w{20,}|gsk_\w{20,}|\br8_\w{30,}|lin_api_\w{30,}|tskey-\w{2,10}-[\w-]{12,}"
    r"|\bEAA[A-Za-z0-9]{20,}|\bAQVN[\w-]{30,}|PMAK-[\w-]{40,}|\bdp\.(?:pt|st|ct|sa)\.[\w.-]{30,}|[rs]k_(?:live|test)_\w{16,}"
    r"|lsv2_(?:pt|sk)_\w{30,}|tvly-[\w-]{20,}|pcsk_\w{30,}|jina_\w{30,}|phx_\w{30,}|CFPAT-[\w-]{30,}|\bkey-[0-9a-z]{32}\b"
    r"|(?<=api/webhooks/)\d{10,25}/[\w-]{30,}"
    r"|(?<=[Bb]earer )[\w.~+/-]{8,}=*|(?<=[Bb]asic )[A-Za-z0-9+/]{12,}=*"
    r"|(?<=://)[^\s/@:]*:[^\s@/]+(?=@)|(?<=://)[^\s/@:]{0,100}:(?!\d{1,5}/)[^\s@]{4,200}(?=@[\w-]+[.:/])"
    r"|(?<=://)(?=[^/@]{0,100}\d)[\w.~-]{12,200}(?=@[\w-])"
)
"""Secrets that are known by their own form."""

_ANY = r"([^\s\"'`<>|]{4,200})"
_MIXED = r"((?=\S{0,200}\d)[^\s\"'`<>|]{6,200})"  # with a digit
_SET = r"[\"']?([^\s\"'$<{%-][^\s\"']{3,200})"  # on a command line; not $TOKEN, <token>, {token}
_END = r"[^\S\n]{0,20}(?:\n|\Z)"
SAYINGS = tuple(
    re.compile(saying, re.IGNORECASE)
    for saying in (
        rf"\bPIN\b(?: code)?{SPACES}(?:is|ist|:|=)?{SPACES}(\d{{4,8}})\b",
        rf"\b(?:recovery|backup|verification|one-time|security|unlock|2FA|OTP)[ -]?codes?{SPACES}(?:is|are|:|=){SPACES}"
        r"(?-i:((?=[A-Z0-9-]*\d)[A-Z0-9]{4,}(?:-[A-Z0-9]{3,})*))",
        r"\b(?:TOTP|otpauth|2FA|MFA|authenticator)\b[^\n]{0,40}?\b(?-i:([A-Z2-7]{16,64}))\b",
        rf"\b(?:seed|recovery|mnemonic|backup|secret) phrase{SPACES}(?:is|:|=){SPACES}"
        r"((?:[a-z]{3,8}\s{1,20}){11,23}[a-z]{3,8})",
        rf"\bpassphrase{SPACES}(?:is|:|=){SPACES}((?:[a-z]{{1,30}} ){{3,30}}[a-z]+)",
        r"\b(?:SSN|social security(?: number)?)\b\D{0,10}(\d{3}-?\d{2}-?\d{4})\b",
        # On a command line.
        r"\s(?:-u|--user)[ =]?[\"']?[\w.@+-]{1,60}:([^\s\"']{4,})",
        r"\b(?:mysql|mysqldump|mariadb|sshpass)\b[^\n]{0,300}?\s-p[ =]?[\"']?([^\s\"']{4,})",
        rf"\blogin\b[^\n]{{0,100}}?\s-p[ =]?{_SET}",
        rf"\b(?:redis|valkey)-cli\b[^\n]{{0,200}}?\s-a[ =]?{_SET}",
        rf"\s--?(?:password|passwd|pass|pw|token|secret|api[-_]?key|auth)[ =](?=\S{{0,200}}\d){_SET}",
        r"\becho\s[\"']?([^\s\"'|$]{4,200})[\"']?\s{0,3}\|\s{0,3}sudo\b",
        r"\bnet use\b[^\n]{0,60}?\s\\{2,4}\S{1,100}\s([^\s/]{4,200})",
        # In addresses, headers and files of programs.
        r"[?&](?:key|sig|signature|token|auth|access_token|api_?key|code|secret|pass(?:word)?|pwd)="
        r"((?=[^\s&#]{0,200}\d)[^\s&#\"'<>]{8,500})",
        r"\bjdbc:oracle:\w{1,10}:\w{1,40}/([^\s@]{3,100})@",
        r"\bAuthorization\b[\"']?\s?:\s?[\"']?(?:token|apikey|key|digest)\s([^\s\"']{6,})",
        r"\bbearer:?\s((?=\S{0,200}\d)[\w.~+/-]{8,}=*)",
        r"\bcookie:\s?(\w[\w.-]{0,60}=[^\n\"']{4,1000})",
        rf"<(?:\w{{1,20}}[:_-])?(?:{WORDS})>{SPACES}([^\s<>]{{4,200}}){SPACES}</",
        rf"[\"'](?:{WORDS})\w{{0,30}}[\"']{SPACES}:{SPACES}\{{{SPACES}[\"']\w{{1,30}}[\"']{SPACES}:{SPACES}[\"']([^\"'\n]{{3,200}})",
        rf"[\"'](?:{WORDS})[\"']{SPACES},{SPACES}[\"']value[\"']{SPACES}:{SPACES}[\"']([^\"'\n]{{3,200}})",
        # On the lines below the word for it.
        rf"(?<![^\W_])(?:{WORDS})[^\S\n]{{0,20}}[:=]?[^\S\n]{{0,20}}\n{SPACES}(?:[=:]\s{{0,20}})?((?=\S{{0,200}}\d)[^\s\"'`]{{6,}}){_END}",
        rf"(?:{WORDS})[\"'`*_]{{0,3}}[^\S\n]{{0,20}}[:=][^\S\n]{{0,20}}[|>\\]?[^\S\n]{{0,20}}\n{SPACES}```\w{{0,10}}\n{SPACES}{_ANY}{_END}",
        rf"(?:{WORDS})[\"'`*_]{{0,3}}[^\S\n]{{0,20}}(?::[^\S\n]{{0,20}}[|>]|[:=][^\S\n]{{0,20}}\\)[^\S\n]{{0,20}}\n{SPACES}{_ANY}{_END}",
        rf"(?:{PASSWORDS})[^\S\n]{{0,20}}:[^\S\n]{{0,20}}\n\n?[^\S\n]{{2,20}}{_ANY}{_END}",
        # In a sentence.
        rf"\b(?:{WORDS})\w{{0,30}}{ABOUT_WHAT} (?:to|as|auf|en|in) [\"'`]?((?=\S{{0,200}}\d)[^\s\"'`]{{6,}})",
        rf"\b(?:pw|pass){SPACES}[:=]{SPACES}((?=\S{{0,200}}\d)[^\s\"'`]{{6,}})",
        rf"\b(?:{WORDS})[ ]((?=\S{{0,200}}\d)(?=\S{{0,200}}[A-Za-z])(?=\S{{0,200}}[!@#$%^&*?]\w)[^\s\"'`]{{6,}})",
        rf"(?:{PASSWORDS})(?:[^\S\n]{{1,20}}|{SPACES}[—–|]{SPACES})(?=\S{{0,200}}[^\W\d_]){_MIXED}",
        rf"\b(?:{WORDS})s?[^\S\n]{{1,5}}(?:0x)?([0-9a-fA-F]{{32,200}})\b",
        rf"(?<!\S)[\"'`]?{_MIXED}[\"'`]?\s(?:is|as)\s(?:my|the|our|your|its|his|her)(?:\s\w{{1,20}}){{0,2}}\s"
        r"(?:password|passcode|passphrase|PIN|API key|secret|token)\b",
        r"\b(?:creds?|credentials?|log ?ins?|sign ?in|zugangsdaten|anmeldedaten|identifiants|credenciales|credenziali"
        r"|inloggegevens)\b[\s:=–—-]{1,5}(?:(?:with|as|is|are|for|mit|con)\s)?(?!https?:)[\w.@+-]{1,60}\s{0,3}[:/]\s{0,3}"
        r"(?!/)((?=\S{0,200}\d)(?=\S{0,200}[^\W\d_])[^\s\"'`/]{6,200})(?!\S)",
    )
)
"""What is a secret by the words before or behind it: the group."""

QUOTED = re.compile(
    rf"(?:{WORDS})\w{{0,30}}[\"']?{SPACES}(?:is|=|:){SPACES}"
    r"(?P<quote>[\"'])((?:[^\s\"']{1,40} ){1,8}[^\s\"']{1,40})(?P=quote)",
    re.IGNORECASE,
)
"""Several words in quotes: the second group."""

SAID = re.compile(
    rf"(?:{WORDS})\w{{0,30}}[\"'`*_]{{0,3}}(?P<about>{ABOUT_WHAT}){SPACES}"
    rf"(?:is|are|was|ist|lautet|est|c['’]est|es|é|è|为|是|は|는|은|:=|=>|->|=|:|：|[—–]){SPACES}(?:[:*]{{1,3}}{SPACES})?"
    r"(?:now\s{1,20}|(?:set|changed|updated|reset|rotated|switched)\s{1,20}to\s{1,20}){0,2}(?P<quote>[\"'`]?)"
    r"(?P<value>[^\s\"'`]{4,})(?P=quote)",
    re.IGNORECASE,
)
"""A word for it, and the value, which may also be a remark about it."""

NAMED = re.compile(
    r"(?:sha|md|base|utf|oauth|argon|pbkdf|bcrypt|ipv?|https?|x|v|s|ec|rsa|aes|ed|[hre]s|py|python|node|java|windows|web"
    r"|rfc|level|step|part|page|tls|ssl|k)-?\d{1,4}(?:[.-]\d{1,3}){0,3}[a-z]{0,2}",
    re.IGNORECASE,
)
"""What has a digit and is the name of a thing: oauth2, sha256, argon2id."""
