"""The words tier beside FTS5, tantivy and bm25s, on real conversations and questions about them.

    python benchmarks/words.py TRAIN --rows 10000 100000

TRAIN holds folders with ``conversations.jsonl`` and ``queries.jsonl``. Each question is asked of each engine in turn,
so that all of them meet the same disturbances; ratios are of the same question. Searches are timed in milliseconds of
the process's own CPU time, which other programs disturb least. One thread, and no encoding: vectors are random, around
a thousand centres, in the tiers of a new store, and no text is read for times. Each conversation is a session; what is
asked in a session is asked in the longest. tantivy and bm25s get the terms that FTS5 indexes and search for the same
ones; both give ids and scores alone: no filter, no catching up, no words of others. They are left out where they are
not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from timing import summarise

from agent_memory import Config, EncoderSpec, Memory
from agent_memory.storage.filters import parse_filter
from agent_memory.storage.records import Condition, LexicalQuery

QUERIES, LIMIT, DIMENSION, CENTRES = 200, 1_000, 768, 1_000


class RandomEncoder:
    """Replaces an encoder: every text gets a random vector near one of the centres."""

    spec = EncoderSpec(name="random", revision="2", dimension=DIMENSION, tiers=(64, 256, DIMENSION), max_tokens=1)

    def __init__(self) -> None:
        self._generator = np.random.default_rng(1)
        self._centres = self._generator.standard_normal((CENTRES, DIMENSION), dtype=np.float32)

    def encode_documents(self, texts: list[str], *, progress: object = None) -> np.ndarray:
        """Return random unit vectors."""
        vectors = self._generator.standard_normal((len(texts), DIMENSION), dtype=np.float32)
        vectors += self._centres[self._generator.integers(CENTRES, size=len(texts))]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    encode_queries = encode_documents


def read_turns(folder: Path, rows: int) -> list[dict[str, Any]]:
    """Return turns of all conversations, the same share of each folder."""
    files = sorted(folder.glob("*/conversations.jsonl"))
    each = [_iter_turns(file) for file in files]
    turns: list[dict[str, Any]] = []
    while each and len(turns) < rows:
        for one in list(each):
            page = list(islice(one, 64))
            turns += page
            if not page:
                each.remove(one)
    return [
        {
            "text": turn["text"],
            "speaker": turn.get("speaker"),
            "session": turn["session"],
            "key": str(at),
            "metadata": {"part": at % 100},
        }
        for at, turn in enumerate(turns[:rows])
    ]


def _iter_turns(file: Path) -> Iterator[dict[str, Any]]:
    with file.open() as lines:
        for line in lines:
            conversation = json.loads(line)
            for turn in conversation["segments"]:
                if turn["text"].strip():
                    yield turn | {"session": f"{file.parent.name}/{conversation['id']}"}


def read_questions(folder: Path) -> list[str]:
    """Return questions, some of each folder."""
    found: list[str] = []
    for file in sorted(folder.glob("*/queries.jsonl")):
        lines = file.read_text().splitlines()
        texts = [json.loads(line) for line in lines[:: max(1, len(lines) // 40)]]
        found += [str(one.get("text") or one.get("query"))[:500] for one in texts]
    generator = np.random.default_rng(0)
    return [found[at] for at in generator.permutation(len(found))[:QUERIES]]


class Ours:
    """Searches by words as ``recall`` does, with the tier or without."""

    def __init__(self, memory: Memory, *, tier: bool, where: dict[str, Any] | None = None) -> None:
        self._store, self._tier = memory._store, tier
        self._condition = Condition(where=parse_filter(where), moment=datetime.now(UTC))

    def search(self, question: str) -> list[int]:
        """Return the best entries."""
        store = self._store
        with store.read() as tx:
            searcher = store.searcher(tx, store.space, self._condition, dense=False)
            if not self._tier:
                searcher._words = (None,)
            return list(searcher.search_words(searcher.parse_words(question), LIMIT))


def make_tantivy(memory: Memory, folder: Path) -> Callable[[LexicalQuery], list[int]]:
    """Return a search of a tantivy index of the same terms."""
    import tantivy

    builder = tantivy.SchemaBuilder().add_unsigned_field("id", fast=True)
    schema = builder.add_text_field("terms", tokenizer_name="whitespace", index_option="freq").build()
    index = tantivy.Index(schema, path=str(folder))
    analyzer = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
    index.register_tokenizer("whitespace", analyzer)
    writer = index.writer(heap_size=256_000_000, num_threads=1)
    for entry_id, terms in iter_terms(memory):
        document = tantivy.Document()
        document.add_unsigned("id", entry_id)
        document.add_text("terms", " ".join(terms))
        writer.add_document(document)
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def search(query: LexicalQuery) -> list[int]:
        terms = [(tantivy.Occur.Should, tantivy.Query.term_query(schema, "terms", term)) for term in query.terms or ()]
        if not terms:
            return []
        hits = searcher.search(tantivy.Query.boolean_query(terms), LIMIT, count=False).hits
        return list(searcher.fast_field_values("id", [address for _, address in hits]))

    return search


def make_bm25s(memory: Memory) -> Callable[[LexicalQuery], list[int]]:
    """Return a search of a bm25s index of the same terms."""
    import bm25s

    pairs = list(iter_terms(memory))
    ids = np.array([entry_id for entry_id, _ in pairs])
    index = bm25s.BM25(k1=1.2, b=0.75)
    index.index([terms for _, terms in pairs], show_progress=False)

    def search(query: LexicalQuery) -> list[int]:
        known = [term for term in query.terms or () if term in index.vocab_dict]
        if not known:
            return []
        found, _ = index.retrieve([known], k=min(LIMIT, len(ids)), show_progress=False)
        return ids[found[0]].tolist()

    return search


def iter_terms(memory: Memory) -> Iterator[tuple[int, list[str]]]:
    """Yield (id, terms) of all entries."""
    with memory._store.read() as tx:
        for page in tx.lexical.read_all_terms():
            at = 0
            for entry_id, length in zip(page.ids.tolist(), page.lengths.tolist(), strict=True):
                yield entry_id, [page.vocabulary[number] for number in page.numbers[at : at + length].tolist()]
                at += length


def measure(rows: int, turns: list[dict[str, Any]], questions: list[str], base: Path) -> dict[str, Any]:
    """Return the figures for so many turns."""
    encoder, folder = RandomEncoder(), base / f"store-{rows}"
    memory = Memory(folder, encoder=encoder, config=Config(max_mention_chars=0, batch_size=4_096))
    started = time.perf_counter()
    for at in range(0, rows, 10_000):
        page = turns[at : at + 10_000]
        memory.add_many(page)
    report: dict[str, Any] = {"rows": rows, "add_per_s": round(rows / (time.perf_counter() - started))}
    memory.recall("warm", mode="dense")
    started = time.perf_counter()
    with memory._store.read() as tx:
        memory._store.words.view(tx)
    report["build_s"] = round(time.perf_counter() - started, 2)
    started = time.perf_counter()
    memory._store.words.save()
    report["save_s"] = round(time.perf_counter() - started, 2)
    files = [file for file in (folder / "index" / "words").rglob("*") if file.is_file()]
    report["bytes_per_entry"] = round(sum(file.stat().st_size for file in files) / rows, 1)
    report["database_bytes_per_entry"] = round((folder / "memory.db").stat().st_size / rows)
    memory.close()
    memory = Memory(folder, encoder=encoder)
    started = time.perf_counter()
    with memory._store.read() as tx:
        view = memory._store.words.view(tx)
        queries = {question: tx.lexical.parse(question, counts=view) for question in questions}
    report["open_and_parse_s"] = round(time.perf_counter() - started, 3)
    engines: dict[str, Callable[[str], object]] = {}
    for name, where in {"": None, "_10%": {"part": {"$lt": 10}}, "_1%": {"part": 7}}.items():
        for kind in ("tier", "fts5"):
            engines[kind + name] = Ours(memory, tier=kind == "tier", where=where).search
    makers = {"tantivy": lambda: make_tantivy(memory, base), "bm25s": lambda: make_bm25s(memory)}
    for name, make in makers.items():
        if importlib.util.find_spec(name) is not None:
            peer = make()
            engines[name] = lambda question, peer=peer: peer(queries[question])
    report["words_ms"], report["ratios"] = compare(engines, questions)
    report["top_100_equal"] = count_equal(memory, questions)
    report["hybrid_ms"] = time_hybrid(memory, questions)
    report["add_then_words_ms"] = time_adds(memory, questions)
    memory.close()
    return report


def compare(engines: dict[str, Callable[[str], object]], questions: list[str]) -> tuple[dict, dict]:
    """Return milliseconds of each engine, and of FTS5 over them for each question: (5th, 50th, 95th percentile)."""
    for question in questions[:20]:
        for search in engines.values():
            search(question)
    times: dict[str, list[float]] = {name: [] for name in engines}
    for question in questions:
        for name, search in engines.items():
            started = time.process_time()
            search(question)
            times[name].append((time.process_time() - started) * 1000)
    ratios = {}
    for name, mine in times.items():
        base = times["fts5" + name.removeprefix("tier").removeprefix("fts5") if "%" in name else "fts5"]
        if not name.startswith("fts5"):
            ratios[f"fts5 / {name}"] = summarise(np.array(base) / np.array(mine))
    return {name: summarise(mine) for name, mine in times.items()}, ratios


def count_equal(memory: Memory, questions: list[str]) -> float:
    """Return the share of questions whose best 100 are the same, in the same order, with the tier and by FTS5."""
    one, other = Ours(memory, tier=True), Ours(memory, tier=False)
    return float(np.mean([one.search(text)[:100] == other.search(text)[:100] for text in questions]))


def time_hybrid(memory: Memory, questions: list[str]) -> dict[str, Any]:
    """Return milliseconds of whole recalls, with the tier and by FTS5, and the ratios of each question."""
    longest = max(memory.sessions(), key=lambda session: session.entries).name
    ways: dict[str, dict[str, Any]] = {
        "": {},
        "_session": {"session": longest},
        "_10%": {"where": {"part": {"$lt": 10}}},
        "_1%": {"where": {"part": 7}},
    }
    words = memory._store.words
    times: dict[str, list[float]] = {kind + way: [] for way in ways for kind in ("tier", "fts5")}
    view = words.view
    for question in questions:
        for name, mine in times.items():
            words.view = view if name.startswith("tier") else lambda tx, in_haste=False: None  # type: ignore[method-assign]
            started = time.process_time()
            memory.recall(question, k=10, **ways[name[4:]])
            mine.append((time.process_time() - started) * 1000)
    words.view = view  # type: ignore[method-assign]
    base = np.array(times["tier"])
    ratios = {f"{name} / tier": summarise(np.array(mine) / base) for name, mine in times.items() if name != "tier"}
    return {name: summarise(mine) for name, mine in times.items()} | ratios


def time_adds(memory: Memory, questions: list[str]) -> dict[str, float]:
    """Return milliseconds of the first search by words after each of some adds."""
    search, times = Ours(memory, tier=True).search, []
    for question in questions:
        memory.add(question, vector=np.ones(DIMENSION, np.float32) / DIMENSION**0.5)
        started = time.process_time()
        search(question)
        times.append((time.process_time() - started) * 1000)
    return summarise(times)


def main() -> None:
    """Measure each number of rows, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--folder", type=Path, help="where to make the stores; a temporary folder if left out")
    given = parser.parse_args()
    turns, questions = read_turns(given.train, max(given.rows)), read_questions(given.train)
    print(json.dumps({"machine": platform.machine(), "python": platform.python_version(), "turns": len(turns)}))
    for rows in given.rows:
        with tempfile.TemporaryDirectory(dir=given.folder) as base:
            print(json.dumps(measure(min(rows, len(turns)), turns, questions, Path(base)), indent=1), flush=True)


if __name__ == "__main__":
    main()
