"""Questions over HTTP: how long one takes, and how many a second, beside recall in this process and Chroma's server.

    python benchmarks/server.py

The server runs in a process of its own, and so do 64 clients, in one process that does little but send and read.
Rounds alternate between all that is compared; ratios are per round, with the smallest and the largest. Chroma brings no
encoder that works offline, so it is asked by vector, and so are we beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.resources import files
from multiprocessing import get_context
from pathlib import Path
from socket import create_server
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import numpy as np
from timing import summarise, summarise_ratios, time_calls

from agent_memory import Memory, RemoteMemory

CLIENTS = 64
K = 5
TENANT = "/api/v2/tenants/default_tenant/databases/default_database/collections"


def make_texts(rows: int) -> tuple[list[str], list[str]]:
    """Return texts to store and questions, made of those of the demo conversation."""
    folder, dice = files("agent_memory.demo"), random.Random(7)
    conversation = json.loads(folder.joinpath("conversation.jsonl").read_text().splitlines()[0])
    said = [segment["text"] for segment in conversation["segments"]]
    asked = [json.loads(line)["query"] for line in folder.joinpath("queries.jsonl").read_text().splitlines()]
    texts = {f"{dice.choice(said)[:80]} {dice.choice(said)[:40]}" for _ in range(rows)}
    return sorted(texts), [f"{dice.choice(asked)} {dice.choice(said).split()[0]}" for _ in range(4000)]


# --- clients -------------------------------------------------------------------------------------------------


async def _ask(url: str, path: str, bodies: Iterator[bytes], stop_at: float) -> int:
    """Ask one question after another until it is time to stop; returns how many were answered."""
    parts, answered = urlsplit(url), 0
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = f"POST {path} HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\n"
    try:
        while time.perf_counter() < stop_at:
            body = next(bodies)
            writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
            if " 200 " not in lines[0]:
                raise SystemExit(f"{url}{path}: {lines[0]}")
            length = next(int(line.partition(":")[2]) for line in lines if line.startswith("content-length:"))
            await reader.readexactly(length)
            answered += 1
    finally:
        writer.close()
    return answered


def ask_for(url: str, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> float:
    """Return how many questions a second are answered to a number of clients."""

    async def run() -> float:
        began = time.perf_counter()
        turns = [iter(bodies[number::clients] * 100) for number in range(clients)]
        answered = await asyncio.gather(*(_ask(url, path, turn, began + seconds) for turn in turns))
        return sum(answered) / (time.perf_counter() - began)

    return asyncio.run(run())


class Clients:
    """A process that asks."""

    def __init__(self, stack: ExitStack) -> None:
        self._pool = stack.enter_context(get_context("spawn").Pool(1))
        self.processor_ms: dict[tuple[str, int, int], list[float]] = {}

    def ask(self, server: Server, path: str, bodies: Sequence[bytes], clients: int, seconds: float) -> float:
        """Return how many questions a second are answered; notes the server's processor time for each."""
        used = server.read_processor_ms()
        rate = self._pool.apply(ask_for, (server.url, path, bodies, clients, seconds))
        used = (server.read_processor_ms() - used) / (rate * seconds)
        self.processor_ms.setdefault((server.url, id(bodies), clients), []).append(used)
        return rate


# --- servers -------------------------------------------------------------------------------------------------


class Server(NamedTuple):
    """A server that runs."""

    url: str
    pid: int

    def read_processor_ms(self) -> float:
        """Return the processor time of the process itself, without those that it has started."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


@contextmanager
def start(command: list[str], url: str, ready: str) -> Iterator[Server]:
    """Run a server until the block ends; yields it once it answers."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            try:
                with urllib.request.urlopen(url + ready, timeout=5):
                    break
            except OSError:
                time.sleep(0.1)
        else:
            raise SystemExit(f"{command} does not answer at {url}")
        yield Server(url, process.pid)
    finally:
        process.terminate()
        process.wait(30)


def find_port() -> int:
    """Return a port that is free now."""
    with create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def serve(store: Path, gather_ms: float, workers: int) -> Any:  # noqa: ANN401 - a context manager
    """Start ``agent-memory serve``."""
    port = find_port()
    command = [sys.executable, "-W", "ignore", "-m", "agent_memory.cli", "serve", "--path", str(store), "--json"]
    options = ["--port", str(port), "--gather-ms", str(gather_ms), "--workers", str(workers)]
    return start([*command, *options], f"http://127.0.0.1:{port}", "/health/ready")


def serve_chroma(folder: Path) -> Any:  # noqa: ANN401 - a context manager
    """Start Chroma's server."""
    port = find_port()
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(folder), "--port", str(port)]
    return start(command, f"http://127.0.0.1:{port}", "/api/v2/heartbeat")


# --- measurements --------------------------------------------------------------------------------------------


def measure_rounds(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Return what each call measures, in rounds, each of which begins with another one."""
    names, found = list(calls), {name: [] for name in calls}
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            found[name].append(calls[name]())
    return found


def measure_overhead(memory: Memory, server: Server, questions: list[Any]) -> dict[str, object]:
    """Ask the same questions here and over HTTP in turns; returns both and the difference, in milliseconds.

    Processor time, which a busy machine distorts less, is that of the client and of the server together.
    """
    with RemoteMemory(server.url) as remote:
        remote.recall(questions[0], k=K)
        here, there = [], []
        used_here, used_there, served = 0.0, 0.0, server.read_processor_ms()
        for question in questions:
            began = time.process_time()
            here += time_calls(lambda one: memory.recall(one, k=K), [question])
            middle = time.process_time()
            there += time_calls(lambda one: remote.recall(one, k=K), [question])
            used_here, used_there = used_here + middle - began, used_there + time.process_time() - middle
        served = server.read_processor_ms() - served
    each = len(questions)
    return {
        "in process ms": summarise(here),
        "over HTTP ms": summarise(there),
        "overhead ms": summarise(np.subtract(there, here)),
        "processor ms in process": round(used_here * 1000 / each, 2),
        "processor ms over HTTP": round((used_there * 1000 + served) / each, 2),
    }


def compare(found: dict[str, list[float]], over: str, under: str) -> list[float]:
    """Return the smallest, the median and the largest ratio of two measurements in the same round."""
    ratios = np.divide(found[over], found[under])
    return [round(ratio, 2) for ratio in summarise_ratios(ratios)]


def in_process(memory: Memory, questions: list[Any], seconds: float) -> float:
    """Return how many questions a second are answered in this process, one after another."""
    began, answered = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        memory.recall(questions[answered % len(questions)], k=K)
        answered += 1
    return answered / (time.perf_counter() - began)


def fill_chroma(url: str, texts: list[str], vectors: np.ndarray) -> str:
    """Store texts in Chroma's server; returns the path that answers questions."""

    def post(path: str, body: object) -> Any:  # noqa: ANN401 - JSON
        data, headers = json.dumps(body).encode(), {"content-type": "application/json"}
        with urllib.request.urlopen(urllib.request.Request(url + path, data, headers)) as answer:
            return json.loads(answer.read())

    found = post(TENANT, {"name": "bench", "configuration": {"hnsw": {"space": "cosine"}}})
    for at in range(0, len(texts), 200):
        rows = range(at, min(at + 200, len(texts)))
        ids, documents = [str(row) for row in rows], [texts[row] for row in rows]
        body = {"ids": ids, "documents": documents, "embeddings": vectors[rows.start : rows.stop].tolist()}
        post(f"{TENANT}/{found['id']}/add", body)
    return f"{TENANT}/{found['id']}/query"


def measure(memory: Memory, texts: list[str], questions: list[str], folder: Path, options: argparse.Namespace) -> dict:
    """Measure everything; returns the figures."""
    stored = memory.encoder.encode_documents(texts)
    vectors = memory.encoder.encode_queries(questions[:500])
    words = [json.dumps({"query": question, "k": K}).encode() for question in questions]
    numbers = [json.dumps({"query": vector.tolist(), "k": K}).encode() for vector in vectors]
    asked, seconds, path = list(vectors), options.seconds, "/v1/search"
    with ExitStack() as stack:
        clients = Clients(stack)
        gathering = stack.enter_context(serve(memory.path, 2, 1))
        alone = stack.enter_context(serve(memory.path, 0, 1))
        calls: dict[str, Callable[[], float]] = {
            "in process": lambda: in_process(memory, questions, seconds),
            "HTTP, one": lambda: clients.ask(gathering, path, words, 1, seconds),
            "HTTP, 64": lambda: clients.ask(gathering, path, words, CLIENTS, seconds),
            "HTTP, 64, each by itself": lambda: clients.ask(alone, path, words, CLIENTS, seconds),
            "by vector: in process": lambda: in_process(memory, asked, seconds),
            "by vector: HTTP, one": lambda: clients.ask(gathering, path, numbers, 1, seconds),
            "by vector: HTTP, 64": lambda: clients.ask(gathering, path, numbers, CLIENTS, seconds),
        }
        if options.workers > 1:
            many = stack.enter_context(serve(memory.path, 2, options.workers))
            calls[f"HTTP, 64, {options.workers} workers"] = lambda: clients.ask(many, path, words, CLIENTS, seconds)
        try:
            import chromadb
        except ImportError:
            chroma = None
        else:
            chroma = chromadb.__version__
            chroma_server = stack.enter_context(serve_chroma(folder / "chroma"))
            where = fill_chroma(chroma_server.url, texts, stored)
            bodies = [
                json.dumps({"query_embeddings": [vector.tolist()], "n_results": K}).encode() for vector in vectors
            ]
            calls["Chroma by vector: HTTP, one"] = lambda: clients.ask(chroma_server, where, bodies, 1, seconds)
            calls["Chroma by vector: HTTP, 64"] = lambda: clients.ask(chroma_server, where, bodies, CLIENTS, seconds)
        measure_rounds({name: call for name, call in calls.items() if name != "in process"}, 1)  # to warm up
        found = measure_rounds(calls, options.rounds)
        figures: dict[str, Any] = {"chroma": chroma, "load average": os.getloadavg()[0]}
        figures["answers a second"] = {name: [round(rate, 1) for rate in rates] for name, rates in found.items()}
        pairs = [
            ("HTTP, 64", "HTTP, one"),
            ("HTTP, 64", "HTTP, 64, each by itself"),
            ("HTTP, one", "in process"),
            ("by vector: HTTP, 64", "by vector: HTTP, one"),
            ("Chroma by vector: HTTP, one", "by vector: HTTP, one"),
            ("Chroma by vector: HTTP, 64", "by vector: HTTP, 64"),
            (f"HTTP, 64, {options.workers} workers", "HTTP, one"),
        ]
        shown = [(over, under) for over, under in pairs if over in found and under in found]
        figures["ratios"] = {f"{over} / {under}": compare(found, over, under) for over, under in shown}
        figures["processor ms an answer"] = {
            "HTTP, one": summarise(clients.processor_ms[gathering.url, id(words), 1][1:]),
            "HTTP, 64": summarise(clients.processor_ms[gathering.url, id(words), CLIENTS][1:]),
            "HTTP, 64, each by itself": summarise(clients.processor_ms[alone.url, id(words), CLIENTS][1:]),
        }
        figures["a question"] = measure_overhead(memory, gathering, questions[: options.questions])
        figures["a vector"] = measure_overhead(memory, gathering, asked[: options.questions])
    return figures


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.5, help="how long each asks in a round")
    parser.add_argument("--questions", type=int, default=200, help="for the time that one takes")
    parser.add_argument("--workers", type=int, default=2, help="processes of a further server; 1 for none")
    parser.add_argument("--folder", type=Path, help="where the stores are written, or are from a former run")
    options = parser.parse_args()
    texts, questions = make_texts(options.rows)
    with ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with Memory(folder / "store") as memory:
            if not memory.stats().entries:
                memory.add_many(texts)
            figures = measure(memory, texts, questions, folder, options)
    print(json.dumps({"python": platform.python_version(), "cores": os.cpu_count(), **figures}, indent=2))


if __name__ == "__main__":
    main()
