"""How long a fresh process takes for one command, and how much memory, beside what others take to be imported.

    python benchmarks/start.py [--entries 10000] [--repeats 9] [--peers PYTHON] [--before PYTHON] [--out FILE.json]

Each measurement is a whole process: interpreter, imports, work, exit. Cases take turns, so that a busy machine slows
all of them equally; medians are printed with their range. Wall time is what a person or a hook waits for; the time of
processors (user and system) says what it costs where something else runs. Modules are compiled by the first turn, which
is not counted, as pip does where it installs. The store has entries with random vectors
around centres and the words of invented notes, half of them in sessions of forty.

With ``--helper`` the same commands, and a hook, take their turns while ``agent-memory serve --socket-only`` runs on the
store; their part of the time without it is printed.

``--peers`` names the Python of an environment in which mem0 and chromadb are installed; those that cannot be imported
are left out. ``--before`` names that of another version of agent-memory, whose commands then take their turns, too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

COMMAND = "import sys; from agent_memory.__main__ import main; sys.exit(main())"
VECTOR = "from agent_memory.encoders import load_encoder; load_encoder().encode_queries(['Where does Alice live?'])"
PEERS = {"import mem0": "import mem0", "import chromadb": "import chromadb"}
WORDS = "paint brush harbour budget committee shelf lamp garden ticket train coach report letter bridge river".split()

EVENT = {"session_id": "bench", "source": "startup", "prompt": "Which ticket is for the train?"}
HELPED = " by a helper"


class Case(NamedTuple):
    """A command, what it finds in its environment beside ours, and what it is sent."""

    command: list[str]
    environment: dict[str, str]
    said: bytes = b""


def fill(folder: Path, count: int) -> None:
    """Write a store of so many entries, without encoding anything."""
    import numpy as np

    from agent_memory import Memory

    rng = np.random.default_rng(0)
    centres = rng.normal(size=(300, 768))
    with Memory(folder) as memory:
        for start in range(0, count, 500):
            items = []
            for number in range(start, min(count, start + 500)):
                vector = centres[rng.integers(300)] + 0.8 * rng.normal(size=768)
                text = f"Note {number}: {' '.join(rng.choice(WORDS, 24))}."
                item = {"text": text, "vector": (vector / np.linalg.norm(vector)).astype(np.float32)}
                items.append(item | ({"session": f"session {number // 40}"} if number % 2 else {}))
            memory.add_many(items)
        memory.recall("Where does Alice live?")


def list_cases(python: str, store: Path, label: str) -> Iterator[tuple[str, Case]]:
    """Yield the cases of one version of agent-memory by name."""
    environment = {"AGENT_MEMORY_PATH": str(store), "AGENT_MEMORY_HELPER": "0"}
    for name, arguments in {
        "--help": ["--help"],
        "recall": ["recall", "Where does Alice live?"],
        "recall in a session": ["recall", "Where does Alice live?", "-s", "session 7"],
        "add": ["add", "Alice moved to Berlin in May."],
        "add to a session": ["add", "Alice moved to Berlin in May.", "-s", "session 7", "--speaker", "alice"],
    }.items():
        yield f"{label}{name}", Case([python, "-c", COMMAND, *arguments], environment)
    sent = json.dumps(EVENT | {"cwd": str(store.parent)}).encode()
    yield f"{label}hook", Case([python, "-c", COMMAND, "hook", "SessionStart"], environment, sent)
    yield f"{label}import to first vector", Case([python, "-c", VECTOR], environment)


def list_helped_cases(cases: Mapping[str, Case]) -> dict[str, Case]:
    """Return the cases that a helper answers, with it."""
    return {
        name + HELPED: case._replace(environment=case.environment | {"AGENT_MEMORY_HELPER": "1"})
        for name, case in cases.items()
        if name.startswith(("recall", "add", "hook"))
    }


@contextmanager
def help_commands(store: Path) -> Iterator[None]:
    """Run a helper for a store while the block runs."""
    command = [sys.executable, "-m", "agent_memory", "serve", "--socket-only", "--json", "--path", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as helper:
        try:
            if helper.stdout is None or not helper.stdout.readline():
                raise SystemExit("the helper did not start")
            yield
        finally:
            helper.terminate()


def can_run(python: str, code: str) -> bool:
    """Return whether a statement runs without an error."""
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def measure(case: Case) -> dict[str, float]:
    """Run a process, and return its seconds of wall and processor time and its peak memory."""
    command, environment, said = case
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    with tempfile.TemporaryFile() as sent:
        sent.write(said)
        sent.seek(0)
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=sent, stdout=subprocess.DEVNULL, env=inherited | environment)
    _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024
    return {"wall_s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss * unit / 1e6}


def summarise(runs: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Return the least, the median and the largest of each measure."""
    return {
        name: [min(values), statistics.median(values), max(values)]
        for name in runs[0]
        for values in [[run[name] for run in runs]]
    }


def main() -> None:
    """Measure all cases in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--before")
    parser.add_argument("--helper", action="store_true")
    parser.add_argument("--only", default="", help="measure the cases whose names have this in them")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fill:
        fill(options.fill, options.entries)
        return
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        store = Path(scratch) / "store"
        # In a process of its own: the peak memory of a child is never reported below that of its parent.
        command = [sys.executable, __file__, "--fill", str(store), "--entries", str(options.entries)]
        subprocess.run(command, check=True)
        cases: dict[str, Case] = {"python, nothing else": Case([sys.executable, "-c", "pass"], {})}
        cases |= dict(list_cases(sys.executable, store, ""))
        if options.helper:
            cases |= list_helped_cases(cases)
            stack.enter_context(help_commands(store))
        if options.before:
            cases |= dict(list_cases(options.before, store, "before: "))
        cases |= {
            name: Case([options.peers, "-c", code], {}) for name, code in PEERS.items() if can_run(options.peers, code)
        }
        cases = {name: case for name, case in cases.items() if options.only in name}
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
        for turn in range(options.repeats + 1):
            for name, case in cases.items():
                found = measure(case)
                if turn:  # the first one fills the caches of the file system
                    runs[name].append(found)
            print(f"turn {turn} of {options.repeats}", file=sys.stderr, flush=True)
    results = {name: summarise(found) for name, found in runs.items()}
    print(f"{'':34}{'wall s':>22}{'processor s':>22}{'peak MB':>10}")
    for name, measures in results.items():
        wall, cpu, peak = measures["wall_s"], measures["cpu_s"], measures["peak_mb"]
        cells = [f"{middle:.2f} ({low:.2f}-{high:.2f})" for low, middle, high in (wall, cpu)]
        alone = results.get(name.removesuffix(HELPED), {}).get("wall_s") if name.endswith(HELPED) else None
        ratio = "" if alone is None else f"   {wall[1] / alone[1]:.2f} of it alone"
        print(f"{name:34}{cells[0]:>22}{cells[1]:>22}{peak[1]:>10.0f}{ratio}")
    if options.out:
        options.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
