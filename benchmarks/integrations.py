"""What each adapter adds to the store: a recall through the adapter beside the same recall by itself.

    python benchmarks/integrations.py --rows 10000

Both are called in turn on the same store with the same queries; vectors are given, so that no encoder is timed. Every
figure is a median in milliseconds. An adapter that is awaited is compared with an awaited recall. Adapters whose
framework is not installed are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from statistics import median
from types import SimpleNamespace
from typing import Any

import numpy as np

from agent_memory import EncoderSpec, Memory

DIMENSION = 384
QUERIES = 200
REPEATS = 3
K = 5
WORDS = [f"word{number}" for number in range(5000)]
Pair = tuple[Callable[[str], Any], Callable[[str], Any]]


class Drawn:
    """Stands where an encoder would: equal texts have equal random vectors, drawn beforehand."""

    def __init__(self) -> None:
        self._vectors: dict[str, np.ndarray] = {}
        self._generator = np.random.default_rng(0)
        self.spec = EncoderSpec(
            name="drawn", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1
        )

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return drawn vectors, shape (len(texts), 384)."""
        for text in texts:
            if text not in self._vectors:
                vector = self._generator.standard_normal(DIMENSION).astype(np.float32)
                self._vectors[text] = vector / np.linalg.norm(vector)
        return np.stack([self._vectors[text] for text in texts])

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """Return drawn vectors, shape (len(texts), 384)."""
        return self.encode_documents(texts)


def texts(count: int) -> list[str]:
    """Return sentences of ten words."""
    generator = np.random.default_rng(1)
    return [" ".join(generator.choice(WORDS, 10)) for _ in range(count)]


async def awaited(memory: Memory, query: str) -> object:
    """Recall as a program does that must not block its event loop."""
    return await asyncio.to_thread(memory.recall, query, k=K)


def langchain(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the LangChain adapters, each with the bare call."""
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

        middleware = AgentMemoryMiddleware(memory, k=K)

        def through_middleware(query: str) -> object:
            message = HumanMessage(query)
            request = ModelRequest(model=None, messages=[message], system_message=SystemMessage("Be kind."))
            return middleware.wrap_model_call(request, lambda request: request)

        yield "LangChain middleware", (bare, through_middleware)


def langgraph(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the LangGraph store, searched and read."""
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


def mcp(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the MCP tool, called in the server (a client adds its transport)."""
    from agent_memory.integrations.mcp import build_server

    memory.add_many(rows)
    server = build_server(memory)
    yield (
        "MCP tool recall",
        (
            lambda query: loop.run(awaited(memory, query)),
            lambda query: loop.run(server.call_tool("recall", {"query": query, "k": K})),
        ),
    )


def autogen(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the AutoGen memory."""
    from agent_memory.integrations.autogen import AutoGenMemory

    memory.add_many(rows)
    adapter = AutoGenMemory(memory, k=K)
    bare = lambda query: loop.run(awaited(memory, query))  # noqa: E731
    yield "AutoGen query", (bare, lambda query: loop.run(adapter.query(query)))


def pydantic_ai(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the Pydantic AI instructions."""
    from agent_memory.integrations.pydantic_ai import recalled

    memory.add_many(rows)
    instructions: Any = recalled(memory, k=K)
    yield (
        "Pydantic AI instructions",
        (
            lambda query: loop.run(awaited(memory, query)),
            lambda query: loop.run(instructions(SimpleNamespace(prompt=query))),
        ),
    )


def openai_agents(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the OpenAI Agents session; it reads back, it does not search."""
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


def llama_index(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the LlamaIndex vector store."""
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import VectorStoreQuery

    from agent_memory.integrations.llama_index import AgentMemoryLlamaStore

    vectors = memory.encoder.encode_documents(rows)
    store = AgentMemoryLlamaStore(memory)
    store.add([TextNode(text=text, embedding=vector.tolist()) for text, vector in zip(rows, vectors, strict=True)])

    def through_store(query: str) -> object:
        vector = memory.encoder.encode_queries([query])[0].tolist()
        return store.query(VectorStoreQuery(query_embedding=vector, similarity_top_k=K))

    yield "LlamaIndex vector store", (lambda query: memory.recall(query, k=K, mode="dense"), through_store)


def crewai(memory: Memory, rows: list[str], loop: asyncio.Runner) -> Iterator[tuple[str, Pair]]:
    """Yield the CrewAI storage; the bare recall has the same filter."""
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
    "langchain_core": langchain,
    "langgraph": langgraph,
    "mcp": mcp,
    "autogen_core": autogen,
    "pydantic_ai": pydantic_ai,
    "agents": openai_agents,
    "llama_index": llama_index,
    "crewai": crewai,
}


def medians(pair: Pair, queries: list[str]) -> tuple[float, float, float]:
    """Return the median milliseconds of both calls, made in turn, and of what the second takes longer."""
    for call in pair:
        for query in queries[:20]:
            call(query)
    taken: list[tuple[float, float]] = []
    for query in queries * REPEATS:
        both = []
        for call in pair:
            started = time.perf_counter()
            call(query)
            both.append((time.perf_counter() - started) * 1000)
        taken.append((both[0], both[1]))
    bare, adapted = (median(times) for times in zip(*taken, strict=True))
    return bare, adapted, median(second - first for first, second in taken)


def main() -> None:
    """Measure what is installed and print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000)
    rows = parser.parse_args().rows
    sentences, queries = texts(rows), texts(rows + QUERIES)[rows:]
    results: dict[str, Any] = {}
    print(f"{rows} entries, {DIMENSION} dimensions, k={K}, Python {platform.python_version()}; medians in ms")
    print(f"{'':34}{'bare':>8}{'adapter':>9}{'added':>8}")
    with asyncio.Runner() as loop:
        for package, adapters in ADAPTERS.items():
            if find_spec(package) is None:
                continue
            with tempfile.TemporaryDirectory() as folder, Memory(folder, encoder=Drawn()) as memory:
                for name, pair in adapters(memory, sentences, loop):
                    bare, adapted, added = medians(pair, queries)
                    results[name] = {"bare": bare, "adapter": adapted, "added": added}
                    print(f"{name:34}{bare:8.3f}{adapted:9.3f}{added:8.3f}", flush=True)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
