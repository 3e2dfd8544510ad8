"""Search: recall, why, and how a session's likeness to a question moves."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Response

from agent_memory import inputs
from agent_memory.errors import InvalidInputError
from agent_memory.evaluation.session_view import measure_likeness
from agent_memory.records import Hits, Session, Trace
from agent_memory.server import schemas
from agent_memory.server.calls import Caller, Reader
from agent_memory.server.describing import answers
from agent_memory.server.pages import page_list
from agent_memory.server.routes.memories import CursorQuery, LimitQuery, NamespaceQuery, name_in_path

router = APIRouter(tags=["search"])


def _read_options(caller: Caller, given: dict[str, Any]) -> dict[str, Any]:
    options = schemas.parse_spans(given)
    if "rerank" in options:
        wanted = options.pop("rerank")
        if wanted == "default":
            options["rerank"] = wanted
        elif wanted not in (None, False, True):
            raise InvalidInputError(f"rerank must be true, false or 'default' over HTTP, got {inputs.describe(wanted)}")
        elif wanted:
            options["rerank"] = caller.serving.reranker
    return options


def _show(hits: Hits) -> dict[str, Any]:
    return {"hits": list(hits), "tier_reached": hits.tier_reached, "evidence": hits.evidence}


@router.post("/search", responses=answers(schemas.Hits | schemas.Answers))
async def search(caller: Reader, body: schemas.Search) -> Response:
    """Find the entries that answer a query (`query`: a text or a vector), or each of several (`queries`)."""
    given = body.given()
    if ("query" in given) == ("queries" in given):
        raise InvalidInputError("give a query or queries, and not both")

    def read() -> dict[str, Any]:
        options = _read_options(caller, dict(given))
        if "query" in options:
            return _show(caller.memory.recall(options.pop("query"), **options))
        queries = options.pop("queries")
        if isinstance(queries, list):
            caller.check_number("queries", len(queries))
        return {"answers": [_show(hits) for hits in caller.memory.recall_many(queries, **options)]}

    began = time.perf_counter()
    response = await caller.search(read)
    response.headers["server-timing"] = f"search;dur={(time.perf_counter() - began) * 1000:.2f}"
    return response


@router.post("/memories/{key}/why", responses=answers(schemas.model_of(Trace)))
async def why(caller: Reader, key: str, body: schemas.Why) -> Response:
    """Explain the place of an entry among the answers to a query, also if it was not returned.

    `namespace` is what is searched, with all below it; `entry_namespace` is where the entry lies, if elsewhere.
    """
    given = body.given()

    def read() -> Trace:
        options = _read_options(caller, dict(given))
        return caller.memory.why(options.pop("query"), name_in_path(key), **options)

    return await caller.search(read)


@router.post("/encode", responses=answers(schemas.Vectors))
async def encode(caller: Reader, body: schemas.Encode) -> Response:
    """Return the vectors of texts, or of queries, in the store's space."""

    def read() -> dict[str, Any]:
        texts, config = body.texts, caller.memory.config
        if not isinstance(texts, list):
            raise InvalidInputError(f"texts must be a list, got {type(texts).__name__}")
        caller.check_number("texts", len(texts))
        checked = [inputs.check_text("text", text, config) for text in texts]
        space = caller.memory._store.follow_space()
        vectors = space.encode_queries(checked) if body.queries else space.encode_documents(checked)
        return {"vectors": vectors.tolist()}

    return await caller.read(read)


@router.get("/sessions", responses=answers(schemas.page_of(Session)))
async def sessions(
    caller: Reader, namespace: NamespaceQuery = None, limit: LimitQuery = 1000, cursor: CursorQuery = None
) -> Response:
    """List the sessions that hold entries, in the order they began."""
    return await caller.read(lambda: page_list(caller, caller.memory.sessions(namespace=namespace), cursor, limit))


@router.post("/sessions/{session}/likeness", responses=answers(None, 404))
async def likeness(caller: Reader, session: str, body: schemas.Likeness) -> Response:
    """Compare a question with each turn of a session as it went on: evolved vectors, and static ones beside them."""

    def read() -> Any:  # noqa: ANN401 - a record
        memory = caller.memory
        if body.namespace is not None:
            memory.entries(namespace=body.namespace, limit=1)  # refuses what lies outside
            memory = caller.serving.view(tuple(body.namespace))
        return measure_likeness(memory, name_in_path(session), body.query, steps=body.steps)

    return await caller.read(read)


@router.get("/namespaces", responses=answers(schemas.NamespaceList))
async def namespaces(
    caller: Reader, namespace: NamespaceQuery = None, limit: LimitQuery = 1000, cursor: CursorQuery = None
) -> Response:
    """List the namespaces that hold entries, sorted."""
    return await caller.read(lambda: page_list(caller, caller.memory.namespaces(namespace=namespace), cursor, limit))
