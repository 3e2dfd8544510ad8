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

from agent_memory.encoders.registry import load_encoder, load_session_encoder
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.evaluation.session_view import load_pyplot, save_figure
from agent_memory.evaluation.vectors import rankings
from agent_memory.memory import Memory
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from agent_memory.encoders.base import Encoder, EncoderSpec

CUTOFFS = (1, 5, 10, 20)
SESSION = "+session"
"""Behind a mode: over evolved vectors."""

_TIMED_ENCODINGS = 50
_BATCH = 500

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Question:
    """A labelled query.

    Attributes:
        text: What is asked.
        session: The conversation to look in; None for a pool of passages.
        evidence: Keys of the entries that answer it.
        category: Its kind.
        source: Index of the turn that it was taken from, which must be hidden from it.
        hides_later: Whether later turns must be hidden too.
    """

    text: str
    session: str | None
    evidence: tuple[str, ...]
    category: str
    source: int | None = None
    hides_later: bool = False

    @property
    def where(self) -> Mapping[str, Any] | None:
        """Filter that hides what must be hidden."""
        return None if self.source is None else {"idx": {"$lt" if self.hides_later else "$ne": self.source}}


@dataclass(slots=True)
class Score:
    """Averages over queries: recall at each cutoff and nDCG@10, in percent; macro is the mean over categories.

    Latencies are those of a whole recall without encoding, and None for vectors that were compared by themselves.
    """

    queries: int
    micro: dict[str, float]
    macro: dict[str, float]
    categories: dict[str, dict[str, float]]
    p50_ms: float | None = None
    p95_ms: float | None = None


@dataclass(slots=True)
class Evaluation:
    """The figures of one data set.

    Attributes:
        name: The folder's name.
        entries: Entries searched.
        scores: By mode.
        vectors: By ``static``, ``average``, ``evolved`` and ``sessionless``, then by dimension.
        encode_p50_ms: What encoding one query adds to the latencies, which are without it.
    """

    name: str
    entries: int
    scores: dict[str, Score] = field(default_factory=dict)
    vectors: dict[str, dict[int, Score]] = field(default_factory=dict)
    encode_p50_ms: float = 0.0


class _Remembering:
    """An encoder that has encoded all queries beforehand, in bulk."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.scripts = getattr(encoder, "scripts", None)
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
    modes: Iterable[str] = (),
    cache: Path,
    encoder: Encoder | str | None = None,
    vectors: bool = False,
    limit: int | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Ask the questions of a data set and compare the hits with their evidence.

    Args:
        folder: Holds ``queries.jsonl`` and ``conversations.jsonl`` or ``passages.jsonl``.
        modes: The recall modes to compare: ``dense``, ``lexical`` and ``hybrid`` over static vectors; with
            ``+session`` behind it, over evolved ones and with the session's latent memory.
        cache: Where stores and encoded queries are kept between runs: nothing is encoded twice.
        encoder: As for ``Memory``.
        vectors: Compare static, averaged and evolved vectors by themselves too, at the dimension of each tier.
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
    wanted = {mode: mode.removesuffix(SESSION) for mode in modes}
    with Memory(place, encoder=learned, session_encoder=None) as memory:
        _fill(memory, folder, lambda done, total: report("encoding", done, total))
        digest = hashlib.sha256("\n".join(question.text for question in questions).encode()).hexdigest()[:16]
        encode_ms = learned.learn([question.text for question in questions], place / f"queries-{digest}.npy")
        result = Evaluation(folder.name, memory.stats().entries, encode_p50_ms=encode_ms)
        for mode, plain in wanted.items():
            if mode == plain:
                result.scores[mode] = _scored(memory, questions, plain, report)
        if vectors:
            result.vectors = _compared(memory, questions, report)
        if any(mode != plain for mode, plain in wanted.items()):
            with _with_sessions(memory, place, learned, report) as evolved:
                for mode, plain in wanted.items():
                    if mode != plain:
                        result.scores[mode] = _scored(evolved, questions, plain, report)
    return result


def _with_sessions(plain: Memory, place: Path, encoder: Encoder, report: Progress) -> Memory:
    """Return a store of the same entries whose vectors are evolved, filled from the static vectors of ``plain``."""
    chosen = load_session_encoder("auto", encoder, None)
    mark = "none" if chosen is None else chosen.spec.fingerprint[:8]
    evolved = Memory(place.with_name(f"{place.name}-{mark}"), encoder=encoder, session_encoder=chosen)
    try:
        entries = plain.entries()
        present = evolved.get_many([entry.key for entry in entries])
        missing = [entry for entry in entries if entry.key not in present]
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            rows = plain.vectors([entry.key for entry in batch])
            fields = ("key", "text", "session", "speaker", "metadata", "event_time")
            evolved.add_many(
                {name: getattr(entry, name) for name in fields} | {"vector": rows[entry.key]} for entry in batch
            )
            report("evolving", start + len(batch), len(missing))
    except BaseException:
        evolved.close()
        raise
    return evolved


def _compared(memory: Memory, questions: Sequence[Question], report: Progress) -> dict[str, dict[int, Score]]:
    session_encoder = load_session_encoder("auto", memory.encoder, None)
    rows: dict[tuple[str, int], list[tuple[Question, dict[str, float]]]] = {}
    found = rankings(
        memory,
        questions,
        session_encoder=session_encoder,
        dimensions=memory.encoder.spec.tiers,
        most=max(CUTOFFS),
        progress=lambda done, total: report("comparing vectors", done, total),
    )
    for question, way, dimension, keys in found:
        rows.setdefault((way, dimension), []).append((question, _figures(keys, question.evidence)))
    result: dict[str, dict[int, Score]] = {}
    for (way, dimension), scored in rows.items():
        result.setdefault(way, {})[dimension] = _averaged(scored)
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
    memory.recall(questions[0].text)  # opens the index, which is not what is timed
    rows, times = [], []
    for done, question in enumerate(questions, start=1):
        started = time.perf_counter()
        hits = memory.recall(question.text, k=max(CUTOFFS), session=question.session, where=question.where, mode=mode)
        times.append((time.perf_counter() - started) * 1000)
        rows.append((question, _figures([hit.entry.key for hit in hits], question.evidence)))
        if done % 100 == 0 or done == len(questions):
            report(mode, done, len(questions))
    score = _averaged(rows)
    score.p50_ms, score.p95_ms = float(np.percentile(times, 50)), float(np.percentile(times, 95))
    return score


def _averaged(rows: Sequence[tuple[Question, Mapping[str, float]]]) -> Score:
    categories: dict[str, list[Mapping[str, float]]] = {}
    for question, figures in rows:
        categories.setdefault(question.category, []).append(figures)
    means = {name: _mean(group) for name, group in sorted(categories.items())}
    return Score(
        queries=len(rows),
        micro=_mean([figures for _, figures in rows]),
        macro=_mean(list(means.values())),
        categories=means,
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
            yield Question(line["query"], None, tuple(line["positives"]), line.get("category", "all"))
            continue
        category = line.get("category", "all")
        evidence = tuple(f"{line['conv_id']}:{index}" for index in line["evidence"])
        # What a reply needed must have been said before it.
        later = category == "need_memory"
        yield Question(line["query"], line["conv_id"], evidence, category, line.get("source_idx"), later)


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


def plot_vectors(results: Sequence[Evaluation], path: Path) -> None:
    """Draw recall@10 of static, averaged and evolved vectors over the dimension, a panel for each data set.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        StorageError: The file cannot be written.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(1, len(results), figsize=(4.5 * len(results), 4), squeeze=False)
    for axis, result in zip(axes[0], results, strict=True):
        for way, found in result.vectors.items():
            axis.plot(list(found), [score.micro["recall@10"] for score in found.values()], "o-", label=way)
        axis.set(title=result.name, xlabel="dimensions", ylabel="recall@10", xscale="log")
        dimensions = [dimension for found in result.vectors.values() for dimension in found]
        axis.set_xticks(sorted(set(dimensions)), [str(d) for d in sorted(set(dimensions))], minor=False)
        axis.minorticks_off()
        axis.legend()
    save_figure(figure, path)
