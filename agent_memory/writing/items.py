"""Items: what callers hand to ``add`` and ``add_many``, validated before anything is encoded."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from agent_memory import inputs
from agent_memory.config import Config
from agent_memory.errors import InvalidInputError
from agent_memory.formats.prompt import without_recalled
from agent_memory.storage.codec import canonical_json
from agent_memory.types import Namespace, Time

if TYPE_CHECKING:
    from agent_memory.storage.base import Database


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEntry:
    """An item of ``add_many``; the fields are the arguments of ``Memory.add``."""

    text: str
    session: str | None = None
    speaker: str | None = None
    key: str | None = None
    metadata: Mapping[str, Any] | None = field(default=None, hash=False)
    event_time: Time | None = None
    expires_at: Time | None = None
    importance: float | None = None
    namespace: Sequence[str] | None = None
    vector: Any = field(default=None, hash=False)


Item: TypeAlias = str | Mapping[str, Any] | NewEntry
"""What ``add_many`` takes: a text, or the arguments of ``add``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidEntry:
    """A validated item; fields as in ``NewEntry``.

    Attributes:
        event_time: None for the time of writing.
        namespace: None for the memory's own namespace.
        stored_metadata: The metadata as they are stored, canonical JSON.
    """

    text: str
    session: str | None
    speaker: str | None
    key: str
    metadata: Mapping[str, Any] = field(hash=False)
    stored_metadata: str
    event_time: datetime | None
    expires_at: datetime | None
    importance: float | None
    namespace: Namespace | None

    def check(self, database: Database, namespace: Namespace) -> None:
        """Raise InvalidInputError if a database cannot store it in a namespace."""
        database.check_texts(namespace, self.key, self.session, self.text, self.speaker, metadata=self.stored_metadata)


FIELDS = tuple(name for name in NewEntry.__slots__ if name != "vector")
"""The fields of a validated item that are those of an item."""

_FIELDS = frozenset(NewEntry.__slots__)


def parse_entry(item: Item, config: Config, *, session: str | None = None) -> ValidEntry:
    """Return the validated form of one item, all but its vector.

    Args:
        item: The item.
        config: Limits.
        session: The session of an item that names none.

    Raises:
        InvalidInputError: A field is missing, unknown, of a wrong type or out of range; the message names it.
    """
    given = get_fields(item).get
    namespace, importance = given("namespace"), given("importance")
    text = inputs.check_text("text", _strip_recalled(given("text")), config)
    named = inputs.check_optional_name("session", given("session")) or session
    speaker = inputs.check_optional_name("speaker", given("speaker"))
    key = inputs.check_optional_name("key", given("key")) or make_key()
    metadata, stored_metadata = _check_metadata(given("metadata"), config)
    return ValidEntry(
        text=text,
        session=named,
        speaker=speaker,
        key=key,
        metadata=metadata,
        stored_metadata=stored_metadata,
        event_time=inputs.parse_time("event_time", given("event_time"), config.zone),
        expires_at=inputs.parse_expiry("expires_at", given("expires_at"), config.zone),
        importance=None if importance is None else inputs.check_share("importance", importance),
        namespace=None if namespace is None else inputs.parse_namespace(namespace),
    )


def get_fields(item: Item) -> Mapping[str, Any]:
    """Return the fields that an item gives, by name.

    Raises:
        InvalidInputError: It is no item, the text is missing, or a field is unknown.
    """
    if type(item) is dict:  # told faster than that it is a mapping
        pass
    elif isinstance(item, NewEntry):
        return {field: getattr(item, field) for field in NewEntry.__slots__}
    elif isinstance(item, str):
        return {"text": item}
    elif not isinstance(item, Mapping):
        raise InvalidInputError(f"an item must be a string, a mapping or a NewEntry, got {inputs.type_name(item)}")
    if not item.keys() <= _FIELDS or "text" not in item:
        unknown = [field for field in item if field not in _FIELDS]
        what = f"unknown field {str(unknown[0])[:60]!r}" if unknown else "text is missing"
        raise InvalidInputError(f"{what}; an item has the fields {', '.join(NewEntry.__slots__)}")
    return item


def make_key() -> str:
    """Return a key that no other entry has: 32 hexadecimal digits that sort by time of creation.

    Ascending keys go to the end of the database's index; random ones would dirty one of its pages each. (UUID version 7
    with a 12-bit fraction of the millisecond, RFC 9562 section 6.2, method 3.)
    """
    milliseconds, rest = divmod(time.time_ns(), 1_000_000)
    fraction = (rest << 12) // 1_000_000
    chance = int.from_bytes(os.urandom(8)) >> 2
    return f"{milliseconds << 80 | 7 << 76 | fraction << 64 | 2 << 62 | chance:032x}"


def _check_metadata(value: object, config: Config) -> tuple[Mapping[str, Any], str]:
    """Return metadata, and their canonical JSON."""
    metadata = inputs.check_metadata(value, config)
    stored = canonical_json(metadata)
    inputs.check_metadata_size(len(stored), config)
    return metadata, stored


def _strip_recalled(value: object) -> object:
    """Return a text without the memories that a prompt recalled into it."""
    if not isinstance(value, str):
        return value
    rest = without_recalled(value)
    if rest is not value and value.strip() and not rest.strip():
        raise InvalidInputError("text is nothing but recalled memory, which is remembered already")
    return rest
