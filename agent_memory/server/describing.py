"""How routes say in the OpenAPI description what they answer."""

from __future__ import annotations

from typing import Any

_PROBLEM: dict[str, Any] = {
    # Not by ``model``: FastAPI would describe it as application/json, too.
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDetails"}}}
}
_TEXTS = {
    400: "The request cannot be read.",
    401: "A key is needed.",
    403: "The key may not do this.",
    404: "There is nothing of that name.",
    408: "The request did not come in time.",
    409: "Another request or process is doing this.",
    410: "The entry was added by this request before, and is gone since.",
    412: "The entry is another than If-Match says.",
    413: "The request is too large.",
    421: "The server does not answer to this Host.",
    422: "A value is unusable; nothing was written.",
    429: "Too many requests in this namespace.",
    503: "The server is busy, or the store is locked.",
    504: "The request took too long.",
    507: "The namespace may hold no more entries.",
}
_ALWAYS = (400, 401, 403, 408, 413, 421, 422, 429, 503, 504)


def answers(model: Any = None, *others: int, status: int = 200, text: str = "Done.") -> dict[int | str, dict[str, Any]]:  # noqa: ANN401
    """Return the ``responses=`` of a route.

    Args:
        model: What it answers.
        others: Further statuses of problems, besides those that every route has.
        status: Status of a success.
        text: What the success means.
    """
    success: dict[str, Any] = {"description": text}
    if model is not None:
        success["model"] = model
    problems: dict[int | str, dict[str, Any]] = {
        number: {**_PROBLEM, "description": _TEXTS[number]} for number in sorted({*_ALWAYS, *others})
    }
    return {status: success, **problems}
