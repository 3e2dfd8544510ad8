"""``AgentMemoryCompressor``: a reranker as LangChain's document compressor, for the documents of any retriever."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.encoders import EvoReranker
from agent_memory.errors import MissingDependencyError
from agent_memory.integrations._reranking import check_reranker, rank_texts

try:
    from langchain_core.callbacks import Callbacks
    from langchain_core.documents import BaseDocumentCompressor, Document
    from pydantic import ConfigDict
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error


class AgentMemoryCompressor(BaseDocumentCompressor):
    """Ranks documents again, best first; ``metadata["relevance_score"]`` of each holds its score.

    Attributes:
        reranker: An ``EvoReranker``, which knows the conversation, or any ``Reranker``; an ``EvoReranker`` without a
            conversation if left out.
        top_n: How many documents are kept at most; None for all.
        min_score: Documents that score lower are left out.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reranker: Any = None
    top_n: int | None = None
    min_score: float | None = None

    def __init__(self, reranker: Any = None, **fields: Any) -> None:
        chosen = EvoReranker() if reranker is None else reranker
        check_reranker(chosen)
        super().__init__(reranker=chosen, **fields)

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return copies of the best documents for a question, best first."""
        texts = [document.page_content for document in documents]
        ranked = rank_texts(self.reranker, query, texts, top_n=self.top_n, min_score=self.min_score)
        return [_scored(documents[place], score) for place, score in ranked]

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Do as ``compress_documents`` does, without blocking the event loop."""
        return await run_in_thread(lambda: self.compress_documents(documents, query))


def _scored(document: Document, score: float) -> Document:
    return document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
