"""OpenAI Agents SDK: ``AgentMemorySession``, a session that is durable and can be recalled from.

    session = AgentMemorySession("./my-agent", session="chat-7")
    await Runner.run(agent, "Hello", session=session)

``AgentMemorySession.memory`` is the memory itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from agent_memory.aio import run_in_thread
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.formats.names import encode_name
from agent_memory.integrations._erasing import Erase, check_erase
from agent_memory.integrations._opening import Adapter, Given, opened, session_and_memory
from agent_memory.integrations._session import Items
from agent_memory.integrations._text import entry_text, own_text, text_of

try:
    from agents.items import TResponseInputItem
    from agents.memory import SessionABC
    from agents.memory.session_settings import SessionSettings, resolve_session_limit
except ModuleNotFoundError as error:
    raise MissingDependencyError("openai-agents", "openai-agents") from error

_FIELD = "openai_item"
_ONLY_ITEMS = {_FIELD: {"$exists": True}}


class AgentMemorySession(Adapter, SessionABC):
    """The items of one session, in order and without loss.

    Args:
        memory: A memory, or the folder of one; share one memory between the sessions of a process.
        former: For the former order of arguments, ``(session_id, memory)``.
        session: The session.
        session_id: Another name of ``session``, the one that the SDK uses.
        namespace: Where the session lives, within the memory's namespace.
        session_settings: The SDK's own settings, as an object or a mapping.
        encode: ``"now"``, or ``"later"`` to encode what is said in the background: ``add_items`` returns as soon as it
            is on disk, and it is found by its words until then.
        erase: ``"now"``, or ``"later"`` to leave the traces of what is deleted, which nothing reads any more, in the
            store's files until ``maintenance`` or the next deletion that does not defer them.

    Only what is said has a vector; tool calls, their outputs and reasoning are found by their words.
    """

    def __init__(
        self,
        memory: Given,
        former: Given | None = None,
        *,
        session: str | None = None,
        session_id: str | None = None,
        namespace: Sequence[str] = (),
        session_settings: SessionSettings | Mapping[str, Any] | None = None,
        encode: Literal["now", "later"] = "now",
        erase: Erase = "now",
    ) -> None:
        self._later = check_erase(erase)
        if encode not in ("now", "later"):
            raise InvalidInputError(f"encode must be 'now' or 'later', got {encode!r}")
        self._vector = None if encode == "now" else encode
        self.session_id, memory = session_and_memory(memory, former, session, session_id)
        given = session_settings or {}
        unknown = sorted(set(given) - set(SessionSettings().to_dict())) if isinstance(given, Mapping) else []
        if unknown:
            raise InvalidInputError(f"unknown setting of the session: {unknown[0]!r}")
        self.session_settings = SessionSettings(**given) if isinstance(given, Mapping) else given
        self.memory, self._own = opened(memory)
        self._items = Items(self.memory, self.session_id, namespace, _ONLY_ITEMS)

    async def get_items(self, limit: int | None = None) -> list[TResponseInputItem]:
        """Return the items, oldest first; the latest ``limit`` of them if one is given. A negative one is none."""
        most = resolve_session_limit(limit, self.session_settings)
        if most == 0:
            return []
        most = None if most is not None and most < 0 else most
        entries = await run_in_thread(lambda: self._items.read(most))
        return [json.loads(entry.metadata[_FIELD]) for entry in entries]

    async def add_items(self, items: list[TResponseInputItem]) -> None:
        """Append items; all are on disk when this returns.

        Raises:
            InvalidInputError: An item has no JSON form. Nothing was written.
        """
        await run_in_thread(lambda: self._add(items))

    def _add(self, items: Sequence[TResponseInputItem]) -> None:
        self._items.add([_as_entry(item, self._vector) for item in items])

    async def pop_item(self) -> TResponseInputItem | None:
        """Remove and return the latest item; None if there is none."""
        return await run_in_thread(self._pop)

    def _pop(self) -> TResponseInputItem | None:
        while latest := self._items.read(1):
            # Nothing is forgotten if another process was faster; the item before it is the latest then.
            if self.memory.forget(latest[0].key, namespace=latest[0].namespace, deferred=self._later):
                item: TResponseInputItem = json.loads(latest[0].metadata[_FIELD])
                return item
        return None

    async def clear_session(self) -> None:
        """Delete all items of the session for good."""
        await run_in_thread(lambda: self._items.forget(deferred=self._later))


def _as_entry(item: Mapping[str, Any], vector: str | None) -> dict[str, Any]:
    if not isinstance(item, Mapping):
        raise InvalidInputError(f"an item must be an object such as {{'role': 'user', …}}, got {type(item).__name__}")
    try:
        whole = json.dumps(item)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"an item cannot be stored: {error}") from error
    kind = str(item.get("role") or item.get("type") or "item")
    text = own_text(text_of(item.get("content")))
    called = item.get("name") or text_of(item.get("output"))
    return {
        "text": text or entry_text(f"({kind}: {called})" if called else f"({kind})"),
        "speaker": encode_name(kind),
        "metadata": {_FIELD: whole},
        "vector": vector if text else False,
    }
