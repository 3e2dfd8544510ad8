"""Reads whole conversations with speakers and dates, and turns them into features for the session encoder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.compact.features import detect_order, encode_dates, format_day, measure_length
from agent_memory.encoders.training.data import MAX_EVIDENCE, Question, is_validation, make_question
from agent_memory.encoders.training.features import VectorCache
from agent_memory.inputs import read_objects
from agent_memory.types import Progress

SET_WEIGHTS: Mapping[str, float] = {
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
"""Relative frequency with which a set is drawn."""

LIMITS = {"crd3": 10}
"""Maximum number of conversations used of a set; of other sets, all are used."""

_DATES = (r"(\d{4}-\d\d-\d\d)", "%Y-%m-%d"), (r"(\d{4}/\d\d/\d\d)", "%Y/%m/%d"), (r"([A-Z]\w+-\d\d-\d{4})", "%B-%d-%Y")


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A whole conversation with its circumstances, and questions about it.

    Attributes:
        id: Name of the conversation.
        turns: What was said, in order.
        who: Who said it; empty if unknown.
        when: The date, as ``format_day`` writes it; empty if unknown.
        days: The date, counted in days from the year 1; 0 if unknown.
        questions: Questions that some of the turns answer.
    """

    id: str
    turns: tuple[str, ...]
    who: tuple[str, ...]
    when: tuple[str, ...]
    days: tuple[int, ...]
    questions: tuple[Question, ...]


@dataclass(frozen=True, slots=True)
class Features:
    """A dialogue as tensors, in half precision to save memory.

    Attributes:
        of: The dialogue.
        static: Vectors of the turns, (n, d).
        who: Vectors of the speakers' names, (n, d); zero if unknown.
        when: Vectors of the dates, (n, d); zero if unknown.
        length: Length of each turn, (n, 1).
        days: Dates, counted in days from the year 1, (n,); 0 if unknown.
        asked: Vectors of the questions, (q, d).
        order: Whether a question asks for the first and for the last of something, (q, 2).
        dates: Features of the dates that a question mentions, (q, 32).
    """

    of: Dialogue
    static: Tensor
    who: Tensor
    when: Tensor
    length: Tensor
    days: Tensor
    asked: Tensor
    order: Tensor
    dates: Tensor


def read_dialogues(folder: Path, limit: int | None = None) -> list[Dialogue]:
    """Read the dialogues of a set that have answerable questions, at most ``limit`` of them."""
    asked: dict[str, list[dict[str, Any]]] = {}
    for row in read_objects(folder / "queries.jsonl"):
        if 0 < len(row["evidence"]) <= MAX_EVIDENCE:
            asked.setdefault(row["conv_id"], []).append(row)
    found: list[Dialogue] = []
    for row in read_objects(folder / "conversations.jsonl"):
        if row["id"] in asked and (limit is None or len(found) < limit):
            found.append(_make_dialogue(row, asked[row["id"]]))
    return found


def _make_dialogue(row: Mapping[str, Any], asked: Sequence[Mapping[str, Any]]) -> Dialogue:
    segments = row["segments"]
    place = {segment["idx"]: i for i, segment in enumerate(segments)}
    days = [_parse_day(segment.get("time") or "") for segment in segments]
    return Dialogue(
        row["id"],
        tuple(segment["text"] or "." for segment in segments),
        tuple(str(segment.get("speaker") or "") for segment in segments),
        tuple("" if day is None else format_day(day) for day in days),
        tuple(0 if day is None else day.toordinal() for day in days),
        tuple(make_question(query, place) for query in asked),
    )


def _parse_day(written: str) -> datetime | None:
    for pattern, form in _DATES:
        match = re.match(pattern, written)
        if match:
            return datetime.strptime(match[1], form)
    return None


def read_sets(
    data: Path, left_out: Sequence[str], checked: int
) -> tuple[dict[str, list[Dialogue]], dict[str, list[Dialogue]]]:
    """Read training and validation dialogues.

    Args:
        data: Folder of the unpacked sets.
        left_out: Sets to leave out of training; their first dialogues are used for validation.
        checked: Maximum number of validation dialogues of a set, twice as many of a set that is left out.

    Returns:
        Training dialogues and validation dialogues, by set.
    """
    train, check = {}, {}
    for name in SET_WEIGHTS:
        found = read_dialogues(data / "train" / name, LIMITS.get(name))
        if name in left_out:
            check[name] = found[: 2 * checked]
            continue
        train[name] = [dialogue for dialogue in found if not is_validation(dialogue.id)]
        check[name] = [dialogue for dialogue in found if is_validation(dialogue.id)][:checked]
    return train, {name: found for name, found in check.items() if found}


def make_features(
    dialogues: Sequence[Dialogue],
    encoder: Encoder,
    documents: VectorCache,
    questions: VectorCache,
    progress: Progress | None = None,
) -> list[Features]:
    """Turn dialogues into tensors.

    Args:
        dialogues: The dialogues.
        encoder: Encodes what the caches do not contain.
        documents: Cache of turns, names and dates.
        questions: Cache of questions.
        progress: Called with (done, total) while documents are encoded.
    """
    texts: dict[str, None] = {}
    for dialogue in dialogues:
        texts.update(dict.fromkeys((*dialogue.turns, *filter(None, (*dialogue.who, *dialogue.when)))))
    documents.fill(list(texts), lambda missing: encoder.encode_documents(missing, progress=progress))
    questions.fill([q.text for dialogue in dialogues for q in dialogue.questions], encoder.encode_queries)
    return [_gather_features(dialogue, documents, questions) for dialogue in dialogues]


def _gather_features(dialogue: Dialogue, documents: VectorCache, questions: VectorCache) -> Features:
    static = documents.get(dialogue.turns)
    return Features(
        dialogue,
        torch.from_numpy(static).half(),
        _gather_tags(dialogue.who, documents, static.shape[1]),
        _gather_tags(dialogue.when, documents, static.shape[1]),
        torch.tensor([[measure_length(turn)] for turn in dialogue.turns]),
        torch.tensor(dialogue.days),
        torch.from_numpy(questions.get([q.text for q in dialogue.questions])).half(),
        torch.from_numpy(np.stack([detect_order(q.text) for q in dialogue.questions])),
        torch.from_numpy(np.stack([encode_dates(q.text, _find_day_asked(dialogue, q)) for q in dialogue.questions])),
    )


def _find_day_asked(dialogue: Dialogue, question: Question) -> int:
    before = dialogue.days if question.source is None else dialogue.days[: question.source]
    return before[-1] if before else 0


def _gather_tags(words: Sequence[str], documents: VectorCache, dimension: int) -> Tensor:
    distinct = sorted(set(words) - {""})
    rows = np.zeros((len(distinct) + 1, dimension), np.float32)
    if distinct:
        rows[:-1] = documents.get(distinct)
    place = {word: i for i, word in enumerate(distinct)}
    return torch.from_numpy(rows[[place.get(word, -1) for word in words]]).half()
