"""What stages cost a recall: as they are, taken out of the code, and traced by OpenTelemetry's SDK.

    python benchmarks/tracing.py

The same recall by words is timed in turns, in processor time, so that each pair meets the same machine and others on it
disturb little. Differences are per pair.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from importlib.resources import files
from unittest.mock import patch

import numpy as np
from opentelemetry.sdk.trace import TracerProvider
from timing import summarise

from agent_memory import Memory
from agent_memory.recall import recaller, search
from agent_memory.telemetry import stages as telemetry
from agent_memory.telemetry.tracing import trace


def measure(memory: Memory, question: str, pairs: int) -> dict[str, list[float]]:
    """Return the milliseconds of processor time of each recall: ``off``, ``without`` stages, and ``traced``."""
    found: dict[str, list[float]] = {"off": [], "without": [], "traced": []}
    provider = TracerProvider()

    def ask(name: str) -> None:
        began = time.thread_time()
        memory.recall(question, mode="lexical")
        found[name].append((time.thread_time() - began) * 1000)

    def ask_without() -> None:
        nothing = telemetry._NOTHING
        with patch.object(recaller, "stage", lambda *_, **__: nothing):
            with patch.object(search, "stage", lambda *_, **__: nothing):
                ask("without")

    def ask_traced() -> None:
        stop = trace(provider, content=False)
        ask("traced")
        stop()

    turns: list[Callable[[], None]] = [lambda: ask("off"), ask_without, ask_traced]
    for number in range(pairs):
        for turn in turns[number % 3 :] + turns[: number % 3]:
            turn()
    return found


def main() -> None:
    """Measure and print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=1000)
    options = parser.parse_args()
    conversation = json.loads(files("agent_memory.demo").joinpath("conversation.jsonl").read_text().splitlines()[0])
    with tempfile.TemporaryDirectory() as folder, Memory(folder) as memory:
        memory.add_many([{"text": segment["text"], "vector": False} for segment in conversation["segments"]])
        measure(memory, "Where did Marta move?", 20)
        found = measure(memory, "Where did Marta move?", options.pairs)
    began = time.perf_counter()
    for _ in range(100_000):
        with telemetry.stage("words"):
            pass
    figures = {
        "recall by words ms": summarise(found["without"]),
        "stages off, over none, ms": summarise(np.subtract(found["off"], found["without"])),
        "traced, over none, ms": summarise(np.subtract(found["traced"], found["without"])),
        "a stage that nobody watches, µs": round((time.perf_counter() - began) * 10, 3),
    }
    print(json.dumps(figures, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
