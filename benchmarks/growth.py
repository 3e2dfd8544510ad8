"""How latencies grow with the store: words, vectors, hybrid, filters, adding and opening, as a log-log plot.

    python benchmarks/growth.py TRAIN --rows 1000 10000 100000 --out growth.jsonl --plot growth.svg

TRAIN is that of ``words.py``. Each number of rows is one line of ``--out``; those that are there already are not
measured again, so an interrupted run goes on where it stopped. Vectors have 256 dimensions and are sums of random
vectors, one for each word of a text: no encoder is timed. Milliseconds are CPU time of one thread; adding and opening
are timed by the clock. ``--tier-rows`` measures the words tier without a store: the terms of the largest store, several
times over, under other ids.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from timing import summarise
from words import Ours, make_bm25s, make_tantivy, read_questions, read_turns

from agent_memory import Config, EncoderSpec, Memory
from agent_memory.live.words import _to_page

DIMENSION, LIMIT, REPEATS, WARM = 256, 1_000, 100, 20
Words = Callable[[str], object]


class WordSums:
    """Replaces an encoder: a text's vector is the sum of random vectors, one for each of its words."""

    spec = EncoderSpec(name="word-sums", revision="1", dimension=DIMENSION, tiers=(64, DIMENSION), max_tokens=1)

    def __init__(self) -> None:
        self._generator = np.random.default_rng(1)
        self._vectors: dict[str, np.ndarray] = {}

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return unit vectors."""
        vectors = np.stack([sum(map(self._find, (text.lower().split() or [""])[:60])) for text in texts])
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_queries = encode_documents

    def _find(self, word: str) -> np.ndarray:
        if word not in self._vectors:
            self._vectors[word] = self._generator.standard_normal(DIMENSION, dtype=np.float32)
        return self._vectors[word]


def measure(turns: list[dict[str, Any]], questions: list[str], base: Path, tier_rows: list[int]) -> Iterator[dict]:
    """Yield the figures of a store of these turns, then those of the tier alone."""
    rows, encoder, config = len(turns), WordSums(), Config(max_mention_chars=0, batch_size=4_096)
    vectors = encoder.encode_documents([turn["text"] for turn in turns])
    items = [turn | {"vector": vector} for turn, vector in zip(turns, vectors, strict=True)]
    with Memory(base / "store", encoder=encoder, session_encoder=None, config=config) as memory:
        started = time.perf_counter()
        for at in range(0, rows, 10_000):
            memory.add_many(items[at : at + 10_000])
        report: dict[str, Any] = {"rows": rows, "add_many_us": round((time.perf_counter() - started) / rows * 1e6, 1)}
        started = time.perf_counter()
        memory.recall(questions[0])
        report["first_recall_ms"] = round((time.perf_counter() - started) * 1e3, 1)
    started = time.perf_counter()
    memory = Memory(base / "store", encoder=encoder, session_encoder=None, config=config)
    memory.recall(questions[0])
    report["open_ms"] = round((time.perf_counter() - started) * 1e3, 1)
    calls: dict[str, Words] = {
        "words": Ours(memory, tier=True).search,
        "fts5": Ours(memory, tier=False).search,
        "vectors": lambda text: memory.recall(text, k=10, mode="dense"),
        "hybrid": lambda text: memory.recall(text, k=10),
        "hybrid_10%": lambda text: memory.recall(text, k=10, where={"part": {"$lt": 10}}),
        "hybrid_1%": lambda text: memory.recall(text, k=10, where={"part": 7}),
    }
    with memory._store.read() as tx:
        view = memory._store.words.view(tx)
        queries = {text: tx.lexical.parse(text, counts=view) for text in questions}
    for name, make in {"tantivy": lambda: make_tantivy(memory, base), "bm25s": lambda: make_bm25s(memory)}.items():
        if view is not None and importlib.util.find_spec(name) is not None:
            peer = make()
            calls[name] = lambda text, peer=peer: peer(queries[text])
    report["cpu_ms"] = time_each(calls, questions)
    times = []
    for number, vector in enumerate(vectors[:REPEATS]):
        started = time.perf_counter()
        memory.add("one more entry", key=f"more-{number}", vector=vector)
        times.append((time.perf_counter() - started) * 1e3)
    report["add_ms"] = summarise(times)
    yield report
    for wanted in tier_rows:
        yield measure_tier(memory, questions, wanted)
    memory.close()


def measure_tier(memory: Memory, questions: list[str], rows: int) -> dict[str, Any]:
    """Return the figures of the words tier alone, filled with the entries of a store several times over."""
    from agent_memory.index.words import WordsTier

    tier, step = WordsTier(), 1 << 32
    with memory._store.read() as tx:
        pages = [_to_page(terms) for terms in tx.lexical.read_all_terms()]
        started = time.process_time()
        for copy in range(-(-rows // sum(len(page.ids) for page in pages))):
            for page in pages:
                tier.add(replace(page, ids=page.ids + copy * step))
        tier.compact()
        built, view = time.process_time() - started, tier.view()

        def search(text: str) -> object:
            query = tx.lexical.parse(text, counts=view)
            return view.search(query.terms, limit=LIMIT) if query.terms else None

        times = time_each({"words": search}, questions)
    return {"rows": len(tier), "tier_alone": True, "build_cpu_s": round(built, 1), "cpu_ms": times}


def time_each(calls: dict[str, Words], questions: list[str]) -> dict[str, dict[str, float]]:
    """Return milliseconds of CPU time of each call; each question is asked of each in turn."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number, text in enumerate([*questions[:WARM], *questions[:REPEATS]]):
        for name, call in calls.items():
            started = time.process_time()
            call(text)
            if number >= WARM:
                times[name].append((time.process_time() - started) * 1e3)
    return {name: summarise(mine) for name, mine in times.items()}


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Draw the figures."""
    import matplotlib.pyplot as pyplot

    curves: dict[str, list[tuple[int, float]]] = {}
    for line in sorted(lines, key=lambda line: line["rows"]):
        found = {name: one["p50"] for name, one in line["cpu_ms"].items() if "%" not in name}
        if not line.get("tier_alone"):
            found |= {"add": line["add_ms"]["p50"], "open": line["open_ms"], "add_many": line["add_many_us"] / 1e3}
        for name, value in found.items():
            curves.setdefault(name, []).append((line["rows"], value))
    figure, axis = pyplot.subplots(figsize=(7, 4.5))
    for name, points in curves.items():
        axis.plot(*zip(*points, strict=True), "o:" if name in ("fts5", "tantivy", "bm25s") else "o-", label=name)
    axis.set(xscale="log", yscale="log", xlabel="entries", ylabel="milliseconds, median")
    axis.grid(True, which="major", alpha=0.3)
    axis.legend(ncols=2, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    """Measure what is missing, print each line as it comes, and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--tier-rows", type=int, nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path("growth.jsonl"))
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    lines = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    known = {line["rows"] for line in lines}
    turns, questions = read_turns(given.train, max(given.rows)), read_questions(given.train)
    for rows in sorted(given.rows):
        tiers = [one for one in given.tier_rows if one not in known] if rows == max(given.rows) else []
        if rows in known and not tiers:
            continue
        with tempfile.TemporaryDirectory() as base:
            for line in measure(turns[:rows], questions, Path(base), tiers):
                if line["rows"] not in known:
                    lines.append(line)
                    print(json.dumps(line), flush=True)
                    given.out.write_text("".join(json.dumps(one) + "\n" for one in lines))
    if given.plot:
        plot(lines, given.plot)


if __name__ == "__main__":
    main()
