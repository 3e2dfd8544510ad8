"""Records as JSON and back, the same for the command line, MCP, servers and exports.

Times are ISO 8601 with their offset, mappings are objects, tuples and arrays are lists. A hit is one flat object: its
rank and score beside the fields of its entry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from agent_memory.errors import StorageError
from agent_memory.records import Hit

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_T = TypeVar("_T")


def to_json(value: object, *, brief: bool = False) -> Any:  # noqa: ANN401 - whatever JSON has
    """Return a record, or anything made of records, as objects, lists and scalars that JSON has.

    Args:
        value: A record, mapping, list, tuple, array, time, path or scalar. Numbers that JSON cannot hold (NaN and the
            infinities) become null.
        brief: Leave out fields of records that hold nothing: None, an empty mapping or an empty tuple.

    Raises:
        TypeError: Something in it has no JSON form.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return str(value)  # an enumeration's member as its value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [to_json(part, brief=brief) for part in value]
    if isinstance(value, Mapping):
        return {str(name): to_json(part, brief=brief) for name, part in value.items()}
    if isinstance(value, Hit):
        more = {name: to_json(part) for name, part in _list_more(value).items()}
        return {**_place(value), **to_json(value.entry, brief=brief), **more}
    unfolded = _unfold(value)
    if brief and is_dataclass(value):
        unfolded = {name: part for name, part in unfolded.items() if not _is_empty(part)}
    return to_json(unfolded, brief=brief)


def _unfold(value: object) -> Any:  # noqa: ANN401 - as above
    """Return what stands for a value that JSON does not have, whose parts may have to be unfolded in turn."""
    if isinstance(value, Hit):
        return {**_place(value), **_unfold(value.entry), **_list_more(value)}
    if is_dataclass(value) and not isinstance(value, type):
        parts = ((name, getattr(value, name)) for name in _list_fields(type(value)))
        return {name: part.isoformat() if isinstance(part, datetime) else part for name, part in parts}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # NumPy's arrays and scalars
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


@cache
def _list_fields(record: Any) -> tuple[str, ...]:  # noqa: ANN401 - a class of records
    return tuple(field.name for field in fields(record))


def _place(hit: Hit) -> dict[str, Any]:
    return {"rank": hit.rank, "score": hit.score, "confidence": hit.confidence}


def _list_more(hit: Hit) -> dict[str, Any]:
    """Return what a hit has besides its place and its entry, if it has any."""
    more: dict[str, Any] = {} if hit.stale_by is None else {"stale_by": hit.stale_by}
    more |= {"passage": hit.passage} if hit.passage else {}
    return more | ({"trace": hit.trace} if hit.trace else {})


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, Mapping | tuple) and not value)


def dumps(value: object, *, brief: bool = False, indent: int | None = None, ascii_only: bool = False) -> str:
    """Return a record, or anything made of records, as JSON text.

    Args:
        value: As for ``to_json``.
        brief: As for ``to_json``.
        indent: Spaces a level, on several lines; None for one line.
        ascii_only: Escape all other characters, for outputs that cannot show them.
    """
    if not brief:
        try:
            return json.dumps(value, default=_unfold, ensure_ascii=ascii_only, indent=indent, allow_nan=False)
        except ValueError:  # it holds a number that JSON cannot
            pass
    return json.dumps(to_json(value, brief=brief), ensure_ascii=ascii_only, indent=indent, allow_nan=False)


@cache
def _reader(record: Any) -> tuple[TypeAdapter[dict[str, Any]], frozenset[str]]:  # noqa: ANN401 - a class of records
    """Return what reads the fields of a record, and the names of those that may be times."""
    from pydantic import TypeAdapter  # takes as long as printing all of a recall
    from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

    hints = get_type_hints(record, localns={"Namespace": tuple[str, ...]})
    kinds = {name: hints[name] for name in _list_fields(record)}
    times = frozenset(name for name, kind in kinds.items() if datetime in (kind, *get_args(kind)))
    return TypeAdapter(TypedDict(record.__name__, kinds, total=False)), times  # type: ignore[operator]


def from_json(record: type[_T], value: Mapping[str, Any]) -> _T:
    """Return the record that ``to_json`` has made an object of; what the record does not have is left out.

    Raises:
        StorageError: The object is no such record.
    """
    from pydantic import ValidationError

    kind: Any = record
    reader, times = _reader(kind)
    try:
        parts = reader.validate_python(value)
        return record(**{name: _in_utc(part) if name in times else part for name, part in parts.items()})
    except (ValidationError, TypeError, KeyError) as error:
        raise StorageError(f"what was sent is no {record.__name__}: {str(error)[:200]}") from error


def _in_utc(value: Any) -> Any:  # noqa: ANN401 - any field
    return value.astimezone(UTC) if isinstance(value, datetime) else value
