"""Speed of the encoders compared with sentence-transformers, in one run.

    python benchmarks/encode.py DATA [--messages 1000] [--repeats 3] [--threads 2] [--out FILE.json]

Encoders take turns, so that a busy machine slows all of them equally; medians are printed with their range. Messages
come from dev/beam_100k. They are cut to the model's window, so that all encoders read the same tokens:
sentence-transformers drops the rest of a long text, agent-memory does not.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np

from agent_memory.encoders import AegisEncoder, MatryoshkaEncoder, MiniLMEncoder
from agent_memory.encoders.files import find_minilm, read_tokenizer

BASELINE = "sentence-transformers"
Encode = Callable[[Sequence[str]], np.ndarray]


def list_encoders() -> dict[str, Callable[[], Encode]]:
    """Return what builds each encoder, by name."""

    def build_baseline() -> Encode:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(find_minilm()), device="cpu")
        return lambda texts: model.encode(list(texts), show_progress_bar=False)

    return {
        BASELINE: build_baseline,
        "minilm fp32": lambda: MiniLMEncoder(precision="fp32").encode_documents,
        "minilm bf16": lambda: MiniLMEncoder(precision="bf16").encode_documents,
        "minilm int8": lambda: MiniLMEncoder(precision="int8").encode_documents,
        "default fp32": lambda: MatryoshkaEncoder(precision="fp32").encode_documents,
        "default bf16": lambda: MatryoshkaEncoder(precision="bf16").encode_documents,
        "default int8": lambda: MatryoshkaEncoder(precision="int8").encode_documents,
    }


def read_messages(data: Path, count: int) -> list[str]:
    """Return messages of beam_100k, spread over its conversations and cut to one window."""
    tokenizer = read_tokenizer(find_minilm())
    lines = (data / "dev" / "beam_100k" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [segment["text"] for line in lines for segment in json.loads(line)["segments"]]
    chosen = [texts[i] for i in np.linspace(0, len(texts) - 1, count).astype(int)]
    encodings = tokenizer.encode_batch(chosen, add_special_tokens=False)
    return [t[: e.offsets[min(len(e.ids), 254) - 1][1]] for t, e in zip(chosen, encodings, strict=True)]


def read_questions(data: Path) -> list[str]:
    """Return every second question of beam_100k."""
    lines = (data / "dev" / "beam_100k" / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["query"] for line in lines[::2]]


def measure_bulk(texts: Sequence[str], encoders: dict[str, Encode], repeats: int) -> list[dict[str, Any]]:
    """Return texts and tokens per second of each encoder, and how close its vectors are to the reference."""
    tokenizer = read_tokenizer(find_minilm())
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(list(texts)))
    seconds: dict[str, list[float]] = {name: [] for name in encoders}
    vectors = {}
    for name, encode in encoders.items():
        _tell(f"{len(texts)} texts, first time: {name}")
        vectors[name] = encode(texts)
    for number in range(1, repeats + 1):
        for name, encode in encoders.items():
            start = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - start)
            _tell(f"{len(texts)} texts, {number} of {repeats}: {name} {len(texts) / seconds[name][-1]:.4g} texts/s")
    rows = []
    for name, times in seconds.items():
        reference = vectors["default fp32" if name.startswith("default") else BASELINE]
        cosines = _compare(vectors[name], reference)
        rates = sorted(len(texts) / t for t in times)
        rows.append(
            {
                "name": name,
                "texts_per_s": statistics.median(rates),
                "texts_per_s_range": [rates[0], rates[-1]],
                "tokens_per_s": statistics.median(rates) * tokens / len(texts),
                "speed_up": statistics.median(b / t for b, t in zip(seconds[BASELINE], times, strict=True)),
                "cosine_mean": float(cosines.mean()),
                "cosine_min": float(cosines.min()),
            }
        )
    return rows


def measure_latency(texts: Sequence[str], encoders: dict[str, Encode], count: int) -> list[dict[str, Any]]:
    """Return the milliseconds for one short question at a time."""
    times: dict[str, list[float]] = {name: [] for name in encoders}
    for text in (texts * (1 + count // len(texts)))[:count]:
        for name, encode in encoders.items():
            start = time.perf_counter()
            encode([text])
            times[name].append(1000 * (time.perf_counter() - start))
    return [
        {"name": name, "p50_ms": float(np.percentile(t, 50)), "p95_ms": float(np.percentile(t, 95))}
        for name, t in times.items()
    ]


def measure_memory(name: str, script: Path, data: Path, count: int, threads: int) -> dict[str, Any]:
    """Return the peak resident memory of a process that only encodes."""
    _tell(f"in a process of its own: {name}")
    command = [sys.executable, str(script), str(data), "--child", name, "--messages", str(count)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], capture_output=True, text=True, check=True, env=os.environ
    )
    return {"name": name, **json.loads(done.stdout.splitlines()[-1])}


def run_child(name: str, texts: Sequence[str]) -> None:
    """Encode in this process, and print the time to its first vector and its peak memory."""
    start = time.perf_counter()
    encode = list_encoders()[name]()
    encode(["a short question?"])
    ready = time.perf_counter() - start
    encode(texts)
    peak = _read_peak_mib()
    print(json.dumps({"first_vector_s": ready, "peak_mib": peak}))


def _read_peak_mib() -> float:
    """Return the peak memory of this process; ``ru_maxrss`` of a child may be its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure_aegis(layers: Sequence[int], repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Return the speed of a full-size ModernBERT with random weights at each depth."""
    _write_random_modernbert(folder)
    texts = [" ".join(f"word{(i * 7 + j) % 50}" for j in range(60)) for i in range(8)]
    encoders = {n: AegisEncoder(folder, layers=n).encode_documents for n in layers}
    for encode in encoders.values():
        encode(texts)
    times: dict[int, list[float]] = {n: [] for n in layers}
    for _ in range(repeats):
        for n, encode in encoders.items():
            start = time.perf_counter()
            encode(texts)
            times[n].append(time.perf_counter() - start)
            _tell(f"aegis size, {n} layers: {len(texts) / times[n][-1]:.4g} texts/s")
    deepest = times[max(layers)]
    rows = []
    for n in layers:
        ratios = sorted(d / t for d, t in zip(deepest, times[n], strict=True))
        rows.append(
            {
                "layers": n,
                "texts_per_s": len(texts) / statistics.median(times[n]),
                "speed_up": statistics.median(ratios),
                "speed_up_range": [ratios[0], ratios[-1]],
            }
        )
    return rows


def _write_random_modernbert(folder: Path) -> None:
    import shutil

    import torch
    from transformers import ModernBertConfig, ModernBertModel

    torch.manual_seed(0)
    sizes = {
        "hidden_size": 768,
        "intermediate_size": 1152,
        "num_hidden_layers": 22,
        "num_attention_heads": 12,
    }
    marks = {
        "pad_token_id": 0,
        "bos_token_id": 101,
        "eos_token_id": 102,
        "cls_token_id": 101,
        "sep_token_id": 102,
    }
    config = ModernBertConfig(vocab_size=30_522, **sizes, **marks)
    ModernBertModel(config).save_pretrained(folder)
    shutil.copy(find_minilm() / "tokenizer.json", folder)


def _compare(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _print(title: str, rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{title}", flush=True)
    for row in rows:
        cells = []
        for key, value in row.items():
            if isinstance(value, list):
                cells.append(f"({value[0]:.4g}–{value[1]:.4g})")
            else:
                cells.append(f"{key} {value:.5g}" if isinstance(value, float) else f"{value!s:22}")
        print("  " + "  ".join(cells), flush=True)


def _tell(what: str) -> None:
    """Say on standard error how far the work is."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def main() -> None:
    """Measure the selected parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", default="bulk,latency,memory,aegis")
    parser.add_argument("--only", default="", help="comma-separated names of encoders; all if empty")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    import torch

    torch.set_num_threads(options.threads)
    texts = read_messages(options.data, options.messages)
    if options.child:
        run_child(options.child, texts)
        return
    questions = read_questions(options.data)
    only = options.only.split(",") if options.only else list(list_encoders())
    encoders = {name: build() for name, build in list_encoders().items() if name in {BASELINE, *only}}
    results: dict[str, Any] = {}
    parts = options.parts.split(",")
    if "bulk" in parts:
        results["messages"] = measure_bulk(texts, encoders, options.repeats)
        _print(f"{len(texts)} messages, {options.threads} threads", results["messages"])
        results["questions"] = measure_bulk(questions, encoders, options.repeats)
        _print(f"{len(questions)} questions", results["questions"])
    if "latency" in parts:
        results["latency"] = measure_latency(questions, encoders, 200)
        _print("one question at a time", results["latency"])
    if "memory" in parts:
        script = Path(__file__)
        results["memory"] = [
            measure_memory(name, script, options.data, min(300, options.messages), options.threads) for name in encoders
        ]
        _print("each in its own process", results["memory"])
    if "aegis" in parts:
        with tempfile.TemporaryDirectory() as folder:
            results["aegis"] = measure_aegis((22, 11, 6, 3), options.repeats, Path(folder))
        _print("aegis size, random weights, 60-word texts", results["aegis"])
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
