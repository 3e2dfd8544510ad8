"""LangChain: everything that ``pip install 'agent-memory[langchain]'`` makes usable.

    from agent_memory.integrations.langchain import AgentMemoryVectorStore

    store = AgentMemoryVectorStore.from_texts(["Alice lives in Berlin."], embedding, path="./my-agent")
    store.similarity_search("Where does Alice live?", k=1)

Each class is described in the module of its own.
"""

from __future__ import annotations

from agent_memory.integrations._embeddings import EncoderEmbeddings
from agent_memory.integrations.langchain_history import AgentMemoryChatMessageHistory
from agent_memory.integrations.langchain_middleware import AgentMemoryMiddleware
from agent_memory.integrations.langchain_reranker import AgentMemoryCompressor
from agent_memory.integrations.langchain_retriever import AgentMemoryRetriever
from agent_memory.integrations.langchain_tool_selector import AgentMemoryToolSelector
from agent_memory.integrations.langchain_tools import memory_tools
from agent_memory.integrations.langchain_vectorstore import AgentMemoryVectorStore

__all__ = [
    "AgentMemoryChatMessageHistory",
    "AgentMemoryCompressor",
    "AgentMemoryMiddleware",
    "AgentMemoryRetriever",
    "AgentMemoryToolSelector",
    "AgentMemoryVectorStore",
    "EncoderEmbeddings",
    "memory_tools",
]
