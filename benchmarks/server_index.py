"""Vectors searched in the process and on the server: first recall, memory, recalls, forgetting, what is found.

    python benchmarks/server_index.py "postgresql://me@/agents?schema=measured" --rows 20000

The address must hold no store, and its database must have pgvector; what is written there stays. Texts are invented,
vectors of 768 dimensions lie around 500 centres and fade towards the last dimensions, as those of Matryoshka encoders
do. Recalls by meaning alone go to both in turn.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
from machines import DIMENSION, PAIRS, WORDS_A_TEXT, compare, make_texts

from agent_memory import Config, EncoderSpec, Memory

CENTRES, SPREAD, FADING = 500, 0.8, 0.5
CHILD = """
import json, resource, sys, time
from server_index import open_store
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
began = time.perf_counter()
with open_store(sys.argv[1], sys.argv[2]) as memory:
    memory.recall("w1 w2", mode="dense")
    took = time.perf_counter() - began
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"seconds": round(took, 2), "more_memory_mb": round(grown / 1024)}))
"""


class ClusteredEncoder:
    """Replaces an encoder: every text gets a vector around one of the centres."""

    spec = EncoderSpec(name="clustered", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1)

    def __init__(self) -> None:
        self._generator = np.random.default_rng(1)
        self._centres = np.random.default_rng(0).standard_normal((CENTRES, DIMENSION), dtype=np.float32)

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return unit vectors."""
        noise = self._generator.standard_normal((len(texts), DIMENSION), dtype=np.float32)
        vectors = self._centres[self._generator.integers(0, CENTRES, len(texts))] + SPREAD * noise
        vectors *= np.arange(1, DIMENSION + 1, dtype=np.float32) ** -FADING
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_queries = encode_documents


def open_store(url: str, index: str) -> Memory:
    """Open the store, searched in the process (``local``) or on the server."""
    config = Config(lock_timeout_s=600, index=index)  # type: ignore[arg-type]
    return Memory(url, encoder=ClusteredEncoder(), session_encoder=None, config=config)


def open_apart(url: str, index: str) -> dict[str, float]:
    """Return what the first recall of a process takes."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, url, index], capture_output=True, text=True, check=True, cwd=sys.path[0]
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


def run(url: str, rows: int) -> dict[str, Any]:
    """Fill a store, and compare the two ways to search it."""
    result: dict[str, Any] = {"rows": rows}
    with open_store(url, "local") as local:
        items = [
            {"text": text, "key": f"k{number}", "metadata": {"part": number % 100, "half": number % 2}}
            for number, text in enumerate(make_texts(rows, WORDS_A_TEXT, 2))
        ]
        local.add_many(items)
        with open_store(url, "server") as server:
            began = time.perf_counter()
            server.recall("w1", mode="dense")
            result["fill the index on the server, s"] = round(time.perf_counter() - began, 1)
            for index in ("local", "server"):
                result[f"first recall of a process, {index}"] = open_apart(url, index)
            local.recall("w1", mode="dense")
            result["index"] = server.stats().index["plan"]
            asks: dict[str, dict[str, Any]] = {
                "all": {},
                "one in a hundred": {"where": {"part": 7}},
                "every second": {"where": {"half": 1}},
                "exact": {"exact": True},
            }
            for name, options in asks.items():
                result[name] = compare(
                    lambda number, given=options: local.recall(f"w{number}", mode="dense", **given),
                    lambda number, given=options: server.recall(f"w{number}", mode="dense", **given),
                    PAIRS,
                )
            began = time.perf_counter()
            receipt = server.forget("k1")
            result["forget one entry, s"] = round(time.perf_counter() - began, 1)
            result["pending"] = receipt.pending
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Address of a PostgreSQL database, with a schema that is not there yet.")
    parser.add_argument("--rows", type=int, default=20_000, help="Number of entries, 200,000 at most.")
    given = parser.parse_args()
    print(json.dumps(run(given.url, min(given.rows, 200_000)), indent=2))
