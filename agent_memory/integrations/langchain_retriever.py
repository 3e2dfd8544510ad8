"""``AgentMemoryRetriever``: what a memory recalls, as LangChain documents."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.errors import MissingDependencyError
from agent_memory.integrations._documents import document
from agent_memory.integrations._opening import Adapter, Given, below, opened
from agent_memory.integrations._text import query_text
from agent_memory.memory import Memory
from agent_memory.records import Hit

try:
    from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import ConfigDict, Field, PrivateAttr, SkipValidation
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error


class AgentMemoryRetriever(BaseRetriever, Adapter):
    """Recalls from a memory. Any argument of ``Memory.recall`` can also be given to ``invoke``.

    Attributes:
        memory: A memory, or the folder of one.
        namespace: Where to look, within the memory's namespace.
        k: How many documents at most.
        where: Only entries whose metadata match.
        session: Only entries of this session.
        min_score: Entries that score lower are left out.
        options: More arguments for ``Memory.recall``.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    memory: SkipValidation[Memory]  # looked at by ``opened``, which takes others with its methods
    namespace: tuple[str, ...] = ()
    k: int = 4
    where: Mapping[str, Any] | None = None
    session: str | None = None
    min_score: float | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    _own: bool = PrivateAttr(default=False)

    def __init__(self, memory: Given, **fields: Any) -> None:
        held, own = opened(memory)
        super().__init__(memory=held, **fields)
        self._own = own

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        scope = below(self.memory, self.namespace)
        own = {"k": self.k, "where": self.where, "session": self.session, "namespace": scope}
        hits = self.memory.recall(query_text(query, self.memory), **{**own, **self.options, **kwargs})
        return [_document(hit) for hit in hits if self.min_score is None or hit.score >= self.min_score]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        return await run_in_thread(lambda: self._get_relevant_documents(query, **kwargs))


def _document(hit: Hit) -> Document:
    entry = hit.entry
    found = document(entry)
    found.metadata["agent_memory"] = {
        "score": hit.score,
        "session": entry.session,
        "speaker": entry.speaker,
        "event_time": entry.event_time.isoformat(),
    }
    return found
