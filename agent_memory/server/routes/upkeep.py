"""Operating a store: statistics, checks, re-indexes, jobs, schedules, maintenance."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from agent_memory.errors import InvalidInputError
from agent_memory.reports import (
    GenerationInfo,
    Job,
    Maintenance,
    Operation,
    ReindexReport,
    Report,
    Schedule,
    Stats,
)
from agent_memory.server import schemas
from agent_memory.server.calls import Answer, Caller, Operator, Plan, Reader, Watcher, Writer
from agent_memory.server.describing import answers
from agent_memory.server.operations import find_operation, operate
from agent_memory.server.problems import Problem
from agent_memory.server.receipts import answer_receipt
from agent_memory.server.routes.memories import name_in_path

router = APIRouter(tags=["operations"])

JobId = Annotated[int, Path(ge=1, le=2**62)]
_OPERATION: dict[int | str, dict[str, Any]] = {
    202: {"model": schemas.model_of(Operation), "description": "It goes on; ask the operation."}
}


def _long(record: type, *others: int) -> dict[int | str, Any]:
    return {**answers(schemas.model_of(record), 409, *others), **_OPERATION}


@router.get("/stats", responses=answers(schemas.model_of(Stats)))
async def stats(caller: Reader) -> Response:
    """Count what the caller sees. Sizes, changes and the index concern the whole store: 0 for a narrower key."""

    def read() -> Stats:
        found = caller.memory.stats()
        if caller.sees_all:
            return found
        return replace(found, seq=0, database_bytes=0, snapshot_bytes=0, index={})

    return await caller.read(read)


@router.post("/check", responses=_long(Report))
async def check(caller: Operator, body: schemas.Check) -> Response:
    """Look for damage, and repair it if asked."""
    return await operate(caller, "check", lambda _: caller.memory.check(body.repair), audit=body.repair is True)


@router.get("/generations", responses=answers(schemas.page_of(GenerationInfo)))
async def generations(caller: Watcher) -> Response:
    """List the store's generations, oldest first."""
    return await caller.read(lambda: {"items": caller.memory.generations(), "next": None})


@router.post("/generations/collect", responses=answers(schemas.Count, 409))
async def collect_generations(caller: Operator, body: schemas.Collect) -> Response:
    """Delete former generations that were retired longer ago than `grace` seconds."""
    given = {} if body.grace is None else {"grace": schemas.parse_span(body.grace)}
    return await _count(caller, "collect", lambda: caller.memory.collect_generations(**given))


@router.post("/reindex", responses=_long(ReindexReport))
async def reindex(caller: Operator, body: schemas.Reindex) -> Response:
    """Move the store to another encoder or layout while it is in use; `dry_run` predicts what that would bring."""
    given = body.given()
    for name in ("encoder", "session_encoder"):
        _check_model(name, given.get(name))
    dry_run = given.get("dry_run") is True
    kind = "rehearse" if dry_run else "reindex"
    return await operate(
        caller, kind, lambda progress: caller.memory.reindex(**given, progress=progress), audit=not dry_run
    )


@router.post("/rollback", responses=_long(ReindexReport, 404))
async def rollback(caller: Operator, body: schemas.Rollback) -> Response:
    """Return to the generation before the last re-index."""
    _check_model("encoder", body.encoder)
    return await operate(
        caller, "rollback", lambda progress: caller.memory.rollback(encoder=body.encoder, progress=progress)
    )


def _check_model(what: str, name: object) -> None:
    """Refuse the path of a model: which files of this machine are read is not said over HTTP."""
    if isinstance(name, str) and (name[:1] in ("/", "~", ".") or os.path.exists(name)):
        raise InvalidInputError(f"{what} must be the name of a model over HTTP, not a path: got {name[:60]!r}")


@router.post("/maintenance", responses=_long(Maintenance))
async def maintenance(caller: Operator, body: schemas.Maintain) -> Response:
    """Do the maintenance that the store needs; `dry_run` only reports it."""
    dry_run = body.dry_run is True
    return await operate(
        caller,
        "maintenance",
        lambda _: caller.memory.maintenance(dry_run=body.dry_run, only=body.only),
        audit=not dry_run,
    )


@router.post("/purge", responses=answers(schemas.Forgotten, 409))
async def purge_expired(caller: Writer) -> Response:
    """Forget what has expired or is beyond its retention; answers with a receipt."""
    return await caller.write("purge", lambda _: answer_receipt(caller, caller.memory.purge_expired()))


@router.post("/queries/clear", responses=answers(schemas.Count, 409))
async def clear_queries(caller: Writer, body: schemas.Scope) -> Response:
    """Delete logged queries that were asked in a namespace or below it."""
    return await _count(caller, "clear-queries", lambda: caller.memory.clear_queries(namespace=body.namespace))


async def _count(caller: Caller, action: str, call: Callable[[], Any]) -> Response:
    def work(_: Plan) -> Answer:
        number = int(call())
        return Answer({"count": number}, count=number)

    return await caller.write(action, work)


@router.post("/snapshot", status_code=204, responses=answers(None, status=204))
async def save_snapshot(caller: Operator) -> Response:
    """Write the index to disk."""
    await caller.read(caller.memory.save_snapshot)
    return Response(status_code=204)


# --- jobs, operations and schedules ----------------------------------------------------------------------


@router.get("/jobs", responses=answers(schemas.page_of(Job)))
async def jobs(caller: Watcher, limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
    """List running and finished jobs, newest first."""
    return await caller.read(lambda: {"items": caller.memory.jobs(limit=limit), "next": None})


@router.post("/jobs", responses=_long(Job))
async def run_job(caller: Operator, body: schemas.RunJob) -> Response:
    """Run one periodic job now."""
    _check_backup(body.kind)
    return await operate(caller, str(body.kind)[:40], lambda _: caller.memory.run_job(body.kind, options=body.options))


@router.get("/jobs/{job}", responses=answers(schemas.model_of(Job), 404))
async def get_job(caller: Watcher, job: JobId) -> Response:
    """Read one job."""

    def read() -> Job:
        with caller.memory._store.read() as tx:
            return tx.jobs.get(job)

    return await caller.read(read)


@router.post("/jobs/{job}/pause", responses=answers(schemas.model_of(Job), 404, 409))
async def pause_job(caller: Operator, job: JobId) -> Response:
    """Pause a running job after its current step."""
    return await caller.write("pause", lambda _: Answer(caller.memory.pause_job(job)))


@router.post("/jobs/{job}/resume", responses=answers(schemas.model_of(Job), 404, 409))
async def resume_job(caller: Operator, job: JobId) -> Response:
    """Resume a paused job."""
    return await caller.write("resume", lambda _: Answer(caller.memory.resume_job(job)))


@router.post("/jobs/{job}/cancel", responses=answers(schemas.model_of(Job), 404, 409))
async def cancel_job(caller: Operator, job: JobId) -> Response:
    """Cancel a job after its current step."""
    return await caller.write("cancel", lambda _: Answer(caller.memory.cancel_job(job)))


@router.get("/operations", responses=answers(schemas.page_of(Operation)))
async def operations(caller: Reader) -> Response:
    """List what the server does, or did, after it had answered: newest first."""

    def read() -> dict[str, Any]:
        ledger = caller.serving.ledger
        return {"items": ledger.list_operations(caller.principal.namespace) if ledger else [], "next": None}

    return await caller.read(read)


@router.get("/operations/{operation}", responses=answers(schemas.model_of(Operation), 404))
async def get_operation(caller: Reader, operation: str) -> Response:
    """Read one operation: its progress, and at the end its result or problem."""
    return await caller.read(lambda: find_operation(caller, operation))


@router.get("/schedules", responses=answers(schemas.page_of(Schedule)))
async def schedules(caller: Watcher) -> Response:
    """List the periodic jobs."""
    return await caller.read(lambda: {"items": caller.memory.schedules(), "next": None})


@router.put("/schedules/{name}", responses=answers(schemas.model_of(Schedule), 409))
async def schedule(caller: Operator, name: str, body: schemas.NewSchedule) -> Response:
    """Make or replace a periodic job."""
    _check_backup(body.kind)
    make = partial(caller.memory.schedule, body.kind, body.trigger, options=body.options)
    return await caller.write("schedule", lambda _: Answer(make(name=name_in_path(name))))


def _check_backup(kind: object) -> None:
    """Refuse backups into folders of this machine: where files are written is not said over HTTP."""
    if kind == "backup":
        raise Problem(403, "local", "a backup into a folder of the server is made on its command line; see /v1/backup")


@router.delete("/schedules/{name}", status_code=204, responses=answers(None, 404, 409, status=204))
async def unschedule(caller: Operator, name: str) -> Response:
    """Delete a periodic job."""
    await caller.write("unschedule", lambda _: Answer(caller.memory.unschedule(name_in_path(name))))
    return Response(status_code=204)


@router.post("/schedules/{name}/pause", status_code=204, responses=answers(None, 404, 409, status=204))
async def pause_schedule(caller: Operator, name: str, body: schemas.Paused) -> Response:
    """Pause a periodic job, or resume it with `paused` false."""
    pause = partial(caller.memory.pause_schedule, paused=body.paused)
    await caller.write("pause-schedule", lambda _: Answer(pause(name_in_path(name))))
    return Response(status_code=204)
