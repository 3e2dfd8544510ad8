"""Clients on several machines and one server: each in a network namespace of its own, over TCP.

    python benchmarks/hosts.py "postgresql://me@/agents?schema=measured" --clients 4 --seconds 5

Needs root, ``ip``, and a server on this machine that listens on all addresses and lets 10.77.0.0/16 in; the schema
must hold a store of ``benchmarks/machines.py``. In each namespace a process opens the store, recalls and adds for some
seconds with the others, and says how long calls took and how many there were; in turn with one client alone.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

sys.path.insert(0, str(Path(__file__).parent))

from machines import WORDS_A_TEXT, make_texts, open_store

PREFIX = "amhost"


def run_ip(*arguments: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def make_hosts(count: int) -> Iterator[list[tuple[str, str]]]:
    """Make network namespaces; yields their names, and the address of this machine in each one's network."""
    made: list[tuple[str, str]] = []
    try:
        for number in range(count):
            name, here, there = f"{PREFIX}{number}", f"10.77.{number}.1", f"10.77.{number}.2"
            run_ip("netns", "add", name)
            made.append((name, here))
            run_ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
            run_ip("addr", "add", f"{here}/24", "dev", f"{name}a")
            run_ip("link", "set", f"{name}a", "up")
            run_ip("-n", name, "addr", "add", f"{there}/24", "dev", f"{name}b")
            run_ip("-n", name, "link", "set", f"{name}b", "up")
        yield made
    finally:
        for name, _ in made:
            run_ip("netns", "del", name)


def move(url: str, host: str) -> str:
    """Return the address of the same store on another host, by TCP."""
    parts = urlsplit(url)
    given = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("host", "sslmode")]
    return urlunsplit(parts._replace(query=urlencode([*given, ("host", host), ("sslmode", "disable")])))


def work(url: str, index: str, what: str, seconds: float, seed: int) -> None:
    """Wait for a line, then call until the time is over; prints how long calls took."""
    questions, texts = make_texts(1_000, 4, seed), make_texts(1_000, WORDS_A_TEXT, seed)
    with open_store(url, index) as memory:
        for question in questions[:12]:
            memory.recall(question)
        print("ready", flush=True)
        sys.stdin.readline()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end:
            number = len(times) % 1_000
            if what == "recall":
                memory.recall(questions[number], k=10)
            else:
                memory.add(texts[number], session=f"host-{seed}")
            times.append(time.perf_counter() - begun)
    print(json.dumps({"ms": median(times) * 1000, "calls": len(times)}), flush=True)


def measure(url: str, hosts: list[tuple[str, str]], index: str, what: str, seconds: float) -> dict[str, float]:
    """Return the median of a call in milliseconds, and calls a second of all hosts together."""
    clients = []
    for number, (name, here) in enumerate(hosts):
        command = ["ip", "netns", "exec", name, sys.executable, __file__, move(url, here), "--work", what]
        command += ["--index", index, "--seconds", str(seconds), "--seed", str(number)]
        clients.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    for client in clients:
        client.stdout.readline()  # type: ignore[union-attr]
    for client in clients:
        client.stdin.write("\n")  # type: ignore[union-attr]
        client.stdin.flush()  # type: ignore[union-attr]
    told = [json.loads(client.communicate()[0]) for client in clients]
    calls = sum(one["calls"] for one in told)
    return {"ms": round(median(one["ms"] for one in told), 1), "a second": round(calls / seconds, 1)}


def run(url: str, count: int, seconds: float, turns: int) -> dict[str, Any]:
    """Measure one host and several, in turn, in each way."""
    result: dict[str, Any] = {"processors": os.cpu_count()}
    with make_hosts(count) as hosts:
        for index in ("local", "server"):
            for what in ("recall", "add"):
                found: dict[int, list[dict[str, float]]] = {1: [], count: []}
                for _ in range(turns):
                    for number, kept in found.items():
                        kept.append(measure(url, hosts[:number], index, what, seconds))
                for number, kept in found.items():
                    figures = {name: round(median(one[name] for one in kept), 1) for name in ("ms", "a second")}
                    result[f"{what}, index on {index}, {number} hosts"] = figures
                    print(what, index, number, figures, file=sys.stderr, flush=True)
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Address of a store on this machine.")
    parser.add_argument("--clients", type=int, default=4, help="Number of hosts.")
    parser.add_argument("--seconds", type=float, default=5.0, help="How long each measurement lasts.")
    parser.add_argument("--turns", type=int, default=3, help="How often all is measured.")
    parser.add_argument("--work", choices=("recall", "add"), help=argparse.SUPPRESS)
    parser.add_argument("--index", default="local", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.url, given.index, given.work, given.seconds, given.seed)
    else:
        print(json.dumps(run(given.url, given.clients, given.seconds, given.turns), indent=2))
