"""Former versions of entries: kept when an entry is replaced, so that the store can be read as of a past moment."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, literal, select, update

from agent_memory.storage.sqlite import lexical
from agent_memory.storage.sqlite.schema import entries, vectors


def archive(connection: Connection, rows: Sequence[Row[Any]], next_id: int, now: datetime, *, keep: int) -> None:
    """Copy entries that are about to be replaced, with their vectors, to rows of their own.

    Args:
        connection: A write transaction.
        rows: The entries as they are.
        next_id: Id of the first copy.
        now: When they stop being current.
        keep: Versions to keep of each; older ones are deleted. 0 keeps none.
    """
    if keep < 1:
        return
    for copy_id, row in enumerate(rows, start=next_id):
        copy = {**row._mapping, "id": copy_id, "superseded_at": now, "superseded_by": row.id}
        connection.execute(insert(entries).values(**copy))
        columns = (literal(copy_id), vectors.c.generation_id, vectors.c.static, vectors.c.evolved)
        theirs = select(*columns).where(vectors.c.entry_id == row.id)
        names = ["entry_id", "generation_id", "static", "evolved"]
        connection.execute(insert(vectors).from_select(names, theirs))
        former = (entries.c.superseded_by == row.id) & (entries.c.key == row.key)
        surplus = select(entries.c.id).where(former).order_by(entries.c.id.desc()).limit(-1).offset(keep)
        connection.execute(delete(entries).where(entries.c.id.in_(surplus.scalar_subquery())))


def supersede(connection: Connection, old_id: int, new_id: int, now: datetime) -> int | None:
    """Let one entry take the place of another, which stays readable as of moments before now.

    Returns:
        The session that the old entry thereby leaves, if any.
    """
    row = connection.execute(select(entries).where(entries.c.id == old_id)).one()
    lexical.delete_rows(connection, [(row.id, lexical.terms(row.text, row.speaker))])
    mark = update(entries).where(entries.c.id == old_id)
    connection.execute(mark.values(superseded_at=now, superseded_by=new_id))
    session_id: int | None = row.session_id
    return session_id
