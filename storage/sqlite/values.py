"""Values of columns as SQLite holds them: times as microseconds, namespaces as text; and checks of what is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

from agent_memory.errors import StorageError
from agent_memory.types import INTERNAL, Namespace

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
_SEPARATOR = "\x1f"
_AFTER_SEPARATOR = "\x20"
_WHOLE = f"'{_SEPARATOR}' || entries.namespace"
NOT_INTERNAL = f"replace({_WHOLE}, '{_SEPARATOR}{INTERNAL}{_SEPARATOR}', '') = {_WHOLE}"
"""SQL that an entry is in no internal namespace, of both back ends: LIKE ignores case in one, instr is not in both."""

Read = Callable[[object], Any]
"""Returns a column's value converted and checked; raises StorageError."""


def microseconds(moment: datetime) -> int:
    """Return the column value of an aware datetime."""
    return (moment - EPOCH) // MICROSECOND


def encode_namespace(namespace: Namespace) -> str:
    """Return the column value of a namespace: each part followed by a separator; empty for the root."""
    return "".join(part + _SEPARATOR for part in namespace)


def decode_namespace(value: str) -> Namespace:
    """Return the namespace that a column value stands for."""
    return tuple(value.split(_SEPARATOR)[:-1])


def end_of_namespace(value: str) -> str:
    """Return what sorts just after the column values of a namespace, not the root, and of all that are below it."""
    return value[:-1] + _AFTER_SEPARATOR


def read_time(value: object) -> datetime | None:
    """Return the aware datetime of a column value; a store from a stranger may hold anything there."""
    if value is None:
        return None
    if not isinstance(value, int):
        raise StorageError(f"a stored time is damaged: {str(value)[:40]!r}")
    try:
        return EPOCH + value * MICROSECOND
    except OverflowError as error:
        raise StorageError(f"a stored time is damaged: {value}") from error


def read_kind(value: object, kinds: tuple[type, ...]) -> Any:  # noqa: ANN401 - of one of the kinds
    """Return a value that is None or of the right type, because SQLite stores values of any type in any column."""
    if value is None or isinstance(value, kinds):
        return value
    raise StorageError(f"the store is damaged: {type(value).__name__} in a column of {kinds[0].__name__}")


def read_text(value: object) -> Any:  # noqa: ANN401 - str or None
    """Return a value of a column of text."""
    return read_kind(value, (str,))


def read_integer(value: object) -> Any:  # noqa: ANN401 - int or None
    """Return a value of a column of integers."""
    return read_kind(value, (int,))


def read_number(value: object) -> Any:  # noqa: ANN401 - float, int or None
    """Return a value of a column of numbers."""
    return read_kind(value, (float, int))


def read_bytes(value: object) -> Any:  # noqa: ANN401 - bytes or None
    """Return a value of a column of bytes."""
    return read_kind(value, (bytes,))


ENTRIES: Mapping[str, Read] = {
    "id": read_integer,
    "namespace": read_text,
    "key": read_text,
    "session_id": read_integer,
    "speaker": read_text,
    "text": read_text,
    "metadata": read_text,
    "event_time": read_time,
    "created_at": read_time,
    "updated_at": read_time,
    "expires_at": read_time,
    "importance": read_number,
    "content_hash": read_bytes,
    "seq": read_integer,
    "superseded_at": read_time,
    "superseded_by": read_integer,
    "checksum": read_integer,
}
"""How each column of ``entries`` is read, in order; a test holds it to the schema, as it does ``GENERATIONS``."""

GENERATIONS: Mapping[str, Read] = {
    "id": read_integer,
    "fingerprint": read_text,
    "encoder": read_text,
    "dimension": read_integer,
    "tiers": read_text,
    "dtype": read_text,
    "state": read_text,
    "created_at": read_time,
    "session_encoder": read_text,
    "retired_at": read_time,
    "checksum": read_integer,
}


def read_row(columns: Mapping[str, Read], values: Iterable[object]) -> SimpleNamespace:
    """Return a raw SQLite row with its values converted and checked, by column name."""
    return SimpleNamespace(**{name: read(value) for (name, read), value in zip(columns.items(), values, strict=True)})
