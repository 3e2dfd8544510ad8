"""Retrieval quality on labelled conversations and passages, measured through the same ``recall`` that agents use."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from agent_memory.encoders.registry import load_encoder, load_session_encoder
from agent_memory.errors import EncoderMismatchError, InvalidInputError, NotFoundError
from agent_memory.evaluation.ablation import DEPTH, rank_without
from agent_memory.evaluation.questions import Question, read_questions, split_mode, spread
from agent_memory.evaluation.vectors import rank_entries
from agent_memory.files import write_atomically
from agent_memory.inputs import read_objects
from agent_memory.memory import Memory
from agent_memory.types import FloatArray, Progress

if TYPE_CHECKING:
    from agent_memory.encoders.base import Encoder, EncoderSpec
    from agent_memory.encoders.session import SessionEncoder

CUTOFFS = (1, 5, 10, 20)
SESSION = "+session"
"""Suffix of a mode that searches evolved vectors."""

_TIMED_ENCODINGS = 50
_FILLED = "filled.sha256"  # in the folder of a store: of the file that filled it

StageProgress: TypeAlias = Callable[[str, int, int], None]
"""Called with (stage, items done, items in all) while an evaluation proceeds."""


@dataclass(slots=True)
class Score:
    """Averages over queries: recall at each cutoff and nDCG@10, in percent.

    Attributes:
        queries: Number of queries.
        micro: Mean over queries.
        macro: Mean over categories.
        categories: Mean over the queries of each category.
        p50_ms: Median latency of a recall, without encoding the query; None when vectors were compared directly.
        p95_ms: 95th percentile of the same.
    """

    queries: int
    micro: dict[str, float]
    macro: dict[str, float]
    categories: dict[str, dict[str, float]]
    p50_ms: float | None = None
    p95_ms: float | None = None


@dataclass(slots=True)
class Evaluation:
    """The results of one data set.

    Attributes:
        name: Name of the folder.
        entries: Number of entries searched.
        scores: Scores by mode.
        vectors: Scores by kind of vector (``static``, ``average``, ``evolved``, ``sessionless``), then by dimension.
        ablation: Scores of hybrid recall with all parts of the score and without each.
        encode_p50_ms: Median time to encode one query, which the latencies leave out.
    """

    name: str
    entries: int
    scores: dict[str, Score] = field(default_factory=dict)
    ablation: dict[str, Score] = field(default_factory=dict)
    vectors: dict[str, dict[int, Score]] = field(default_factory=dict)
    encode_p50_ms: float = 0.0


class _CachingEncoder:
    """An encoder whose queries were all encoded beforehand, in bulk."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.scripts = getattr(encoder, "scripts", None)
        self._known: dict[str, FloatArray] = {}

    @property
    def spec(self) -> EncoderSpec:
        return self._encoder.spec

    def encode_ahead(self, texts: Sequence[str], file: Path) -> float:
        """Encode queries, or read their vectors from ``file``; return the median time of a single one in ms."""
        distinct = list(dict.fromkeys(texts))
        vectors = np.load(file) if file.exists() else np.empty((0, 0), np.float32)
        if vectors.shape != (len(distinct), self.spec.dimension):
            vectors = self._encoder.encode_queries(distinct)
            with write_atomically(file) as handle:
                np.save(handle, vectors)
        self._known = dict(zip(distinct, vectors, strict=True))
        times = []
        for text in distinct[:_TIMED_ENCODINGS]:
            started = time.perf_counter()
            self._encoder.encode_queries([text])
            times.append((time.perf_counter() - started) * 1000)
        return float(np.median(times)) if times else 0.0

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
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
    ablate: bool = False,
    limit: int | None = None,
    progress: StageProgress | None = None,
) -> Evaluation:
    """Recall every question of a data set and compare the hits with its evidence.

    Args:
        folder: Contains ``queries.jsonl``, and ``conversations.jsonl`` or ``passages.jsonl``.
        modes: Recall modes to compare: ``dense``, ``lexical`` and ``hybrid`` over static vectors; with the suffix
            ``+session``, over evolved vectors and with the session's latent memory; with ``+rerank`` behind it, read
            again by the embedded cross-encoder.
        cache: Folder that keeps stores and encoded queries between runs, so that nothing is encoded twice.
        encoder: As for ``Memory``.
        vectors: Also compare static, averaged and evolved vectors directly, at the dimension of each tier.
        ablate: Also rank what hybrid recall finds again without each part of the score; in the session, where the
            questions have one.
        limit: Maximum number of questions, spread evenly over the data set.
        progress: Called with (stage, items done, items in all).

    Raises:
        NotFoundError: A file is missing.
        InvalidInputError: A line is malformed, no question has evidence, or the limit is below 1.
    """
    report = progress or (lambda *_: None)
    caching = _CachingEncoder(load_encoder(encoder))
    questions = select_questions(folder, limit)
    texts = [question.text for question in questions]
    digest = _hash("\n".join(texts))[:16]
    modes = list(dict.fromkeys(modes))
    evolved_modes = [mode for mode in modes if SESSION in mode]
    place = cache / f"{folder.name}-{_hash(str(folder.resolve()))[:8]}-{caching.spec.fingerprint[:8]}"
    with Memory(place, encoder=caching, session_encoder=None) as memory:
        _fill(memory, folder, lambda done, total: report("encoding", done, total))
        encode_ms = caching.encode_ahead(texts, place / f"queries-{digest}.npy")
        result = Evaluation(folder.name, memory.stats().entries, encode_p50_ms=encode_ms)
        for mode in modes:
            if mode not in evolved_modes:
                result.scores[mode] = score_mode(memory, questions, mode, report)
        if vectors:
            result.vectors = _score_vectors(memory, questions, report)
        if evolved_modes or ablate:
            with _open_evolved(memory, place, caching, report) as evolved:
                for mode in evolved_modes:
                    result.scores[mode] = score_mode(evolved, questions, mode.replace(SESSION, ""), report)
                if ablate:
                    result.ablation = _score_parts(evolved, questions, report)
    return result


def select_questions(folder: Path, limit: int | None) -> list[Question]:
    """Return the questions that have evidence; up to ``limit`` of them, spread evenly."""
    questions = [question for question in read_questions(folder) if question.evidence]
    if not questions:
        raise InvalidInputError(f"{folder}/queries.jsonl has no question with evidence")
    return [questions[at] for at in spread(len(questions), limit)]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _open_evolved(static: Memory, place: Path, encoder: Encoder, report: StageProgress) -> Memory:
    """Return a copy of a store whose vectors are evolved; nothing is encoded again."""
    session_encoder = load_session_encoder("auto", encoder, None)
    mark = "none" if session_encoder is None else session_encoder.spec.fingerprint[:8]
    target = place.with_name(f"{place.name}-{mark}")
    if not _is_copy(static, target, encoder, session_encoder):
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            static.backup(Path(scratch) / "copy.db")
            Memory.restore(Path(scratch) / "copy.db", target, replace=True)
        if session_encoder is not None:
            with Memory(target, encoder=encoder, session_encoder=None) as copy:
                copy.reindex(
                    session_encoder=session_encoder, progress=lambda done, total: report("evolving", done, total)
                )
    return Memory(target, encoder=encoder, session_encoder=session_encoder)


def _is_copy(static: Memory, target: Path, encoder: Encoder, session_encoder: SessionEncoder | None) -> bool:
    """Return whether a folder holds the evolved copy of a store, as it is now."""
    if not (target / "memory.db").exists():
        return False
    try:
        with Memory(target, encoder=encoder, session_encoder=session_encoder) as copy:
            return [(entry.key, entry.text) for entry in copy.entries()] == [
                (entry.key, entry.text) for entry in static.entries()
            ]
    except EncoderMismatchError:  # it was made by an evaluation that was interrupted
        return False


def _fill(memory: Memory, folder: Path, progress: Progress) -> None:
    """Add the entries of a data set that the store does not have yet; those of a file that was changed go first."""
    passages, mark = folder / "passages.jsonl", Path(memory.path) / _FILLED
    file = passages if passages.exists() else folder / "conversations.jsonl"
    if not file.exists():
        raise NotFoundError(f"there is no file {file}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if mark.exists() and mark.read_text() != digest:
        memory.forget(everything=True)
    if file != passages:
        memory.import_(file, assume_now=True, progress=progress)
    else:
        items = list(_read_passages(file))
        present = memory.get_many([item["key"] for item in items])
        memory.add_many((item for item in items if item["key"] not in present), progress=progress)
    mark.write_text(digest)


def _read_passages(file: Path) -> Iterator[dict[str, str]]:
    for number, line in enumerate(read_objects(file), start=1):
        key, text = line.get("id"), line.get("text")
        if not isinstance(key, str) or not isinstance(text, str):
            raise InvalidInputError(f"{file}, passage {number} needs id and text, both strings")
        if text.strip():
            yield {"key": key, "text": text}


def score_mode(memory: Memory, questions: Sequence[Question], mode: str, report: StageProgress) -> Score:
    """Return what recalls of questions have found of their evidence.

    Args:
        memory: Holds the data set.
        questions: Its questions.
        mode: ``dense``, ``lexical`` or ``hybrid``, with or without ``+rerank``; in the session of a question that has
            one.
        report: Called with (mode, questions done, questions in all).
    """
    options = split_mode(mode)
    memory.recall(questions[0].text, **options)  # opens the index and the models, so that the latency is without
    rows, times = [], []
    for done, question in enumerate(questions, start=1):
        started = time.perf_counter()
        options |= {"session": question.session, "where": question.where}
        hits = memory.recall(question.text, k=max(CUTOFFS), **options)
        times.append((time.perf_counter() - started) * 1000)
        rows.append((question, _compute_figures([hit.entry.key for hit in hits], question.evidence)))
        if done % 100 == 0 or done == len(questions):
            report(mode, done, len(questions))
    score = _average(rows)
    score.p50_ms, score.p95_ms = float(np.percentile(times, 50)), float(np.percentile(times, 95))
    return score


def _score_parts(memory: Memory, questions: Sequence[Question], report: StageProgress) -> dict[str, Score]:
    """Return the scores of hybrid recall with all parts of the score and without each."""
    rows: dict[str, list[tuple[Question, dict[str, float]]]] = {}
    for done, question in enumerate(questions, start=1):
        hits = memory.recall(question.text, k=DEPTH, session=question.session, where=question.where, explain=True)
        for name, keys in rank_without(hits).items():
            rows.setdefault(name, []).append((question, _compute_figures(keys, question.evidence)))
        if done % 100 == 0 or done == len(questions):
            report("leaving out parts", done, len(questions))
    return {name: _average(figures) for name, figures in rows.items()}


def _score_vectors(memory: Memory, questions: Sequence[Question], report: StageProgress) -> dict[str, dict[int, Score]]:
    """Return the scores of vectors compared directly, by kind of vector and dimension."""
    rows: dict[tuple[str, int], list[tuple[Question, dict[str, float]]]] = {}
    rankings = rank_entries(
        memory,
        questions,
        session_encoder=load_session_encoder("auto", memory.encoder, None),
        dimensions=memory.encoder.spec.tiers,
        limit=max(CUTOFFS),
        progress=lambda done, total: report("comparing vectors", done, total),
    )
    for question, kind, dimension, keys in rankings:
        rows.setdefault((kind, dimension), []).append((question, _compute_figures(keys, question.evidence)))
    scores: dict[str, dict[int, Score]] = {}
    for (kind, dimension), figures in rows.items():
        scores.setdefault(kind, {})[dimension] = _average(figures)
    return scores


def _average(rows: Sequence[tuple[Question, Mapping[str, float]]]) -> Score:
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


def _compute_figures(found: Sequence[str], evidence: Sequence[str]) -> dict[str, float]:
    """Return recall at each cutoff and nDCG@10 of one query, in percent."""
    relevant = set(evidence)
    figures = {f"recall@{k}": 100 * len(relevant & set(found[:k])) / len(relevant) for k in CUTOFFS}
    gain = sum(1 / math.log2(rank + 1) for rank, key in enumerate(found[:10], start=1) if key in relevant)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(10, len(relevant)) + 1))
    return figures | {"nDCG@10": 100 * gain / ideal}


def _mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
