"""Reads conversations with questions about them, for training and evaluation."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from agent_memory.inputs import read_objects

MAX_EVIDENCE = 20
"""Questions with more evidence turns are not used: their evidence is a span of a meeting, not an answer."""

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
"""For each training set, how many turns without evidence and how many questions are kept of a conversation."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the position of its answer.

    Attributes:
        text: The question.
        evidence: Positions of the turns that answer it.
        source: Position of the turn that asks the question, which is not a candidate; None if no turn does.
        hides_later: Whether the turns after ``source`` are not candidates either.
    """

    text: str
    evidence: tuple[int, ...]
    source: int | None = None
    hides_later: bool = False

    def list_hidden(self, count: int) -> range:
        """Return the positions that are not candidates, in a conversation of ``count`` turns."""
        if self.source is None:
            return range(0)
        return range(self.source, count if self.hides_later else self.source + 1)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns to search, and questions about them.

    Attributes:
        id: Name of the conversation.
        turns: What was said, in order.
        questions: Questions that some of the turns answer.
    """

    id: str
    turns: tuple[str, ...]
    questions: tuple[Question, ...]


def read_set(folder: Path, max_evidence: int = MAX_EVIDENCE) -> list[Conversation]:
    """Read a set of conversations, or a set of passages as one conversation; unanswerable questions are left out.

    Args:
        folder: Contains ``queries.jsonl``, and ``conversations.jsonl`` or ``passages.jsonl``.
        max_evidence: Questions with more evidence turns are left out.

    Returns:
        Conversations of at least 100 turns each, but for the last one; short ones are joined.
    """
    rows = list(read_objects(folder / "queries.jsonl"))
    if (folder / "passages.jsonl").is_file():
        passages = list(read_objects(folder / "passages.jsonl"))
        place = {p["id"]: i for i, p in enumerate(passages)}
        found = [Question(r["query"], tuple(place[p] for p in r["positives"])) for r in rows if r["positives"]]
        return [Conversation(folder.name, tuple(p["text"] for p in passages), tuple(found))]
    by_conversation: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if 0 < len(row["evidence"]) <= max_evidence:
            by_conversation.setdefault(row["conv_id"], []).append(row)
    result = []
    for row in read_objects(folder / "conversations.jsonl"):
        place = {s["idx"]: i for i, s in enumerate(row["segments"])}
        questions = [make_question(r, place) for r in by_conversation.get(row["id"], ())]
        if questions:
            result.append(Conversation(row["id"], tuple(s["text"] for s in row["segments"]), tuple(questions)))
    return join_short(result)


def make_question(row: Mapping[str, Any], place: Mapping[int, int]) -> Question:
    """Make a question from its record.

    Args:
        row: A line of ``queries.jsonl``.
        place: Positions of the conversation's turns by their index.
    """
    source = row.get("source_idx")
    return Question(
        row["query"],
        tuple(place[e] for e in row["evidence"]),
        None if source is None else place[source],
        row["category"] == "need_memory",
    )


def join_short(conversations: Sequence[Conversation], min_turns: int = 100) -> list[Conversation]:
    """Join neighbouring conversations until each has ``min_turns`` turns.

    The recall among the first ten of twenty turns would be meaningless.
    """
    result: list[Conversation] = []
    pending: list[Conversation] = []
    for conversation in conversations:
        pending.append(conversation)
        if sum(len(c.turns) for c in pending) >= min_turns:
            result.append(_join(pending))
            pending = []
    return result + ([_join(pending)] if pending else [])


def _join(parts: Sequence[Conversation]) -> Conversation:
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
    """Keep some of a conversation's questions, the turns they need, and up to ``turns`` other turns, in order."""
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


def is_validation(name: str, share: float = 0.1) -> bool:
    """Return whether a conversation is held out for validation, which a hash of its name decides."""
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < share


def read_training_sets(
    data: Path, left_out: Sequence[str] = (), seed: int = 0, limits: Mapping[str, tuple[int, int]] = LIMITS
) -> dict[str, list[Conversation]]:
    """Read the training sets, without their validation conversations, and thin them.

    Args:
        data: Folder of the unpacked sets.
        left_out: Names of sets to leave out.
        seed: Decides which turns and questions are kept.
        limits: As ``LIMITS``.

    Returns:
        Conversations by the name of their set.
    """
    result = {}
    for name, (turns, questions) in limits.items():
        if name in left_out:
            continue
        conversations = read_set(data / "train" / name)
        single = len(conversations) == 1
        result[name] = [thin(c, turns, questions, seed) for c in conversations if single or not is_validation(c.id)]
    return result


def read_validation_sets(data: Path, left_out: Sequence[str] = (), limit: int = 6) -> dict[str, list[Conversation]]:
    """Read up to ``limit`` validation conversations of each set, thinned.

    Of a set in ``left_out``, every conversation can be used for validation.
    """
    result = {}
    for name in LIMITS:
        conversations = read_set(data / "train" / name)
        if len(conversations) == 1:
            continue
        chosen = [c for c in conversations if name in left_out or is_validation(c.id)]
        result[name] = [thin(c, 300, 60, seed=0) for c in chosen[:limit]]
    return {name: found for name, found in result.items() if found}


def collect_texts(conversations: Sequence[Conversation]) -> list[str]:
    """Return the distinct turns and questions of conversations, in order of appearance."""
    texts: dict[str, None] = {}
    for conversation in conversations:
        texts.update(dict.fromkeys(conversation.turns))
        texts.update(dict.fromkeys(q.text for q in conversation.questions))
    return list(texts)
