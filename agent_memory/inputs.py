"""Validation of what callers hand in, before anything is encoded or written."""

from __future__ import annotations

import math
import operator
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, StrEnum
from pathlib import Path
from typing import Any, Literal, SupportsIndex, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from agent_memory.config import Config
from agent_memory.errors import DimensionMismatchError, InvalidInputError
from agent_memory.prompt import without_recalled
from agent_memory.types import FloatArray, Namespace

MAX_NAME_CHARS = 512
MAX_METADATA_CHARS = 1_000_000
MAX_METADATA_DEPTH = 64
MAX_K = 10_000


class Unset(Enum):
    """Tells an argument that was left out from None."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET = Unset.UNSET
UnsetType = Literal[Unset.UNSET]

Choice = TypeVar("Choice", bound=StrEnum)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An item of ``add_many``; the fields are the arguments of ``Memory.add``."""

    text: str
    session: str | None = None
    speaker: str | None = None
    key: str | None = None
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    event_time: datetime | str | None = None
    expires_at: datetime | str | None = None
    importance: float | None = None
    namespace: Sequence[str] | None = None
    vector: Any = field(default=None, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidEntry:
    """An item that can be written; fields as in ``NewEntry``.

    Attributes:
        event_time: None for the moment of writing.
        namespace: The memory's own where the item named none.
    """

    text: str
    session: str | None
    speaker: str | None
    key: str
    metadata: Mapping[str, Any] = field(hash=False)
    event_time: datetime | None
    expires_at: datetime | None
    importance: float | None
    namespace: Namespace | None


_TIME: TypeAdapter[datetime] = TypeAdapter(datetime)
_FIELDS = frozenset(NewEntry.__slots__)
_CONTROL = re.compile("[\x00-\x1f\x7f]")


def valid_entry(item: str | Mapping[str, Any] | NewEntry, config: Config, *, session: str | None = None) -> ValidEntry:
    """Return the validated form of one item, all but its vector; ``session`` is that of an item that names none.

    Raises:
        InvalidInputError: A field is missing, unknown, of a wrong type or out of range; the message names it.
    """
    given = fields_of(item).get
    scope = given("namespace")
    return ValidEntry(
        text=text(_new(given("text")), config),
        session=name("session", given("session")) or session,
        speaker=name("speaker", given("speaker")),
        key=name("key", given("key")) or new_key(),
        metadata=metadata(given("metadata")),
        event_time=moment("event_time", given("event_time")),
        expires_at=moment("expires_at", given("expires_at")),
        importance=importance(given("importance")),
        namespace=None if scope is None else namespace(scope),
    )


def folder(what: str, value: object) -> Path:
    """Return the absolute path of a folder; ``~`` is the home folder.

    It is resolved once: a later change of the working directory does not move it.
    """
    if not isinstance(value, str | os.PathLike) or isinstance(value, bytes):
        raise InvalidInputError(f"{what} must be a path, got {_kind(value)}")
    if not os.fspath(value):
        raise InvalidInputError(f"{what} must not be empty; the current folder is '.'")
    if "\x00" in os.fspath(value):
        raise InvalidInputError(f"{what} must not contain NUL")
    try:
        return Path(value).expanduser().absolute()
    except RuntimeError as error:
        raise InvalidInputError(f"{what} names an unknown home folder: {value}") from error


def config(value: object) -> Config:
    """Return settings, given as a ``Config``, a mapping of its fields, or None for the defaults."""
    if value is None:
        return Config()
    if isinstance(value, Config):
        return value
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"config must be a Config or a mapping of its fields, got {_kind(value)}")
    try:
        return Config(**value)
    except (ValidationError, TypeError) as error:
        raise InvalidInputError(f"config is unusable: {error}") from error


def new_key() -> str:
    """Return a key that no other entry has: 32 hexadecimal digits that sort by the moment they were made.

    Keys in order go to the end of their index; random ones would dirty a page of it each. (UUID version 7 with a
    12-bit fraction of the millisecond, RFC 9562 section 6.2, method 3.)
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    chance = int.from_bytes(os.urandom(8)) >> 2
    return f"{milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | chance:032x}"


def _new(value: object) -> object:
    """Return a text without what was recalled into it."""
    if not isinstance(value, str):
        return value
    rest = without_recalled(value)
    if rest is not value and value.strip() and not rest.strip():
        raise InvalidInputError("text is nothing but recalled memory, which is remembered already")
    return rest


def fields_of(item: str | Mapping[str, Any] | NewEntry) -> Mapping[str, Any]:
    """Return the fields of an item, those that it leaves out not among them.

    Raises:
        InvalidInputError: It is none of the three, or a field is missing or unknown.
    """
    if isinstance(item, NewEntry):
        return {field: getattr(item, field) for field in NewEntry.__slots__}
    if isinstance(item, str):
        return {"text": item}
    if not isinstance(item, Mapping):
        raise InvalidInputError(f"an item must be a string, a mapping or a NewEntry, got {_kind(item)}")
    if not item.keys() <= _FIELDS or "text" not in item:
        unknown = [field for field in item if field not in _FIELDS]
        what = f"unknown field {str(unknown[0])[:60]!r}" if unknown else "text is missing"
        raise InvalidInputError(f"{what}; an item has the fields {', '.join(NewEntry.__slots__)}")
    return item


def text(value: object, config: Config, what: str = "text") -> str:
    """Return a text if it can be encoded and stored."""
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a string, got {_kind(value)}")
    if not value or value.isspace():
        raise InvalidInputError(f"{what} must not be empty")
    if len(value) > config.max_text_chars:
        raise InvalidInputError(
            f"{what} has {len(value)} characters, more than Config.max_text_chars = {config.max_text_chars}"
        )
    return _unicode(what, value)


def name(what: str, value: object) -> str | None:
    """Return a key, session, speaker or namespace part if it is a usable name; None passes."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a string, got {_kind(value)}")
    if not value or len(value) > MAX_NAME_CHARS:
        raise InvalidInputError(f"{what} must have 1 to {MAX_NAME_CHARS} characters, got {len(value)}")
    if _CONTROL.search(value):
        raise InvalidInputError(f"{what} must not contain control characters: {value!r}")
    return _unicode(what, value)


def required_name(what: str, value: object) -> str:
    """Return a usable name; None is refused."""
    found = name(what, value)
    if found is None:
        raise InvalidInputError(f"{what} must be a string, got None")
    return found


def names(what: str, value: object) -> list[str]:
    """Return a list of usable names."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise InvalidInputError(f"{what} must be a list of strings, got {_kind(value)}")
    return [required_name(what, one) for one in value]


def scope(given: object, home: Namespace) -> Namespace:
    """Return the namespace to use for the one that a caller named: ``home`` for None, else ``home`` or below it.

    Raises:
        InvalidInputError: It lies elsewhere.
    """
    if given is None:
        return home
    parts = namespace(given)
    if parts[: len(home)] != home:
        raise InvalidInputError(f"namespace {parts} lies outside of this memory's namespace {home}")
    return parts


def _unicode(what: str, value: str) -> str:
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"{what} is not valid Unicode (lone surrogate)") from error
    return value


def namespace(value: object) -> Namespace:
    """Return a namespace, given as a sequence of names."""
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise InvalidInputError(f"namespace must be a tuple of strings, got {_kind(value)}")
    parts = tuple(value)
    for part in parts:
        if part is None or name("namespace", part) is None:
            raise InvalidInputError("namespace parts must be strings, got None")
    return parts


def metadata(value: object) -> Mapping[str, Any]:
    """Return metadata if it is a JSON object of bounded depth."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InvalidInputError(f"metadata must be a mapping, got {_kind(value)}")
    level: list[object] = [value]
    for _ in range(MAX_METADATA_DEPTH + 1):
        level = [child for parent in level for child in _children(parent)]
        if not level:
            return value
    raise InvalidInputError(f"metadata is nested deeper than {MAX_METADATA_DEPTH} levels")


def _children(value: object) -> list[object]:
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise InvalidInputError(f"metadata keys must be strings, got {_kind(key)}")
            if "\x00" in key:
                raise InvalidInputError("metadata keys must not contain NUL")
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else []


def moment(what: str, value: object) -> datetime | None:
    """Return a moment in UTC from a datetime or an ISO 8601 string; a naive one is taken as UTC."""
    if value is None:
        return None
    if not isinstance(value, datetime | str):
        raise InvalidInputError(f"{what} must be a datetime or an ISO 8601 string, got {_kind(value)}")
    try:
        parsed = _TIME.validate_python(value)
        return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
    except (ValidationError, OverflowError) as error:
        raise InvalidInputError(f"{what} is not a usable date and time: {str(value)[:60]!r}") from error


def choice(what: str, value: object, choices: type[Choice]) -> Choice:
    """Return the member of a StrEnum that a string names."""
    try:
        return choices(str(value))
    except ValueError as error:
        known = ", ".join(choices)
        raise InvalidInputError(f"{what} must be one of {known}, got {str(value)[:60]!r}") from error


def share(what: str, value: object) -> float:
    """Return a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidInputError(f"{what} must be a number, got {_kind(value)}")
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise InvalidInputError(f"{what} must lie between 0 and 1, got {value}")
    return float(value)


def duration(what: str, value: object) -> float:
    """Return a positive, finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise InvalidInputError(f"{what} must be a positive number, got {value!r}")
    return float(value)


def importance(value: object) -> float | None:
    """Return an importance from 0 to 1; None passes."""
    return None if value is None else share("importance", value)


def positive(what: str, value: SupportsIndex, most: int = MAX_K) -> int:
    """Return a whole number from 1 to ``most``."""
    try:
        number = operator.index(value)
    except TypeError as error:
        raise InvalidInputError(f"{what} must be a whole number, got {_kind(value)}") from error
    if isinstance(value, bool) or not 1 <= number <= most:
        raise InvalidInputError(f"{what} must be a whole number from 1 to {most}, got {value!r}")
    return number


def vector(value: object, dimension: int | None = None) -> FloatArray:
    """Return a vector at unit length, shape (dimension,).

    Args:
        value: The vector.
        dimension: How many dimensions it must have; None for any number.

    Raises:
        DimensionMismatchError: It has another number of dimensions.
        InvalidInputError: It is not numeric, holds NaN or infinity, or is all zeros.
    """
    try:
        array = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"a vector must be numeric, got {_kind(value)}") from error
    if array.ndim != 1:
        raise InvalidInputError(f"a vector must have one axis, got shape {array.shape}")
    if dimension is not None:
        check_dimension(array, dimension)
    wide = array.astype(np.float64)
    length = math.sqrt(wide.dot(wide))
    if not math.isfinite(length) or length == 0:
        raise InvalidInputError("a vector must be finite and not all zeros")
    return np.asarray(array / np.float32(length), dtype=np.float32)


def check_dimension(array: FloatArray, dimension: int) -> None:
    """Raise DimensionMismatchError unless a vector has so many dimensions."""
    if array.shape[0] != dimension:
        raise DimensionMismatchError(dimension, array.shape[0])


def _kind(value: object) -> str:
    return type(value).__name__
