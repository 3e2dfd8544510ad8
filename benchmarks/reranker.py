"""Trains the default reranker on what ``recall`` finds for the questions of the training sets.

    python benchmarks/reranker.py DATA/train WORK

Of each set, a share of the conversations becomes a store, and each of its questions is asked in its session. The first
30 entries are what the cross-encoder learns to rank; conversations that the encoders were not trained on
(``is_validation``) are held out and choose how much its scores count beside those of the recall. What is finished in
WORK is not done again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from agent_memory import Config, Memory
from agent_memory.encoders.training.data import is_validation
from agent_memory.encoders.training.rerank_train import (
    Found,
    Recipe,
    describe,
    measure,
    read_found,
    score_all,
    train,
)
from agent_memory.evaluation.questions import Question, read_questions
from agent_memory.files import write_atomically
from agent_memory.types import FloatArray

SETS = {
    "friendsqa_dev": (136, 1_200),
    "casino": (86, 1_500),
    "sgdmem_train": (160, 1_500),
    "syn_persona_chat": (197, 2_500),
    "realmem": (10, 1_500),
    "qmsum_train": (60, 800),
    "beam_500k": (8, 300),
}
"""Training sets whose questions are asked of a conversation: conversations and questions used of each."""

DEPTH = 30
BLENDS = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.1, 0.15, 0.2)


def collect(folder: Path, work: Path, conversations: int, questions: int) -> Path:
    """Ask the questions of a set; returns the file of what was found, a JSON object a line."""
    file = work / f"{folder.name}.jsonl"
    if file.exists():
        return file
    rows = [json.loads(line) for line in (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines()]
    rows.sort(key=lambda row: (not is_validation(row["id"]), str(row["id"])))
    names = {row["id"] for row in rows[:conversations]}
    asked = [one for one in read_questions(folder) if one.evidence and one.session in names]
    random.Random(0).shuffle(asked)
    print(f"{folder.name}: {len(names)} conversations, {min(questions, len(asked))} questions", flush=True)
    lines = work / f"{folder.name}.conversations"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows[:conversations]), encoding="utf-8")
    config = Config(max_mention_chars=0)
    with Memory(work / "stores" / folder.name, config=config) as memory:
        if not memory.stats().entries:
            memory.import_(lines, assume_now=True)
        found = list(_iter_found(memory, asked[:questions]))
    with write_atomically(file) as handle:
        handle.write("".join(json.dumps(one) + "\n" for one in found).encode())
    return file


def _iter_found(memory: Memory, asked: Sequence[Question]) -> Iterator[dict[str, Any]]:
    for question in asked:
        hits = memory.recall(question.text, k=DEPTH, session=question.session, where=question.where)
        texts = [hit.entry.text[slice(*(hit.passage or (None,)))] for hit in hits]
        yield {
            "query": question.text,
            "held_out": is_validation(question.session or ""),
            "speakers": [hit.entry.speaker for hit in hits],
            "texts": texts,
            "scores": [round(hit.score, 5) for hit in hits],
            "relevant": [int(hit.entry.key in question.evidence) for hit in hits],
            "evidence": len(question.evidence),
        }


def choose_blend(asked: Sequence[Found], added: Sequence[FloatArray]) -> float:
    """Return the weight of what is added with which the sets gain most, on average, in first hits and recall@10."""
    rates: dict[float, float] = {}
    before = measure(asked, added, 0.0)
    for blend in BLENDS:
        after = measure(asked, added, blend)
        gains = [after[name][what] - before[name][what] for name in before for what in ("first", "recall@10")]
        rates[blend] = sum(gains) / len(gains)
        print(f"blend {blend}: mean gain {rates[blend]:.2f}", flush=True)
    return max(rates, key=rates.__getitem__)


def main() -> None:
    """Collect, train, choose the weight, and write the file that the reranker reads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--steps", type=int, default=Recipe().steps)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    files = [collect(given.data / name, given.work, *SETS[name]) for name in given.sets]
    recipe = Recipe(steps=given.steps)
    reader = train(read_found(files, held_out=False), given.work, recipe)
    held = read_found(files, held_out=True)
    added = score_all(reader, held)
    blend = choose_blend(held, added)
    figures = {name: [measure(held, added, one)[name] for one in (0.0, blend)] for name in measure(held, added, 0.0)}
    print(json.dumps(figures, indent=1))
    facts = {"blend": str(blend), "recipe": describe(recipe), "sets": ",".join(given.sets)}
    reader.export(given.work / "minilm-reranker.safetensors", facts)


if __name__ == "__main__":
    main()
