"""Who may do what: the caller itself, keys, the audit log."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response

from agent_memory import inputs
from agent_memory.errors import NotFoundError
from agent_memory.reports import ApiKey, AuditRecord
from agent_memory.server import schemas
from agent_memory.server.calls import Admin, Answer, Caller, Plan, Reader
from agent_memory.server.describing import answers
from agent_memory.server.keys import create_key
from agent_memory.server.pages import seal, secret_of, unseal
from agent_memory.server.problems import Problem
from agent_memory.server.routes.memories import CursorQuery
from agent_memory.storage.sqlite.ledger import Ledger

router = APIRouter(tags=["access"])


@router.get("/me", responses=answers())
async def me(caller: Reader) -> Response:
    """Tell the caller what it may do, and the limits of the server."""

    def read() -> dict[str, Any]:
        settings, who, memory = caller.serving.settings, caller.principal, caller.memory
        limits = ("max_body_bytes", "max_import_bytes", "max_answer_bytes", "max_items", "timeout_s")
        session_encoder = memory.session_encoder
        return {
            "namespace": who.namespace,
            "role": who.role,
            "key": None if who.key is None else {"id": who.key.id, "name": who.key.name},
            "needs_key": caller.serving.needs_keys,
            "version": version("agent-memory"),
            "read_only": memory._store.database.read_only,
            "encoder": memory.encoder.spec,
            "session_encoder": None if session_encoder is None else session_encoder.spec.name,
            # Rules of retention name the namespaces of others.
            "config": {
                name: value for name, value in memory.config.dump().items() if caller.sees_all or name != "retention"
            },
            "limits": {name: getattr(settings, name) for name in limits},
        }

    return await caller.read(read)


def _ledger(caller: Caller) -> Ledger:
    if caller.serving.ledger is None:
        raise Problem(403, "read-only", "the store is read-only and has no keys")
    return caller.serving.ledger


@router.get("/keys", responses=answers(schemas.page_of(ApiKey)))
async def list_keys(caller: Admin) -> Response:
    """List the keys whose scope the caller sees; what they are is shown nowhere."""

    def read() -> dict[str, Any]:
        return {"items": [key for key in _ledger(caller).list_keys() if _is_below(key, caller)], "next": None}

    return await caller.read(read)


def _is_below(key: ApiKey, caller: Caller) -> bool:
    home = caller.principal.namespace
    return key.namespace[: len(home)] == home


@router.post("/keys", status_code=201, responses=answers(schemas.MadeKey, status=201))
async def make_key(caller: Admin, body: schemas.NewKey) -> Response:
    """Make a key in the caller's scope or below it. Its text is shown now, and never again."""
    if caller.request.headers.get("idempotency-key") is not None:
        raise Problem(400, "idempotency-key", "a key is shown once: making one cannot be asked for again")

    def work(_: Plan) -> Answer:
        given = body.given()
        given["namespace"] = inputs.resolve_namespace(given.get("namespace"), caller.principal.namespace)
        key, text = create_key(_ledger(caller), zone=caller.memory.config.zone, maker=caller.principal.key, **given)
        return Answer({"key": key, "text": text}, 201)

    return await caller.write("make-key", work)


@router.delete("/keys/{key_id}", responses=answers(schemas.model_of(ApiKey), 404, 409))
async def revoke_key(caller: Admin, key_id: str) -> Response:
    """Revoke a key: it stops working at once."""

    def work(_: Plan) -> Answer:
        ledger = _ledger(caller)
        found = ledger.find_key(key_id)
        if found is None or not _is_below(found[0], caller):
            raise NotFoundError(f"there is no key {key_id[:40]!r}")
        return Answer(ledger.revoke_key(key_id, datetime.now(UTC)))

    return await caller.write("revoke-key", work)


@router.get("/audit", responses=answers(schemas.page_of(AuditRecord)))
async def audit(
    caller: Admin, limit: Annotated[int, Query(ge=1, le=1000)] = 100, cursor: CursorQuery = None
) -> Response:
    """Read who wrote, forgot and re-indexed what, newest first; it holds no content."""

    def read() -> dict[str, Any]:
        secret = secret_of(caller)
        before = None if cursor is None else unseal(cursor, secret)
        found = _ledger(caller).list_audit(caller.principal.namespace, before=before, limit=limit + 1)
        shown = found[:limit]
        following = seal(shown[-1].seq, secret) if len(found) > limit else None
        if not caller.sees_all:
            shown = [_without_number(record) for record in shown]
        return {"items": shown, "next": following}

    return await caller.read(read)


def _without_number(record: AuditRecord) -> AuditRecord:
    """Hide how many records others have caused."""
    from dataclasses import replace

    return replace(record, seq=0)
