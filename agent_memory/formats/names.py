"""Names of other systems in the form that the store accepts.

The store's keys, sessions and namespace parts have 1 to 512 characters, none of which is a control character. Other
systems know no such bounds, so such names are escaped, reversibly and one to one; ordinary names stay as they are. A
key that is too long is cut and gets a digest of the whole: who writes it keeps the name itself beside it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent_memory.errors import InvalidInputError

_ESCAPE = "␛"
_UNUSABLE = re.compile(f"[\x00-\x1f\x7f\ud800-\udfff{_ESCAPE}]")
# Filters can name any key that is left, also of an object inside another.
_UNUSABLE_KEY = re.compile(f'["\\\\\x00-\x1f\ud800-\udfff{_ESCAPE}]|^\\$')
_MOST_CHARS = 512
_KEPT_CHARS = 400
_ESCAPED = re.compile(f"{_ESCAPE}([0-9a-f]{{4}})")


def encode_name(name: str) -> str:
    """Return the store's form of a name: a line feed becomes ``␛000a``, the empty name ``␛``."""
    encoded = _escape(name)
    return encoded if len(encoded) <= _MOST_CHARS else _shorten(encoded)


def decode_name(name: str) -> str:
    """Return the name that ``encode_name`` was given, unless that was too long."""
    return "" if name == _ESCAPE else _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)


def is_too_long(name: str) -> bool:
    """Return whether ``decode_name`` cannot give a name back."""
    return len(name) > _MOST_CHARS // 5 and len(_escape(name)) > _MOST_CHARS


def _escape(name: str) -> str:
    return _UNUSABLE.sub(lambda match: f"{_ESCAPE}{ord(match[0]):04x}", name) or _ESCAPE


def _shorten(encoded: str) -> str:
    return f"{encoded[:_KEPT_CHARS]}{_ESCAPE}x{hashlib.sha256(encoded.encode()).hexdigest()[:32]}"


def encode_key(name: str) -> str:
    """Return the store's form of a metadata key: ``$price``, which looks like an operator, becomes ``␛0024price``."""
    return _UNUSABLE_KEY.sub(lambda match: f"{_ESCAPE}{ord(match[0]):04x}", name)


def decode_key(name: str) -> str:
    """Return the key that ``encode_key`` was given."""
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name) if _ESCAPE in name else name


def with_keys(value: Any, recode: Callable[[str], str]) -> Any:  # noqa: ANN401 - whatever JSON has
    """Return a JSON value with ``encode_key`` or ``decode_key`` applied to the keys of all its objects.

    Raises:
        InvalidInputError: It is nested too deeply, or contains itself.
    """
    try:
        return _with_keys(value, recode)
    except RecursionError as error:
        raise InvalidInputError("a value is nested too deeply, or contains itself") from error


def _with_keys(value: Any, recode: Callable[[str], str]) -> Any:  # noqa: ANN401 - as above
    if type(value) is str:  # most are; told faster than that it is no mapping
        return value
    if isinstance(value, Mapping):
        return {
            recode(name) if isinstance(name, str) else name: _with_keys(each, recode) for name, each in value.items()
        }
    return [_with_keys(each, recode) for each in value] if isinstance(value, list | tuple) else value


def own_key(name: str) -> str:
    """Return a metadata key of the adapters' own, which no ``encode_key`` ever returns.

    Args:
        name: Begins with a letter that is no hexadecimal digit.
    """
    return f"{_ESCAPE}{name}"


def encode_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the store's form of a namespace. A part that is too long becomes several, all but its last marked."""
    parts: list[str] = []
    for name in names:
        encoded = _escape(name)
        while len(encoded) > _MOST_CHARS:
            parts.append(f"{_ESCAPE}m{encoded[:_KEPT_CHARS]}")
            encoded = encoded[_KEPT_CHARS:]
        parts.append(encoded)
    return tuple(parts)


def decode_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the namespace that ``encode_names`` was given."""
    decoded, begun = [], ""
    for name in names:
        if name.startswith(f"{_ESCAPE}m"):
            begun += name[2:]
        else:
            decoded.append(decode_name(begun + name))
            begun = ""
    return tuple(decoded)


def suffixed(encoded: str, kind: str, number: int) -> str:
    """Return the name of a part of an encoded name; no ``encode_name`` ever returns it.

    Args:
        encoded: From ``encode_name``.
        kind: One letter that is no hexadecimal digit.
        number: Which part.
    """
    name = f"{encoded}{_ESCAPE}{kind}{number}"
    return name if len(name) <= _MOST_CHARS else f"{_shorten(encoded)}{_ESCAPE}{kind}{number}"
