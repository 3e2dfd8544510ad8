"""One store in a folder and on PostgreSQL, and other stores beside: adding, recalling, bytes, processor time.

    python benchmarks/machines.py "postgresql://me@/agents?schema=measured" --rows 10000

The address must hold no store; what is written there stays, to be looked at. Texts are invented, of words as frequent
as in English, and a text's vector is the sum of its words' random ones: 768 dimensions, of which the first say most, as
in the default encoder's. Nothing is encoded, so that the stores are what is measured. Questions and entries go to all
in turn, so that all meet the same disturbances, and ratios are of such turns. If the server runs on this machine, the
processor time of its processes is counted, too.

Where the database has pgvector, this package's own index on the server is measured, too. With ``--peers``, LangGraph's
``PostgresStore`` and mem0's pgvector store hold the same, in schemas of the same database whose names end with theirs
(``pip install langgraph-checkpoint-postgres mem0ai``); they take some 8 ms an entry to fill.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

import numpy as np

from agent_memory import Config, EncoderSpec, Memory
from agent_memory.errors import ExtensionError

DIMENSION, WORDS, WORDS_A_TEXT = 768, 20_000, 20
TURNS, WARM, CLIENTS, ADDED_EACH, K, BATCH = 40, 10, 4, 25, 10, 1_000


class WordSums:
    """Replaces an encoder: a text's vector is the sum of its words', longer the rarer they are."""

    spec = EncoderSpec(name="word-sums", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1)

    def __init__(self) -> None:
        words = np.random.default_rng(1).standard_normal((WORDS, DIMENSION), dtype=np.float32)
        words /= (
            64 + np.arange(DIMENSION, dtype=np.float32)
        ) ** 0.75  # the first 256 hold .77, the default encoder's .79
        self._words = words * np.log1p(np.arange(WORDS, dtype=np.float32))[:, None]

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return unit vectors."""
        sums = np.empty((len(texts), DIMENSION), np.float32)
        for row, text in zip(sums, texts, strict=True):
            self._words[[int(word[1:]) for word in text.split()]].sum(axis=0, out=row)
        sums /= np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)
        return sums

    encode_queries = encode_documents


def make_texts(count: int, words: int, seed: int) -> list[str]:
    """Return texts of invented words, the n-th of which is as frequent as one in n."""
    generator = np.random.default_rng(seed)
    shares = 1 / np.arange(1, WORDS + 1)
    numbers = generator.choice(WORDS, (count, words), p=shares / shares.sum())
    return [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]


def open_store(place: Path | str, index: str = "local") -> Memory:
    """Open a store, with the index in this process or on the server."""
    config = Config(lock_timeout_s=120, index=index)
    return Memory(place, encoder=WordSums(), session_encoder=None, config=config)


def read_server_seconds() -> float:
    """Return the processor time of the PostgreSQL servers that are running on this machine, and of their children."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = stat.read_text().partition(") ")
        except OSError:
            continue
        if name.endswith("(postgres"):
            ticks += sum(map(int, rest.split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(call: Callable[[], object]) -> dict[str, float]:
    """Return the seconds, and the processor seconds here and in the server, that a call takes."""
    began = time.perf_counter(), time.process_time(), read_server_seconds()
    call()
    ended = time.perf_counter(), time.process_time(), read_server_seconds()
    seconds = [round(b - a, 2) for a, b in zip(began, ended, strict=True)]
    return dict(zip(("seconds", "here", "server"), seconds, strict=True))


def compare(calls: dict[str, Callable[[int], object]], turns: int) -> dict[str, dict[str, float]]:
    """Return the median in milliseconds of each call, made in turn, and the median of its ratios to the first."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(turns):
        for name, call in calls.items():
            began = time.perf_counter()
            call(number)
            times[name].append((time.perf_counter() - began) * 1000)
    first = next(iter(times.values()))
    compared = {
        name: {"ms": round(median(found), 2), "ratio": round(median(np.divide(found, first)), 2)}
        for name, found in times.items()
    }
    print(compared, file=sys.stderr, flush=True)
    return compared


def _add(place: Path | str, seed: int, together: Barrier) -> None:
    with open_store(place) as memory:
        memory.recall("w1")
        together.wait()
        for text in make_texts(ADDED_EACH, WORDS_A_TEXT, seed):
            memory.add(text, session=f"client-{seed}")
        together.wait()


def add_together(place: Path | str) -> float:
    """Return how many entries a second clients, each a process that has opened the store, add together."""
    context = multiprocessing.get_context("spawn")
    together = context.Barrier(CLIENTS + 1)
    clients = [context.Process(target=_add, args=(place, seed, together)) for seed in range(10, 10 + CLIENTS)]
    for client in clients:
        client.start()
    together.wait()
    began = time.perf_counter()
    together.wait()
    seconds = time.perf_counter() - began
    for client in clients:
        client.join()
    return round(CLIENTS * ADDED_EACH / seconds, 1)


class Ours:
    """A store of this package."""

    def __init__(self, place: Path | str, index: str = "local") -> None:
        self.memory = open_store(place, index)
        self.memory.recall("w1")

    def search(self, question: str, where: dict[str, int] | None, mode: str = "dense") -> list[str]:
        """Return the texts of ten hits."""
        return [hit.entry.text for hit in self.memory.recall(question, k=K, where=where, mode=mode)]

    def add(self, text: str) -> None:
        """Add one entry, durably."""
        self.memory.add(text, session="s")


def _point_at(url: str, name: str) -> str:
    """Return the address of a schema beside that of a URL, for libpq; makes the schema."""
    import psycopg

    parts = urlsplit(url)
    given = [(key, value) for key, value in parse_qsl(parts.query) if key not in ("schema", "index", "read_from")]
    plain = urlunsplit(parts._replace(query=urlencode(given)))
    schema = f"{dict(parse_qsl(parts.query)).get('schema', 'agent_memory')}_{name}"
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"CREATE SCHEMA {schema}")
    options = ("options", f"-csearch_path={schema},public")
    return urlunsplit(parts._replace(query=urlencode([*given, options], quote_via=quote)))


class LangGraph:
    """LangGraph's store on PostgreSQL, as its documentation sets it up: HNSW over whole vectors."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        from langgraph.store.base import PutOp
        from langgraph.store.postgres import PostgresStore

        encoder = WordSums()
        index = {"dims": DIMENSION, "embed": lambda texts: encoder.encode_documents(texts).tolist(), "fields": ["text"]}
        address = _point_at(url, "langgraph")
        self._put, self._added = PutOp, 0
        self._store = stack.enter_context(PostgresStore.from_conn_string(address, index=index))
        self._store.setup()

    def fill(self, items: list[dict[str, Any]]) -> None:
        """Put items."""
        for start in range(0, len(items), BATCH):
            some = items[start : start + BATCH]
            self._store.batch(
                [
                    self._put(("m",), f"k{start + number}", {"text": item["text"], **item["metadata"]})
                    for number, item in enumerate(some)
                ]
            )

    def search(self, question: str, where: dict[str, int] | None) -> list[str]:
        """Return the texts of ten items."""
        return [item.value["text"] for item in self._store.search(("m",), query=question, filter=where, limit=K)]

    def add(self, text: str) -> None:
        """Put one item."""
        self._added += 1
        self._store.put(("m",), f"a{self._added}", {"text": text})


class Mem0:
    """mem0's vector store on PostgreSQL, with HNSW, without the models around it."""

    def __init__(self, url: str, stack: ExitStack) -> None:
        from mem0.vector_stores.pgvector import PGVector

        address, self._encoder = _point_at(url, "mem0"), WordSums()
        self._store = PGVector(
            None, "memories", DIMENSION, None, None, None, None, diskann=False, hnsw=True, connection_string=address
        )
        stack.callback(self._store.connection_pool.close)

    def fill(self, items: list[dict[str, Any]]) -> None:
        """Insert rows."""
        for start in range(0, len(items), BATCH):
            some = items[start : start + BATCH]
            self._insert([{"data": item["text"], **item["metadata"]} for item in some])

    def search(self, question: str, where: dict[str, int] | None) -> list[str]:
        """Return the texts of ten rows."""
        vector = self._encoder.encode_queries([question])[0].tolist()
        return [row.payload["data"] for row in self._store.search(question, vector, K, where)]

    def add(self, text: str) -> None:
        """Insert one row."""
        self._insert([{"data": text}])

    def _insert(self, payloads: list[dict[str, Any]]) -> None:
        vectors = self._encoder.encode_documents([payload["data"] for payload in payloads]).tolist()
        self._store.insert(vectors, payloads, [str(uuid.uuid4()) for _ in payloads])


FILTERS: dict[str, dict[str, int] | None] = {
    "by meaning": None,
    "one in a hundred": {"part": 7},
    "every second": {"half": 1},
}


def compare_calls(stores: dict[str, Any], items: list[dict[str, Any]]) -> dict[str, Any]:
    """Compare recalls and adds of open stores, and what they find with what is nearest."""
    asked = make_texts(TURNS, 4, 5)
    ours = {name: store for name, store in stores.items() if isinstance(store, Ours)}
    for store in ours.values():
        for question in asked[:WARM]:  # until the words tier is there
            store.search(question, None, "hybrid")
    found: dict[str, Any] = {}
    for mode in ("hybrid", "lexical"):
        found[mode] = compare(
            {
                name: lambda number, one=store, by=mode: one.search(asked[number], None, by)
                for name, store in ours.items()
            },
            TURNS,
        )
    encoder = WordSums()
    nearest = encoder.encode_queries(asked) @ encoder.encode_documents([item["text"] for item in items]).T
    for what, where in FILTERS.items():
        given: dict[str, list[list[str]]] = {name: [] for name in stores}
        found[what] = compare(
            {
                name: lambda number, one=store, to=given[name], by=where: to.append(one.search(asked[number], by))
                for name, store in stores.items()
            },
            TURNS,
        )
        kept = [where is None or where.items() <= item["metadata"].items() for item in items]
        for name, answers in given.items():
            found[what][name]["recall@10"] = measure_recall(answers, np.where(kept, nearest, -np.inf), items)
    texts = make_texts(TURNS, WORDS_A_TEXT, 6)
    found["add"] = compare(
        {name: lambda number, one=store: one.add(texts[number]) for name, store in stores.items()}, TURNS
    )
    return found


def measure_recall(answers: list[list[str]], scores: np.ndarray, items: list[dict[str, Any]]) -> float:
    """Return the mean share of the ten nearest texts that were returned."""
    best = np.argpartition(-scores, K, axis=1)[:, :K]
    shares = [len({items[row]["text"] for row in rows} & set(got)) / K for rows, got in zip(best, answers, strict=True)]
    return round(float(np.mean(shares)), 3)


def run(url: str, rows: int, peers: bool) -> dict[str, Any]:
    """Fill a folder, copy it to the server, and compare the two, and what others keep there."""
    items = [
        {"text": text, "session": f"chat-{number // 20}", "metadata": {"part": number % 100, "half": number % 2}}
        for number, text in enumerate(make_texts(rows, WORDS_A_TEXT, 2))
    ]
    result: dict[str, Any] = {"rows": rows, "machine": f"{platform.machine()}, {os.cpu_count()} processors"}

    def note(name: str, call: Callable[[], object]) -> None:
        result[name] = measure(call)
        print(f"{name}: {result[name]}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch) / "store"
        with open_store(folder) as memory:
            note("fill the folder", lambda: memory.add_many(items))
        note("copy to the server", lambda: Memory.copy(folder, url))
        stores: dict[str, Any] = {}
        note("first recall in the folder", lambda: stores.update({"folder": Ours(folder)}))
        note("first recall on the server", lambda: stores.update({"server": Ours(url)}))
        if peers:
            for name, make in (("langgraph", LangGraph), ("mem0", Mem0)):
                stores[name] = make(url, stack)
                note(f"fill {name}", lambda name=name: stores[name].fill(items))
        with contextlib.suppress(ExtensionError):
            note("index on the server", lambda: stores.update({"server's index": Ours(url, "server")}))
        result["calls"] = compare_calls(stores, items)
        for name, store in stores.items():
            if isinstance(store, Ours):
                stats = store.memory.stats()
                result[f"bytes an entry, {name}"] = round(stats.database_bytes / stats.entries)
                store.memory.close()
        for name, place in (("folder", folder), ("server", url)):
            result[f"adds a second of {CLIENTS} clients, {name}"] = add_together(place)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Address of a PostgreSQL database, with a schema that is not there yet.")
    parser.add_argument("--rows", type=int, default=10_000, help="Number of entries, 1,000,000 at most.")
    parser.add_argument("--peers", action="store_true", help="Measure other stores beside.")
    given = parser.parse_args()
    print(json.dumps(run(given.url, min(given.rows, 1_000_000), given.peers), indent=2))
