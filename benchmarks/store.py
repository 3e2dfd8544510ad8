"""Durable writes and complete recalls, compared with the lower bound of bare SQLite and, if installed, with Chroma.

    python benchmarks/store.py --rows 10000 100000

Vectors are synthetic (768 dimensions, clustered, power-law spectrum) and passed to the store, so that no encoder is
timed. Every figure is the median of its repetitions, with the 5th and 95th percentile. Bare sqlite3 loads the same rows
in the same run, and its single adds alternate with ours, so that both wait for the same disk at the same time. With
``--folder /dev/shm`` nothing waits for a disk, and only the work itself is timed.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import tempfile
import time
from pathlib import Path

import numpy as np
from timing import summarise, time_calls

from agent_memory import EncoderSpec, Memory

DIMENSION = 768
QUERIES = 200
SINGLES = 300
WORDS = [f"word{number}" for number in range(5000)]


class QueryEncoder:
    """Replaces an encoder: every text gets one of the given query vectors, in turn."""

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries
        self._next = 0
        self.spec = EncoderSpec(
            name="given", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1
        )

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return one of the query vectors for every text."""
        return self.encode_queries(texts)

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """Return one of the query vectors for every text, shape (len(texts), 768)."""
        self._next += 1
        return self._queries[[self._next % len(self._queries)] * len(texts)]


def make_vectors(rows: int, generator: np.random.Generator) -> np.ndarray:
    """Return unit vectors around random centres with a spectrum that falls as a power of the dimension."""
    scale = np.arange(1, DIMENSION + 1, dtype=np.float32) ** -0.6
    centres = generator.standard_normal((max(1, rows // 100), DIMENSION), dtype=np.float32)
    vectors = centres[generator.integers(len(centres), size=rows)]
    vectors = (vectors + 0.7 * generator.standard_normal(vectors.shape, dtype=np.float32)) * scale
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class BareSqlite:
    """Writes the same texts and vectors with bare sqlite3: WAL, synchronous=FULL, no other index, no full text."""

    def __init__(self, path: Path, texts: list[str], vectors: np.ndarray) -> None:
        self._texts = texts
        self._blobs = [row.tobytes() for row in vectors.astype(np.float16)]
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("CREATE TABLE entries (id INTEGER PRIMARY KEY, text TEXT, vector BLOB)")

    def _insert(self, start: int, stop: int) -> None:
        rows = zip(self._texts[start:stop], self._blobs[start:stop], strict=True)
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO entries (text, vector) VALUES (?, ?)", rows)
        self._connection.execute("COMMIT")

    def load(self) -> float:
        """Load all rows and return how many were loaded per second."""
        started = time.perf_counter()
        for start in range(0, len(self._texts), 512):
            self._insert(start, min(start + 512, len(self._texts)))
        return len(self._texts) / (time.perf_counter() - started)

    def add(self, number: int) -> None:
        """Add one row a second time, in its own transaction."""
        self._insert(number, number + 1)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def measure_agent_memory(
    folder: Path, texts: list[str], vectors: np.ndarray, queries: np.ndarray, bare: BareSqlite
) -> dict[str, object]:
    """Load, add and recall with agent-memory, and load and add with bare sqlite3."""
    figures: dict[str, object] = {}
    bare_rate = bare.load()
    with Memory(folder, encoder=QueryEncoder(queries)) as memory:
        started = time.perf_counter()
        memory.add_many({"text": text, "vector": vector} for text, vector in zip(texts, vectors, strict=True))
        rate = len(texts) / (time.perf_counter() - started)
        figures |= {"bulk entries/s": round(rate), "bare sqlite3 bulk entries/s": round(bare_rate)}
        figures["bare sqlite3 bulk, times ours"] = round(bare_rate / rate, 2)
        started = time.perf_counter()
        memory.recall(queries[0])
        figures["first recall s"] = round(time.perf_counter() - started, 2)
        figures["recall by vector ms"] = summarise(time_calls(memory.recall, queries))
        questions = [" ".join(np.random.default_rng(number).choice(WORDS, 6)) for number in range(QUERIES)]
        for mode in ("dense", "lexical", "hybrid"):
            times = time_calls(lambda question, mode=mode: memory.recall(question, mode=mode), questions)
            figures[f"recall {mode} ms"] = summarise(times)
        memory.add("the first of its kind", vector=queries[0])
        theirs, ours = [], []
        for number in range(SINGLES):
            theirs += time_calls(bare.add, [number])
            ours += time_calls(lambda n: memory.add(f"single {n}", vector=queries[n % QUERIES]), [number])
        figures |= {"single add ms": summarise(ours), "bare sqlite3 single add ms": summarise(theirs)}
        figures["single add over bare sqlite3 ms"] = summarise(np.subtract(ours, theirs))
        started = time.perf_counter()
    figures["close s"] = round(time.perf_counter() - started, 2)
    started = time.perf_counter()
    with Memory(folder, encoder=QueryEncoder(queries)) as memory:
        figures["open s"] = round(time.perf_counter() - started, 3)
        memory.recall(queries[0])
        figures["open and first recall s"] = round(time.perf_counter() - started, 3)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    figures["bytes/entry"] = round(size / len(texts))
    return figures


def measure_chroma(
    folder: Path, texts: list[str], vectors: np.ndarray, queries: np.ndarray
) -> dict[str, object] | None:
    """Load, add and query with Chroma's persistent client; return None if it is not installed."""
    try:
        import chromadb
    except ImportError:
        return None
    client = chromadb.PersistentClient(str(folder / "chroma"))
    collection = client.create_collection("bench", metadata={"hnsw:space": "cosine"})
    started = time.perf_counter()
    for start in range(0, len(texts), 512):
        stop = min(start + 512, len(texts))
        names = [str(number) for number in range(start, stop)]
        collection.add(ids=names, documents=texts[start:stop], embeddings=vectors[start:stop])
    rate = round(len(texts) / (time.perf_counter() - started))
    collection.query(query_embeddings=queries[:1], n_results=5)
    times = time_calls(lambda query: collection.query(query_embeddings=query[None], n_results=5), queries)

    def add(number: int) -> None:
        collection.add(ids=[f"s{number}"], documents=["single"], embeddings=queries[number % QUERIES][None])

    return {
        "bulk entries/s": rate,
        "recall by vector ms": summarise(times),
        "single add ms": summarise(time_calls(add, range(SINGLES))),
        "version": chromadb.__version__,
    }


def main() -> None:
    """Measure at each size and print one JSON document per size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument(
        "--folder", type=Path, help="where the stores are written; the system's temporary folder by default"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    results: dict[str, object] = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for rows in arguments.rows:
        generator = np.random.default_rng(7)
        texts = [" ".join(generator.choice(WORDS, 12)) for _ in range(rows)]
        everything = make_vectors(rows + QUERIES, generator)
        vectors, queries = everything[:rows], everything[rows:]
        with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
            folder = Path(scratch)
            bare = BareSqlite(folder / "bare.db", texts, vectors)
            results[str(rows)] = {
                "agent-memory": measure_agent_memory(folder / "ours", texts, vectors, queries, bare),
                "chroma": measure_chroma(folder, texts, vectors, queries),
            }
            bare.close()
        print(json.dumps({rows: results[str(rows)]}, indent=2), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
