"""AutoGen: ``AutoGenMemory``, a memory for the ``memory=`` of an agent.

    memory = AutoGenMemory("./my-agent")
    await memory.add(MemoryContent(content="Al likes tea.", mime_type=MemoryMimeType.TEXT))

Before each step of the agent, what the last message of its user reminds of is added to its context as one system
message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel

from agent_memory.aio import run_in_thread
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.integrations._opening import Adapter, Given, opened, relative
from agent_memory.integrations._plain import plain, plain_where, restored
from agent_memory.integrations._prompting import Prompting
from agent_memory.integrations._text import block, own_text, text_of
from agent_memory.records import Hit
from agent_memory.remote.client import RemoteMemory

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
    from autogen_core.models import SystemMessage, UserMessage
except ModuleNotFoundError as error:
    raise MissingDependencyError("autogen-core", "autogen") from error

_FIELD = "autogen"


class AutoGenMemoryConfig(BaseModel):
    """What ``dump_component`` keeps of an ``AutoGenMemory``."""

    path: str
    namespace: tuple[str, ...] = ()
    k: int = 5
    where: dict[str, Any] | None = None
    min_score: float | None = None


class AutoGenMemory(Adapter, Memory, Component[AutoGenMemoryConfig]):
    """Holds text, Markdown and JSON.

    Args:
        memory: A memory, or the folder of one.
        namespace: Where to recall and remember, within the memory's namespace.
        k: How many memories are recalled at most.
        where: Only entries whose metadata match are recalled.
        min_score: Entries that score lower are left out.
        score_threshold: Another name of ``min_score``, the one that AutoGen's own memories use.
    """

    component_provider_override = "agent_memory.integrations.autogen.AutoGenMemory"
    component_config_schema = AutoGenMemoryConfig

    def __init__(
        self,
        memory: Given,
        *,
        namespace: Sequence[str] = (),
        k: int = 5,
        where: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        score_threshold: float | None = None,
    ) -> None:
        self.memory, self._own = opened(memory)
        self._prompting = Prompting(
            memory=self.memory,
            namespace=relative(namespace),
            k=k,
            where=plain_where(where),
            min_score=score_threshold if min_score is None else min_score,
        )

    async def add(self, content: MemoryContent, cancellation_token: CancellationToken | None = None) -> None:
        """Remember a text or a JSON object.

        Raises:
            InvalidInputError: The content is neither, or blank; nothing was written.
        """
        mime_type = getattr(content.mime_type, "value", content.mime_type)
        kept: dict[str, Any] = {"mime_type": mime_type}
        if isinstance(content.content, str):
            text = own_text(content.content)
        elif isinstance(content.content, Mapping):
            text = json.dumps(content.content, ensure_ascii=False, default=str)
            kept["content"] = plain(content.content)
        else:
            raise InvalidInputError(
                f"only text, Markdown and JSON can be remembered, got {type(content.content).__name__} of type "
                f"{mime_type}: describe it in words, or decode it, first"
            )
        metadata = plain(content.metadata or {})
        if _FIELD in metadata:
            kept["metadata"] = metadata[_FIELD]
        metadata = {**metadata, _FIELD: kept}
        await run_in_thread(lambda: self.memory.add(text, metadata=metadata, namespace=self._prompting.scope))

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
            **kwargs: ``min_score`` or ``score_threshold`` in place of the attribute; the others are passed to
                ``Memory.recall``.
        """
        least = kwargs.pop("score_threshold", None)
        options = {"min_score": least, **kwargs}
        if "where" in options:
            options["where"] = plain_where(options["where"])
        hits = await self._recall(query if isinstance(query, str) else _content_of(query), **options)
        return MemoryQueryResult(results=[_content(hit) for hit in hits])

    async def _recall(self, text: str, **options: Any) -> list[Hit]:
        return await run_in_thread(lambda: self._prompting.hits(text, **options))

    async def update_context(self, model_context: ChatCompletionContext) -> UpdateContextResult:
        """Add what the last message of the user reminds of to a context, tagged, as a system message."""
        messages = await model_context.get_messages()
        asked = next((each.content for each in reversed(messages) if isinstance(each, UserMessage)), "")
        hits = await self._recall(text_of(asked))
        if hits:
            await model_context.add_message(SystemMessage(content=block(hits)))
        return UpdateContextResult(memories=MemoryQueryResult(results=[_content(hit) for hit in hits]))

    async def clear(self) -> None:
        """Forget everything in the namespace."""
        await run_in_thread(lambda: self.memory.forget(everything=True, namespace=self._prompting.scope))

    async def close(self) -> None:  # type: ignore[override]
        """Close the memory if it was opened here; a memory that was handed over stays open."""
        await run_in_thread(self._release, whole=True)

    def _to_config(self) -> AutoGenMemoryConfig:
        own = self._prompting
        if isinstance(self.memory, RemoteMemory):
            raise InvalidInputError("a memory on a server has no folder that a component's configuration could name")
        where = None if own.where is None else dict(own.where)
        return AutoGenMemoryConfig(
            path=str(self.memory.path), namespace=own.scope, k=own.k, where=where, min_score=own.min_score
        )

    @classmethod
    def _from_config(cls, config: AutoGenMemoryConfig) -> Self:
        return cls(config.path, namespace=config.namespace, k=config.k, where=config.where, min_score=config.min_score)


def _content_of(asked: MemoryContent) -> str:
    """Return the words of a content that is asked for; of an image or of bytes there are none."""
    content = asked.content
    if isinstance(content, Mapping):
        return json.dumps(content, ensure_ascii=False, default=str)
    return content if isinstance(content, str) else ""


def _content(hit: Hit) -> MemoryContent:
    kept = hit.entry.metadata.get(_FIELD, {})
    metadata = {name: value for name, value in hit.entry.metadata.items() if name != _FIELD}
    metadata = restored({**metadata, _FIELD: kept["metadata"]} if "metadata" in kept else metadata)
    return MemoryContent(
        content=restored(kept["content"]) if "content" in kept else hit.text,
        mime_type=_mime_type(kept.get("mime_type", MemoryMimeType.TEXT.value)),
        metadata={**metadata, "score": hit.score},
    )


def _mime_type(name: str) -> MemoryMimeType | str:
    return MemoryMimeType(name) if name in {known.value for known in MemoryMimeType} else name
