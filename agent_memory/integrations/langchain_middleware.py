"""``AgentMemoryMiddleware``: long-term memory for ``langchain.agents.create_agent``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.errors import MissingDependencyError
from agent_memory.formats.names import encode_name
from agent_memory.integrations._opening import Adapter, Given, opened, relative
from agent_memory.integrations._prompting import Prompting
from agent_memory.integrations._text import own_text, said_in
from agent_memory.integrations.langchain_tools import session_of

try:
    from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage
    from langgraph.config import get_config
    from langgraph.runtime import Runtime
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain", "langchain") from error

NamespaceOf = Sequence[str] | Callable[[Any], Sequence[str]]


class AgentMemoryMiddleware(Adapter, AgentMiddleware[AgentState[Any], Any, Any]):
    """Recalls into the system message before each model call, and remembers the messages of each run.

    Recalled text stands in a tagged block of the system message only. It never enters the state of the agent,
    and what a model repeats of the block is left out when its answer is remembered. Messages are stored under
    their ids: a conversation that goes on is remembered once, and what the model still has before it is not
    recalled a second time.

    Args:
        memory: A memory, or the folder of one.
        namespace: Where to recall and remember, within the memory's namespace; or a function that returns it
            for the runtime of a call, for instance from the user in its context.
        session: The session of what is remembered; the ``thread_id`` of the run if left out.
        k: How many memories are recalled at most.
        where: Only entries whose metadata match are recalled.
        min_score: Entries that score lower are left out.
        remember: Types of the messages that are remembered.
    """

    def __init__(
        self,
        memory: Given,
        *,
        namespace: NamespaceOf = (),
        session: str | None = None,
        k: int = 5,
        where: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        remember: Collection[str] = ("human", "ai"),
    ) -> None:
        super().__init__()
        self.memory, self._own = opened(memory)
        self.tools = []
        self._namespace = namespace if callable(namespace) else relative(namespace)
        self._session = None if session is None else encode_name(session)
        self._prompting = Prompting(memory=self.memory, k=k, where=where, min_score=min_score)
        self._remember = frozenset(remember)

    # --- before the model call ---------------------------------------------------------------------------

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Call the model with what the last human message reminds of in the system message."""
        return handler(self._with_memories(request, self._find_session()))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Do as ``wrap_model_call`` does, without blocking the event loop."""
        session = self._find_session()
        return await handler(await run_in_thread(lambda: self._with_memories(request, session)))

    def _find_session(self) -> str | None:
        return self._session or session_of(get_config())

    def _with_memories(self, request: ModelRequest[Any], session: str | None) -> ModelRequest[Any]:
        asked = next((m for m in reversed(request.messages) if isinstance(m, HumanMessage)), None)
        if asked is None:
            return request
        shown = {_name(message.id, session) for message in request.messages if message.id}
        text = self._prompting_for(request.runtime).block(said_in(asked), known=shown)
        if not text:
            return request
        return request.override(system_message=_extended(request.system_message, text))

    # --- after the run -----------------------------------------------------------------------------------

    def after_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """Remember the messages that are not remembered yet."""
        self._write(state["messages"], runtime, self._find_session())

    async def aafter_agent(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        """Do as ``after_agent`` does, without blocking the event loop."""
        session = self._find_session()
        await run_in_thread(lambda: self._write(state["messages"], runtime, session))

    def _write(self, messages: Sequence[BaseMessage], runtime: Any, session: str | None) -> None:
        scope = self._prompting_for(runtime).scope
        most = self.memory.config.max_text_chars
        items = {}
        for message in messages:
            if message.id and message.type in self._remember and (text := _own_text(message)):
                key = _name(message.id, session)
                items[key] = {"key": key, "text": text[:most], "speaker": encode_name(message.name or message.type)}
        known = self.memory.get_many(list(items), namespace=scope)
        new = [item for key, item in items.items() if key not in known or known[key].text != item["text"]]
        self.memory.add_many([{**item, "namespace": scope} for item in new], session=session)

    def _prompting_for(self, runtime: Any) -> Prompting:
        namespace = self._namespace(runtime) if callable(self._namespace) else self._namespace
        return replace(self._prompting, namespace=namespace)


def _name(message_id: str, session: str | None) -> str:
    """Return the key of a message: another thread may count its messages by the same ids."""
    return encode_name(message_id if session is None else f"{session}:{message_id}")


def _own_text(message: BaseMessage) -> str:
    """Return what a message says itself: no recalled block, nothing for a message that only calls tools."""
    text = own_text(said_in(message))
    return "" if isinstance(message, AIMessage) and message.tool_calls else text


def _extended(message: SystemMessage | None, text: str) -> SystemMessage:
    if message is None:
        return SystemMessage(content=text)
    if isinstance(message.content, str):
        content: str | list[str | dict[Any, Any]] = f"{message.content}\n\n{text}"
    else:
        content = [*message.content, {"type": "text", "text": text}]
    return message.model_copy(update={"content": content})
