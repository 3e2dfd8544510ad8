"""Costs of adapters beside the frameworks' own classes, which ``integrations.py`` prints as ratios."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

ROUNDS = 9
MANY = 200
Step = tuple[str, Callable[[], Any], Callable[[], Any]]  # what, theirs, ours


def measure(theirs: Callable[[], Any], ours: Callable[[], Any]) -> dict[str, float]:
    """Return the medians in milliseconds of two calls made in turn, and the quartiles of the ratios of the pairs."""
    times: list[tuple[float, float]] = []
    for _ in range(ROUNDS + 1):
        pair = []
        for call in (theirs, ours):
            started = time.perf_counter()
            call()
            pair.append((time.perf_counter() - started) * 1000)
        times.append((pair[0], pair[1]))
    times = times[1:]
    low, middle, high = quantiles([mine / other for other, mine in times], n=4)
    return {
        "theirs": median(pair[0] for pair in times),
        "ours": median(pair[1] for pair in times),
        "ratio": middle,
        "low": low,
        "high": high,
    }


def yield_langgraph(folder: Path, loop: asyncio.Runner, stack: ExitStack) -> Iterator[Step]:
    """Yield steps of a store: one operation, and many at once."""
    from langgraph.store.base import GetOp, PutOp, SearchOp
    from langgraph.store.sqlite import SqliteStore

    from agent_memory.integrations.langgraph import AgentMemoryStore

    ttl: Any = {"default_ttl": 60, "refresh_on_read": True}
    theirs = stack.enter_context(SqliteStore.from_conn_string(str(folder / "theirs.db"), ttl=ttl))
    theirs.setup()
    ours = stack.enter_context(AgentMemoryStore(folder / "ours", index=False, ttl=ttl))
    fresh = itertools.count()

    def both(name: str, call: Callable[[Any], Any]) -> Step:
        return f"LangGraph store, {name}", lambda: call(theirs), lambda: call(ours)

    def put_many(store: Any) -> None:
        start = next(fresh) * MANY
        store.batch([PutOp(("u", str(n % 10)), f"k{start + n}", {"n": n}, ttl=60) for n in range(MANY)])

    def put_users(store: Any) -> None:
        store.batch([PutOp(("user", str(n)), "k", {"n": next(fresh)}, ttl=60) for n in range(MANY)])

    def delete(store: Any, count: int) -> None:
        names = [f"gone {n}" for n in range(count)]
        store.batch([PutOp(("d",), name, {"n": 1}) for name in names])
        store.batch([PutOp(("d",), name, None) for name in names])

    yield both("put", lambda store: store.put(("u", "0"), f"one{next(fresh)}", {"n": 1}))
    yield both("put over an item", lambda store: store.put(("u", "0"), "same", {"n": next(fresh)}))
    yield both("get", lambda store: store.get(("u", "0"), "same"))
    yield both("search", lambda store: store.search(("u", "0"), limit=10))
    yield both("filter", lambda store: store.search(("u", "0"), filter={"n": {"$gte": 1}}, limit=10))
    yield both(f"put {MANY}", put_many)
    yield both(f"put {MANY}, a namespace each", put_users)
    yield both("put and delete", partial(delete, count=1))
    yield both(f"put and delete {MANY}", partial(delete, count=MANY))
    later = stack.enter_context(AgentMemoryStore(folder / "later", index=False, ttl=ttl, erase="later"))
    yield "LangGraph store, the same, erase=later", lambda: delete(theirs, 1), lambda: delete(later, 1)
    yield both(
        f"get {MANY}", lambda store: store.batch([GetOp(("u", str(n % 10)), f"k{MANY + n}") for n in range(MANY)])
    )
    yield both(
        f"search {MANY}", lambda store: store.batch([SearchOp(("u", str(n % 10)), limit=5) for n in range(MANY)])
    )


def yield_openai_agents(folder: Path, loop: asyncio.Runner, stack: ExitStack) -> Iterator[Step]:
    """Yield steps of a session with 300 items."""
    from agents import SQLiteSession

    from agent_memory.integrations.openai_agents import AgentMemorySession

    theirs = SQLiteSession("s", folder / "sessions.db")
    stack.callback(theirs.close)
    ours = stack.enter_context(AgentMemorySession(folder / "session", session="s"))
    later = stack.enter_context(AgentMemorySession(folder / "later", session="s", encode="later"))

    def call(session: Any, name: str, *given: object) -> Callable[[], Any]:
        return lambda: loop.run(getattr(session, name)(*given))

    said = [{"role": "user", "content": f"message {n} of a chat"} for n in range(300)]
    tools = [{"type": "function_call_output", "call_id": str(n), "output": f"result {n}"} for n in range(100)]
    lazy = stack.enter_context(AgentMemorySession(folder / "lazy", session="s", erase="later"))
    for session in (theirs, ours, later, lazy):
        loop.run(session.add_items(said))
    for name, given in [("get_items", (10,)), ("get_items", ()), ("pop_item", ()), ("add_items", (tools,))]:
        shown = {"add_items": "add 100 tool items"}.get(name, f"{name}({', '.join(map(str, given))})")
        yield f"OpenAI Agents session, {shown}", call(theirs, name, *given), call(ours, name, *given)
    yield "OpenAI Agents session, pop_item, erase=later", call(theirs, "pop_item"), call(lazy, "pop_item")
    yield "OpenAI Agents session, add 2", call(theirs, "add_items", said[:2]), call(ours, "add_items", said[:2])
    yield (
        "OpenAI Agents session, add 2, encode=later",
        call(theirs, "add_items", said[:2]),
        call(later, "add_items", said[:2]),
    )


def yield_langchain(folder: Path, loop: asyncio.Runner, stack: ExitStack) -> Iterator[Step]:
    """Yield steps of a vector store of 1,000 documents; theirs is in memory and not kept."""
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import InMemoryVectorStore

    from agent_memory.integrations.langchain import AgentMemoryVectorStore

    class Drawn(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return [self.embed_query(text) for text in texts]

        def embed_query(self, text: str) -> list[float]:
            return np.random.default_rng(len(text)).standard_normal(384).tolist()

    theirs = InMemoryVectorStore(Drawn())
    ours = stack.enter_context(AgentMemoryVectorStore(folder / "documents", embedding=Drawn()))
    for store in (theirs, ours):
        store.add_texts(["x" * n for n in range(1, 1001)])
    texts = ["y" * n for n in range(1, 101)]
    for name, call in {
        "search": lambda store: store.similarity_search("a query", k=5),
        "add 100": lambda store: store.add_texts(texts),
    }.items():
        yield f"LangChain vector store, {name}", partial(call, theirs), partial(call, ours)


def yield_llama_index(folder: Path, loop: asyncio.Runner, stack: ExitStack) -> Iterator[Step]:
    """Yield steps of a vector store of 1,000 nodes; theirs is in memory and not kept."""
    from llama_index.core.schema import TextNode
    from llama_index.core.vector_stores import SimpleVectorStore, VectorStoreQuery

    from agent_memory.integrations.llama_index import AgentMemoryLlamaStore

    rows = np.random.default_rng(0).standard_normal((1000, 384)).tolist()
    nodes = [TextNode(text=f"node {n}", id_=str(n), embedding=row) for n, row in enumerate(rows)]
    theirs, ours = SimpleVectorStore(), stack.enter_context(AgentMemoryLlamaStore(folder / "nodes"))
    for store in (theirs, ours):
        store.add(nodes)
    query = VectorStoreQuery(query_embedding=rows[0], similarity_top_k=5)
    for name, call in {
        "query": lambda store: store.query(query),
        "add 100": lambda store: store.add(nodes[:100]),
    }.items():
        yield f"LlamaIndex vector store, {name}", partial(call, theirs), partial(call, ours)


def yield_crewai(folder: Path, loop: asyncio.Runner, stack: ExitStack) -> Iterator[Step]:
    """Yield steps of a storage of 1,000 records."""
    from crewai.memory.storage.lancedb_storage import LanceDBStorage
    from crewai.memory.types import MemoryRecord

    from agent_memory.integrations.crewai import AgentMemoryStorage

    rows = np.random.default_rng(0).standard_normal((1000, 384)).tolist()
    records = [MemoryRecord(id=str(n), content=f"record {n}", embedding=row) for n, row in enumerate(rows)]
    theirs, ours = LanceDBStorage(folder / "lance"), stack.enter_context(AgentMemoryStorage(folder / "records"))
    for storage in (theirs, ours):
        storage.save(records)

    def replace(storage: Any) -> None:
        storage.delete(record_ids=["0"])
        storage.save(records[:1])

    steps = {
        "search": lambda storage: storage.search(rows[0], limit=5),
        "count": lambda storage: storage.count(),
        "list_scopes": lambda storage: storage.list_scopes(),
        "update": lambda storage: storage.update(records[1]),
        "delete and save": replace,
    }
    for name, call in steps.items():
        yield f"CrewAI storage, {name}", partial(call, theirs), partial(call, ours)


BESIDE = {
    "langgraph.store.sqlite": yield_langgraph,
    "agents": yield_openai_agents,
    "langchain_core": yield_langchain,
    "llama_index.core": yield_llama_index,
    "crewai": yield_crewai,
}


def compare_beside(loop: asyncio.Runner) -> dict[str, dict[str, float]]:
    """Measure the adapters whose framework, with a class of its own, is installed; print and return the ratios."""
    results = {}
    print(f"\n{'beside the own class of the framework, ms':44}{'theirs':>9}{'ours':>9}{'ratio':>7}  quartiles")
    for package, steps in BESIDE.items():
        if find_spec(package.split(".")[0]) is None or find_spec(package) is None:
            continue
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            for name, theirs, ours in steps(Path(folder), loop, stack):
                found = results[name] = measure(theirs, ours)
                spread = f"{found['low']:.1f} to {found['high']:.1f}"
                print(f"{name:44}{found['theirs']:9.2f}{found['ours']:9.2f}{found['ratio']:7.1f}  {spread}", flush=True)
    return results
