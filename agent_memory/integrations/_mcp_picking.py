"""The tools of the MCP server that pick among many other tools, and the file that describes those."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from agent_memory.aio import run_in_thread
from agent_memory.errors import AgentMemoryError, InvalidInputError
from agent_memory.integrations._mcp_pages import PAGE, Object
from agent_memory.integrations._mcp_tools import EMPTY
from agent_memory.routing.router import Router

PICKING_HINTS: Mapping[str, Mapping[str, Any]] = {
    "pick_tools": {"title": "Pick tools", "readOnlyHint": True},
    "correct_tool": {"title": "Correct a pick", "readOnlyHint": False, "destructiveHint": False},
}

Request = Annotated[str, Field(description='What is to be done, e.g. "Move the review to Wednesday".')]


class PickingTools:
    """The tools.

    Args:
        router: Knows the other tools.
        names: Those that are picked from; None for all.
        fails: The error that a client is shown.
    """

    def __init__(self, router: Router, names: Collection[str] | None, fails: type[Exception]) -> None:
        self._router, self._names, self._fails = router, names, fails

    async def pick_tools(
        self,
        request: Request,
        k: Annotated[
            int,
            BeforeValidator(lambda value: 5 if value == "" else value),
            Field(ge=1, le=PAGE, description="How many tools at most."),
        ] = 5,
    ) -> Object:
        """Say which of the many known tools a request needs, best first; an empty list means that none of them fits."""
        try:
            choices = await run_in_thread(lambda: self._router.route(request, k, among=self._names))
        except AgentMemoryError as error:
            raise self._fails(str(error)) from error
        found = [
            {"name": each.name, "confidence": round(each.confidence, 3), "because": each.sentence} for each in choices
        ]
        return {"tools": found}

    async def correct_tool(
        self,
        request: Request,
        name: Annotated[
            str | None, EMPTY, Field(description="The tool that was right; left out if none of them was.")
        ] = None,
    ) -> Object:
        """Teach which tool was right for a request, so that it is picked for requests like it."""
        try:
            await run_in_thread(lambda: self._router.feedback(request, name))
        except AgentMemoryError as error:
            raise self._fails(str(error)) from error
        return {"learned": name}


def read_tools(path: str | Path) -> dict[str, str]:
    """Return the descriptions of tools by name from a JSON file.

    The file holds a list of tools, or an object with such a list as ``tools``, as MCP's ``tools/list`` answers. A tool
    has a ``name`` and a ``description``, or both in its ``function``, as for OpenAI.

    Raises:
        InvalidInputError: The file cannot be read, is no such list, or names a tool twice.
    """
    try:
        content = json.loads(Path(path).expanduser().read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} cannot be read as a list of tools: {error}") from error
    tools = content.get("tools") if isinstance(content, dict) else content
    if not isinstance(tools, list) or not tools:
        raise InvalidInputError(f"{path} must hold a list of tools, or an object with one as 'tools'")
    found: dict[str, str] = {}
    for at, tool in enumerate(tools):
        inner = tool.get("function", tool) if isinstance(tool, dict) else None
        name = inner.get("name") if isinstance(inner, dict) else None
        if not isinstance(inner, dict) or not isinstance(name, str) or not name.strip() or name in found:
            raise InvalidInputError(f"tool {at} in {path} must have a name that no other has, got {name!r}")
        said = inner.get("description")
        found[name] = said if isinstance(said, str) and said.strip() else name.replace("_", " ")
    return found
