"""The inspector's files: one page, served from the package as they are."""

from __future__ import annotations

from importlib.resources import files

from fastapi import FastAPI, Response

from agent_memory.server.problems import Problem

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


def mount(app: FastAPI) -> None:
    """Serve the inspector at / and the description of the routes at /docs."""
    folder = files("agent_memory.server") / "inspector"
    known = {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in _TYPES}

    async def send(name: str) -> Response:
        if name not in known:
            raise Problem(404, "http", f"there is no page {name[:60]!r}")
        return Response(known[name], media_type=_TYPES[name.rpartition(".")[2]], headers={"cache-control": "no-cache"})

    @app.get("/", include_in_schema=False)
    async def index() -> Response:
        return await send("index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return await send("docs.html")

    @app.get("/inspector/{name}", include_in_schema=False)
    async def file(name: str) -> Response:
        return await send(name)
