"""Sessions that entries join and leave; both move a session's head. Empty sessions are deleted."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from sqlalchemy import Connection, and_, insert, update

from agent_memory.storage.records import Draft
from agent_memory.storage.sqlite.conditions import encode_namespace
from agent_memory.storage.sqlite.schema import sessions
from agent_memory.storage.sqlite.slots import driver

_MOVE_HEAD = "UPDATE sessions SET head_seq = ? WHERE id = ?"
_DROP_EMPTY = "DELETE FROM sessions WHERE id = ? AND NOT EXISTS (SELECT 1 FROM entries WHERE session_id = sessions.id)"


def enter_sessions(
    connection: Connection, drafts: Iterable[Draft], head_seq: int, now: datetime
) -> dict[tuple[str, str], int]:
    """Return the ids of the drafts' sessions, created if new, after moving their heads to ``head_seq``."""
    found: dict[tuple[str, str], int] = {}
    for draft in drafts:
        if draft.session is None:
            continue
        place = encode_namespace(draft.namespace), draft.session
        if place in found:
            continue
        here = and_(sessions.c.namespace == place[0], sessions.c.name == place[1])
        head = update(sessions).where(here).values(head_seq=head_seq).returning(sessions.c.id)
        session_id = connection.execute(head).scalar()
        if session_id is None:
            begun = insert(sessions).values(namespace=place[0], name=place[1], created_at=now, head_seq=head_seq)
            session_id = connection.execute(begun.returning(sessions.c.id)).scalar_one()
        found[place] = session_id
    return found


def leave_sessions(connection: Connection, session_ids: Iterable[int | None], head_seq: int) -> None:
    """Move the heads of sessions that lost an entry to ``head_seq``, and delete the empty ones."""
    left = {session_id for session_id in session_ids if session_id is not None}
    driver(connection).executemany(_MOVE_HEAD, [(head_seq, session_id) for session_id in left])
    drop_empty_sessions(connection, left)


def drop_empty_sessions(connection: Connection, session_ids: Iterable[int | None]) -> None:
    """Delete those of the sessions that no entry or former version is in."""
    driver(connection).executemany(_DROP_EMPTY, [(one,) for one in session_ids if one is not None])
