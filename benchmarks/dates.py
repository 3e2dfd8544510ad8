"""What a time that a question names should count for, where it is asked for and where it is said in passing.

    python benchmarks/dates.py DATA/train WORK

Asks the questions of training conversations that name a time, at the time of the turn that they are, or behind the
last one; in their conversation, and of all conversations at once. The bonus of an entry that happened then is taken
out of its score and put back in other sizes, for dates ("in May 2023") and for times told from now ("last week").
Conversations are taken by how many such questions they have, up to a number of turns. What is finished in WORK is not
done again.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agent_memory import Memory
from agent_memory.recall.ranking import MENTION_BONUS, RELATIVE_TIME_BONUS, TIME_BONUS
from agent_memory.timewords import Interval, intervals

TURNS = {"sgdmem_train": 8_000, "casino": 1_500, "realmem": 1_200}
"""Sets whose conversations have times and whose questions name some, and about how many turns are used."""

SIZES = ((0.3, 0.3), (0.3, 0.15), (0.25, 0.15), (0.25, 0.1), (0.2, 0.1), (0.1, 0.1), (0.0, 0.0))
DEPTH = 100
MOST = 300


class Asked(NamedTuple):
    """A question that names a time."""

    text: str
    session: str
    evidence: frozenset[str]
    now: datetime
    periods: list[Interval]


class Candidate(NamedTuple):
    """An entry that was found: its score without the bonus, and what the bonus depends on."""

    score: float
    mention: float
    dated: bool
    relative: bool
    relevant: bool


def _parse(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def read(folder: Path, turns: int) -> tuple[list[dict[str, Any]], list[Asked]]:
    """Return conversations of a set, and the questions about them that name a time."""
    lines = (folder / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row["id"]: row for row in map(json.loads, lines)}
    asked = []
    for line in (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines():
        one = json.loads(line)
        said = rows[one["conv_id"]]["segments"]
        place = one.get("source_idx")
        at = said[-1] if place is None else next((turn for turn in said if turn["idx"] == place), said[-1])
        if not one["evidence"] or not at.get("time"):
            continue
        now, text = _parse(at["time"]), one["query"][:2000]
        if periods := intervals(text, now):
            keys = frozenset(f"{one['conv_id']}:{number}" for number in one["evidence"])
            asked.append(Asked(text, one["conv_id"], keys, now, periods))
    counts = Counter(question.session for question in asked)
    chosen: list[str] = []
    for name in sorted(counts, key=lambda name: counts[name] / len(rows[name]["segments"]), reverse=True):
        if turns > 0:
            chosen.append(name)
            turns -= len(rows[name]["segments"])
    asked = [question for question in asked if question.session in chosen]
    random.Random(1).shuffle(asked)
    return [rows[name] for name in sorted(chosen)], asked[:MOST]


def collect(memory: Memory, asked: list[Asked], *, inside: bool) -> Iterator[list[Candidate]]:
    """Yield what is found for each question."""
    for question in asked:
        session = question.session if inside else None
        hits = memory.recall(question.text, k=DEPTH, session=session, now=question.now, explain=True)
        found = []
        for hit in hits:
            adds, then = (hit.trace or {})["time"]["adds"], hit.entry.event_time
            kinds = {period.dated for period in question.periods if period.start <= then < period.end}
            mention = adds if adds <= MENTION_BONUS else 0.0
            found.append(
                Candidate(hit.score - adds, mention, True in kinds, False in kinds, hit.entry.key in question.evidence)
            )
        yield found


def measure(found: list[list[Candidate]], asked: list[Asked], dated: float, relative: float) -> tuple[float, float]:
    """Return recall@10 and first hits, in percent, with bonuses of these sizes."""
    recalls, firsts = [], []
    for candidates, question in zip(found, asked, strict=True):
        scores = [one.score + max(one.mention, dated * one.dated, relative * one.relative) for one in candidates]
        order = np.argsort(-np.array(scores), kind="stable")
        relevant = [candidates[at].relevant for at in order]
        recalls.append(sum(relevant[:10]) / len(question.evidence))
        firsts.append(any(relevant[:1]))
    return 100 * float(np.mean(recalls)), 100 * float(np.mean(firsts))


def main() -> None:
    """Collect, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder of the training sets")
    parser.add_argument("work", type=Path, help="folder for stores")
    given = parser.parse_args()
    print(f"shipped: {TIME_BONUS} for dates, {RELATIVE_TIME_BONUS} for times told from now; recall@10 / first hits\n")
    print("| set | questions |", " | ".join(f"{dated}, {relative}" for dated, relative in SIZES), "|")
    print("|---|---|" + "---|" * len(SIZES))
    for name, turns in TURNS.items():
        rows, asked = read(given.data / name, turns)
        (given.work / name).mkdir(parents=True, exist_ok=True)
        lines = given.work / name / "conversations.jsonl"
        lines.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        with Memory(given.work / name / "store") as memory:
            memory.import_(lines)
            for inside in (True, False):
                found = list(collect(memory, asked, inside=inside))
                cells = ("{:.1f} / {:.1f}".format(*measure(found, asked, *sizes)) for sizes in SIZES)
                place = "in the session" if inside else "of all"
                print(f"| {name}, {place} | {len(asked)} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
