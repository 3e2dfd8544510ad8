"""``AgentMemoryToolSelector``: shows a model the few of many tools that a request may need, without asking an LLM."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.files import new_lock
from agent_memory.inputs import check_count, check_share, is_blank, type_name
from agent_memory.integrations._text import said_in, usable_text
from agent_memory.routing.router import Router

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
    from langchain_core.tools import BaseTool
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain", "langchain") from error

_QUERY_CHARS = 2000


class AgentMemoryToolSelector(AgentMiddleware[AgentState[Any], Any, Any]):
    """Middleware for ``create_agent`` that passes on the tools that the last human message may need.

    Tools are described by their names and descriptions. Those that the model has called since that message stay, as do
    the tools of ``always_include`` and those that a provider runs itself.

    Args:
        router: What picks, e.g. a ``Router`` over a memory, which keeps what ``router.feedback`` teaches it; one of its
            own if left out.
        max_tools: How many tools are passed on, beside those that stay.
        min_confidence: Pass on none unless the best one is the right one with at least this chance; 0 leaves that to
            the model.
        always_include: Names of tools that stay.
    """

    def __init__(
        self,
        router: Router | None = None,
        *,
        max_tools: int = 5,
        min_confidence: float = 0.0,
        always_include: Collection[str] = (),
    ) -> None:
        super().__init__()
        if router is not None and not isinstance(router, Router):
            raise InvalidInputError(f"router must be a Router, got {type_name(router)}")
        if isinstance(always_include, str):
            raise InvalidInputError("always_include must be a list of names, got str")
        self.router = Router() if router is None else router
        self.tools = []
        self._most = check_count("max_tools", max_tools)
        self._floor = check_share("min_confidence", min_confidence)
        self._always = frozenset(always_include)
        self._lock = new_lock()
        self._described: dict[str, str] = {}

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model with the tools that it may need."""
        return handler(self._select(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Do as ``wrap_model_call`` does, without blocking the event loop."""
        return await handler(await run_in_thread(lambda: self._select(request)))

    def _select(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        tools = {tool.name: tool for tool in request.tools or () if isinstance(tool, BaseTool)}
        if missing := sorted(self._always - tools.keys()):
            raise InvalidInputError(f"always_include names {missing}, but the agent has the tools {sorted(tools)}")
        asked, called = _read_request(request.messages)
        kept = self._always | called
        among = {name: tool for name, tool in tools.items() if name not in kept}
        if len(among) <= self._most or is_blank(asked):
            return request
        picked = {*kept, *self._pick(asked, among)}
        return request.override(
            tools=[tool for tool in request.tools if not isinstance(tool, BaseTool) or tool.name in picked]
        )

    def _pick(self, asked: str, tools: Mapping[str, BaseTool]) -> list[str]:
        described = {name: tool.description or name for name, tool in tools.items()}
        with self._lock:
            new = {name: text for name, text in described.items() if self._described.get(name) != text}
            if new:
                self._learn(new)
        return [choice.name for choice in self.router.route(asked, self._most, self._floor, among=tools)]

    def _learn(self, new: Mapping[str, str]) -> None:
        known = self.router.routes
        if unknown := {name: text for name, text in new.items() if text not in known.get(name, ())}:
            self.router.add(unknown)
        self._described |= new


def _read_request(messages: Sequence[BaseMessage]) -> tuple[str, frozenset[str]]:
    """Return the end of what was asked last, and the names of the tools called since."""
    called: set[str] = set()
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return usable_text(said_in(message)).strip()[-_QUERY_CHARS:], frozenset(called)
        if isinstance(message, AIMessage):
            called |= {call["name"] for call in message.tool_calls}
    return "", frozenset(called)
