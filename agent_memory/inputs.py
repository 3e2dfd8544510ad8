"""Validation of what callers pass in, before anything is encoded or written.

``check_*`` returns the value it was given; ``parse_*`` returns it converted. Both raise ``InvalidInputError``, with a
message that names the argument (``what``).
"""

from __future__ import annotations

import json
import math
import operator
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Literal, SupportsIndex, TypeGuard, TypeVar

import numpy as np
import numpy.typing as npt

from agent_memory.config import Config
from agent_memory.errors import DimensionMismatchError, InvalidInputError, NotFoundError
from agent_memory.times import parse_period
from agent_memory.types import FloatArray, Namespace

MAX_NAME_CHARS = 512
MAX_METADATA_DEPTH = 64
MAX_K = 10_000
_HUGE = 1e300
_LONGEST = timedelta(days=365_000)


class Unset(Enum):
    """Tells an argument that was left out from None."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset.UNSET
UnsetType = Literal[Unset.UNSET]

Choice = TypeVar("Choice", bound=StrEnum)

_CONTROL = re.compile("[\x00-\x1f\x7f]")
INVISIBLE = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
"""Unicode's default ignorable characters and those of interlinear annotation, as a class of a regular expression."""

_NOTHING_SEEN = re.compile(f"[\\s\x00-\x1f\x7f-\x9f\u2800{INVISIBLE}]+")


# --- settings and paths ------------------------------------------------------------------------------


# Also with one slash, as a Path makes of it.
_ADDRESS = re.compile("postgres(ql)?:/")
_NEARLY = re.compile(r"\s*postgres(?:ql)?(?:\s*:|//)", re.IGNORECASE)
_URL = re.compile("[a-z][a-z0-9+.-]+://", re.IGNORECASE)


def parse_place(what: str, value: object) -> Path | str:
    """Return where a store is: the absolute path of a folder, or the URL of a PostgreSQL database as it is."""
    if isinstance(value, str) and _ADDRESS.match(value) and "://" in value:
        return check_unicode(what, value)
    if isinstance(value, str) and _NEARLY.match(value):  # a folder would be made, named with the password
        raise InvalidInputError(f"{what} is nearly an address of PostgreSQL: write postgresql://user@host/database")
    return parse_path(what, value)


def parse_path(what: str, value: object) -> Path:
    """Return the absolute path of a folder or file; ``~`` is the home folder.

    The path is made absolute once: a later change of the working directory does not move it.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(value, bytes):
        raise InvalidInputError(f"{what} must be a path, got {type_name(value)}")
    if not os.fspath(value):
        raise InvalidInputError(f"{what} must not be empty; the current folder is '.'")
    if "\x00" in os.fspath(value):
        raise InvalidInputError(f"{what} must not contain NUL")
    if any(len(os.fsencode(part)) > 255 for part in check_unicode(what, os.fspath(value)).split(os.sep)):
        raise InvalidInputError(f"{what} has a name of more than 255 bytes")
    if _ADDRESS.match(os.fspath(value)):
        raise InvalidInputError(
            f"{what} must be a path; a store on PostgreSQL is opened by Memory(url), and by it alone"
        )
    if url := _URL.match(os.fspath(value)):
        raise InvalidInputError(f"{what} must be a path, or an address that begins with postgresql://, got {url[0]}…")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise InvalidInputError(f"{what} names an unknown home folder: {value}") from error


def parse_config(value: object) -> Config:
    """Return the settings that a ``Config`` or a mapping of its fields gives; None gives the defaults."""
    if value is None:
        return Config()
    if isinstance(value, Config):
        return value
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"config must be a Config or a mapping of its fields, got {type_name(value)}")
    try:
        return Config(**value)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"config is unusable: {error}") from error


# --- texts and names ---------------------------------------------------------------------------------


def is_blank(text: str) -> bool:
    """Return whether nothing can be seen of a text: it is empty, or all spaces, control and invisible characters."""
    return not text or _NOTHING_SEEN.fullmatch(text) is not None


def check_text(what: str, value: object, config: Config) -> str:
    """Return a text that can be encoded and stored: something can be seen of it, it is not too long, valid Unicode."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a string, got {type_name(value)}")
    if not value:
        raise InvalidInputError(f"{what} must not be empty")
    if is_blank(value):
        raise InvalidInputError(f"{what} must not be empty: it holds nothing but spaces and invisible characters")
    if len(value) > config.max_text_chars:
        raise InvalidInputError(
            f"{what} has {len(value)} characters, more than Config.max_text_chars = {config.max_text_chars}"
        )
    return check_unicode(what, value)


def check_query(value: object, config: Config) -> str:
    """Return a text that can be searched for: as ``check_text``, but shorter."""
    text = check_text("query", value, config)
    if len(text) > config.max_query_chars:
        raise InvalidInputError(
            f"query has {len(text)} characters, more than Config.max_query_chars = {config.max_query_chars}; "
            "ask with its first or most telling part"
        )
    return text


def check_name(what: str, value: object) -> str:
    """Return a valid key, session, speaker or namespace part: 1 to 512 characters, no control characters."""
    if value is None:
        raise InvalidInputError(f"{what} must be a string, got None")
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a string, got {type_name(value)}")
    if not value or len(value) > MAX_NAME_CHARS:
        raise InvalidInputError(f"{what} must have 1 to {MAX_NAME_CHARS} characters, got {len(value)}")
    if _CONTROL.search(value):
        raise InvalidInputError(f"{what} must not contain control characters: {value!r}")
    return check_unicode(what, value)


def check_optional_name(what: str, value: object) -> str | None:
    """Return a valid name, or None if it was left out."""
    return None if value is None else check_name(what, value)


def check_names(what: str, value: object) -> list[str]:
    """Return a list of valid names."""
    if isinstance(value, str | bytes) or not is_iterable(value):
        raise InvalidInputError(f"{what} must be a list of strings, got {type_name(value)}")
    return [check_name(what, one) for one in value]


def parse_namespace(value: object) -> Namespace:
    """Return the namespace that a sequence of names gives."""
    if type(value) is not tuple and (isinstance(value, str | bytes) or not isinstance(value, Sequence)):
        raise InvalidInputError(f"namespace must be a tuple of strings, got {type_name(value)}")
    parts = tuple(value)
    if None in parts:
        raise InvalidInputError("namespace parts must be strings, got None")
    return tuple([check_name("namespace", part) for part in parts])


def resolve_namespace(value: object, home: Namespace) -> Namespace:
    """Return the namespace a call works in: ``home`` if the caller gave None, else the caller's.

    Raises:
        InvalidInputError: The caller's namespace is neither ``home`` nor below it.
    """
    return home if value is None else check_inside(parse_namespace(value), home)


def check_inside(parts: Namespace, home: Namespace) -> Namespace:
    """Return a namespace that is ``home`` or below it."""
    if parts[: len(home)] != home:
        raise InvalidInputError(f"namespace {parts} lies outside of this memory's namespace {home}")
    return parts


def check_unicode(what: str, value: str) -> str:
    """Return a string without lone surrogates, which have no UTF-8 form; of an enum, what it stands for."""
    plain = str.__str__(value)
    if plain.isascii():
        return plain
    try:
        plain.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} is not valid Unicode (lone surrogate)") from error
    return plain


# --- metadata, times, numbers ------------------------------------------------------------------------


def check_metadata(value: object, config: Config) -> Mapping[str, Any]:
    """Return metadata that is a JSON object of bounded depth; {} for None."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"metadata must be a mapping, got {type_name(value)}")
    level: list[object] = [value]
    for _ in range(MAX_METADATA_DEPTH + 1):
        level = [child for parent in level if type(parent) not in _SCALARS for child in _list_children(parent)]
        check_metadata_size(len(level), config)  # parts that are shared may multiply at each level
        if not level:
            return value
    raise InvalidInputError(f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels")


def parse_object(what: str, value: str | bytes) -> dict[str, Any]:
    """Return a JSON object."""
    try:
        parsed = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{what} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InvalidInputError(f"{what} must be a JSON object, got {type(parsed).__name__}")
    return parsed


def read_objects(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a file, one a line; blank lines are passed over.

    Raises:
        NotFoundError: The file is missing.
        InvalidInputError: A line is not a JSON object.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield parse_object(f"{path}, line {number}", line)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error


def check_metadata_size(chars: int, config: Config) -> None:
    """Raise InvalidInputError for metadata of more characters of JSON than can be stored."""
    if (most := config.max_metadata_chars) < chars:
        raise InvalidInputError(f"metadata takes more than {most} characters as JSON (Config.max_metadata_chars)")


_SCALARS = frozenset((str, int, float, bool, type(None)))
"""Types without children. Most parts are of one, which is told faster than that they are no mapping."""


def _list_children(value: object) -> list[object]:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"metadata keys must be strings, got {type_name(key)}")
            if "\x00" in key:
                raise InvalidInputError("metadata keys must not contain NUL")
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def parse_time(what: str, value: object, zone: tzinfo = UTC) -> datetime | None:
    """Return the moment (UTC) at which a time begins: a datetime, a date or an ISO 8601 string. None stays None.

    Args:
        what: Name of the argument.
        value: The time; see ``agent_memory.times``.
        zone: What a time without a zone is meant in.
    """
    return None if value is None else parse_period(what, value, zone).start


def parse_last(what: str, value: object, zone: tzinfo = UTC) -> datetime | None:
    """Return the last moment (UTC) that belongs to a time, as ``parse_time``: of a day, that before midnight."""
    return None if value is None else parse_period(what, value, zone).last


def parse_expiry(what: str, value: object, zone: tzinfo = UTC) -> datetime | None:
    """Return the moment (UTC) at which a time is over, as ``parse_time``: of a day, the midnight after it."""
    return None if value is None else parse_period(what, value, zone).end


def check_expiry(what: str, moment: datetime | None) -> None:
    """Raise InvalidInputError for an expiry that has passed: what nobody will ever find is not remembered."""
    now = datetime.now(UTC)
    if moment is not None and moment <= now:
        raise InvalidInputError(
            f"{what} {moment.isoformat()} has passed; it is {now.isoformat(timespec='seconds')}, "
            "and an expired entry is never returned"
        )


def parse_choice(what: str, value: object, choices: type[Choice]) -> Choice:
    """Return the member of a StrEnum that a string names."""
    try:
        return choices(str(value))
    except ValueError as error:
        known = ", ".join(choices)
        raise InvalidInputError(f"{what} must be one of {known}, got {str(value)[:60]!r}") from error


def check_share(what: str, value: object) -> float:
    """Return a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(f"{what} must be a number, got {type_name(value)}")
    if not 0 <= value <= 1:
        raise InvalidInputError(f"{what} must lie between 0 and 1, got {describe(value)}")
    return float(value)


def check_duration(what: str, value: object) -> float:
    """Return a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _HUGE:
        raise InvalidInputError(f"{what} must be a positive number, got {describe(value)}")
    return float(value)


def check_count(what: str, value: SupportsIndex, most: int = MAX_K) -> int:
    """Return a whole number from 1 to ``most``."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidInputError(f"{what} must be a whole number, got {type_name(value)}") from error
    if isinstance(value, bool) or not 1 <= number <= most:
        raise InvalidInputError(f"{what} must be a whole number from 1 to {most}, got {describe(value)}")
    return number


def check_flag(what: str, value: object) -> bool:
    """Return True or False; no other value stands for them."""
    if not isinstance(value, bool | np.bool_):
        raise InvalidInputError(f"{what} must be True or False, got {type_name(value)}")
    return bool(value)


def check_progress(value: object) -> None:
    """Raise InvalidInputError for a progress callback that cannot be called."""
    if value is not None and not callable(value):
        raise InvalidInputError(f"progress must be callable, got {type_name(value)}")


def check_encoder(what: str, value: object) -> None:
    """Raise InvalidInputError for what is neither an encoder nor the name or path of one; None may stand for one."""
    if isinstance(value, str | os.PathLike):
        parse_path(what, value)
    elif value is not None and not hasattr(value, "spec"):
        raise InvalidInputError(f"{what} must be a name, a path or an encoder, got {type_name(value)}")


def check_timedelta(what: str, value: object) -> timedelta:
    """Return a stretch of time of at most a thousand years."""
    if not isinstance(value, timedelta) or abs(value) > _LONGEST:
        raise InvalidInputError(f"{what} must be a timedelta of at most a thousand years, got {describe(value)}")
    return value


# --- vectors -----------------------------------------------------------------------------------------


def parse_vector(value: object, dimension: int | None = None) -> FloatArray:
    """Return a vector scaled to unit length, float32 of shape (dimension,).

    Args:
        value: The vector, of any numeric type.
        dimension: Number of dimensions it must have; None accepts any.

    Raises:
        DimensionMismatchError: It has another number of dimensions.
        InvalidInputError: It is not numeric, holds NaN or infinity, or is all zeros.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "fiubO":
            raise TypeError(f"of type {array.dtype}")
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise InvalidInputError(f"a vector must be numeric, got {type_name(value)}") from error
    if array.ndim != 1:
        raise InvalidInputError(f"a vector must have one axis, got shape {array.shape}")
    if dimension is not None:
        check_dimension(array, dimension)
    largest = np.abs(array).max(initial=0)
    if not math.isfinite(largest) or largest == 0:
        raise InvalidInputError("a vector must be finite and not all zeros")
    array /= largest  # the squares of very large and very small numbers have no float64
    return np.asarray(array / math.sqrt(array.dot(array)), dtype=np.float32)


def check_dimension(array: npt.NDArray[Any], dimension: int) -> None:
    """Raise DimensionMismatchError unless a vector has ``dimension`` dimensions."""
    if array.shape[0] != dimension:
        raise DimensionMismatchError(dimension, array.shape[0])


def is_iterable(value: object) -> TypeGuard[Iterable[Any]]:
    """Return whether a value can be iterated over; an array without axes only looks like it."""
    try:
        iter(value)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def describe(value: object) -> str:
    """Return a number, string or stretch of time for a message, shortened; of anything else the type."""
    if isinstance(value, int) and abs(value) >= 1 << 64:
        return "a number beyond 64 bits"
    return repr(value)[:60] if isinstance(value, int | float | str | timedelta) else type_name(value)


def type_name(value: object) -> str:
    """Return the name of a value's type, for messages."""
    return type(value).__name__
