"""One store in a folder and on PostgreSQL: adding, recalling, copying, bytes and processor time for an entry.

    python benchmarks/machines.py "postgresql://me@/agents?schema=measured" --rows 10000

The address must hold no store; what is written there stays, to be looked at. Texts are invented, of words as frequent
as in English, and vectors are random, of 768 dimensions: nothing is encoded, so that the stores are what is measured.
Questions and entries go to both in turn, so that both meet the same disturbances, and ratios are of such pairs. If the
server runs on this machine, the processor time of its processes is counted, too.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from agent_memory import Config, EncoderSpec, Memory

DIMENSION, WORDS, WORDS_A_TEXT = 768, 20_000, 20
PAIRS, WARM, ADDED, CLIENTS, ADDED_EACH = 40, 10, 40, 4, 25


class RandomEncoder:
    """Replaces an encoder: every text gets a random vector."""

    spec = EncoderSpec(name="random", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1)

    def __init__(self, seed: int = 1) -> None:
        self._generator = np.random.default_rng(seed)

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return random unit vectors."""
        vectors = self._generator.standard_normal((len(texts), DIMENSION), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_queries = encode_documents


def make_texts(count: int, words: int, seed: int) -> list[str]:
    """Return texts of invented words, the n-th of which is as frequent as one in n."""
    generator = np.random.default_rng(seed)
    shares = 1 / np.arange(1, WORDS + 1)
    numbers = generator.choice(WORDS, (count, words), p=shares / shares.sum())
    return [" ".join(f"w{number}" for number in row) for row in numbers.tolist()]


def open_store(place: Path | str, seed: int = 1) -> Memory:
    """Open the store with a random encoder."""
    return Memory(place, encoder=RandomEncoder(seed), session_encoder=None, config=Config(lock_timeout_s=120))


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


def compare(folder: Callable[[int], object], server: Callable[[int], object], pairs: int) -> dict[str, float]:
    """Return the medians in milliseconds, and the median ratio, of calls made in turn."""
    times: list[tuple[float, float]] = []
    for number in range(pairs):
        pair = []
        for call in (folder, server):
            began = time.perf_counter()
            call(number)
            pair.append((time.perf_counter() - began) * 1000)
        times.append((pair[0], pair[1]))
    each = [round(median(column), 2) for column in zip(*times, strict=True)]
    return {"folder_ms": each[0], "server_ms": each[1], "ratio": round(median(b / a for a, b in times), 2)}


def _add(place: Path | str, seed: int, together: Barrier) -> None:
    with open_store(place, seed) as memory:
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


def compare_calls(folder: Memory, server: Memory) -> dict[str, dict[str, float]]:
    """Compare recalls and adds of two open stores."""
    asked = make_texts(PAIRS, 4, 5)
    for memory in (folder, server):
        for question in asked[:WARM]:  # until the words tier is there
            memory.recall(question)
    asks: dict[str, dict[str, Any]] = {
        "hybrid": {},
        "dense": {"mode": "dense"},
        "lexical": {"mode": "lexical"},
        "one in a hundred": {"where": {"part": 7}},
        "every second": {"where": {"half": 1}},
    }
    found = {}
    for name, options in asks.items():
        found[name] = compare(
            lambda number, given=options: folder.recall(asked[number], k=10, **given),
            lambda number, given=options: server.recall(asked[number], k=10, **given),
            PAIRS,
        )
    texts = make_texts(ADDED, WORDS_A_TEXT, 6)
    found["add"] = compare(
        lambda number: folder.add(texts[number], session="s"),
        lambda number: server.add(texts[number], session="s"),
        ADDED,
    )
    return found


def run(url: str, rows: int) -> dict[str, Any]:
    """Fill a folder, copy it to the server, and compare the two."""
    items = [
        {"text": text, "session": f"chat-{number // 20}", "metadata": {"part": number % 100, "half": number % 2}}
        for number, text in enumerate(make_texts(rows, WORDS_A_TEXT, 2))
    ]
    result: dict[str, Any] = {"rows": rows, "machine": f"{platform.machine()}, {os.cpu_count()} processors"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "store"
        with open_store(folder) as memory:
            result["fill the folder"] = measure(lambda: memory.add_many(items))
        result["copy to the server"] = measure(lambda: Memory.copy(folder, url))
        with open_store(folder) as one, open_store(url) as other:
            result["first recall in the folder"] = measure(lambda: one.recall("w1 w2"))
            result["first recall on the server"] = measure(lambda: other.recall("w1 w2"))
            result["calls"] = compare_calls(one, other)
            for name, memory in (("folder", one), ("server", other)):
                result[f"bytes an entry, {name}"] = round(memory.stats().database_bytes / memory.stats().entries)
        for name, place in (("folder", folder), ("server", url)):
            result[f"adds a second of {CLIENTS} clients, {name}"] = add_together(place)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Address of a PostgreSQL database, with a schema that is not there yet.")
    parser.add_argument("--rows", type=int, default=10_000, help="Number of entries, 100,000 at most.")
    given = parser.parse_args()
    print(json.dumps(run(given.url, min(given.rows, 100_000)), indent=2))
