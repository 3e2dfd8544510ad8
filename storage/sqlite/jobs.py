"""Jobs in SQLite: the state, progress and history of long operations."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Row, delete, insert, select, update
from typing_extensions import override

from agent_memory.errors import NotFoundError, StorageError
from agent_memory.reports import Job, JobState
from agent_memory.storage.operations import KEPT_JOBS, OPEN_STATES, Jobs
from agent_memory.storage.sqlite.schema import jobs
from agent_memory.storage.sqlite.slots import Group


def _parse_job(row: Row[Any]) -> Job:
    try:
        progress, state = dict(json.loads(row.progress)), JobState(row.state)
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(f"job {row.id} is damaged: {error}") from error
    return Job(
        id=row.id,
        kind=str(row.kind),
        state=state,
        progress=progress,
        error=row.error,
        created_at=row.created_at,
        updated_at=row.updated_at,
        finished_at=row.finished_at,
    )


_ERASED = "the reason was deleted when entries were forgotten that it may have cited"


class SqliteJobs(Group, Jobs):
    """``Jobs`` in SQLite."""

    @override
    def create(self, kind: str, progress: Mapping[str, Any], now: datetime) -> Job:
        values = {"kind": kind, "state": JobState.RUNNING, "progress": json.dumps(progress)}
        begun = insert(jobs).values(**values, created_at=now, updated_at=now).returning(jobs.c.id)
        job_id = self._connection.execute(begun).scalar_one()
        finished = select(jobs.c.id).where(jobs.c.finished_at.is_not(None)).order_by(jobs.c.id.desc())
        surplus = finished.offset(KEPT_JOBS).scalar_subquery()
        self._connection.execute(delete(jobs).where(jobs.c.id.in_(surplus)))
        return self.get(job_id)

    @override
    def get(self, job_id: int) -> Job:
        row = self._connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
        if row is None:
            raise NotFoundError(f"there is no job {job_id}")
        return _parse_job(row)

    @override
    def list_all(self, *, kind: str | None = None, unfinished: bool = False, limit: int | None = None) -> list[Job]:
        query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        if unfinished:
            query = query.where(jobs.c.state.in_(OPEN_STATES))
        return [_parse_job(row) for row in self._connection.execute(query)]

    @override
    def record(self, job_id: int, progress: Mapping[str, Any], now: datetime) -> None:
        row = update(jobs).where(jobs.c.id == job_id)
        self._connection.execute(row.values(progress=json.dumps(progress), updated_at=now))

    @override
    def clear_errors(self, since: datetime) -> int:
        failed = update(jobs).where(jobs.c.error.is_not(None), jobs.c.error != _ERASED, jobs.c.updated_at >= since)
        return int(self._connection.execute(failed.values(error=_ERASED)).rowcount)

    @override
    def set_state(self, job_id: int, state: JobState, now: datetime, error: str | None = None) -> None:
        done = None if state in OPEN_STATES else now
        row = update(jobs).where(jobs.c.id == job_id)
        self._connection.execute(row.values(state=state, error=error, updated_at=now, finished_at=done))
