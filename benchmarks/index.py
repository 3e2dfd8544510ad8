"""Compare the index with what users would pick instead: one thread, one process, same vectors, same queries.

    python benchmarks/index.py                        10,000 and 100,000 synthetic vectors
    python benchmarks/index.py --sizes 1000000 --engines "agent-memory,FAISS Flat,FAISS IVF-SQ8"
    python benchmarks/index.py --vectors file.npy --queries queries.npy
    python benchmarks/index.py --large                ten million, out of core (BENCH_TMP), this index only

Every engine with a search-time knob gets the smallest setting that reaches ``--target`` on every other
query and is measured on the queries between. Latencies are medians of rounds in which the engines take
turns, and are compared as ratios within a round. Writes a table, ``index-SIZE.json`` and
``index-SIZE.png`` to ``--out``.

Synthetic vectors: a power-law spectrum (see ``synthetic``), clusters of Pareto-distributed size and
log-normal width, calibrated so that the exact 64-dimension prefix finds about what it finds for sentence
vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from index_engines import Engine, Ours, resident_bytes
from index_peers import engines
from index_report import plot, table

K = 10
IN_RAM = 2_000_000
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]
Rows = npt.NDArray[np.floating[Any]]


def room(shape: tuple[int, int]) -> npt.NDArray[np.float16]:
    """Return space for rows: in RAM, or in a file that is gone with the process if they are too many."""
    if shape[0] <= IN_RAM:
        return np.empty(shape, np.float16)
    with tempfile.TemporaryFile(dir=os.environ.get("BENCH_TMP")) as file:
        return np.memmap(file, np.float16, "w+", shape=shape)


def synthetic(count: int, dimension: int, queries: int, seed: int) -> tuple[npt.NDArray[np.float16], Floats]:
    """Return unit vectors (count, dimension) and queries of the same distribution."""
    rng = np.random.default_rng(seed)
    clusters = max(64, count // 250)
    place = np.arange(1, dimension + 1)
    scale = (place**-0.22 * np.exp(-((place / 220) ** 2) / 2)).astype(np.float32)
    centres = rng.standard_normal((clusters, dimension), dtype=np.float32) * scale
    weights = rng.pareto(1.2, clusters) + 0.3
    widths = (rng.lognormal(0, 0.25, clusters) * 1.6).astype(np.float32)
    out = room((count + queries, dimension))
    for at in range(0, len(out), 50_000):
        size = min(50_000, len(out) - at)
        chosen = rng.choice(clusters, size, p=weights / weights.sum())
        piece = rng.standard_normal((size, dimension), dtype=np.float32)
        piece *= scale * widths[chosen][:, None]
        piece += centres[chosen]
        piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        out[at : at + size] = piece
    return out[:count], out[count:].astype(np.float32)


def truth_of(rows: Rows, queries: Floats, allowed: Ints | None = None) -> Ints:
    """Exact nearest rows by brute force, (nq, K)."""
    scores, ids = np.full((len(queries), K), -np.inf, np.float32), np.full((len(queries), K), -1)
    keep = np.arange(len(rows)) if allowed is None else allowed
    for at in range(0, len(keep), 50_000):
        part = keep[at : at + 50_000]
        new, near = faiss.knn(
            queries, np.asarray(rows[part], np.float32), min(K, len(part)), metric=faiss.METRIC_INNER_PRODUCT
        )
        scores = np.concatenate([scores, new], axis=1)
        ids = np.concatenate([ids, part[near]], axis=1)
        order = np.argsort(-scores, axis=1)[:, :K]
        scores, ids = np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)
    return ids


def recall(found: Ints, truth: Ints) -> float:
    """Share of the true neighbours that were found."""
    return float(np.mean([np.isin(b, a).mean() for a, b in zip(found, truth, strict=True)]))


def tuned(engine: Engine, queries: Floats, truth: Ints, target: float) -> int | None:
    """Return the smallest effort that reaches the target, or the largest there is."""
    for effort in engine.efforts:
        if recall(engine.search(queries, K, effort), truth) >= target:
            return effort
    return engine.efforts[-1] if engine.efforts else None


def timed_ms(function: Callable[[Any], object], items: Iterable[Any]) -> npt.NDArray[np.float64]:
    """Milliseconds of each call."""
    spent = []
    for item in items:
        began = time.perf_counter()
        function(item)
        spent.append((time.perf_counter() - began) * 1e3)
    return np.array(spent)


def prepare(engine: Engine, rows: Rows, queries: Floats, truth: Ints, target: float) -> dict[str, Any]:
    """Build and tune one engine."""
    faiss.omp_set_num_threads(1)
    before = resident_bytes()
    data = rows if isinstance(engine, Ours) else np.asarray(rows, np.float32)
    began = time.perf_counter()
    engine.build(data)
    build_s = time.perf_counter() - began
    del data
    effort = tuned(engine, np.ascontiguousarray(queries[::2]), truth[::2], target)
    return {
        "version": engine.version,
        "effort": effort,
        "build_s": build_s,
        "ram_bytes_per_row": max(0, resident_bytes() - before) / len(rows),
        "disk_bytes_per_row": engine.disk_bytes() / len(rows),
        "recall": recall(engine.search(np.ascontiguousarray(queries[1::2]), K, effort), truth[1::2]),
    }


def measure(field: list[Engine], results: dict[str, Any], queries: Floats, rounds: int) -> None:
    """Time single queries and batches, the engines taking turns."""
    half = np.ascontiguousarray(queries[1::2])
    singles: dict[str, list[npt.NDArray[np.float64]]] = {engine.name: [] for engine in field}
    batches: dict[str, list[float]] = {engine.name: [] for engine in field}
    for number in range(rounds):
        print(f"  round {number + 1}/{rounds}", file=sys.stderr, flush=True)
        for engine in field:
            effort = results[engine.name]["effort"]
            sample = half if results[engine.name]["recall"] < 1 or len(half) < 60 else half[:60]
            singles[engine.name].append(timed_ms(lambda q, e=engine, f=effort: e.search(q[None], K, f), sample))
            faiss.omp_set_num_threads(1)
            began = time.perf_counter()
            engine.search(sample, K, effort)
            batches[engine.name].append(len(sample) / (time.perf_counter() - began))
    medians = {name: np.array([np.median(turn) for turn in turns]) for name, turns in singles.items()}
    ours = medians[field[0].name]
    for name, turns in singles.items():
        ratios = medians[name] / ours
        results[name] |= {
            "p50_ms": float(np.median(medians[name])),
            "p95_ms": float(np.median([np.percentile(turn, 95) for turn in turns])),
            "batch_qps": float(np.median(batches[name])),
            "latency_ratio": [float(x) for x in (ratios.min(), np.median(ratios), ratios.max())],
        }


def filters(field: list[Engine], results: dict[str, Any], rows: Rows, queries: Floats, rounds: int) -> None:
    """Time searches among 1 % and 10 % of the rows, beside unfiltered ones of the same engine."""
    sample = queries[-40:]
    for share in (0.01, 0.1):
        allowed = np.flatnonzero(np.random.default_rng(5).random(len(rows)) < share)
        truth = truth_of(rows, sample, allowed)
        for engine in field:
            effort = results[engine.name]["effort"]
            first = engine.filtered(sample[:1], K, allowed, effort)
            if first is None:
                continue
            found, ratios, times = [], [], []
            for _ in range(rounds):
                plain = timed_ms(lambda q, e=engine, f=effort: e.search(q[None], K, f), sample)
                found, spent = [], []
                for query in sample:
                    began = time.perf_counter()
                    found.append(engine.filtered(query[None], K, allowed, effort)[0])
                    spent.append((time.perf_counter() - began) * 1e3)
                ratios.append(float(np.median(spent) / np.median(plain)))
                times.append(float(np.median(spent)))
            results[engine.name][f"filter_{share:g}"] = {
                "p50_ms": float(np.median(times)),
                "recall": recall(np.array(found), truth),
                "ratio_to_unfiltered": [min(ratios), float(np.median(ratios)), max(ratios)],
            }


def changes(field: list[Engine], results: dict[str, Any], rows: Rows, rounds: int) -> None:
    """Time single adds, the engines taking turns, and the removal of 1 % of the rows."""
    fresh, count = np.asarray(rows[: 60 * rounds], np.float32), 60
    spent: dict[str, list[float]] = {engine.name: [] for engine in field}
    for turn in range(rounds):
        for engine in field:
            numbers = range(turn * count, (turn + 1) * count)
            times = timed_ms(lambda i, e=engine: e.add(len(rows) + i, fresh[i : i + 1]), numbers)
            spent[engine.name].append(float(np.median(times)))
    for engine in field:
        ratios = np.array(spent[engine.name]) / np.array(spent[field[0].name])
        results[engine.name] |= {
            "add_one_ms": float(np.median(spent[engine.name])),
            "add_ratio": [float(x) for x in (ratios.min(), np.median(ratios), ratios.max())],
        }
        gone = np.arange(0, len(rows), 100)
        began = time.perf_counter()
        done = engine.remove(gone)
        results[engine.name]["remove_1_percent_ms"] = (time.perf_counter() - began) * 1e3 if done else None


PROBE = """
import sys, time, pathlib
import agent_memory.index as index, faiss, numpy
def rss(field):
    text = pathlib.Path("/proc/self/status").read_text()
    return int(text.split(field + ":")[1].split()[0]) / 1024
index.TieredIndex(64, (64,)).add([1], numpy.ones((1, 64)))
before, private = rss("VmRSS"), rss("RssAnon"); began = time.perf_counter()
opened, _ = index.TieredIndex.load(pathlib.Path(sys.argv[1]), generation="bench")
spent, after = time.perf_counter() - began, rss("VmRSS")
for query in numpy.random.default_rng(0).standard_normal((200, opened.dimension)):
    opened.search(query, 10)
print(spent, after, before, (rss("RssAnon") - private) * 1024**2 / len(opened))
"""


def opening(engine: Engine) -> dict[str, float]:
    """Open the snapshot in a fresh process: seconds, resident MB, private bytes per row after searching."""
    if not isinstance(engine, Ours):
        return {}
    command = [sys.executable, "-c", PROBE, engine.folder.name]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = ("open_s", "open_rss_mb", "rss_before_open_mb", "ram_bytes_per_row")
    return dict(zip(names, map(float, answer.split()), strict=True))


def run(rows: Rows, queries: Floats, name: str, options: argparse.Namespace) -> None:
    """Run all measurements on one set of vectors."""
    dimension = rows.shape[1]
    tiers = (*(tier for tier in (64, 256) if tier < dimension), dimension)
    truth = truth_of(rows, queries)
    wanted = {part.strip() for part in options.engines.split(",") if part.strip()}
    field, results = engines(wanted, tiers, options.target, len(rows)), {}
    for engine in field:
        print(f"  building {engine.name}", file=sys.stderr, flush=True)
        results[engine.name] = prepare(engine, rows, queries, truth, options.target) | opening(engine)
    measure(field, results, queries, options.rounds)
    filters(field, results, rows, queries, options.rounds)
    changes(field, results, rows, options.rounds)
    ours = field[0]
    if isinstance(ours, Ours):
        stats = ours.index.stats()
        results[ours.name] |= {"plan": str(stats.plan), "coarse_bytes": stats.coarse_bytes,
                               "counted_ram_bytes_per_row": stats.ram_bytes_per_row}  # fmt: skip
    report = {"rows": len(rows), "dimension": dimension, "numpy": np.__version__, "results": results}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"index-{name}.json").write_text(json.dumps(report, indent=1))
    plot(results, options.out / f"index-{name}.png", f"{name}: {len(rows):,} x {dimension}")
    print(f"\n## {name}: {len(rows):,} x {dimension}, recall@{K}\n\n{table(results)}\n", flush=True)
    print({name: one["version"] for name, one in results.items()}, flush=True)
    print(
        {key: value for key, value in results[ours.name].items() if "open" in key or key == "plan"},
        flush=True,
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000", help="synthetic sizes")
    parser.add_argument("--large", action="store_true", help="ten million rows, this index only")
    parser.add_argument("--vectors", type=Path, help=".npy file (n, d) of real vectors")
    parser.add_argument("--queries", type=Path, help=".npy file (nq, d); the last 400 vectors if not given")
    parser.add_argument("--engines", default="", help="comma-separated names, all if empty")
    parser.add_argument("--target", type=float, default=0.985)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.vectors:
        rows = np.load(options.vectors, mmap_mode="r")
        queries = np.load(options.queries)[:400] if options.queries else np.asarray(rows[-400:])
        rows = rows if options.queries else rows[:-400]
        run(rows, np.ascontiguousarray(queries, np.float32), options.vectors.stem, options)
        return
    sizes = [10_000_000] if options.large else [int(size) for size in options.sizes.split(",")]
    if options.large:
        options.engines = "agent-memory"
    for size in sizes:
        rows, queries = synthetic(size, 768, 400, options.seed)
        run(rows, queries, f"synthetic-{size}", options)


if __name__ == "__main__":
    main()
