"""Errors as ``application/problem+json`` (RFC 9457), and back into errors for clients."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import HTTPException, Response

from agent_memory import errors
from agent_memory.formats import payload

TYPE = "urn:agent-memory:error:"
"""What the ``type`` of a problem begins with; the name of an error's class follows, or one of a server's own."""

MEDIA_TYPE = "application/problem+json"

_STATUS: tuple[tuple[type[Exception], int], ...] = (
    (errors.EncoderMismatchError, 409),
    (errors.ModelNotFoundError, 422),
    (errors.InvalidInputError, 422),
    (errors.NotFoundError, 404),
    (errors.MissingDependencyError, 501),
    (errors.LeaseHeldError, 409),
    (errors.LockTimeoutError, 503),
    (errors.ClosedError, 503),
    (errors.IndexStateError, 500),
    (errors.AgentMemoryError, 500),
)


class Problem(HTTPException):  # FastAPI hands these on, also out of the reading of a body
    """An answer that is a problem of the request's, not an error of the memory.

    Args:
        status: Status of the answer.
        name: What kind it is, in words with hyphens.
        detail: One sentence that names both values.
        headers: Further headers.
        facts: Further members.
    """

    def __init__(
        self, status: int, name: str, detail: str, *, headers: Mapping[str, str] | None = None, **facts: object
    ) -> None:
        super().__init__(status, detail, dict(headers or {}))
        self.name, self.facts = name, facts


def status_of(error: errors.AgentMemoryError) -> int:
    """Return the status that stands for an error."""
    return next(status for kind, status in _STATUS if isinstance(error, kind))


def describe(error: Exception) -> dict[str, Any]:
    """Return the members of a problem."""
    if isinstance(error, Problem):
        facts: Mapping[str, object] = error.facts
        status, name, detail = error.status_code, error.name, str(error.detail)
    elif isinstance(error, errors.AgentMemoryError):
        facts = {name: str(value) if name == "path" else value for name, value in vars(error).items() if name[0] != "_"}
        status, name, detail = status_of(error), type(error).__name__, str(error)
    else:
        facts, status, name = {}, 500, "internal"
        detail = "the server failed to answer; its log says why"
    title = HTTPStatus(status).phrase
    return {"type": TYPE + name, "title": title, "status": status, "detail": detail, **payload.to_json(facts)}


def respond(error: Exception) -> Response:
    """Return the answer that an error becomes."""
    if isinstance(error, Problem) and error.status_code == HTTPStatus.NOT_MODIFIED:
        return Response(status_code=error.status_code, headers=dict(error.headers or {}))
    members = describe(error)
    headers = dict(error.headers or {}) if isinstance(error, Problem) else {}
    if isinstance(error, errors.LockTimeoutError | errors.ClosedError):
        headers["retry-after"] = "1"
    # Escaped, because a message may repeat a lone surrogate that was sent.
    text = payload.dumps(members, ascii_only=True)
    return Response(text, members["status"], headers, media_type=MEDIA_TYPE)
