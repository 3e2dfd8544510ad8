"""Long work: carried out while its caller waits, or asks again for what became of it."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from fastapi import Response

from agent_memory.errors import AgentMemoryError, NotFoundError
from agent_memory.formats import payload
from agent_memory.reports import Operation
from agent_memory.server.calls import Answer, Caller, as_answer
from agent_memory.server.problems import TYPE, Problem, describe
from agent_memory.storage.sqlite.ledger import Ledger
from agent_memory.types import Progress

_log = logging.getLogger("agent_memory")
_PROGRESS_S = 0.5


async def operate(
    caller: Caller,
    kind: str,
    call: Callable[[Progress], Any],
    *,
    audit: bool = True,
    sent: bytes | None = None,
    drop: Callable[[], object] = lambda: None,
) -> Response:
    """Carry out something long. If it takes too long, or the caller prefers so, answer with 202 and an operation.

    Sent again with the same Idempotency-Key, it is answered with what became of that operation.

    Args:
        caller: Who asks.
        kind: What the operation is called.
        call: Does it; called with what reports progress.
        audit: Whether it is recorded.
        sent: Stands for the body of the request, if that was read already.
        drop: Called if ``call`` is not.
    """
    ledger, serving = caller.serving.ledger, caller.serving
    if ledger is None:
        return await caller.read(lambda: call(lambda done, total: None))
    begun = Operation(
        id=secrets.token_hex(12), kind=kind, namespace=caller.principal.namespace, created_at=datetime.now(UTC)
    )
    try:
        name = caller.read_key()
        body = await caller.request.body() if sent is None and name is not None else sent or b""
        former = await serving.run(partial(_begin, caller, ledger, begun, name, body))
        if former is not None:
            drop()
            return caller.respond(_show(former))
    except BaseException:
        drop()
        raise
    work = partial(_carry_out, caller, ledger, begun, call, audit)
    future = asyncio.get_running_loop().run_in_executor(serving.long_pool, copy_context().run, work)
    future.add_done_callback(lambda done: done.exception())
    wait = 0.0 if "respond-async" in caller.request.headers.get("prefer", "") else serving.settings.timeout_s / 2
    await asyncio.wait({future}, timeout=wait)
    return caller.respond(as_answer(future.result()) if future.done() else _show(begun))


def find_operation(caller: Caller, name: str) -> Operation:
    """Return an operation in the caller's scope, with what this process knows of its problem.

    Raises:
        NotFoundError: There is none of that id there.
    """
    if caller.serving.ledger is None:
        raise NotFoundError(f"there is no operation {name!r}")
    found = caller.serving.ledger.find_operation(caller.principal.namespace, name)
    return replace(found, error=caller.serving.problems.get(found.id, found.error))


def _begin(caller: Caller, ledger: Ledger, begun: Operation, name: str | None, body: bytes) -> Operation | None:
    """Record the beginning of an operation, so that whoever is told of it finds it.

    If the request has begun one before, that is returned instead.
    """
    if name is None:
        ledger.begin_operation(begun)
        return None
    reply_id, _, result = caller.claim(ledger, name, body, {})
    if result is not None:
        return find_operation(caller, result["operation"])
    ledger.begin_operation(begun)
    ledger.finish_reply(reply_id, {"operation": begun.id})
    return None


def _show(operation: Operation) -> Answer:
    """Return the answer that an operation is: its result, its problem, or that it goes on."""
    if operation.state == "done":
        return Answer(operation.result)
    if operation.state == "failed":
        problem = dict(operation.error or {})
        name, detail = str(problem.get("type", "")).removeprefix(TYPE), str(problem.get("detail", ""))
        raise Problem(int(problem.get("status", 500)), name, detail)
    return Answer(operation, 202, {"location": f"/v1/operations/{operation.id}", "retry-after": "1"})


def _carry_out(
    caller: Caller, ledger: Ledger, begun: Operation, call: Callable[[Progress], Any], audit: bool
) -> Answer:
    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_S:
            ledger.record_progress(begun.id, done, total)
            last = time.monotonic()

    def work() -> Answer:
        return as_answer(call(report))

    try:
        answer = caller.audited(begun.kind, work) if audit else work()
    except Exception as error:
        if not isinstance(error, AgentMemoryError | Problem):
            _log.exception("%s failed", begun.kind)
        told = describe(error)
        caller.serving.keep_problem(begun.id, told)
        # A message may cite what was sent, and records hold no content.
        kept = {"detail": f"{begun.kind} failed; why was told by the process in which it did, and is not kept"}
        ledger.finish_operation(begun.id, result=None, error=told | kept)
        raise
    ledger.finish_operation(begun.id, result=payload.to_json(answer.body), error=None)
    return answer
