"""Values of other frameworks' metadata in the form that the store keeps: JSON.

Loaders hand over what their sources hold. Moments become ISO 8601, durations seconds, decimals numbers, UUIDs,
paths and other keys strings, sets sorted lists, enumerations their values, arrays lists; not-a-number and the
infinities, which JSON does not have, become null. Keys that begin with ``$`` would be taken for operators by
filters: they are escaped, reversibly.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np

from agent_memory.errors import InvalidInputError
from agent_memory.formats.names import decode_key, encode_key, with_keys
from agent_memory.integrations._text import usable_text


def plain(value: Any) -> Any:
    """Return the JSON form of a value; what has none is returned as it is, and refused by the store by name.

    Raises:
        InvalidInputError: It is nested too deeply, or contains itself.
    """
    try:
        return _plain(value)
    except RecursionError as error:
        raise InvalidInputError("a value is nested too deeply, or contains itself") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return usable_text(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float | Decimal):
        return _number(value)
    if isinstance(value, Mapping):
        return {key_of(name): _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(each) for each in value), key=repr)
    return _of_library(value)


def _number(value: float | Decimal) -> int | float | None:
    number = math.nan if isinstance(value, Decimal) and value.is_snan() else float(value)
    if not math.isfinite(number):
        return None
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else number


def _of_library(value: Any) -> Any:
    """Return the JSON form of an object of the standard library or NumPy."""
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, uuid.UUID | PurePath):
        return usable_text(str(value))
    if isinstance(value, np.datetime64 | np.timedelta64):
        unit = "datetime64[us]" if isinstance(value, np.datetime64) else "timedelta64[us]"  # finer ones become integers
        return None if np.isnat(value) else _plain(value.astype(unit).item())
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    return value


def key_of(name: object) -> str:
    """Return the key of a JSON object for a key of a mapping, whatever that is."""
    key = _plain(name)
    return encode_key(key if isinstance(key, str) else str(name))


def restored(value: Any) -> Any:
    """Return a value from ``plain`` with its keys as they were."""
    return with_keys(value, decode_key)


def plain_where(where: Any) -> Any:
    """Return a filter whose fields and values have the form that ``plain`` gave those of the metadata.

    Operators stay, known to the store or not: it says which it does not know.
    """
    if isinstance(where, Mapping):
        return {_field(name): plain_where(each) for name, each in where.items()}
    if isinstance(where, list | tuple) and any(isinstance(each, Mapping) for each in where):
        return [plain_where(each) for each in where]
    return plain(where)


def _field(name: object) -> str:
    return name if isinstance(name, str) and name.startswith("$") else key_of(name)
