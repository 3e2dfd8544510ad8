"""Schedules of periodic jobs in SQLite."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, select
from typing_extensions import override

from agent_memory.errors import NotFoundError, StorageError
from agent_memory.reports import Schedule
from agent_memory.storage.operations import Schedules
from agent_memory.storage.sqlite import checksums
from agent_memory.storage.sqlite.schema import schedules
from agent_memory.storage.sqlite.slots import Group, driver


def _parse_schedule(row: Row[Any]) -> Schedule:
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


class SqliteSchedules(Group, Schedules):
    """``Schedules`` in SQLite."""

    @override
    def list_all(self) -> list[Schedule]:
        return [_parse_schedule(row) for row in self._connection.execute(select(schedules).order_by(schedules.c.name))]

    @override
    def put(self, schedule: Schedule, now: datetime, *, seal: str | None = None) -> None:
        values = {
            "kind": schedule.kind,
            "trigger": schedule.trigger,
            "options": json.dumps(dict(schedule.options)),
            "paused": int(schedule.paused),
            "seal": seal,
        }
        self._put_row(schedules, "name", schedule.name, values, created_at=now)
        checksums.seal(driver(self._connection), "schedules", "name = ?", (schedule.name,))

    @override
    def find_seal(self, name: str) -> str | None:
        found: str | None = self._connection.execute(select(schedules.c.seal).where(schedules.c.name == name)).scalar()
        return found

    @override
    def remove(self, name: str) -> None:
        if self._connection.execute(delete(schedules).where(schedules.c.name == name)).rowcount != 1:
            raise NotFoundError(f"there is no schedule {name!r}")

    @override
    def set_paused(self, name: str, paused: bool) -> None:
        self._change(name, paused=int(paused))

    @override
    def set_last_run(self, name: str, moment: datetime) -> None:
        self._change(name, last_run_at=moment)

    def _change(self, name: str, **values: object) -> None:
        if checksums.change(driver(self._connection), "schedules", "name = ?", (name,), values) != 1:
            raise NotFoundError(f"there is no schedule {name!r}")
