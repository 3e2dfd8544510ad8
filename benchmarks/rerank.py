"""What a reranker that knows the conversation adds to a plain pipeline: ``python benchmarks/rerank.py FOLDER``.

FOLDER holds ``conversations.jsonl`` and ``queries.jsonl``. Each contribution of a conversation, cut after ``--chars``,
is a document of a store that knows of no conversations; each question is answered by meaning, by words and by both,
each with and without ``EvoReranker`` over the first 50. Prints how much of the evidence is in the first 5 and 10.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np

from agent_memory import Memory
from agent_memory.encoders import EvoReranker, load_encoder
from agent_memory.evaluation.questions import Question, read_questions
from agent_memory.inputs import read_objects

MODES = ("dense", "lexical", "hybrid")
CUTOFFS = (5, 10)


def share(found: list[str], question: Question, cutoff: int) -> float:
    """Return the share of the evidence among the first documents."""
    return len(set(found[:cutoff]) & set(question.evidence)) / len(set(question.evidence))


def ask(memory: Memory, reranker: EvoReranker, question: Question, times: list[float]) -> dict[str, list[str]]:
    """Return the keys that each way of retrieving finds, best first."""
    found = {}
    for mode in MODES:
        hits = memory.recall(question.text, k=50, mode=mode)
        found[mode] = [hit.entry.key for hit in hits]
        started = time.perf_counter()
        texts = [hit.text[slice(*(hit.passage or (None, None)))] for hit in hits]
        order = np.argsort(-reranker.score(question.text, texts), kind="stable")
        times.append((time.perf_counter() - started) * 1000)
        found[f"{mode} + EvoReranker"] = [hits[place].entry.key for place in order.tolist()]
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--conversations", type=int, default=1_000_000, help="How many conversations to take.")
    parser.add_argument("--chars", type=int, default=1000, help="How much of each contribution to keep.")
    options = parser.parse_args()
    questions = defaultdict(list)
    for question in read_questions(options.folder):
        if question.evidence:
            questions[question.session].append(question)
    base, times = EvoReranker(load_encoder()), []
    scores: dict[str, list[list[float]]] = defaultdict(list)
    for _, conversation in zip(
        range(options.conversations), read_objects(options.folder / "conversations.jsonl"), strict=False
    ):
        said = [
            {"text": each["text"][: options.chars], "speaker": each.get("speaker")}
            for each in conversation["segments"]
            if each["text"]
        ]
        keys = [f"{conversation['id']}:{each['idx']}" for each in conversation["segments"] if each["text"]]
        reranker = base.after(said)
        with tempfile.TemporaryDirectory() as folder, Memory(folder, encoder=base.encoder, session_encoder=None) as own:
            own.add_many({"text": each["text"], "key": key} for each, key in zip(said, keys, strict=True))
            for question in questions[conversation["id"]]:
                for name, found in ask(own, reranker, question, times).items():
                    scores[name].append([100 * share(found, question, cutoff) for cutoff in CUTOFFS])
        print(
            f"{conversation['id']}: {len(said)} documents, {len(questions[conversation['id']])} questions", flush=True
        )
    print(f"{'evidence found, %':28}" + "".join(f"@{cutoff:<8}" for cutoff in CUTOFFS))
    for name, rows in scores.items():
        print(f"{name:28}" + "".join(f"{value:<9.1f}" for value in np.mean(rows, axis=0)))
    print(f"reranking 50 documents: {np.median(times):.1f} ms (median)")


if __name__ == "__main__":
    main()
