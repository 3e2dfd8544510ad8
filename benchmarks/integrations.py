"""The overhead of each adapter: a recall through it, compared with the same recall without it and with the framework's.

    python benchmarks/integrations.py --rows 10000

Both are called in turn on the same store with the same queries; vectors are drawn beforehand, so that no encoder is
timed. Every figure is a median in milliseconds. Asynchronous adapters are compared with an awaited recall. Then each
operation is timed beside the same one of the framework's own class, as a ratio with its quartiles. Adapters whose
framework is not installed are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np
from beside import compare_beside
from timing import time_calls

from agent_memory import EncoderSpec, Memory

DIMENSION = 384
QUERIES = 200
REPEATS = 3
K = 5
WORDS = [f"word{number}" for number in range(5000)]
Pair = tuple[Callable[[str], Any], Callable[[str], Any]]


class RandomEncoder:
    """Replaces an encoder: draws a random vector for each distinct text, once."""

    def __init__(self) -> None:
        self._vectors: dict[str, np.ndarray] = {}
        self._generator = np.random.default_rng(0)
        self.spec = EncoderSpec(
            name="drawn", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1
        )

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return random vectors, shape (len(texts), 384); equal texts have equal vectors."""
        for text in texts:
            if text not in self._vectors:
                vector = self._generator.standard_normal(DIMENSION).astype(np.float32)
                self._vectors[text] = vector / np.linalg.norm(vector)
        return np.stack([self._vectors[text] for text in texts])

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """Return random vectors, shape (len(texts), 384); equal texts have equal vectors."""
        return self.encode_documents(texts)


def make_sentences(count: int) -> list[str]:
    """Return sentences of ten random words."""
    generator = np.random.default_rng(1)
    return [" ".join(generator.choice(WORDS, 10)) for _ in range(count)]


async def recall_in_thread(memory: Memory, query: str) -> object:
    """Recall without blocking the event loop."""
    return await asyncio.to_thread(memory.recall, query, k=K)


def yield_langchain(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the LangChain adapters, each with the direct call."""
    from langchain_core.messages import HumanMessage, SystemMessage

    from agent_memory.integrations.langchain import (
        AgentMemoryMiddleware,
        AgentMemoryRetriever,
        AgentMemoryVectorStore,
        memory_tools,
    )

    memory.add_many(rows)
    store = AgentMemoryVectorStore(memory)
    yield (
        "LangChain vector store",
        (lambda query: memory.recall(query, k=K, mode="dense"), lambda query: store.similarity_search(query, k=K)),
    )
    retriever = AgentMemoryRetriever(memory=memory, k=K)
    bare = lambda query: memory.recall(query, k=K)  # noqa: E731
    yield "LangChain retriever", (bare, retriever.invoke)
    recall, _ = memory_tools(memory, k=K)
    yield "LangChain tool", (bare, lambda query: recall.invoke({"query": query}))
    if find_spec("langchain") is not None:
        from langchain.agents.middleware import ModelRequest
        from langchain_core.runnables.config import var_child_runnable_config

        # As inside of an agent, which the middleware asks for its session.
        var_child_runnable_config.set({"configurable": {}})
        middleware = AgentMemoryMiddleware(memory, k=K)

        def call_middleware(query: str) -> object:
            message = HumanMessage(query)
            request = ModelRequest(model=None, messages=[message], system_message=SystemMessage("Be kind."))
            return middleware.wrap_model_call(request, lambda request: request)

        yield "LangChain middleware", (bare, call_middleware)


def yield_langgraph(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the LangGraph store: a search and a read."""
    from langgraph.store.base import PutOp

    from agent_memory.integrations.langgraph import AgentMemoryStore

    store = AgentMemoryStore(memory, index={"fields": ["text"]})
    store.batch([PutOp(("facts",), str(number), {"text": text}) for number, text in enumerate(rows)])
    scope = ("langgraph", "facts")
    yield (
        "LangGraph store, search",
        (
            lambda query: memory.recall(query, k=K, mode="dense", namespace=scope),
            lambda query: store.search(("facts",), query=query, limit=K),
        ),
    )
    keys = iter(range(10**9))
    key = lambda: str(next(keys) % len(rows))  # noqa: E731
    yield (
        "LangGraph store, get",
        (lambda query: memory.get_many([key()], namespace=scope), lambda query: store.get(("facts",), key())),
    )


def yield_mcp(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the MCP tool, called within the server; the transport of a client comes on top."""
    from agent_memory.integrations.mcp import build_server

    memory.add_many(rows)
    server = build_server(memory)
    yield (
        "MCP tool recall",
        (
            lambda query: loop.run(recall_in_thread(memory, query)),
            lambda query: loop.run(server.call_tool("recall", {"query": query, "k": K})),
        ),
    )


def yield_autogen(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the AutoGen memory."""
    from agent_memory.integrations.autogen import AutoGenMemory

    memory.add_many(rows)
    adapter = AutoGenMemory(memory, k=K)
    bare = lambda query: loop.run(recall_in_thread(memory, query))  # noqa: E731
    yield "AutoGen query", (bare, lambda query: loop.run(adapter.query(query)))


def yield_pydantic_ai(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the Pydantic AI instructions."""
    from agent_memory.integrations.pydantic_ai import recalled

    memory.add_many(rows)
    instructions: Any = recalled(memory, k=K)
    yield (
        "Pydantic AI instructions",
        (
            lambda query: loop.run(recall_in_thread(memory, query)),
            lambda query: loop.run(instructions(SimpleNamespace(prompt=query))),
        ),
    )


def yield_openai_agents(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the OpenAI Agents session, which reads items back instead of searching."""
    from agent_memory.integrations.openai_agents import AgentMemorySession

    session = AgentMemorySession(memory, session="s")
    loop.run(session.add_items([{"role": "user", "content": text} for text in rows[:50]]))
    where = {"openai_item": {"$exists": True}}
    yield (
        "OpenAI Agents session, 50 items",
        (
            lambda query: loop.run(asyncio.to_thread(memory.entries, session="s", where=where)),
            lambda query: loop.run(session.get_items()),
        ),
    )


def yield_llama_index(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the LlamaIndex vector store."""
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import VectorStoreQuery

    from agent_memory.integrations.llama_index import AgentMemoryLlamaStore

    vectors = memory.encoder.encode_documents(rows)
    store = AgentMemoryLlamaStore(memory)
    store.add([TextNode(text=text, embedding=vector.tolist()) for text, vector in zip(rows, vectors, strict=True)])

    def query_store(query: str) -> object:
        vector = memory.encoder.encode_queries([query])[0].tolist()
        return store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=K))

    yield "LlamaIndex vector store", (lambda query: memory.recall(query, k=K, mode="dense"), query_store)


def yield_crewai(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the CrewAI storage; the direct recall has the same filter."""
    from crewai.memory.types import MemoryRecord

    from agent_memory.integrations.crewai import AgentMemoryStorage

    vectors = memory.encoder.encode_documents(rows)
    storage = AgentMemoryStorage(memory)
    storage.save([MemoryRecord(content=text, embedding=row.tolist()) for text, row in zip(rows, vectors, strict=True)])
    where = {"$and": [{"$and": [{"record": {"$exists": True}}]}, {"embedded": True}]}
    yield (
        "CrewAI storage",
        (
            lambda query: memory.recall(query, k=K, mode="dense", where=where, namespace=("crewai",)),
            lambda query: storage.search(memory.encoder.encode_queries([query])[0].tolist(), limit=K),
        ),
    )


ADAPTERS = {
    "langchain_core": yield_langchain,
    "langgraph": yield_langgraph,
    "mcp": yield_mcp,
    "autogen_core": yield_autogen,
    "pydantic_ai": yield_pydantic_ai,
    "agents": yield_openai_agents,
    "llama_index": yield_llama_index,
    "crewai": yield_crewai,
}


def compare(pair: Pair, queries: list[str]) -> tuple[float, float, float]:
    """Return the median milliseconds of both calls, made in turn, and the median difference."""
    for call in pair:
        for query in queries[:20]:
            call(query)
    times: list[list[float]] = [[], []]
    for query in queries * REPEATS:
        for call, taken in zip(pair, times, strict=True):
            taken += time_calls(call, [query])
    bare, adapted = times
    return median(bare), median(adapted), median(second - first for first, second in zip(*times, strict=True))


def main() -> None:
    """Measure the adapters whose framework is installed; print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    rows = parser.parse_args().rows
    sentences, queries = make_sentences(rows), make_sentences(rows + QUERIES)[rows:]
    results: dict[str, Any] = {}
    print(f"{rows} entries, {DIMENSION} dimensions, k={K}, Python {platform.python_version()}; medians in ms")
    print(f"{'':34}{'bare':>8}{'adapter':>9}{'added':>8}")
    with asyncio.Runner() as loop:
        for package, adapters in ADAPTERS.items():
            if find_spec(package) is None:
                continue
            with tempfile.TemporaryDirectory() as folder, Memory(folder, encoder=RandomEncoder()) as memory:
                for name, pair in adapters(memory, sentences, loop):
                    bare, adapted, added = compare(pair, queries)
                    results[name] = {"bare": bare, "adapter": adapted, "added": added}
                    print(f"{name:34}{bare:8.3f}{adapted:9.3f}{added:8.3f}", flush=True)
        results["beside"] = compare_beside(loop)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
