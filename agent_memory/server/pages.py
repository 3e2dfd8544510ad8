"""Pages of entries, with cursors that tell nothing about the store."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from typing import Any

from agent_memory import inputs
from agent_memory.errors import InvalidInputError
from agent_memory.formats import payload
from agent_memory.recall.request import make_condition
from agent_memory.records import Entry
from agent_memory.server.calls import Caller

_ROUNDS = 4
_HALF = 0xFFFFFFFF


def seal(number: int, secret: bytes) -> str:
    """Return a number as text that only this server can read: how many entries others have is not to be seen in it.

    A Feistel network over 64 bits with HMAC-SHA256 as its round function.
    """
    left, right = number >> 32 & _HALF, number & _HALF
    for turn in range(_ROUNDS):
        left, right = right, left ^ _mix(right, turn, secret)
    return f"{left << 32 | right:016x}"


def unseal(text: str, secret: bytes) -> int:
    """Return the number that ``seal`` made a text of.

    Raises:
        InvalidInputError: It is no such text.
    """
    try:
        if len(text) != 16 or not text.isascii() or not text.isalnum():
            raise ValueError
        number = int(text, 16)
    except ValueError:
        raise InvalidInputError(f"a cursor must be the 'next' of an earlier answer, got {text[:40]!r}") from None
    left, right = number >> 32, number & _HALF
    for turn in reversed(range(_ROUNDS)):
        left, right = right ^ _mix(left, turn, secret), left
    found = left << 32 | right
    if found >> 62:
        raise InvalidInputError(f"a cursor must be the 'next' of an earlier answer, got {text[:40]!r}")
    return found


def _mix(half: int, turn: int, secret: bytes) -> int:
    return int.from_bytes(hmac.new(secret, bytes([turn]) + half.to_bytes(4), hashlib.sha256).digest()[:4])


def secret_of(caller: Caller) -> bytes:
    """Return what cursors are sealed with."""
    ledger = caller.serving.ledger
    return b"read-only" if ledger is None else ledger.secret


def page_entries(
    caller: Caller,
    *,
    namespace: list[str] | None,
    limit: int,
    cursor: str | None,
    offset: int,
    count: bool,
    filters: dict[str, Any],
) -> dict[str, Any]:
    """Return a page of entries in the order they were added, within the limits of an answer."""
    settings, secret = caller.serving.settings, secret_of(caller)
    scope = inputs.resolve_namespace(namespace, caller.principal.namespace)
    condition = make_condition(scope, datetime.now(UTC), **filters, zone=caller.memory.config.zone)
    after = 0 if cursor is None else unseal(cursor, secret)
    if cursor is not None and offset:
        raise InvalidInputError(f"give a cursor or an offset, not both: got {cursor!r} and {offset}")
    most = min(limit, settings.max_items)
    with caller.memory._store.read() as tx:
        found = tx.entries.select(condition, after_id=after, limit=most + 1, offset=offset)
        total = tx.entries.count(condition) if count else None
    items: list[Entry] = []
    room = settings.max_answer_bytes // 2
    for _, entry in found[:most]:
        room -= len(payload.dumps(entry).encode())
        if room < 0 and items:
            break
        items.append(entry)
    more = len(items) < len(found)
    page = {"items": items, "next": seal(found[len(items) - 1][0], secret) if more else None}
    return {**page, "total": total} if count else page


def page_list(caller: Caller, items: list[Any], cursor: str | None, limit: int) -> dict[str, Any]:
    """Return a page of a list that is read whole."""
    secret = secret_of(caller)
    start = 0 if cursor is None else unseal(cursor, secret)
    end = start + min(limit, caller.serving.settings.max_items)
    return {"items": items[start:end], "next": seal(end, secret) if end < len(items) else None}
