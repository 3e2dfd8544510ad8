"""Jobs: what is being done to a store besides reading and writing, how far it is, and what was done."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, delete, insert, select, update

from agent_memory.errors import NotFoundError, StorageError
from agent_memory.reports import Job, JobState
from agent_memory.storage.sqlite.schema import jobs

KEEP = 1_000
"""Finished jobs kept in the history."""

OPEN = (JobState.RUNNING, JobState.PAUSED)


def _job(row: Row[Any]) -> Job:
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


def create(connection: Connection, kind: str, progress: Mapping[str, Any], now: datetime) -> Job:
    """Record a job that begins now; the oldest finished ones beyond ``KEEP`` are forgotten."""
    values = {"kind": kind, "state": JobState.RUNNING, "progress": json.dumps(progress)}
    begun = insert(jobs).values(**values, created_at=now, updated_at=now).returning(jobs.c.id)
    job_id = connection.execute(begun).scalar_one()
    finished = select(jobs.c.id).where(jobs.c.finished_at.is_not(None)).order_by(jobs.c.id.desc())
    surplus = finished.limit(-1).offset(KEEP).scalar_subquery()
    connection.execute(delete(jobs).where(jobs.c.id.in_(surplus)))
    return get(connection, job_id)


def get(connection: Connection, job_id: int) -> Job:
    """Return a job; raises NotFoundError if there is none of that id."""
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).first()
    if row is None:
        raise NotFoundError(f"there is no job {job_id}")
    return _job(row)


def listed(connection: Connection, *, kind: str | None = None, unfinished: bool = False, limit: int = -1) -> list[Job]:
    """Return jobs, the newest first."""
    query = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
    if kind is not None:
        query = query.where(jobs.c.kind == kind)
    if unfinished:
        query = query.where(jobs.c.state.in_(OPEN))
    return [_job(row) for row in connection.execute(query)]


def record(connection: Connection, job_id: int, progress: Mapping[str, Any], now: datetime) -> None:
    """Record how far a job is, in the transaction that brought it there."""
    row = update(jobs).where(jobs.c.id == job_id)
    connection.execute(row.values(progress=json.dumps(progress), updated_at=now))


def set_state(connection: Connection, job_id: int, state: JobState, now: datetime, error: str | None = None) -> None:
    """Move a job to a state; one that is finished gets its time of finishing."""
    done = None if state in OPEN else now
    row = update(jobs).where(jobs.c.id == job_id)
    connection.execute(row.values(state=state, error=error, updated_at=now, finished_at=done))
