"""A deterministic embedding and a scripted chat model for the tests of LangChain and LangGraph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import Field
from support import WordEncoder


class WordEmbeddings(Embeddings):
    """The words' vectors of ``support.WordEncoder``; counts its calls, and marks queries on request."""

    def __init__(self, dimension: int = 96, *, query_prefix: str = "") -> None:
        self.encoder = WordEncoder(dimension)
        self.query_prefix = query_prefix
        self.documents: list[str] = []
        self.queries: list[str] = []
        self.awaited = 0

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.documents += texts
        return self.encoder.encode_documents(texts).tolist() if texts else []

    def embed_query(self, text: str) -> list[float]:
        self.queries.append(text)
        return self.encoder.encode_queries([self.query_prefix + text])[0].tolist()

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        self.awaited += 1
        return self.embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        self.awaited += 1
        return self.embed_query(text)


class ScriptedModel(BaseChatModel):
    """Answers with the next of its replies; keeps what it was asked."""

    replies: list[Any]
    seen: list[list[BaseMessage]] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> ScriptedModel:
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        reply: str | AIMessage | Callable[[list[BaseMessage]], AIMessage] = self.replies[len(self.seen)]
        self.seen.append(messages)
        if callable(reply):
            reply = reply(messages)
        message = AIMessage(content=reply) if isinstance(reply, str) else reply
        return ChatResult(generations=[ChatGeneration(message=message)])
