"""What a re-index costs, and what those who use the store meanwhile notice of it.

    python benchmarks/reindex.py --rows 10000 100000

Vectors are synthetic (768 dimensions, clustered, power-law spectrum) and given. "Re-encoded" runs through a stand-in
encoder that costs 15 microseconds, so that the figure is the store's own share; an encoder's time comes on top. A
reader and a writer work in processes of their own while the re-index goes on; the writer's longest wait is the write
stall. "Open after a kill" is the first open and answer after SIGKILL in the middle of a re-index.

    python benchmarks/reindex.py --opening --rows 100000 1000000

measures nothing but how long a fresh process takes to open a store and answer: with the store's files out of the page
cache (cold) and in it, without a snapshot of the index, and after SIGKILL in the middle of writing and of a re-index.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from store import DIMENSION, Given, clustered, spread

from agent_memory import EncoderSpec, Memory

QUERIES = 64
SCALE = 0.2 * np.arange(1, DIMENSION + 1, dtype=np.float32) ** -0.6


class Other(Given):
    """Another embedding space; its vectors depend on the text alone."""

    def __init__(self, queries: np.ndarray) -> None:
        super().__init__(queries)
        self.spec = EncoderSpec(
            name="other", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1
        )

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return vectors around drawn ones, chosen by the number that a text ends with."""
        numbers = [int(text.rsplit(" ", 1)[1]) for text in texts]
        near = np.stack([np.random.default_rng(number).standard_normal(DIMENSION, np.float32) for number in numbers])
        vectors = self._queries[[number % len(self._queries) for number in numbers]] + near * SCALE
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_queries = encode_documents


def queries_of(folder: Path) -> np.ndarray:
    """Return the queries that the parent has left for its children."""
    return np.load(folder / "queries.npy")


def child(what: str, folder: Path) -> None:
    """Read, write or re-index until the parent ends it; prints milliseconds, one a line."""
    queries = queries_of(folder)
    with Memory(folder / "store", encoder=Given(queries)) as memory:
        memory.recall(queries[0])
        print("ready", flush=True)
        number = 0
        while True:
            started = time.perf_counter()
            if what == "read":
                memory.recall(f"text number {number}", mode="dense")
            elif what == "write":
                memory.add(f"meanwhile {number}")
            else:
                memory.reindex(encoder=Other(queries))
            print((time.perf_counter() - started) * 1000, flush=True)
            number += 1
            time.sleep(0.02)


class Others:
    """A reader and a writer in processes of their own; collects their times."""

    def __init__(self, folder: Path) -> None:
        self.times: dict[str, list[float]] = {"read": [], "write": []}
        self._children = [start(what, folder) for what in self.times]
        self._threads = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in zip(self.times, self._children, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _collect(self, what: str, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self.times[what].append(float(line))

    def taken(self) -> dict[str, object]:
        """Return the figures so far, and begin anew."""
        read, write = self.times["read"][:], self.times["write"][:]
        self.times["read"].clear()
        self.times["write"].clear()
        return {
            "recall ms": spread(read or [0.0]),
            "add ms": spread(write or [0.0]),
            "longest add ms": max(write or [0]),
        }

    def end(self) -> None:
        """Kill both."""
        for process in self._children:
            process.kill()
            process.wait()


def start(what: str, folder: Path) -> subprocess.Popen[str]:
    """Start a child and wait until it has answered once."""
    command = [sys.executable, __file__, "--child", what, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise SystemExit(f"the {what} process did not start")
    return process


def opened(folder: Path) -> float:
    """Return the seconds in which a fresh process opens the store and answers once, without starting Python."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from reindex import *; import faiss;"
        "q = queries_of(Path(sys.argv[2])); t = time.perf_counter();"
        "m = Memory(Path(sys.argv[2]) / 'store', encoder=Given(q)); m.recall(q[0]); print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def out_of_cache(folder: Path) -> None:
    """Ask the kernel to forget what it holds of the store's files."""
    for path in (folder / "store").rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def killed(what: str, folder: Path, after_s: float) -> None:
    """Let a process write or re-index for a while, and kill it."""
    process = start(what, folder)
    time.sleep(after_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def opening(rows: int, folder: Path) -> dict[str, object]:
    """Measure opening alone, at one size."""
    generator = np.random.default_rng(7)
    queries = clustered(QUERIES, generator)
    np.save(folder / "queries.npy", queries)
    figures: dict[str, object] = {}
    started = time.perf_counter()
    with Memory(folder / "store", encoder=Given(queries)) as memory:
        for begin in range(0, rows, 50_000):
            vectors = clustered(min(50_000, rows - begin), generator)
            memory.add_many(
                {"text": f"text number {number}", "vector": vector} for number, vector in enumerate(vectors, begin)
            )
        figures["filled, entries/s"] = round(rows / (time.perf_counter() - started))
        memory.recall(queries[0])
    for name, cold in (("cold", True), ("warm", False)):
        if cold:
            out_of_cache(folder)
        figures[f"open and answer, {name} s"] = round(opened(folder), 3)
    for what in ("write", "reindex"):
        killed(what, folder, 3.0)
        figures[f"log to recover after a kill in a {what} bytes"] = (folder / "store" / "memory.db-wal").stat().st_size
        figures[f"open and answer after a kill in a {what} s"] = round(opened(folder), 3)
    shutil.rmtree(folder / "store" / "index")
    figures["open and answer without a snapshot s"] = round(opened(folder), 3)
    return figures


def measured(rows: int, folder: Path) -> dict[str, object]:
    """Run all measurements at one size."""
    generator = np.random.default_rng(7)
    everything = clustered(rows + QUERIES, generator)
    vectors, queries = everything[:rows], everything[rows:]
    np.save(folder / "queries.npy", queries)
    figures: dict[str, object] = {}
    with Memory(folder / "store", encoder=Given(queries)) as memory:
        memory.add_many({"text": f"text number {number}", "vector": vector} for number, vector in enumerate(vectors))
        memory.recall(queries[0])
    figures["cold open with a snapshot s"] = round(opened(folder), 3)
    killed("reindex", folder, max(0.3, rows / 50_000))
    figures["open after a kill in a re-index s"] = round(opened(folder), 3)
    others = Others(folder)
    with Memory(folder / "store", encoder=Given(queries)) as memory:
        memory.recall(queries[0])
        time.sleep(3)
        figures["others, idle"] = others.taken()
        for name, wish in (("layout", {"tiers": (128, DIMENSION)}), ("rotation", {"rotation": "fit"})):
            report = memory.reindex(**wish)
            figures[f"{name}, entries/s"] = round(report.entries / report.seconds)
            figures[f"{name}, recall@10"] = report.recall
            figures[f"others, during {name}"] = others.taken()
            report = memory.rollback()
            figures[f"rollback of {name} s"] = round(report.seconds, 2)
            others.taken()
        others.end()
        report = memory.reindex(encoder=Other(queries))
        figures["re-encoded, entries/s"] = round(report.entries / report.seconds)
        started = time.perf_counter()
        memory.backup(folder / "copy.db")
        figures["backup s"] = round(time.perf_counter() - started, 2)
    return figures


def main() -> None:
    """Run at each size and print one JSON document a size."""
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--large", action="store_true", help="a million entries too (10 GB of disk, an hour)")
    parser.add_argument("--opening", action="store_true", help="only how long a store takes to open")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    results: dict[str, object] = {"python": platform.python_version(), "processors": os.cpu_count()}
    for rows in [*arguments.rows, *([1_000_000] if arguments.large else [])]:
        with tempfile.TemporaryDirectory() as scratch:
            results[str(rows)] = (opening if arguments.opening else measured)(rows, Path(scratch))
        print(json.dumps({rows: results[str(rows)]}, indent=2), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
