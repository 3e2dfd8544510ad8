"""A long run of everything: changes, recalls, re-indexes, rollbacks, maintenance and backups, with a second writer.

    python benchmarks/soak.py --seconds 600

The store keeps about the same size, with few versions per entry, so that anything that grows is a leak. Another process
writes at the same time. Figures are taken after a warm-up of a tenth of the time, and at the end. The exit code is 1 if
the check finds problems or an acknowledged entry is missing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import numpy as np

from agent_memory import Config, EncoderSpec, Memory

DIMENSION = 256
ENTRIES = 2_000
CONFIG = Config(keep_versions=2)  # with the default of 20, the store would grow during the whole run


class HashEncoder:
    """An encoder that costs next to nothing; its vectors depend on the text alone."""

    def __init__(self, name: str) -> None:
        self.spec = EncoderSpec(name=name, revision="1", dimension=DIMENSION, tiers=(64, DIMENSION), max_tokens=1)

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return unit vectors, shape (len(texts), 256)."""
        seeds = [sum(text.encode()) * 1000 + len(text) for text in texts]
        rows = np.stack([np.random.default_rng(seed).standard_normal(DIMENSION, np.float32) for seed in seeds])
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    encode_queries = encode_documents


def measure_sizes(folder: Path) -> dict[str, int]:
    """Return what could grow: resident memory, open files, log, database, snapshots, and the whole folder.

    The size of the database includes its free pages.
    """
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    wal = folder / "memory.db-wal"
    return {
        "memory bytes": pages * os.sysconf("SC_PAGE_SIZE"),
        "open files": len(os.listdir("/proc/self/fd")),
        "log bytes": wal.stat().st_size if wal.exists() else 0,
        "database bytes": (folder / "memory.db").stat().st_size,
        "snapshot bytes": sum(path.stat().st_size for path in (folder / "index").rglob("*") if path.is_file()),
        "disk bytes": sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    }


def write_until_killed(folder: Path) -> None:
    """Write from another process until killed; after each switch of the encoder, find the new one by trying both."""
    number = 0
    while True:
        for name in ("first", "second"):
            try:
                with Memory(folder, encoder=HashEncoder(name), config=CONFIG) as memory:
                    while True:
                        memory.add(f"other process {number}", key=f"other{number % 200}")
                        number += 1
                        time.sleep(0.02)
            except Exception as error:
                if type(error).__name__ != "EncoderMismatchError":
                    raise


def soak(folder: Path, seconds: float) -> dict[str, object]:
    """Use a store for this long and return the figures."""
    rng = random.Random(3)
    names = ["first", "second"]
    memory = Memory(folder, encoder=HashEncoder("first"), config=CONFIG)
    memory.add_many({"text": f"note {number}", "key": str(number)} for number in range(ENTRIES))
    other = subprocess.Popen([sys.executable, __file__, "--writer", str(folder)])
    kept = {str(number): f"note {number}" for number in range(ENTRIES)}
    counts = dict.fromkeys(("changes", "recalls", "re-indexes", "rollbacks", "maintenance", "backups", "re-opened"), 0)
    began, before, last = time.monotonic(), None, 0.0
    while (now := time.monotonic() - began) < seconds:
        key = str(rng.randrange(ENTRIES))
        kept[key] = f"note {key} at {counts['changes']}"
        memory.add(kept[key], key=key)
        counts["changes"] += 1
        if rng.random() < 0.3 and memory.recall(kept[key], k=1, mode="dense")[0].score > 0.99:
            counts["recalls"] += 1
        if now - last > max(1.0, seconds / 40):
            last = now
            other_name = names[memory.encoder.spec.name == names[0]]
            if len(memory.generations()) == 1 or rng.random() < 0.5:
                memory.reindex(encoder=HashEncoder(other_name))
                counts["re-indexes"] += 1
            else:
                memory.rollback(encoder=HashEncoder(other_name))
                counts["rollbacks"] += 1
            memory.collect_generations(grace=timedelta(0) if rng.random() < 0.5 else timedelta(days=1))
            memory.maintenance(dry_run=False)
            memory.backup(folder.parent / "copy.db")
            for count in ("maintenance", "backups"):
                counts[count] += 1
            if rng.random() < 0.3:
                name = memory.encoder.spec.name
                memory.close()
                memory = Memory(folder, encoder=HashEncoder(name), config=CONFIG)
                counts["re-opened"] += 1
        if before is None and now > seconds / 10:
            before = measure_sizes(folder)
    other.kill()
    other.wait()
    memory.collect_generations(grace=timedelta(0))
    after = measure_sizes(folder)
    report = memory.check()
    stored = {entry.key: entry.text for entry in memory.entries()}
    memory.close()
    lost = [key for key, text in kept.items() if stored.get(key) != text]
    return {"done": counts, "after warm-up": before, "at the end": after, "problems": report.problems, "lost": lost}


def main() -> None:
    """Run, and print one JSON document."""
    if sys.argv[1:2] == ["--writer"]:
        write_until_killed(Path(sys.argv[2]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        result = soak(Path(scratch) / "store", arguments.seconds)
    print(json.dumps(result, indent=2))
    if result["problems"] or result["lost"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
