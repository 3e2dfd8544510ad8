"""Schedules: which jobs a worker does again and again."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, select, update
from sqlalchemy.dialects.sqlite import insert

from agent_memory.errors import NotFoundError, StorageError
from agent_memory.reports import Schedule
from agent_memory.storage.sqlite.schema import schedules


def _schedule(row: Row[Any]) -> Schedule:
    try:
        options = dict(json.loads(row.options))
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"schedule {row.name!r} is damaged: {error}") from error
    return Schedule(
        name=str(row.name),
        kind=str(row.kind),
        trigger=str(row.trigger),
        options=options,
        paused=bool(row.paused),
        last_run_at=row.last_run_at,
    )


def listed(connection: Connection) -> list[Schedule]:
    """Return all schedules by name."""
    return [_schedule(row) for row in connection.execute(select(schedules).order_by(schedules.c.name))]


def put(connection: Connection, schedule: Schedule, now: datetime) -> None:
    """Store a schedule, or replace the one of that name; when that last ran is kept."""
    values = {
        "kind": schedule.kind,
        "trigger": schedule.trigger,
        "options": json.dumps(dict(schedule.options)),
        "paused": int(schedule.paused),
    }
    row = insert(schedules).values(name=schedule.name, created_at=now, **values)
    connection.execute(row.on_conflict_do_update(index_elements=["name"], set_=values))


def remove(connection: Connection, name: str) -> None:
    """Delete a schedule; raises NotFoundError if there is none of that name."""
    if connection.execute(delete(schedules).where(schedules.c.name == name)).rowcount != 1:
        raise NotFoundError(f"there is no schedule {name!r}")


def change(connection: Connection, name: str, **values: object) -> None:
    """Set columns of a schedule; raises NotFoundError if there is none of that name."""
    if connection.execute(update(schedules).where(schedules.c.name == name).values(**values)).rowcount != 1:
        raise NotFoundError(f"there is no schedule {name!r}")
