"""Whole conversations with speakers and dates, as features, for the session encoder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.compact.encoder import dates_feature, day_words, length_feature, order_features
from agent_memory.encoders.training.data import MOST_EVIDENCE, is_validation
from agent_memory.encoders.training.features import VectorCache

WEIGHTS: Mapping[str, float] = {
    "casino": 1.0,
    "friendsqa_dev": 1.5,
    "sgdmem_train": 1.0,
    "syn_persona_chat": 0.7,
    "realmem": 1.0,
    "qmsum_train": 1.5,
    "mrda_ap": 0.5,
    "irc_reply": 0.7,
    "beam_500k": 1.0,
    "crd3": 0.4,
}
"""How often a set is drawn from, relative to the others."""

LIMITS = {"crd3": 10}
"""Conversations used of a set; all of the others."""

_DATES = (r"(\d{4}-\d\d-\d\d)", "%Y-%m-%d"), (r"(\d{4}/\d\d/\d\d)", "%Y/%m/%d"), (r"([A-Z]\w+-\d\d-\d{4})", "%B-%d-%Y")


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a conversation; see ``training.data.Question``."""

    text: str
    evidence: tuple[int, ...]
    source: int | None
    hides_later: bool
    category: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns with their circumstances, and questions about them.

    Attributes:
        id: Its name.
        turns: What was said.
        who: Who said it; empty where unknown.
        when: The date, as ``day_words`` writes it; empty where unknown.
        days: The date, counted from the year 1; 0 where unknown.
        questions: With evidence.
    """

    id: str
    turns: tuple[str, ...]
    who: tuple[str, ...]
    when: tuple[str, ...]
    days: tuple[int, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Features:
    """A conversation as tensors, half precision to save memory.

    Attributes:
        of: The conversation.
        static: (n, d), turns.
        who: (n, d), names of the speakers; zero where unknown.
        when: (n, d), dates; zero where unknown.
        length: (n, 1), how long each turn is.
        days: (n,), dates counted from the year 1; 0 where unknown.
        asked: (q, d), questions.
        order: (q, 2), whether they ask for what was first or last.
        dates: (q, 32), the dates that questions name.
    """

    of: Conversation
    static: Tensor
    who: Tensor
    when: Tensor
    length: Tensor
    days: Tensor
    asked: Tensor
    order: Tensor
    dates: Tensor


def read_conversations(folder: Path, limit: int | None = None) -> list[Conversation]:
    """Read the conversations of a set that have answerable questions."""
    asked: dict[str, list[dict[str, Any]]] = {}
    for row in _lines(folder / "queries.jsonl"):
        if 0 < len(row["evidence"]) <= MOST_EVIDENCE:
            asked.setdefault(row["conv_id"], []).append(row)
    found: list[Conversation] = []
    for row in _lines(folder / "conversations.jsonl"):
        if row["id"] in asked and (limit is None or len(found) < limit):
            found.append(_conversation(row, asked[row["id"]]))
    return found


def _conversation(row: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> Conversation:
    segments = row["segments"]
    place = {segment["idx"]: i for i, segment in enumerate(segments)}
    days = [_day(segment.get("time") or "") for segment in segments]
    questions = tuple(
        Question(
            q["query"],
            tuple(place[e] for e in q["evidence"]),
            None if q.get("source_idx") is None else place[q["source_idx"]],
            q["category"] == "need_memory",
            q["category"],
        )
        for q in asked
    )
    return Conversation(
        row["id"],
        tuple(segment["text"] or "." for segment in segments),
        tuple(str(segment.get("speaker") or "") for segment in segments),
        tuple("" if day is None else day_words(day) for day in days),
        tuple(0 if day is None else day.toordinal() for day in days),
        questions,
    )


def _day(written: str) -> datetime | None:
    for pattern, form in _DATES:
        match = re.match(pattern, written)
        if match:
            return datetime.strptime(match[1], form)
    return None


def features(
    conversations: Sequence[Conversation],
    encoder: Encoder,
    documents: VectorCache,
    questions: VectorCache,
    progress: Callable[[int, int], None] | None = None,
) -> list[Features]:
    """Return conversations as tensors, from the caches; what is missing there is encoded first."""
    texts: dict[str, None] = {}
    for conversation in conversations:
        texts.update(dict.fromkeys((*conversation.turns, *filter(None, (*conversation.who, *conversation.when)))))
    documents.fill(list(texts), lambda chunk: encoder.encode_documents(chunk, progress=progress))
    questions.fill([q.text for c in conversations for q in c.questions], encoder.encode_queries)
    return [_features(conversation, documents, questions) for conversation in conversations]


def _features(conversation: Conversation, documents: VectorCache, questions: VectorCache) -> Features:
    static = documents.get(conversation.turns)
    return Features(
        conversation,
        torch.from_numpy(static).half(),
        _tags(conversation.who, documents, static.shape[1]),
        _tags(conversation.when, documents, static.shape[1]),
        torch.tensor([[length_feature(turn)] for turn in conversation.turns]),
        torch.tensor(conversation.days),
        torch.from_numpy(questions.get([q.text for q in conversation.questions])).half(),
        torch.from_numpy(np.stack([order_features(q.text) for q in conversation.questions])),
        torch.from_numpy(np.stack([dates_feature(q.text, _asked_on(conversation, q)) for q in conversation.questions])),
    )


def _asked_on(conversation: Conversation, question: Question) -> int:
    before = conversation.days if question.source is None else conversation.days[: question.source]
    return before[-1] if before else 0


def _tags(words: Sequence[str], documents: VectorCache, dimension: int) -> Tensor:
    distinct = sorted(set(words) - {""})
    rows = np.zeros((len(distinct) + 1, dimension), np.float32)
    if distinct:
        rows[:-1] = documents.get(distinct)
    place = {word: i for i, word in enumerate(distinct)}
    return torch.from_numpy(rows[[place.get(word, -1) for word in words]]).half()


def split(
    data: Path, left_out: Sequence[str], checked: int
) -> tuple[dict[str, list[Conversation]], dict[str, list[Conversation]]]:
    """Return training conversations by set, and up to ``checked`` validation ones of each set.

    Sets left out are not trained on, and validated on with their first conversations.
    """
    train, check = {}, {}
    for name in WEIGHTS:
        found = read_conversations(data / "train" / name, LIMITS.get(name))
        if name in left_out:
            check[name] = found[: 2 * checked]
            continue
        train[name] = [c for c in found if not is_validation(c)]
        check[name] = [c for c in found if is_validation(c)][:checked]
    return train, {name: found for name, found in check.items() if found}


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
