"""Recall of labelled data sets from a folder and from PostgreSQL, searched in the process and on the server.

    python benchmarks/back_ends.py "postgresql://me@/agents" DATA/dev/sgdmem_dev DATA/dev/mtragun --cache eval-cache

Each set is filled into a folder as ``agent-memory eval`` does it, in the same cache, with evolved vectors, and copied
to a schema of its own that is dropped at the end; what PostgreSQL cannot store, texts with the character NUL, is left
out of both. The database needs pgvector. Printed are recall@10 of each, and of
how many questions the first ten hits are the same, in the same order, as from the folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from agent_memory import Memory
from agent_memory.evaluation.datasets import evaluate, score_mode, select_questions

MODES = ("hybrid", "dense", "lexical")
BAR = 0.3
"""How far recall@10 may be from that of the folder, in percentage points."""


def point_at(url: str, schema: str, index: str) -> str:
    """Return the address of a schema of a URL's database, with the index in the process or on the server."""
    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("schema", "index")]
    return urlunsplit(parts._replace(query=urlencode([*kept, ("schema", schema), ("index", index)])))


def drop(url: str, schema: str) -> None:
    """Drop a schema of a URL's database."""
    import psycopg
    from psycopg import sql

    parts = urlsplit(url)
    kept = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("schema", "index")]
    with psycopg.connect(urlunsplit(parts._replace(query=urlencode(kept))), autocommit=True) as connection:
        connection.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))


def measure(place: Path | str, folder: Path, limit: int | None) -> dict[str, dict[str, Any]]:
    """Return recall@10 by mode, and the first ten hits of each question."""
    found: dict[str, dict[str, Any]] = {}
    questions = select_questions(folder, limit)
    with Memory(place) as memory:
        for mode in MODES:
            score = score_mode(memory, questions, mode, lambda *_: None)
            hits = [
                [
                    hit.entry.key
                    for hit in memory.recall(one.text, k=10, session=one.session, where=one.where, mode=mode)
                ]
                for one in questions
            ]
            found[mode] = {"recall@10": round(score.micro["recall@10"], 2), "hits": hits}
    return found


def copy(source: Path, target: Path) -> int:
    """Copy a store to another folder, without what PostgreSQL cannot store; returns how much that is."""
    with Memory(source) as memory:
        memory.backup(target.with_name("copy.db"))
    Memory.restore(target.with_name("copy.db"), target)
    with Memory(target) as memory:
        return sum(memory.forget(entry.key) for entry in memory.entries() if "\0" in entry.text)


def compare(url: str, folder: Path, cache: Path, limit: int | None) -> dict[str, Any]:
    """Measure a data set in all places; returns the figures by mode."""
    evaluate(folder, modes=["hybrid+session"], cache=cache, limit=limit)
    (filled,) = cache.glob(f"{folder.name}-*-*-*/memory.db")  # the one with evolved vectors
    schema = f"eval_{folder.name}"
    drop(url, schema)
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch) / "store"
        left_out = copy(filled.parent, store)
        try:
            Memory.copy(store, point_at(url, schema, "local"))
            places = {"folder": store} | {name: point_at(url, schema, name) for name in ("local", "server")}
            found = {name: measure(place, folder, limit) for name, place in places.items()}
        finally:
            drop(url, schema)
    result: dict[str, Any] = {"left out": left_out}
    for mode in MODES:
        first = found["folder"][mode]
        result[mode] = {name: one[mode]["recall@10"] for name, one in found.items()}
        for name in ("local", "server"):
            same = [a == b for a, b in zip(first["hits"], found[name][mode]["hits"], strict=True)]
            result[mode][f"same, {name}"] = f"{sum(same)} of {len(same)}"
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url", help="Address of a PostgreSQL database with pgvector.")
    parser.add_argument("folders", nargs="+", type=Path, help="Data sets, as of agent-memory eval.")
    parser.add_argument("--cache", type=Path, required=True, help="Keeps encoded data between runs.")
    parser.add_argument("--limit", type=int, help="Maximum number of questions of each set.")
    given = parser.parse_args()
    apart = False
    for one in given.folders:
        figures = compare(given.url, one, given.cache, given.limit)
        print(json.dumps({one.name: figures}), flush=True)
        apart |= any(
            abs(figures[mode][name] - figures[mode]["folder"]) > BAR for mode in MODES for name in ("local", "server")
        )
    sys.exit(f"recall@10 differs by more than {BAR}" if apart else 0)
