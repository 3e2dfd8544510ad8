"""AutoGen: ``AutoGenMemory``, a memory for the ``memory=`` of an agent.

    memory = AutoGenMemory("./my-agent")
    await memory.add(MemoryContent(content="Al likes tea.", mime_type=MemoryMimeType.TEXT))

Before each step of the agent, what its last message reminds of is added to its context as one system message.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel

from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.integrations._opening import below, opened
from agent_memory.integrations._text import block, own_text
from agent_memory.memory import Memory as Store
from agent_memory.records import Hit

try:
    from autogen_core import CancellationToken, Component
    from autogen_core.memory import (
        Memory,
        MemoryContent,
        MemoryMimeType,
        MemoryQueryResult,
        UpdateContextResult,
    )
    from autogen_core.model_context import ChatCompletionContext
    from autogen_core.models import SystemMessage
except ModuleNotFoundError as error:
    raise MissingDependencyError("autogen-core", "autogen") from error

_FIELD = "autogen"


class AutoGenMemoryConfig(BaseModel):
    """What ``dump_component`` keeps of an ``AutoGenMemory``."""

    path: str
    namespace: tuple[str, ...] = ()
    k: int = 5


class AutoGenMemory(Memory, Component[AutoGenMemoryConfig]):
    """Holds text, Markdown and JSON.

    Args:
        memory: A memory, or the folder of one.
        namespace: Where to recall and remember, within the memory's namespace.
        k: How many memories are recalled at most.
    """

    component_provider_override = "agent_memory.integrations.autogen.AutoGenMemory"
    component_config_schema = AutoGenMemoryConfig

    def __init__(self, memory: Store | str | Path, *, namespace: Sequence[str] = (), k: int = 5) -> None:
        self.memory, self._own = opened(memory)
        self._relative = tuple(namespace)
        self._scope = below(self.memory, namespace)
        self._k = k

    async def add(self, content: MemoryContent, cancellation_token: CancellationToken | None = None) -> None:
        """Remember a text or a JSON object.

        Raises:
            InvalidInputError: The content is neither.
        """
        mime_type = getattr(content.mime_type, "value", content.mime_type)
        kept: dict[str, Any] = {"mime_type": mime_type}
        if isinstance(content.content, str):
            text = own_text(content.content)
        elif isinstance(content.content, Mapping):
            text = json.dumps(content.content, ensure_ascii=False, default=str)
            kept["content"] = content.content
        else:
            raise InvalidInputError(f"only text and JSON are remembered, got {type(content.content).__name__}")
        metadata = {**(content.metadata or {}), _FIELD: kept}
        await asyncio.to_thread(self.memory.add, text, metadata=metadata, namespace=self._scope)

    async def query(
        self,
        query: str | MemoryContent = "",
        cancellation_token: CancellationToken | None = None,
        **kwargs: Any,
    ) -> MemoryQueryResult:
        """Return what a text reminds of, best first, each with its score in the metadata.

        Args:
            query: The text; nothing is found for a blank one.
            cancellation_token: Not used: a recall is short.
            **kwargs: Passed to ``Memory.recall``.
        """
        hits = await self._recall(query if isinstance(query, str) else str(query.content), **kwargs)
        return MemoryQueryResult(results=[_content(hit) for hit in hits])

    async def _recall(self, text: str, **options: Any) -> list[Hit]:
        text = own_text(text)
        if not text:
            return []
        arguments = {"k": self._k, "namespace": self._scope, **options}
        return await asyncio.to_thread(lambda: self.memory.recall(text, **arguments))

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Add what the last message reminds of to a context, tagged, as a system message."""
        messages = await model_context.get_messages()
        asked = messages[-1].content if messages else ""
        hits = await self._recall(asked if isinstance(asked, str) else "")
        if hits:
            await model_context.add_message(SystemMessage(content=block(hits)))
        return UpdateContextResult(memories=MemoryQueryResult(results=[_content(hit) for hit in hits]))

    async def clear(self) -> None:
        """Forget everything in the namespace."""
        await asyncio.to_thread(self.memory.forget, everything=True, namespace=self._scope)

    async def close(self) -> None:
        """Close the memory if it was opened here."""
        if self._own:
            await asyncio.to_thread(self.memory.close)

    def _to_config(self) -> AutoGenMemoryConfig:
        return AutoGenMemoryConfig(path=str(self.memory.path), namespace=self._relative, k=self._k)

    @classmethod
    def _from_config(cls, config: AutoGenMemoryConfig) -> Self:
        return cls(config.path, namespace=config.namespace, k=config.k)


def _content(hit: Hit) -> MemoryContent:
    kept = hit.entry.metadata.get(_FIELD, {})
    metadata = {name: value for name, value in hit.entry.metadata.items() if name != _FIELD}
    return MemoryContent(
        content=kept.get("content", hit.text),
        mime_type=_mime_type(kept.get("mime_type", MemoryMimeType.TEXT.value)),
        metadata={**metadata, "score": hit.score},
    )


def _mime_type(name: str) -> MemoryMimeType | str:
    return MemoryMimeType(name) if name in {known.value for known in MemoryMimeType} else name
