"""What the session encoder costs: ``python benchmarks/session.py``.

For each segment of the demo conversation, measures encoding with the embedded default, alone and in bulk, and evolving
with queues of growing length. Rounds alternate; ratios are per round, with their range.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from importlib.resources import files

import numpy as np
from timing import time_calls

from agent_memory.encoders import CompactSessionEncoder, SessionSegment, encode_session, load_encoder


def time_call(work: Callable[[], object], repeat: int) -> float:
    """Return the milliseconds of one call, averaged over ``repeat`` calls."""
    started = time.perf_counter()
    for _ in range(repeat):
        work()
    return (time.perf_counter() - started) * 1000 / repeat


def format_range(values: list[float], unit: str = "") -> str:
    """Return the median and the range as text."""
    return f"{statistics.median(values):.3g}{unit} ({min(values):.3g}..{max(values):.3g})"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    lines = (files("agent_memory.demo") / "conversation.jsonl").read_text("utf-8").splitlines()
    rows = [segment for line in lines for segment in json.loads(line)["segments"]]
    texts = [row["text"] for row in rows]
    encoder = load_encoder()
    session = CompactSessionEncoder(encoder)
    vectors = encoder.encode_documents(texts).astype(np.float16).astype(np.float32)
    segments = [
        SessionSegment(static=vector, text=row["text"], speaker=row.get("speaker"))
        for row, vector in zip(rows, vectors, strict=True)
    ]
    _, _, full = encode_session(session, segments, session.empty_memory())
    memories = {0: session.empty_memory()}
    for count in (8, 32):
        _, _, memories[count] = encode_session(session, segments[:count], session.empty_memory())
    question = encoder.encode_queries(["When is the wedding?"])[0]
    single, bulk, evolved, questions = [], [], {count: [] for count in memories}, []
    for _ in range(options.rounds):
        single.append(statistics.mean(time_calls(lambda text: encoder.encode_documents([text]), texts[:40])))
        bulk.append(time_call(lambda: encoder.encode_documents(texts), 1) / len(texts))
        for count, memory in memories.items():
            evolved[count].append(time_call(lambda m=memory: session.embed_segment(segments[40], m), 100))
        questions.append(time_call(lambda: session.embed_query(question, "", full), 100))
    length = np.mean([len(text) for text in texts])
    print(f"{len(texts)} segments of {length:.0f} characters on average, {options.threads} thread(s)")
    print(f"static, one at a time   {format_range(single, ' ms')}")
    print(f"static, in bulk         {format_range(bulk, ' ms')} a segment")
    for count, values in evolved.items():
        print(f"evolve, {count:2} in the queue {format_range(values, ' ms')}")
    print(f"evolve a question       {format_range(questions, ' ms')}")
    for name, against in (("one at a time", single), ("in bulk", bulk)):
        ratios = [100 * mine / theirs for mine, theirs in zip(evolved[32], against, strict=True)]
        print(f"share of the static encoder's time, {name}: {format_range(ratios, ' %')}")


if __name__ == "__main__":
    main()
