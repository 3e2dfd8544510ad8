"""Conversations with questions, as the training and the evaluation see them."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

MOST_EVIDENCE = 20
"""Longer evidence is a span of a meeting, not an answer."""

LIMITS: Mapping[str, tuple[int, int]] = {
    "friendsqa_dev": (10_000, 10_000),
    "casino": (10_000, 40),
    "qmsum_train": (60, 10_000),
    "sgdmem_train": (70, 10_000),
    "syn_persona_chat": (50, 20),
    "mrda_ap": (110, 60),
    "irc_reply": (45, 30),
    "realmem": (250, 300),
    "crd3": (120, 60),
    "beam_500k": (60, 10_000),
    "selqa_dev": (3000, 10_000),
    "pubmedqa_l": (300, 300),
}
"""For each training set, turns kept per conversation beside the evidence, and questions per conversation."""


class _Named(Protocol):
    @property
    def id(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Question:
    """A question and where its answer is.

    Attributes:
        text: The question.
        evidence: Positions of the turns that answer it.
        source: Position of the turn that is the question itself, never a candidate; None for others.
        hides_later: Whether turns after ``source`` are no candidates either.
    """

    text: str
    evidence: tuple[int, ...]
    source: int | None = None
    hides_later: bool = False

    def hidden(self, count: int) -> range:
        """Positions that may not be returned, of a conversation with ``count`` turns."""
        if self.source is None:
            return range(0)
        return range(self.source, count if self.hides_later else self.source + 1)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns to search in, and questions about them."""

    id: str
    turns: tuple[str, ...]
    questions: tuple[Question, ...]


def read_set(folder: Path, most_evidence: int = MOST_EVIDENCE) -> list[Conversation]:
    """Read a conversation set, or a passage set as one conversation, without unanswerable questions."""
    rows = list(_lines(folder / "queries.jsonl"))
    if (folder / "passages.jsonl").is_file():
        passages = list(_lines(folder / "passages.jsonl"))
        place = {p["id"]: i for i, p in enumerate(passages)}
        found = [Question(r["query"], tuple(place[p] for p in r["positives"])) for r in rows if r["positives"]]
        return [Conversation(folder.name, tuple(p["text"] for p in passages), tuple(found))]
    by_conversation: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if 0 < len(row["evidence"]) <= most_evidence:
            by_conversation.setdefault(row["conv_id"], []).append(row)
    result = []
    for row in _lines(folder / "conversations.jsonl"):
        place = {s["idx"]: i for i, s in enumerate(row["segments"])}
        questions = [_question(r, place) for r in by_conversation.get(row["id"], ())]
        if questions:
            result.append(Conversation(row["id"], tuple(s["text"] for s in row["segments"]), tuple(questions)))
    return join_short(result)


def _question(row: Mapping[str, Any], place: Mapping[int, int]) -> Question:
    source = row.get("source_idx")
    return Question(
        row["query"],
        tuple(place[e] for e in row["evidence"]),
        None if source is None else place[source],
        row["category"] == "need_memory",
    )


def join_short(conversations: Sequence[Conversation], least: int = 100) -> list[Conversation]:
    """Join neighbours until each has ``least`` turns: the top ten of twenty turns would say nothing."""
    result: list[Conversation] = []
    pending: list[Conversation] = []
    for conversation in conversations:
        pending.append(conversation)
        if sum(len(c.turns) for c in pending) >= least:
            result.append(_joined(pending))
            pending = []
    return result + ([_joined(pending)] if pending else [])


def _joined(parts: Sequence[Conversation]) -> Conversation:
    if len(parts) == 1:
        return parts[0]
    turns: list[str] = []
    questions: list[Question] = []
    for part in parts:
        start = len(turns)
        for q in part.questions:
            moved = tuple(e + start for e in q.evidence)
            questions.append(replace(q, evidence=moved, source=None if q.source is None else q.source + start))
        turns.extend(part.turns)
    return Conversation(parts[0].id, tuple(turns), tuple(questions))


def thin(conversation: Conversation, turns: int, questions: int, seed: int) -> Conversation:
    """Keep some questions, their turns, and ``turns`` others in their order."""
    rng = random.Random(f"{seed} {conversation.id}")
    kept = list(conversation.questions)
    rng.shuffle(kept)
    kept = kept[:questions]
    needed = {e for q in kept for e in q.evidence} | {q.source for q in kept if q.source is not None}
    others = [i for i in range(len(conversation.turns)) if i not in needed]
    rng.shuffle(others)
    chosen = sorted(needed.union(others[:turns]))
    place = {old: new for new, old in enumerate(chosen)}
    return Conversation(
        conversation.id,
        tuple(conversation.turns[i] for i in chosen),
        tuple(
            replace(
                q,
                evidence=tuple(place[e] for e in q.evidence),
                source=None if q.source is None else place[q.source],
            )
            for q in kept
        ),
    )


def is_validation(conversation: _Named, share: float = 0.1) -> bool:
    """Whether a conversation is kept out of training, by a hash of its name."""
    digest = hashlib.sha256(conversation.id.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def training_sets(
    data: Path, left_out: Sequence[str] = (), seed: int = 0, limits: Mapping[str, tuple[int, int]] = LIMITS
) -> dict[str, list[Conversation]]:
    """Read and thin the training sets, without their validation conversations."""
    result = {}
    for name, (turns, questions) in limits.items():
        if name in left_out:
            continue
        conversations = read_set(data / "train" / name)
        single = len(conversations) == 1
        result[name] = [thin(c, turns, questions, seed) for c in conversations if single or not is_validation(c)]
    return result


def validation_sets(data: Path, left_out: Sequence[str] = (), most: int = 6) -> dict[str, list[Conversation]]:
    """Read up to ``most`` conversations of each set, thinned: held-out ones, or any of a set left out."""
    result = {}
    for name in LIMITS:
        conversations = read_set(data / "train" / name)
        if len(conversations) == 1:
            continue
        chosen = [c for c in conversations if name in left_out or is_validation(c)]
        result[name] = [thin(c, 300, 60, seed=0) for c in chosen[:most]]
    return {name: found for name, found in result.items() if found}


def all_texts(conversations: Sequence[Conversation]) -> list[str]:
    """Distinct turns and questions, in order of appearance."""
    texts: dict[str, None] = {}
    for conversation in conversations:
        texts.update(dict.fromkeys(conversation.turns))
        texts.update(dict.fromkeys(q.text for q in conversation.questions))
    return list(texts)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
