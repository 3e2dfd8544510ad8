"""Conditions without a metadata filter as SQL that is written out: most are, and SQLAlchemy need not be imported.

``conditions`` compiles the same conditions, with filters; a test holds the two to each other.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent_memory.storage.filters import EVERYTHING
from agent_memory.storage.records import LONGEST_MENTION, MENTION_RATIO, Condition
from agent_memory.storage.sqlite.values import (
    MICROSECOND,
    NOT_INTERNAL,
    encode_namespace,
    end_of_namespace,
    microseconds,
)

Part = tuple[str, tuple[object, ...]]
"""SQL with question marks, and the values for them."""

_IN_SPAN = (
    "(entries.event_time >= ? AND entries.event_time < ? OR entries.id IN (SELECT entry_id FROM mentions "
    "WHERE start BETWEEN ? AND ? AND stop > ? AND stop - start <= ?))"
)
_UNSUPERSEDED = "entries.superseded_at IS NULL"
_UNEXPIRED = "(entries.expires_at IS NULL OR entries.expires_at > ?)"
_STATES = {
    "any": "TRUE",
    "unsuperseded": _UNSUPERSEDED,
    "expired": f"{_UNSUPERSEDED} AND entries.expires_at <= ?",
    "past": "entries.expires_at <= ?",
    "as_of": f"entries.updated_at <= ? AND ({_UNSUPERSEDED} OR entries.superseded_at > ?) AND {_UNEXPIRED}",
    "current": f"{_UNSUPERSEDED} AND {_UNEXPIRED}",
}


def write_condition(condition: Condition) -> Part | None:
    """Return a condition as SQL over ``entries``; None if it has a metadata filter."""
    if condition.where != EVERYTHING:
        return None
    parts = list(_list_parts(condition))
    return " AND ".join(sql for sql, _ in parts), tuple(value for _, given in parts for value in given)


def _list_parts(condition: Condition) -> Iterator[Part]:
    state = _STATES[condition.state]
    moment = None if condition.moment is None else microseconds(condition.moment)
    yield state, (moment,) * state.count("?")
    yield from _list_names(condition)
    if condition.since is not None:
        yield "entries.event_time >= ?", (microseconds(condition.since),)
    if condition.until is not None:
        yield "entries.event_time <= ?", (microseconds(condition.until),)
    if condition.spans is not None:
        bounds = [(microseconds(start), microseconds(end)) for start, end in condition.spans]
        given = tuple(value for first, last in bounds for value in _bind_span(first, last))
        yield f"({' OR '.join([_IN_SPAN] * len(bounds)) or 'FALSE'})", given
    if condition.superseded:
        yield "entries.superseded_at IS NOT NULL", ()


def _bind_span(first: int, last: int) -> tuple[int, ...]:
    """Return the values for ``_IN_SPAN``."""
    return first, last, first - LONGEST_MENTION // MICROSECOND, last - 1, first, MENTION_RATIO * (last - first)


def _list_names(condition: Condition) -> Iterator[Part]:
    scope = encode_namespace(condition.namespace)
    if condition.key is not None:
        yield "entries.namespace = ? AND entries.key = ?", (scope, condition.key)
    else:
        if scope:
            yield "entries.namespace >= ? AND entries.namespace < ?", (scope, end_of_namespace(scope))
        if not condition.internal:
            yield NOT_INTERNAL, ()
    if condition.session is not None:
        yield "entries.session_id IN (SELECT id FROM sessions WHERE name = ?)", (condition.session,)
    if condition.speaker is not None:
        yield "entries.speaker = ?", (condition.speaker,)
