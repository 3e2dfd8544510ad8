"""Fits the weights of words and neighbours for a recall in a session, on the training sets alone.

    python benchmarks/weights.py DATA/train WORK

Of each set, the conversations that the encoders were not trained on (``is_validation``) become a store; the scenes of
friendsqa are short, so they are joined to long sessions. Each question is asked in its session, and the terms of the
first 100 entries are kept. Then all combinations of a few weights are compared. What is finished in WORK is not done
again. The best weights are those with the largest mean gain over the sets, less the largest loss of any set; they are
also chosen without each set in turn, and tried on it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from agent_memory import Config, Memory
from agent_memory.encoders.training.data import is_validation
from agent_memory.evaluation.questions import Question, read_questions
from agent_memory.files import write_atomically
from agent_memory.recall.ranking import IN_SESSION, NEARBY_TURNS, NEIGHBOUR_WEIGHT, PLAIN

SETS = {
    "friendsqa_dev": 4,
    "casino": 14,
    "sgdmem_train": 7,
    "syn_persona_chat": 15,
    "realmem": 1,
    "qmsum_train": 9,
    "crd3": 3,
    "beam_500k": 1,
}
"""Training sets whose questions are asked of a conversation, and the number of conversations used."""

DEPTH = 100
REACHES = (2, 3, 5)
LEXICAL = (0.1, 0.2, 0.3, 0.4, 0.5, 0.7)
NEARBY = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6)
NEIGHBOUR = (0.0, 0.15, 0.3)
MEASURES = ("recall@10", "first hits", "MRR")

Table = npt.NDArray[np.float64]
"""Terms of (questions, DEPTH, columns): rest of the score, own share, neighbour, relevant, evidence, near shares."""


class Choice(NamedTuple):
    """One combination: weights of own words, words nearby and the neighbour, and how many turns are near."""

    lexical: float
    nearby: float
    neighbour: float
    reach: int


BEFORE = Choice(PLAIN.lexical, PLAIN.nearby, PLAIN.neighbour, NEARBY_TURNS)
SHIPPED = Choice(IN_SESSION.lexical, IN_SESSION.nearby, IN_SESSION.neighbour, NEARBY_TURNS)


def read_conversations(folder: Path, count: int) -> tuple[list[dict[str, Any]], list[Question]]:
    """Return conversations of a set and the questions about them."""
    rows = [json.loads(line) for line in (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [question for question in read_questions(folder) if question.evidence]
    if folder.name == "friendsqa_dev":
        rows, asked = join_scenes(rows, asked, count)
    else:
        rows = [row for row in rows if is_validation(row["id"])][:count]
        names = {row["id"] for row in rows}
        asked = [question for question in asked if question.session in names]
    return rows, asked


def join_scenes(
    rows: Sequence[dict[str, Any]], asked: Sequence[Question], count: int
) -> tuple[list[dict[str, Any]], list[Question]]:
    """Return scenes joined to a few long conversations, and the questions about these."""
    rows = sorted(rows, key=lambda row: str(row["id"]))
    size = -(-len(rows) // count)
    joined: list[dict[str, Any]] = []
    place: dict[str, tuple[str, int]] = {}
    for at, row in enumerate(rows):
        if at % size == 0:
            joined.append({"id": f"friends-long-{len(joined)}", "segments": []})
        segments = joined[-1]["segments"]
        for segment in row["segments"]:
            place[f"{row['id']}:{segment['idx']}"] = (joined[-1]["id"], len(segments))
            segments.append({**segment, "idx": len(segments)})
    moved = []
    for question in asked:
        there = [place[key] for key in question.evidence]
        keys = tuple(f"{name}:{index}" for name, index in there)
        moved.append(Question(question.text, there[0][0], keys, question.category))
    return joined, moved


def collect(folder: Path, work: Path, count: int, most: int) -> Table:
    """Ask the questions of a set, and return the terms of what they find."""
    file = work / f"{folder.name}-{most}.npy"
    if file.exists():
        found: Table = np.load(file)
        return found
    rows, asked = read_conversations(folder, count)
    random.Random(0).shuffle(asked)
    asked = asked[:most]
    work.mkdir(parents=True, exist_ok=True)
    lines = work / f"{folder.name}.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    with Memory(work / folder.name / "store", config=Config(nearby_words=False)) as memory:
        if memory.stats().entries < sum(len(row["segments"]) for row in rows):
            print(f"{folder.name}: encoding", flush=True)
            memory.import_(lines, assume_now=True)
        table = np.stack(list(_iter_terms(memory, asked, folder.name)))
    with write_atomically(file) as handle:
        np.save(handle, table)
    return table


def _iter_terms(memory: Memory, asked: Sequence[Question], name: str) -> Iterator[Table]:
    places: dict[str, dict[str, int]] = {}
    for done, question in enumerate(asked, start=1):
        session = question.session or ""
        if session not in places:
            places[session] = {entry.key: at for at, entry in enumerate(memory.entries(session=session))}
        hits = memory.recall(question.text, k=DEPTH, session=session, where=question.where, explain=True)
        table = np.zeros((DEPTH, 5 + len(REACHES)))
        table[:, 0] = -np.inf
        table[:, 4] = len(question.evidence)
        shares = np.zeros(len(places[session]) + 2 * max(REACHES))
        at = np.array([places[session][hit.entry.key] + max(REACHES) for hit in hits], np.int64)
        for row, hit in enumerate(hits):
            trace = hit.trace or {}
            words, neighbour = trace["lexical"], trace["neighbour"]["adds"]
            shares[at[row]] = words["share"]
            table[row, 0] = hit.score - words["adds"] - neighbour
            table[row, 1:4] = words["share"], neighbour / NEIGHBOUR_WEIGHT, hit.entry.key in question.evidence
        for column, reach in enumerate(REACHES, start=5):
            around = [shares[at + shift] for shift in range(-reach, reach + 1)]
            table[: len(hits), column] = np.max(around, axis=0)
        yield table
        if done % 100 == 0 or done == len(asked):
            print(f"{name}: {done} of {len(asked)} questions", flush=True)


def measure(table: Table, choice: Choice) -> Table:
    """Return recall@10, first hits and mean reciprocal rank of a combination, in percent, float64 (3,)."""
    near = table[:, :, 5 + REACHES.index(choice.reach)]
    scores = table[:, :, 0] + choice.lexical * table[:, :, 1] + choice.neighbour * table[:, :, 2] + choice.nearby * near
    order = np.argsort(-scores, axis=1, kind="stable")
    relevant = np.take_along_axis(table[:, :, 3], order, axis=1)
    recall = relevant[:, :10].sum(axis=1) / table[:, 0, 4]
    reciprocal = np.where(relevant.any(axis=1), 1 / (relevant.argmax(axis=1) + 1), 0.0)
    figures: Table = 100 * np.array([recall.mean(), relevant[:, 0].mean(), reciprocal.mean()])
    return figures


def choose(gains: dict[Choice, dict[str, Table]], names: Sequence[str]) -> Choice:
    """Return the combination with the largest mean gain over some sets, less the largest loss of any of them."""

    def worth(choice: Choice) -> float:
        each = np.array([gains[choice][name] @ (1.0, 0.5, 0.5) for name in names])
        return float(each.mean() + min(each.min(), 0.0))

    return max(gains, key=worth)


def main() -> None:
    """Collect, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the training sets")
    parser.add_argument("work", type=Path, help="folder for stores and terms")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), help="all by default")
    parser.add_argument("--questions", type=int, default=1200, help="maximum number of each set; 1200 by default")
    given = parser.parse_args()
    tables = {name: collect(given.data / name, given.work, SETS[name], given.questions) for name in given.sets}
    before = {name: measure(table, BEFORE) for name, table in tables.items()}
    grid = [Choice(*one) for one in itertools.product(LEXICAL, NEARBY, NEIGHBOUR, REACHES)]
    gains = {one: {name: measure(table, one) - before[name] for name, table in tables.items()} for one in grid}
    best = choose(gains, given.sets)
    print(f"chosen: {best}\nshipped: {SHIPPED}\n")
    print(f"| set | questions | {', '.join(MEASURES)} before | shipped | chosen | chosen without this set |")
    print("|---|---|---|---|---|---|")
    for name in given.sets:
        rest = [other for other in given.sets if other != name]
        ways = [SHIPPED, best, *([choose(gains, rest)] if rest else [])]
        cells = [" / ".join(f"{figure:+.1f}" for figure in gains[way][name]) for way in ways]
        start = " / ".join(f"{figure:.1f}" for figure in before[name])
        print(f"| {name} | {len(tables[name])} | {start} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
