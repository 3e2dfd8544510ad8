"""Durable writes and whole recalls, beside the floor that SQLite sets and, if it is installed, Chroma.

    python benchmarks/store.py --rows 10000 100000

Vectors are synthetic (768 dimensions, clustered, power-law spectrum) and given, so that no encoder is timed. Every
figure is the median of its repetitions, with the 5th and 95th percentile. Bare sqlite3 loads the same rows in the same
run, and its single adds alternate with ours, so that both wait for the same disk at the same time. With
``--folder /dev/shm`` nothing waits for a disk: what is left is the work.
"""

from __future__ import annotations

import argparse
import json
import platform
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from agent_memory import EncoderSpec, Memory

DIMENSION = 768
QUERIES = 200
SINGLES = 300
WORDS = [f"word{number}" for number in range(5000)]


class Given:
    """Stands where an encoder would: every vector is given by the caller, queries are drawn at random."""

    def __init__(self, queries: np.ndarray) -> None:
        self._queries = queries
        self._next = 0
        self.spec = EncoderSpec(
            name="given", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1
        )

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return drawn vectors."""
        return self.encode_queries(texts)

    def encode_queries(self, texts: list[str]) -> np.ndarray:
        """Return drawn vectors, shape (len(texts), 768)."""
        self._next += 1
        return self._queries[[self._next % len(self._queries)] * len(texts)]


def clustered(rows: int, generator: np.random.Generator) -> np.ndarray:
    """Return unit vectors around random centres with a spectrum that falls as a power of the dimension."""
    scale = np.arange(1, DIMENSION + 1, dtype=np.float32) ** -0.6
    centres = generator.standard_normal((max(1, rows // 100), DIMENSION), dtype=np.float32)
    vectors = centres[generator.integers(len(centres), size=rows)]
    vectors = (vectors + 0.7 * generator.standard_normal(vectors.shape, dtype=np.float32)) * scale
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def timed(call: Callable[[int], object], times: int) -> list[float]:
    """Return the milliseconds of each call."""
    taken = []
    for number in range(times):
        started = time.perf_counter()
        call(number)
        taken.append((time.perf_counter() - started) * 1000)
    return taken


def spread(taken: Sequence[float] | np.ndarray) -> dict[str, float]:
    """Return the median with the 5th and 95th percentile."""
    low, middle, high = np.percentile(taken, [5, 50, 95])
    return {"p5": round(float(low), 3), "p50": round(float(middle), 3), "p95": round(float(high), 3)}


class Floor:
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
        """Return the rows that were loaded in a second."""
        started = time.perf_counter()
        for start in range(0, len(self._texts), 512):
            self._insert(start, min(start + 512, len(self._texts)))
        return len(self._texts) / (time.perf_counter() - started)

    def add(self, number: int) -> None:
        """Add one row again, in a transaction of its own."""
        self._insert(number, number + 1)

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def ours(folder: Path, texts: list[str], vectors: np.ndarray, queries: np.ndarray, floor: Floor) -> dict[str, object]:
    """Load, add and recall with agent-memory, beside bare sqlite3."""
    figures: dict[str, object] = {}
    bare = floor.load()
    with Memory(folder, encoder=Given(queries)) as memory:
        started = time.perf_counter()
        memory.add_many({"text": text, "vector": vector} for text, vector in zip(texts, vectors, strict=True))
        rate = len(texts) / (time.perf_counter() - started)
        figures |= {"bulk entries/s": round(rate), "bare sqlite3 bulk entries/s": round(bare)}
        figures["bare sqlite3 bulk, times ours"] = round(bare / rate, 2)
        started = time.perf_counter()
        memory.recall(queries[0])
        figures["first recall s"] = round(time.perf_counter() - started, 2)
        figures["recall by vector ms"] = spread(timed(lambda number: memory.recall(queries[number]), QUERIES))
        asked = [" ".join(np.random.default_rng(number).choice(WORDS, 6)) for number in range(QUERIES)]
        for mode in ("dense", "lexical", "hybrid"):
            taken = timed(lambda number, mode=mode: memory.recall(asked[number], mode=mode), QUERIES)
            figures[f"recall {mode} ms"] = spread(taken)
        memory.add("the first of its kind", vector=queries[0])
        theirs, taken = [], []
        for number in range(SINGLES):
            theirs += timed(lambda _, number=number: floor.add(number), 1)
            vector = queries[number % QUERIES]
            taken += timed(lambda _, number=number, vector=vector: memory.add(f"single {number}", vector=vector), 1)
        figures |= {"single add ms": spread(taken), "bare sqlite3 single add ms": spread(theirs)}
        figures["single add over bare sqlite3 ms"] = spread(np.subtract(taken, theirs))
        started = time.perf_counter()
    figures["close s"] = round(time.perf_counter() - started, 2)
    started = time.perf_counter()
    with Memory(folder, encoder=Given(queries)) as memory:
        figures["open s"] = round(time.perf_counter() - started, 3)
        memory.recall(queries[0])
        figures["open and first recall s"] = round(time.perf_counter() - started, 3)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    figures["bytes/entry"] = round(size / len(texts))
    return figures


def chroma(folder: Path, texts: list[str], vectors: np.ndarray, queries: np.ndarray) -> dict[str, object] | None:
    """Load, add and query with Chroma's persistent client, or return None if it is not installed."""
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
    asked = timed(lambda number: collection.query(query_embeddings=queries[number : number + 1], n_results=5), QUERIES)

    def add(number: int) -> None:
        collection.add(ids=[f"s{number}"], documents=["single"], embeddings=queries[number % QUERIES][None])

    return {
        "bulk entries/s": rate,
        "recall by vector ms": spread(asked),
        "single add ms": spread(timed(add, SINGLES)),
        "version": chromadb.__version__,
    }


def main() -> None:
    """Run at each size and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument(
        "--folder", type=Path, help="where the stores are written; the system's temporary folder if not given"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    results: dict[str, object] = {"python": platform.python_version(), "sqlite": sqlite3.sqlite_version}
    for rows in arguments.rows:
        generator = np.random.default_rng(7)
        texts = [" ".join(generator.choice(WORDS, 12)) for _ in range(rows)]
        everything = clustered(rows + QUERIES, generator)
        vectors, queries = everything[:rows], everything[rows:]
        with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
            folder = Path(scratch)
            floor = Floor(folder / "floor.db", texts, vectors)
            results[str(rows)] = {
                "agent-memory": ours(folder / "ours", texts, vectors, queries, floor),
                "chroma": chroma(folder, texts, vectors, queries),
            }
            floor.close()
        print(json.dumps({rows: results[str(rows)]}, indent=2), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
