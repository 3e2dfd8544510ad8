"""Sessions that entries join and leave; both move a session's head. Empty sessions are deleted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from agent_memory.storage.records import Draft
from agent_memory.storage.sqlite.slots import Link, driver
from agent_memory.storage.sqlite.values import encode_namespace, microseconds, read_integer

_ENTER = "UPDATE sessions SET head_seq = ? WHERE namespace = ? AND name = ? RETURNING id"
_BEGIN = "INSERT INTO sessions (namespace, name, created_at, head_seq) VALUES (?, ?, ?, ?) RETURNING id"
_MOVE_HEAD = "UPDATE sessions SET head_seq = ? WHERE id = ?"
_DROP_EMPTY = "DELETE FROM sessions WHERE id = ? AND NOT EXISTS (SELECT 1 FROM entries WHERE session_id = sessions.id)"


def enter_sessions(
    connection: Link, drafts: Iterable[Draft], head_seq: int, now: datetime
) -> dict[tuple[str, str], int]:
    """Return the ids of the drafts' sessions, created if new, after moving their heads to ``head_seq``."""
    raw = driver(connection)
    found: dict[tuple[str, str], int] = {}
    for draft in drafts:
        if draft.session is None:
            continue
        place = encode_namespace(draft.namespace), draft.session
        if place in found:
            continue
        rows = raw.execute(_ENTER, (head_seq, *place)).fetchall()
        if not rows:
            rows = raw.execute(_BEGIN, (*place, microseconds(now), head_seq)).fetchall()
        found[place] = read_integer(rows[0][0])
    return found


def leave_sessions(connection: Link, session_ids: Iterable[int | None], head_seq: int) -> None:
    """Move the heads of sessions that lost an entry to ``head_seq``, and delete the empty ones."""
    left = {session_id for session_id in session_ids if session_id is not None}
    driver(connection).executemany(_MOVE_HEAD, [(head_seq, session_id) for session_id in left])
    drop_empty_sessions(connection, left)


def drop_empty_sessions(connection: Link, session_ids: Iterable[int | None]) -> None:
    """Delete those of the sessions that no entry or former version is in."""
    driver(connection).executemany(_DROP_EMPTY, [(one,) for one in session_ids if one is not None])
