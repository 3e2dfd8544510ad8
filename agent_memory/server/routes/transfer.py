"""Export, import and backup, as streams."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse

from agent_memory import inputs
from agent_memory.errors import AgentMemoryError, InvalidInputError
from agent_memory.records import Copy
from agent_memory.reports import Operation
from agent_memory.server import schemas
from agent_memory.server.calls import Answer, Caller, Operator, Reader, Writer
from agent_memory.server.describing import answers
from agent_memory.server.operations import operate
from agent_memory.server.problems import Problem, status_of
from agent_memory.types import Progress
from agent_memory.writing.foreign.registry import Format

router = APIRouter(tags=["transfer"])

_CHUNK = 1 << 16
_MAX_NAME_BYTES = 255  # what file systems take
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
    with caller.serving.make_scratch() as folder:
        path = folder / name
        future = asyncio.get_running_loop().run_in_executor(caller.serving.long_pool, write, path)
        count = await future
        file = path.open("rb")  # all that will be left of it
    size = os.fstat(file.fileno()).st_size
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
        **answers(schemas.Imported, 409, 507),
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
    format: Annotated[Format | None, Query(description="Its form; without, the file shows it.")] = None,
    source: Annotated[Format | None, Query(description="The former name of `format`.")] = None,
    dry_run: Annotated[bool, Query(description="Check and count only.")] = False,
    assume_now: Annotated[bool, Query(description="Take the present for times that cannot be understood.")] = False,
    all_branches: Annotated[bool, Query(description="Keep also what is not on the last branch.")] = False,
    name: Annotated[str, Query(max_length=255, description="The file's name: sessions may be called after it.")] = "",
) -> Response:
    """Read an export, conversations, or another system's file; entries that are there already are left alone."""
    name, digest, scratch = _check_name(name), hashlib.sha256(), ExitStack()
    options: dict[str, Any] = {"format": format, "source": source, "assume_now": assume_now}
    options["all_branches"] = all_branches
    try:
        path = scratch.enter_context(caller.serving.make_scratch()) / name
        with path.open("wb") as file:
            async for chunk in request.stream():
                digest.update(chunk)
                await asyncio.to_thread(file.write, chunk)
    except BaseException:
        scratch.close()
        raise

    def work(progress: Progress) -> Answer:
        with scratch:
            try:
                if caller.quota is not None and not dry_run:
                    caller.check_room(caller.memory.import_(path, **options, dry_run=True).new)
                found = caller.memory.import_(path, **options, dry_run=dry_run, progress=progress)
            except AgentMemoryError as error:
                if str(path) not in str(error):
                    raise
                # Of its own kind for clients, but never the server's fault: it is about the file.
                status = min(status_of(error), 422)
                raise Problem(status, type(error).__name__, str(error).replace(str(path), UPLOAD)) from error
        return Answer({"written": int(found), **found.as_dict()}, count=int(found))

    return await operate(caller, "import", work, audit=not dry_run, sent=digest.digest(), drop=scratch.close)


def _check_name(name: str) -> str:
    """Return what to call an upload: the name of the file that it was, without any folder.

    Raises:
        InvalidInputError: It is no name of a file.
    """
    if not name:
        return "import"
    if "/" in name or not inputs.check_name("name", name).strip(".") or len(name.encode()) > _MAX_NAME_BYTES:
        raise InvalidInputError(f"name must be the name of a file, without a folder, got {name[:60]!r}")
    return name


@router.get("/copies", responses=answers(schemas.page_of(Copy)))
async def copies(caller: Operator) -> Response:
    """List the backups and exports that the store has made of itself, oldest first, with what they still hold."""
    return await caller.read(lambda: {"items": caller.memory.copies(), "next": None})
