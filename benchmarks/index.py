"""Compare the index with its alternatives: one thread, one process, the same vectors, the same queries.

    python benchmarks/index.py                        10,000 and 100,000 synthetic vectors
    python benchmarks/index.py --sizes 1000000 --engines "agent-memory,FAISS Flat,FAISS IVF-SQ8"
    python benchmarks/index.py --vectors file.npy --queries queries.npy
    python benchmarks/index.py --large                ten million, out of core (BENCH_TMP), this index only

Each engine with a search-time knob gets the smallest setting that reaches ``--target`` on half of the
queries, and is measured on the other half. Latencies are medians of rounds in which the engines take
turns, and are compared as ratios within a round. Prints a table, and writes ``index-SIZE.json`` and
``index-SIZE.png`` to ``--out``.

Synthetic vectors have a power-law spectrum (see ``make_vectors``) and clusters of Pareto-distributed size
and log-normal width, calibrated so that the exact 64-dimension prefix has about the same recall as with
sentence vectors.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
from index_engines import AgentMemory, Engine, read_resident_bytes
from index_peers import make_engines
from index_report import format_table, plot
from timing import summarise_ratios, time_calls

from agent_memory.types import FloatArray, RowArray

K = 10
IN_RAM = 2_000_000
Matrix = npt.NDArray[np.floating[Any]]


def allocate_rows(shape: tuple[int, int]) -> npt.NDArray[np.float16]:
    """Return space for rows: in RAM, or, if there are too many, in a file that is deleted with the process."""
    if shape[0] <= IN_RAM:
        return np.empty(shape, np.float16)
    with tempfile.TemporaryFile(dir=os.environ.get("BENCH_TMP")) as file:
        return np.memmap(file, np.float16, "w+", shape=shape)


def make_vectors(count: int, dimension: int, queries: int, seed: int) -> tuple[npt.NDArray[np.float16], FloatArray]:
    """Return unit vectors (count, dimension) and queries of the same distribution."""
    rng = np.random.default_rng(seed)
    clusters = max(64, count // 250)
    place = np.arange(1, dimension + 1)
    scale = (place**-0.22 * np.exp(-((place / 220) ** 2) / 2)).astype(np.float32)
    centres = rng.standard_normal((clusters, dimension), dtype=np.float32) * scale
    weights = rng.pareto(1.2, clusters) + 0.3
    widths = (rng.lognormal(0, 0.25, clusters) * 1.6).astype(np.float32)
    out = allocate_rows((count + queries, dimension))
    for at in range(0, len(out), 50_000):
        size = min(50_000, len(out) - at)
        chosen = rng.choice(clusters, size, p=weights / weights.sum())
        piece = rng.standard_normal((size, dimension), dtype=np.float32)
        piece *= scale * widths[chosen][:, None]
        piece += centres[chosen]
        piece /= np.linalg.norm(piece, axis=1, keepdims=True)
        out[at : at + size] = piece
    return out[:count], out[count:].astype(np.float32)


def find_truth(rows: Matrix, queries: FloatArray, allowed: RowArray | None = None) -> RowArray:
    """Return the exact nearest rows by brute force, (nq, K)."""
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


def measure_recall(found: RowArray, truth: RowArray) -> float:
    """Return the share of the true neighbours that were found."""
    return float(np.mean([np.isin(b, a).mean() for a, b in zip(found, truth, strict=True)]))


def tune(engine: Engine, queries: FloatArray, truth: RowArray, target: float) -> int | None:
    """Return the smallest effort that reaches the target, or the largest one if none does."""
    for effort in engine.efforts:
        if measure_recall(engine.search(queries, K, effort), truth) >= target:
            return effort
    return engine.efforts[-1] if engine.efforts else None


def prepare(engine: Engine, rows: Matrix, queries: FloatArray, truth: RowArray, target: float) -> dict[str, Any]:
    """Build and tune one engine."""
    faiss.omp_set_num_threads(1)
    before = read_resident_bytes()
    data = rows if isinstance(engine, AgentMemory) else np.asarray(rows, np.float32)
    began = time.perf_counter()
    engine.build(data)
    build_s = time.perf_counter() - began
    del data
    effort = tune(engine, np.ascontiguousarray(queries[::2]), truth[::2], target)
    return {
        "version": engine.version,
        "effort": effort,
        "build_s": build_s,
        "ram_bytes_per_row": max(0, read_resident_bytes() - before) / len(rows),
        "disk_bytes_per_row": engine.count_disk_bytes() / len(rows),
        "recall": measure_recall(engine.search(np.ascontiguousarray(queries[1::2]), K, effort), truth[1::2]),
    }


def measure_latency(field: list[Engine], results: dict[str, Any], queries: FloatArray, rounds: int) -> None:
    """Time single queries and batches; the engines take turns."""
    half = np.ascontiguousarray(queries[1::2])
    singles: dict[str, list[list[float]]] = {engine.name: [] for engine in field}
    batches: dict[str, list[float]] = {engine.name: [] for engine in field}
    for number in range(rounds):
        print(f"  round {number + 1}/{rounds}", file=sys.stderr, flush=True)
        for engine in field:
            effort = results[engine.name]["effort"]
            sample = half if results[engine.name]["recall"] < 1 or len(half) < 60 else half[:60]
            singles[engine.name].append(time_calls(lambda q, e=engine, f=effort: e.search(q[None], K, f), sample))
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
            "latency_ratio": summarise_ratios(ratios),
        }


def measure_filters(
    field: list[Engine], results: dict[str, Any], rows: Matrix, queries: FloatArray, rounds: int
) -> None:
    """Time searches among 1 % and 10 % of the rows, and compare them with unfiltered ones of the same engine."""
    sample = queries[-40:]
    for share in (0.01, 0.1):
        allowed = np.flatnonzero(np.random.default_rng(5).random(len(rows)) < share)
        truth = find_truth(rows, sample, allowed)
        for engine in field:
            effort = results[engine.name]["effort"]
            if engine.search_filtered(sample[:1], K, allowed, effort) is None:
                continue
            ratios, times = [], []
            for _ in range(rounds):
                plain = time_calls(lambda q, e=engine, f=effort: e.search(q[None], K, f), sample)
                filtered = time_calls(
                    lambda q, e=engine, a=allowed, f=effort: e.search_filtered(q[None], K, a, f), sample
                )
                ratios.append(float(np.median(filtered) / np.median(plain)))
                times.append(float(np.median(filtered)))
            found = np.concatenate([engine.search_filtered(q[None], K, allowed, effort) for q in sample])
            results[engine.name][f"filter_{share:g}"] = {
                "p50_ms": float(np.median(times)),
                "recall": measure_recall(found, truth),
                "ratio_to_unfiltered": summarise_ratios(ratios),
            }


def measure_changes(field: list[Engine], results: dict[str, Any], rows: Matrix, rounds: int) -> None:
    """Time single adds, for which the engines take turns, and the removal of 1 % of the rows."""
    fresh, count = np.asarray(rows[: 60 * rounds], np.float32), 60
    spent: dict[str, list[float]] = {engine.name: [] for engine in field}
    for turn in range(rounds):
        for engine in field:
            numbers = range(turn * count, (turn + 1) * count)
            times = time_calls(lambda i, e=engine: e.add(len(rows) + i, fresh[i : i + 1]), numbers)
            spent[engine.name].append(float(np.median(times)))
    for engine in field:
        ratios = np.array(spent[engine.name]) / np.array(spent[field[0].name])
        results[engine.name] |= {
            "add_one_ms": float(np.median(spent[engine.name])),
            "add_ratio": summarise_ratios(ratios),
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


def measure_opening(engine: Engine) -> dict[str, float]:
    """Open the snapshot in a fresh process.

    Returns:
        Seconds, resident MB before and after opening, and private bytes per row after searching.
    """
    if not isinstance(engine, AgentMemory):
        return {}
    command = [sys.executable, "-c", PROBE, engine.folder.name]
    answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = ("open_s", "open_rss_mb", "rss_before_open_mb", "ram_bytes_per_row")
    return dict(zip(names, map(float, answer.split()), strict=True))


def compare(rows: Matrix, queries: FloatArray, name: str, options: argparse.Namespace) -> None:
    """Measure everything on one set of vectors and report it."""
    dimension = rows.shape[1]
    tiers = (*(tier for tier in (64, 256) if tier < dimension), dimension)
    truth = find_truth(rows, queries)
    wanted = {part.strip() for part in options.engines.split(",") if part.strip()}
    field, results = make_engines(wanted, tiers, options.target, len(rows)), {}
    for engine in field:
        print(f"  building {engine.name}", file=sys.stderr, flush=True)
        results[engine.name] = prepare(engine, rows, queries, truth, options.target) | measure_opening(engine)
    measure_latency(field, results, queries, options.rounds)
    measure_filters(field, results, rows, queries, options.rounds)
    measure_changes(field, results, rows, options.rounds)
    ours = field[0]
    if isinstance(ours, AgentMemory):
        stats = ours.index.stats()
        results[ours.name] |= {"plan": str(stats.plan), "coarse_bytes": stats.coarse_bytes,
                               "counted_ram_bytes_per_row": stats.ram_bytes_per_row}  # fmt: skip
    report = {"rows": len(rows), "dimension": dimension, "numpy": np.__version__, "results": results}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"index-{name}.json").write_text(json.dumps(report, indent=1))
    plot(results, options.out / f"index-{name}.png", f"{name}: {len(rows):,} x {dimension}")
    print(f"\n## {name}: {len(rows):,} x {dimension}, recall@{K}\n\n{format_table(results)}\n", flush=True)
    print({name: one["version"] for name, one in results.items()}, flush=True)
    print(
        {key: value for key, value in results[ours.name].items() if "open" in key or key == "plan"},
        flush=True,
    )


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", default="10000,100000", help="numbers of synthetic vectors")
    parser.add_argument("--large", action="store_true", help="ten million rows, with this index only")
    parser.add_argument("--vectors", type=Path, help=".npy file (n, d) of real vectors")
    parser.add_argument("--queries", type=Path, help=".npy file (nq, d); the last 400 vectors if left out")
    parser.add_argument("--engines", default="", help="comma-separated names; all if empty")
    parser.add_argument("--target", type=float, default=0.985)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    options = parser.parse_args()
    if options.vectors:
        rows = np.load(options.vectors, mmap_mode="r")
        queries = np.load(options.queries)[:400] if options.queries else np.asarray(rows[-400:])
        rows = rows if options.queries else rows[:-400]
        compare(rows, np.ascontiguousarray(queries, np.float32), options.vectors.stem, options)
        return
    sizes = [10_000_000] if options.large else [int(size) for size in options.sizes.split(",")]
    if options.large:
        options.engines = "agent-memory"
    for size in sizes:
        rows, queries = make_vectors(size, 768, 400, options.seed)
        compare(rows, queries, f"synthetic-{size}", options)


if __name__ == "__main__":
    main()
