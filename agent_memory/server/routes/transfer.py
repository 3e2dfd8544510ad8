"""Export, import and backup, as streams."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from agent_memory.errors import AgentMemoryError, InvalidInputError
from agent_memory.reports import Operation
from agent_memory.server import schemas
from agent_memory.server.calls import Answer, Caller, Operator, Reader, Writer
from agent_memory.server.describing import answers
from agent_memory.types import Progress

router = APIRouter(tags=["transfer"])

_CHUNK = 1 << 16
UPLOAD = "the upload"
"""What messages call a file that was sent; clients put the name of theirs in its place."""


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses={**answers(), 200: {"content": {"application/x-ndjson": {}}, "description": "JSON Lines."}},
)
async def export(caller: Reader) -> Response:
    """Download all entries that the caller sees, as JSON Lines."""
    return await _download(caller, lambda path: caller.memory.export(path), "application/x-ndjson", "memory.jsonl")


@router.get(
    "/backup",
    response_class=StreamingResponse,
    responses={**answers(), 200: {"content": {"application/vnd.sqlite3": {}}, "description": "A verified copy."}},
)
async def backup(caller: Operator) -> Response:
    """Download a verified copy of the store; `Memory.restore` makes a store of it."""
    return await _download(caller, lambda path: caller.memory.backup(path), "application/vnd.sqlite3", "memory.db")


async def _download(caller: Caller, write: Callable[[Path], int], media_type: str, name: str) -> Response:
    """Answer with a file that is written first, so that what fails is told before the answer begins."""
    folder = tempfile.TemporaryDirectory(prefix="agent-memory-")  # mode 0700
    path = Path(folder.name) / name
    try:
        future = asyncio.get_running_loop().run_in_executor(caller.serving.long_pool, write, path)
        count = await future
        file = path.open("rb")
    except BaseException:
        folder.cleanup()
        raise
    size = path.stat().st_size
    folder.cleanup()  # the open file is all that is left of it
    headers = {
        "content-length": str(size),
        "content-disposition": f'attachment; filename="{name}"',
        "x-entries": str(count),
    }
    return StreamingResponse(_read_on(file), headers=headers, media_type=media_type)


async def _read_on(file: BinaryIO) -> AsyncIterator[bytes]:
    with file:
        while chunk := await asyncio.to_thread(file.read, _CHUNK):
            yield chunk


@router.post(
    "/import",
    responses={
        **answers(schemas.Count, 409, 507),
        202: {"model": schemas.model_of(Operation), "description": "It goes on; ask the operation."},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/x-ndjson": {"schema": {"type": "string"}},
                "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
async def import_(
    caller: Writer,
    request: Request,
    source: Annotated[
        Literal["mem0", "chroma", "langgraph"] | None, Query(description="Whose store it is; none for JSON Lines.")
    ] = None,
) -> Response:
    """Read an export, conversations, or another system's store; entries that are there already are left alone."""
    folder = tempfile.TemporaryDirectory(prefix="agent-memory-")
    path = Path(folder.name) / ("chroma.sqlite3" if source == "chroma" else "import")
    try:
        with path.open("wb") as file:
            async for chunk in request.stream():
                await asyncio.to_thread(file.write, chunk)
    except BaseException:
        folder.cleanup()
        raise

    def work(progress: Progress) -> Answer:
        with folder:
            try:
                transfer: Any = caller.memory._transfer
                lines = transfer._parse_lines(path) if source is None else transfer._parse_foreign(source, path)
                caller.check_room(sum(1 for _ in lines))
                count = caller.memory.import_(path, source=source, progress=progress)
            except AgentMemoryError as error:
                if str(path) not in str(error):
                    raise
                kind = type(error) if isinstance(error, InvalidInputError) else InvalidInputError
                raise kind(str(error).replace(str(path), UPLOAD)) from error
        return Answer({"count": count}, count=count)

    return await caller.operate("import", work)
