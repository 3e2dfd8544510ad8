"""Speed of the encoders beside sentence-transformers, in one run.

    python benchmarks/encode.py DATA [--messages 1000] [--repeats 3] [--threads 2] [--out FILE.json]

Contenders take turns, so that a busy machine slows all of them alike; medians are printed with their range.
Messages are those of dev/beam_100k, cut to the model's window so that all contenders read the same tokens,
because sentence-transformers drops the rest of a long text and agent-memory does not.
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


def contenders() -> dict[str, Callable[[], Encode]]:
    """Ways to encode, by name; each is built on first use."""

    def library() -> Encode:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(find_minilm()), device="cpu")
        return lambda texts: model.encode(list(texts), show_progress_bar=False)

    return {
        BASELINE: library,
        "minilm fp32": lambda: MiniLMEncoder(precision="fp32").encode_documents,
        "minilm bf16": lambda: MiniLMEncoder(precision="bf16").encode_documents,
        "minilm int8": lambda: MiniLMEncoder(precision="int8").encode_documents,
        "default fp32": lambda: MatryoshkaEncoder(precision="fp32").encode_documents,
        "default bf16": lambda: MatryoshkaEncoder(precision="bf16").encode_documents,
        "default int8": lambda: MatryoshkaEncoder(precision="int8").encode_documents,
    }


def messages(data: Path, count: int) -> list[str]:
    """Messages of beam_100k, spread over its conversations, cut to one window."""
    tokenizer = read_tokenizer(find_minilm())
    lines = (data / "dev" / "beam_100k" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [segment["text"] for line in lines for segment in json.loads(line)["segments"]]
    chosen = [texts[i] for i in np.linspace(0, len(texts) - 1, count).astype(int)]
    encodings = tokenizer.encode_batch(chosen, add_special_tokens=False)
    return [t[: e.offsets[min(len(e.ids), 254) - 1][1]] for t, e in zip(chosen, encodings, strict=True)]


def questions(data: Path) -> list[str]:
    """Every second question of beam_100k."""
    lines = (data / "dev" / "beam_100k" / "queries.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["query"] for line in lines[::2]]


def bulk(texts: Sequence[str], built: dict[str, Encode], repeats: int) -> list[dict[str, Any]]:
    """Texts and tokens per second of each contender, and how far its vectors are from the first one's."""
    tokenizer = read_tokenizer(find_minilm())
    tokens = sum(len(e.ids) for e in tokenizer.encode_batch(list(texts)))
    seconds: dict[str, list[float]] = {name: [] for name in built}
    vectors = {name: encode(texts) for name, encode in built.items()}
    for _ in range(repeats):
        for name, encode in built.items():
            start = time.perf_counter()
            encode(texts)
            seconds[name].append(time.perf_counter() - start)
    rows = []
    for name, times in seconds.items():
        reference = vectors["default fp32" if name.startswith("default") else BASELINE]
        cosines = _cosines(vectors[name], reference)
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


def latency(texts: Sequence[str], built: dict[str, Encode], count: int) -> list[dict[str, Any]]:
    """Milliseconds for one short question at a time."""
    times: dict[str, list[float]] = {name: [] for name in built}
    for text in (texts * (1 + count // len(texts)))[:count]:
        for name, encode in built.items():
            start = time.perf_counter()
            encode([text])
            times[name].append(1000 * (time.perf_counter() - start))
    return [
        {"name": name, "p50_ms": float(np.percentile(t, 50)), "p95_ms": float(np.percentile(t, 95))}
        for name, t in times.items()
    ]


def peak_memory(name: str, script: Path, data: Path, count: int, threads: int) -> dict[str, Any]:
    """Peak resident memory of a process that does nothing else."""
    command = [sys.executable, str(script), str(data), "--child", name, "--messages", str(count)]
    done = subprocess.run(
        [*command, "--threads", str(threads)], capture_output=True, text=True, check=True, env=os.environ
    )
    return {"name": name, **json.loads(done.stdout.splitlines()[-1])}


def child(name: str, texts: Sequence[str]) -> None:
    """Encode in this process and print its start and peak memory."""
    start = time.perf_counter()
    encode = contenders()[name]()
    encode(["a short question?"])
    ready = time.perf_counter() - start
    encode(texts)
    peak = _peak_mib()
    print(json.dumps({"first_vector_s": ready, "peak_mib": peak}))


def _peak_mib() -> float:
    """Return the most memory this process has used; ``ru_maxrss`` of a child may be its parent's."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def aegis(layers: Sequence[int], repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Speed of ModernBERT of the real size at each depth, random weights."""
    _random_modernbert(folder)
    texts = [" ".join(f"word{(i * 7 + j) % 50}" for j in range(60)) for i in range(8)]
    built = {n: AegisEncoder(folder, layers=n).encode_documents for n in layers}
    for encode in built.values():
        encode(texts)
    times: dict[int, list[float]] = {n: [] for n in layers}
    for _ in range(repeats):
        for n, encode in built.items():
            start = time.perf_counter()
            encode(texts)
            times[n].append(time.perf_counter() - start)
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


def _random_modernbert(folder: Path) -> None:
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


def _cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def _print(title: str, rows: Sequence[dict[str, Any]]) -> None:
    print(f"\n{title}")
    for row in rows:
        cells = []
        for key, value in row.items():
            if isinstance(value, list):
                cells.append(f"({value[0]:.4g}–{value[1]:.4g})")
            else:
                cells.append(f"{key} {value:.5g}" if isinstance(value, float) else f"{value!s:22}")
        print("  " + "  ".join(cells))


def main() -> None:
    """Run all parts and print their tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--parts", default="bulk,latency,memory,aegis")
    parser.add_argument("--only", default="", help="names of contenders, separated by commas")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    texts = messages(given.data, given.messages)
    if given.child:
        child(given.child, texts)
        return
    asked = questions(given.data)
    only = given.only.split(",") if given.only else list(contenders())
    built = {name: build() for name, build in contenders().items() if name in {BASELINE, *only}}
    results: dict[str, Any] = {}
    parts = given.parts.split(",")
    if "bulk" in parts:
        results["messages"] = bulk(texts, built, given.repeats)
        _print(f"{len(texts)} messages, {given.threads} threads", results["messages"])
        results["questions"] = bulk(asked, built, given.repeats)
        _print(f"{len(asked)} questions", results["questions"])
    if "latency" in parts:
        results["latency"] = latency(asked, built, 200)
        _print("one question at a time", results["latency"])
    if "memory" in parts:
        script = Path(__file__)
        results["memory"] = [peak_memory(n, script, given.data, min(300, given.messages), given.threads) for n in built]
        _print("a process of its own", results["memory"])
    if "aegis" in parts:
        with tempfile.TemporaryDirectory() as folder:
            results["aegis"] = aegis((22, 11, 6, 3), given.repeats, Path(folder))
        _print("aegis size, random weights, 60-word texts", results["aegis"])
    if given.out:
        given.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
