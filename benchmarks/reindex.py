"""What a re-index costs, and how it affects other processes that use the store.

    python benchmarks/reindex.py --rows 10000 100000

Vectors are synthetic (768 dimensions, clustered, power-law spectrum) and passed to the store. "Re-encoded" uses a
replacement encoder that takes 15 microseconds per text, so the figure is the store's own share; the time of a real
encoder comes on top. A reader and a writer run in their own processes during the re-index; the writer's longest wait is
the write stall. "Open after a kill" is the first open and answer after SIGKILL in the middle of a re-index.

    python benchmarks/reindex.py --opening --rows 100000 1000000

measures only how long a fresh process takes to open a store and answer: with the store's files out of the page cache
(cold) and in it, without a snapshot of the index, and after SIGKILL in the middle of writing and of a re-index.
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
from store import DIMENSION, QueryEncoder, make_vectors
from timing import summarise

from agent_memory import EncoderSpec, Memory

QUERIES = 64
SCALE = 0.2 * np.arange(1, DIMENSION + 1, dtype=np.float32) ** -0.6


class SecondEncoder(QueryEncoder):
    """Another embedding space; its vectors depend on the text alone."""

    def __init__(self, queries: np.ndarray) -> None:
        super().__init__(queries)
        self.spec = EncoderSpec(
            name="other", revision="1", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1
        )

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return a vector near one of the query vectors, chosen by the number at the end of each text."""
        numbers = [int(text.rsplit(" ", 1)[1]) for text in texts]
        near = np.stack([np.random.default_rng(number).standard_normal(DIMENSION, np.float32) for number in numbers])
        vectors = self._queries[[number % len(self._queries) for number in numbers]] + near * SCALE
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_queries = encode_documents


def read_queries(folder: Path) -> np.ndarray:
    """Return the queries that the parent wrote for its children."""
    return np.load(folder / "queries.npy")


def run_child(task: str, folder: Path) -> None:
    """Read, write or re-index until the parent kills this process; print the milliseconds of each turn."""
    queries = read_queries(folder)
    with Memory(folder / "store", encoder=QueryEncoder(queries)) as memory:
        memory.recall(queries[0])
        print("ready", flush=True)
        number = 0
        while True:
            started = time.perf_counter()
            if task == "read":
                memory.recall(f"text number {number}", mode="dense")
            elif task == "write":
                memory.add(f"meanwhile {number}")
            else:
                memory.reindex(encoder=SecondEncoder(queries))
            print((time.perf_counter() - started) * 1000, flush=True)
            number += 1
            time.sleep(0.02)


class OtherProcesses:
    """A reader and a writer in their own processes, and the times that they report."""

    def __init__(self, folder: Path) -> None:
        self.times: dict[str, list[float]] = {"read": [], "write": []}
        self._children = [start_child(task, folder) for task in self.times]
        self._threads = [
            threading.Thread(target=self._collect, args=pair, daemon=True)
            for pair in zip(self.times, self._children, strict=True)
        ]
        for thread in self._threads:
            thread.start()

    def _collect(self, task: str, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            self.times[task].append(float(line))

    def take_figures(self) -> dict[str, object]:
        """Return the figures since the last call."""
        read, write = self.times["read"][:], self.times["write"][:]
        self.times["read"].clear()
        self.times["write"].clear()
        return {
            "recall ms": summarise(read or [0.0]),
            "add ms": summarise(write or [0.0]),
            "longest add ms": max(write or [0]),
        }

    def kill(self) -> None:
        """Kill both processes."""
        for process in self._children:
            process.kill()
            process.wait()


def start_child(task: str, folder: Path) -> subprocess.Popen[str]:
    """Start a child and wait until it is ready."""
    command = [sys.executable, __file__, "--child", task, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if process.stdout is None or process.stdout.readline() != "ready\n":
        raise SystemExit(f"the {task} process did not start")
    return process


def time_opening(folder: Path) -> float:
    """Return the seconds in which a fresh process opens the store and answers once, not counting Python's start."""
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); from reindex import *; import faiss;"
        "q = read_queries(Path(sys.argv[2])); t = time.perf_counter();"
        "m = Memory(Path(sys.argv[2]) / 'store', encoder=QueryEncoder(q)); m.recall(q[0]);"
        "print(time.perf_counter() - t)"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parent), str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def drop_from_cache(folder: Path) -> None:
    """Ask the kernel to drop the store's files from its page cache."""
    for path in (folder / "store").rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_and_kill(task: str, folder: Path, after_s: float) -> None:
    """Let a process write or re-index for a while, then kill it."""
    process = start_child(task, folder)
    time.sleep(after_s)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def measure_opening(rows: int, folder: Path) -> dict[str, object]:
    """Measure only the opening of a store, at one size."""
    generator = np.random.default_rng(7)
    queries = make_vectors(QUERIES, generator)
    np.save(folder / "queries.npy", queries)
    figures: dict[str, object] = {}
    started = time.perf_counter()
    with Memory(folder / "store", encoder=QueryEncoder(queries)) as memory:
        for begin in range(0, rows, 50_000):
            vectors = make_vectors(min(50_000, rows - begin), generator)
            memory.add_many(
                {"text": f"text number {number}", "vector": vector} for number, vector in enumerate(vectors, begin)
            )
        figures["filled, entries/s"] = round(rows / (time.perf_counter() - started))
        memory.recall(queries[0])
    for name, cold in (("cold", True), ("warm", False)):
        if cold:
            drop_from_cache(folder)
        figures[f"open and answer, {name} s"] = round(time_opening(folder), 3)
    for task in ("write", "reindex"):
        run_and_kill(task, folder, min(3.0, rows / 5_000))  # a small store is re-indexed in less
        figures[f"log to recover after a kill in a {task} bytes"] = (folder / "store" / "memory.db-wal").stat().st_size
        figures[f"open and answer after a kill in a {task} s"] = round(time_opening(folder), 3)
    shutil.rmtree(folder / "store" / "index")
    figures["open and answer without a snapshot s"] = round(time_opening(folder), 3)
    return figures


def measure_reindex(rows: int, folder: Path) -> dict[str, object]:
    """Measure everything at one size."""
    generator = np.random.default_rng(7)
    everything = make_vectors(rows + QUERIES, generator)
    vectors, queries = everything[:rows], everything[rows:]
    np.save(folder / "queries.npy", queries)
    figures: dict[str, object] = {}
    with Memory(folder / "store", encoder=QueryEncoder(queries)) as memory:
        memory.add_many({"text": f"text number {number}", "vector": vector} for number, vector in enumerate(vectors))
        memory.recall(queries[0])
    figures["cold open with a snapshot s"] = round(time_opening(folder), 3)
    run_and_kill("reindex", folder, max(0.3, rows / 50_000))
    figures["open after a kill in a re-index s"] = round(time_opening(folder), 3)
    others = OtherProcesses(folder)
    with Memory(folder / "store", encoder=QueryEncoder(queries)) as memory:
        memory.recall(queries[0])
        time.sleep(3)
        figures["others, idle"] = others.take_figures()
        for name, change in (("layout", {"tiers": (128, DIMENSION)}), ("rotation", {"rotation": "fit"})):
            report = memory.reindex(**change)
            figures[f"{name}, entries/s"] = round(report.entries / report.seconds)
            figures[f"{name}, recall@10"] = report.recall
            figures[f"others, during {name}"] = others.take_figures()
            report = memory.rollback()
            figures[f"rollback of {name} s"] = round(report.seconds, 2)
            others.take_figures()
        others.kill()
        report = memory.reindex(encoder=SecondEncoder(queries))
        figures["re-encoded, entries/s"] = round(report.entries / report.seconds)
        started = time.perf_counter()
        memory.backup(folder / "copy.db")
        figures["backup s"] = round(time.perf_counter() - started, 2)
    return figures


def main() -> None:
    """Measure at each size and print one JSON document per size."""
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2], Path(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000])
    parser.add_argument("--large", action="store_true", help="also measure a million entries (10 GB of disk, an hour)")
    parser.add_argument("--opening", action="store_true", help="measure only how long a store takes to open")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    results: dict[str, object] = {"python": platform.python_version(), "processors": os.cpu_count()}
    for rows in [*arguments.rows, *([1_000_000] if arguments.large else [])]:
        with tempfile.TemporaryDirectory() as scratch:
            results[str(rows)] = (measure_opening if arguments.opening else measure_reindex)(rows, Path(scratch))
        print(json.dumps({rows: results[str(rows)]}, indent=2), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
