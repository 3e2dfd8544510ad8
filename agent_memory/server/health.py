"""Health, version and metrics: what operators' tools ask for."""

from __future__ import annotations

import sys
from importlib.metadata import version as installed

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from agent_memory.errors import AgentMemoryError
from agent_memory.server.calls import Watcher
from agent_memory.server.describing import answers
from agent_memory.server.problems import Problem
from agent_memory.server.serving import Serving

router = APIRouter(tags=["health"])


@router.get("/health/live", responses=answers())
async def live() -> Response:
    """Answer as long as the process runs."""
    return JSONResponse({"status": "ok"})


@router.get("/health/ready", responses=answers())
async def ready(request: Request) -> Response:
    """Answer 200 if requests are served, 503 if the server stops or the store cannot be read."""
    serving: Serving = request.app.state.serving
    if serving.stopping.is_set():
        raise Problem(503, "stopping", "the server is stopping")

    def look() -> None:
        with serving.memory._store.read() as tx:
            tx.changes.last_seq()

    try:
        await serving.run(look)
    except AgentMemoryError as error:
        raise Problem(503, "store", "the store cannot be read") from error
    return JSONResponse({"status": "ok"})


@router.get("/version", responses=answers())
async def version() -> Response:
    """Tell the versions of this package and of Python."""
    return JSONResponse({"version": installed("agent-memory"), "python": sys.version.split()[0]})


@router.get(
    "/metrics",
    responses={**answers(), 200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
)
async def metrics(caller: Watcher, request: Request) -> Response:
    """Figures for Prometheus: requests, stages, waiting, entries, index, jobs. They concern the whole store."""
    text, media_type = await caller.serving.run(request.app.state.metrics.expose)
    return Response(text, media_type=media_type)
