"""``AgentMemoryRetriever``: what a memory recalls, as LangChain documents."""

from __future__ import annotations

import asyncio
from typing import Any

from agent_memory.errors import MissingDependencyError
from agent_memory.integrations._names import decode_name
from agent_memory.integrations._opening import opened
from agent_memory.memory import Memory
from agent_memory.records import Hit

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, Field, field_validator
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error


class AgentMemoryRetriever(BaseRetriever):
    """Recalls from a memory. Any argument of ``Memory.recall`` can also be given to ``invoke``.

    Attributes:
        memory: A memory, or the folder of one.
        k: How many documents at most.
        where: Only entries whose metadata match.
        session: Only entries of this session.
        options: More arguments for ``Memory.recall``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    memory: Memory
    k: int = 4
    where: dict[str, Any] | None = None
    session: str | None = None
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("memory", mode="before")
    @classmethod
    def _open(cls, value: Any) -> Memory:
        return opened(value)[0]

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        own = {"k": self.k, "where": self.where, "session": self.session}
        return [_document(hit) for hit in self.memory.recall(query, **{**own, **self.options, **kwargs})]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        return await asyncio.to_thread(self._get_relevant_documents, query, **kwargs)


def _document(hit: Hit) -> Document:
    entry = hit.entry
    origin = {
        "score": hit.score,
        "session": entry.session,
        "speaker": entry.speaker,
        "event_time": entry.event_time.isoformat(),
    }
    metadata = {**entry.metadata, "agent_memory": origin}
    return Document(page_content=entry.text, metadata=metadata, id=decode_name(entry.key))
