"""Retrieval quality on labelled conversations and passages, through the same door that agents use."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.encoders.registry import load_encoder
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.inputs import FloatArray
from agent_memory.memory import Memory

if TYPE_CHECKING:
    from agent_memory.encoders.base import Encoder, EncoderSpec

CUTOFFS = (1, 5, 10, 20)
_TIMED_ENCODINGS = 50

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Question:
    """A labelled query.

    Attributes:
        text: What is asked.
        session: The conversation to look in; None for a pool of passages.
        evidence: Keys of the entries that answer it.
        category: Its kind.
        where: What must be hidden from it, such as the turn that it was taken from.
    """

    text: str
    session: str | None
    evidence: tuple[str, ...]
    category: str
    where: Mapping[str, Any] | None


@dataclass(slots=True)
class Score:
    """Averages over queries: recall at each cutoff and nDCG@10, in percent; macro is the mean over categories."""

    queries: int
    micro: dict[str, float]
    macro: dict[str, float]
    categories: dict[str, dict[str, float]]
    p50_ms: float
    p95_ms: float


@dataclass(slots=True)
class Evaluation:
    """The figures of one data set.

    Attributes:
        name: The folder's name.
        entries: Entries searched.
        scores: By mode.
        encode_p50_ms: What encoding one query adds to the latencies, which are without it.
    """

    name: str
    entries: int
    scores: dict[str, Score] = field(default_factory=dict)
    encode_p50_ms: float = 0.0


class _Remembering:
    """An encoder that has encoded all queries beforehand, in bulk."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[str, FloatArray] = {}

    @property
    def spec(self) -> EncoderSpec:
        return self._encoder.spec

    def learn(self, texts: Sequence[str], file: Path) -> float:
        """Encode queries, or read what ``file`` keeps of them; returns the median ms of a single one."""
        distinct = list(dict.fromkeys(texts))
        vectors = np.load(file) if file.exists() else np.empty((0, 0), np.float32)
        if vectors.shape != (len(distinct), self.spec.dimension):
            vectors = self._encoder.encode_queries(distinct)
            np.save(file, vectors)
        self._known = dict(zip(distinct, vectors, strict=True))
        times = []
        for text in distinct[:_TIMED_ENCODINGS]:
            started = time.perf_counter()
            self._encoder.encode_queries([text])
            times.append((time.perf_counter() - started) * 1000)
        return float(np.median(times)) if times else 0.0

    def encode_documents(
        self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None
    ) -> FloatArray:
        return self._encoder.encode_documents(texts, progress=progress)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        return np.stack([self._known[text] for text in texts])


def evaluate(
    folder: Path,
    *,
    modes: Iterable[str],
    cache: Path,
    encoder: Encoder | str | None = None,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Ask the questions of a data set and compare the hits with their evidence.

    Args:
        folder: Holds ``queries.jsonl`` and ``conversations.jsonl`` or ``passages.jsonl``.
        modes: The recall modes to compare.
        cache: Where stores and encoded queries are kept between runs: nothing is encoded twice.
        encoder: As for ``Memory``.
        limit: Ask only so many questions, spread evenly.
        progress: Called with (what is going on, done, total).

    Raises:
        NotFoundError: A file is missing.
        InvalidInputError: A line is malformed, or no question has evidence.
    """
    report = progress or (lambda *_: None)
    learned = _Remembering(load_encoder(encoder))
    questions = [question for question in _questions(folder) if question.evidence]
    if limit is not None:
        questions = questions[:: max(1, math.ceil(len(questions) / limit))]
    if not questions:
        raise InvalidInputError(f"{folder}/queries.jsonl has no question with evidence")
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    place = cache / f"{folder.name}-{digest}-{learned.spec.fingerprint[:8]}"
    with Memory(place, encoder=learned) as memory:
        _fill(memory, folder, lambda done, total: report("encoding", done, total))
        digest = hashlib.sha256("\n".join(question.text for question in questions).encode()).hexdigest()[:16]
        encode_ms = learned.learn([question.text for question in questions], place / f"queries-{digest}.npy")
        result = Evaluation(folder.name, memory.stats().entries, encode_p50_ms=encode_ms)
        memory.recall(questions[0].text)  # opens the index, which is not what is timed
        for mode in modes:
            result.scores[mode] = _scored(memory, questions, mode, report)
    return result


def _fill(memory: Memory, folder: Path, progress: Callable[[int, int], None]) -> None:
    passages = folder / "passages.jsonl"
    if not passages.exists():
        memory.import_(folder / "conversations.jsonl", progress=progress)
        return
    items = [{"key": line["id"], "text": line["text"]} for line in _lines(passages) if line["text"].strip()]
    present = memory.get_many([item["key"] for item in items])
    memory.add_many((item for item in items if item["key"] not in present), progress=progress)


def _scored(memory: Memory, questions: Sequence[Question], mode: str, report: Progress) -> Score:
    rows, times = [], []
    for done, question in enumerate(questions, start=1):
        started = time.perf_counter()
        hits = memory.recall(question.text, k=max(CUTOFFS), session=question.session, where=question.where, mode=mode)
        times.append((time.perf_counter() - started) * 1000)
        rows.append(_figures([hit.entry.key for hit in hits], question.evidence))
        if done % 100 == 0 or done == len(questions):
            report(mode, done, len(questions))
    categories: dict[str, list[dict[str, float]]] = {}
    for question, row in zip(questions, rows, strict=True):
        categories.setdefault(question.category, []).append(row)
    means = {name: _mean(group) for name, group in sorted(categories.items())}
    return Score(
        queries=len(rows),
        micro=_mean(rows),
        macro=_mean(list(means.values())),
        categories=means,
        p50_ms=float(np.percentile(times, 50)),
        p95_ms=float(np.percentile(times, 95)),
    )


def _figures(found: Sequence[str], evidence: Sequence[str]) -> dict[str, float]:
    """Return recall at each cutoff and nDCG@10 of one query, in percent."""
    wanted = set(evidence)
    figures = {f"recall@{k}": 100 * len(wanted & set(found[:k])) / len(wanted) for k in CUTOFFS}
    gain = sum(1 / math.log2(rank + 1) for rank, key in enumerate(found[:10], start=1) if key in wanted)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(10, len(wanted)) + 1))
    return figures | {"nDCG@10": 100 * gain / ideal}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _questions(folder: Path) -> Iterator[Question]:
    for line in _lines(folder / "queries.jsonl"):
        if "positives" in line:
            yield Question(line["query"], None, tuple(line["positives"]), line.get("category", "all"), None)
            continue
        source = line.get("source_idx")
        hidden = None
        if source is not None:
            # The question is that turn itself; what a reply needed must have been said before it.
            hidden = {"idx": {"$lt" if line.get("category") == "need_memory" else "$ne": source}}
        evidence = tuple(f"{line['conv_id']}:{index}" for index in line["evidence"])
        yield Question(line["query"], line["conv_id"], evidence, line.get("category", "all"), hidden)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = json.loads(raw)
                except (ValueError, RecursionError) as error:
                    raise InvalidInputError(f"{path}, line {number}: {error}") from error
                if not isinstance(line, dict):
                    raise InvalidInputError(f"{path}, line {number}: expected an object")
                yield line
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no file {path}") from error
