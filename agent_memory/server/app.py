"""The application: every route, the errors, and the OpenAPI description."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from agent_memory.errors import AgentMemoryError
from agent_memory.memory import Memory
from agent_memory.server import events, health, inspector_files, mcp, schemas
from agent_memory.server.gate import Gate
from agent_memory.server.metrics import Metrics
from agent_memory.server.problems import Problem, respond
from agent_memory.server.routes import admin, memories, search, transfer, upkeep
from agent_memory.server.serving import Serving
from agent_memory.server.settings import Settings
from agent_memory.server.shortcut import Shortcut
from agent_memory.telemetry.tracing import get_tracer, trace

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

_ABOUT = """\
A long-term memory for AI agents. Texts, questions and filters are those of `agent_memory.Memory`; errors are
`application/problem+json` whose `type` ends with the name of the error that Python raises."""


def create_app(
    open_memory: Callable[[], Memory],
    settings: Settings | None = None,
    *,
    tracer_provider: TracerProvider | None = None,
) -> FastAPI:
    """Return the server of a memory, as an ASGI application.

    Args:
        open_memory: Opens the memory when the server starts, in the process that serves it; closed when it stops.
        settings: The limits; defaults if left out.
        tracer_provider: Where spans go if ``settings.otel`` is set; OpenTelemetry's global provider if left out.
    """
    chosen = settings or Settings()
    tracer = get_tracer(tracer_provider) if chosen.otel else None
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        memory = await asyncio.to_thread(open_memory)
        try:
            serving = app.state.serving = await asyncio.to_thread(Serving, memory, chosen)
            metrics.watch(serving)
            async with AsyncExitStack() as stack:
                if tracer is not None:
                    stack.callback(trace(tracer_provider, content=chosen.otel_content))
                app.state.events = events.Watch(serving)
                stack.push_async_callback(app.state.events.close)
                app.state.mcp = await stack.enter_async_context(mcp.open_bridge(serving))
                yield
            await asyncio.to_thread(serving.close)
        finally:
            metrics.unwatch()
            await asyncio.to_thread(memory.close)

    app = FastAPI(
        title="agent-memory",
        version=version("agent-memory"),
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from elsewhere; ours is at /docs
        redoc_url=None,
        separate_input_output_schemas=False,
        redirect_slashes=False,  # to an address without TLS, where a proxy has taken it off
        telemetry={"tracing": False, "metrics": False, "logs": False},  # FastAPI's own would tell paths and values
    )
    app.state.settings, app.state.metrics = chosen, metrics
    v1 = APIRouter(prefix="/v1")
    groups = [group.router for group in (memories, search, upkeep, transfer, admin, events)]
    for group in groups:
        v1.include_router(group)
    app.include_router(v1)
    app.include_router(health.router)
    mcp.mount(app)
    inspector_files.mount(app)
    app.add_exception_handler(AgentMemoryError, _on_error)
    app.add_exception_handler(HTTPException, _on_error)
    app.add_exception_handler(RequestValidationError, _on_unreadable)
    app.add_middleware(Shortcut, prefix=v1.prefix, routers=groups)
    app.add_middleware(Gate, settings=chosen, observe=metrics.count_request, tracer=tracer)
    app.openapi = lambda: _describe(app)  # type: ignore[method-assign]
    return app


async def _on_error(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException) and not isinstance(error, Problem):
        detail = str(error.detail)
        error = Problem(error.status_code, "http", detail, headers=error.headers)
    return respond(error)


async def _on_unreadable(_: Request, error: Exception) -> Response:
    found: list[Any] = list(error.errors()) if isinstance(error, RequestValidationError) else []
    parts = []
    for fault in found[:3]:
        place = ".".join(str(part) for part in fault["loc"])
        got = "" if fault["type"] == "missing" else f", got {str(fault.get('input'))[:60]!r}"
        parts.append(f"{place}: {fault['msg']}{got}")
    return respond(Problem(422, "InvalidInputError", "; ".join(parts) or "the request cannot be read"))


def _describe(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI description, with the key and the headers that FastAPI does not know of."""
    from fastapi.openapi.utils import get_openapi

    if app.openapi_schema is None:
        found = get_openapi(title=app.title, version=app.version, description=_ABOUT, routes=app.routes)
        parts = found.setdefault("components", {})
        parts["securitySchemes"] = {
            "key": {"type": "http", "scheme": "bearer", "description": "`agent-memory keys create` makes one."}
        }
        parts["schemas"].setdefault("NewEntry", schemas.NewItem.model_json_schema())
        parts["schemas"].setdefault("ProblemDetails", schemas.ProblemDetails.model_json_schema())
        found["security"] = [{"key": []}, {}]
        for path, operations in found["paths"].items():
            for method, operation in operations.items():
                if path.startswith("/v1") and method in ("post", "patch", "put", "delete"):
                    operation.setdefault("parameters", []).append(_IDEMPOTENCY)
        for method in ("patch", "delete"):
            found["paths"]["/v1/memories/{key}"][method]["parameters"].append(_IF_MATCH)
        app.openapi_schema = found
    return app.openapi_schema


_IDEMPOTENCY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "A text of your own: the same request with the same one is carried out once, within a day.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "description": "The ETag of the version that is to be changed or forgotten.",
    "schema": {"type": "string", "pattern": '^("[0-9a-f]{24}"|\\*)$'},
}
