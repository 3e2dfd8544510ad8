"""``AgentMemoryChatMessageHistory``: the messages of a session, in order and without loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.formats.names import encode_name
from agent_memory.integrations._erasing import Erase, check_erase
from agent_memory.integrations._opening import Adapter, Given, opened, session_and_memory
from agent_memory.integrations._session import Items
from agent_memory.integrations._text import NO_TEXT, own_text, said_in, usable_text

try:
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.messages import BaseMessage, message_to_dict, messages_from_dict
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error

_FIELD = "langchain_message"
_ONLY_MESSAGES = {_FIELD: {"$exists": True}}


class AgentMemoryChatMessageHistory(Adapter, BaseChatMessageHistory):
    """The chat history of one session, which the memory recalls from as well.

    Args:
        memory: A memory, or the folder of one; share one memory between the histories of a process.
        former: For the former order of arguments, ``(session_id, memory)``.
        session: The session.
        session_id: Another name of ``session``, the one that LangChain uses.
        namespace: Where the session lives, within the memory's namespace.
        erase: ``"now"``, or ``"later"`` to leave the traces of what is deleted, which nothing reads any more, in the
            store's files until ``maintenance`` or the next deletion that does not defer them.
    """

    def __init__(
        self,
        memory: Given,
        former: Given | None = None,
        *,
        session: str | None = None,
        session_id: str | None = None,
        namespace: Sequence[str] = (),
        erase: Erase = "now",
    ) -> None:
        super().__init__()
        self._later = check_erase(erase)
        self.session_id, memory = session_and_memory(memory, former, session, session_id)
        self.memory, self._own = opened(memory)
        self._items = Items(self.memory, self.session_id, namespace, _ONLY_MESSAGES)

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override]
        """All messages, oldest first."""
        return messages_from_dict([json.loads(entry.metadata[_FIELD]) for entry in self._items.read()])

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append messages; all are on disk when this returns.

        Raises:
            InvalidInputError: A message holds something that has no JSON form. Nothing was written.
        """
        self._items.add([as_item(message) for message in messages])

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Do as ``add_messages`` does, without blocking the event loop."""
        await run_in_thread(lambda: self.add_messages(messages))

    def clear(self) -> None:
        """Delete all messages of the session for good."""
        self._items.forget(deferred=self._later)

    async def aclear(self) -> None:
        """Do as ``clear`` does, without blocking the event loop."""
        await run_in_thread(self.clear)


def as_item(message: BaseMessage) -> dict[str, Any]:
    """Return text, speaker and metadata under which a message is stored."""
    try:
        # A string keeps what JSON columns may change: the order of keys, lone surrogates, NaN.
        whole = json.dumps(message_to_dict(message))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"a {message.type} message cannot be stored: {error}") from error
    said = own_text(said_in(message))
    return {
        "text": said or _calls(message),
        "speaker": encode_name(getattr(message, "name", None) or message.type),
        "metadata": {_FIELD: whole},
        "vector": None if said else False,
    }


def _calls(message: BaseMessage) -> str:
    """Return what a message that says nothing can be found by: the tools it calls."""
    calls = ", ".join(call["name"] for call in getattr(message, "tool_calls", ()))
    return f"(calls {usable_text(calls)})" if calls else NO_TEXT
