"""Runs a published benchmark through ``recall``, and other ways of ranking on the same data."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from agent_memory.encoders.base import Encoder, EncoderSpec
from agent_memory.encoders.registry import load_encoder
from agent_memory.errors import InvalidInputError
from agent_memory.evaluation.peers import load_peers
from agent_memory.evaluation.published import Benchmark, Haystack, LabelledQuestion
from agent_memory.evaluation.questions import RERANK, split_mode
from agent_memory.evaluation.ranking import Estimate, estimate, measure_ranking
from agent_memory.evaluation.reliability import Answer, Reliability, measure_reliability
from agent_memory.memory import Memory
from agent_memory.records import Hits
from agent_memory.types import FloatArray, Progress

DATED = "dated"
"""Mark of a way whose entries have the times of the benchmark."""

MODES = ("hybrid", "dense", "lexical")
_SESSION = "haystack"  # a store holds one; its id may be none that a session can have
_DEPTH = 50
"""Turns that are asked for: enough to know the first ten sessions of most questions."""

_RATED = 5
"""Hits of a question whose confidence is compared with the evidence."""

StageProgress = Callable[[str, int, int], None]
"""Called with (way, haystacks done, haystacks in all)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one way of ranking has found at one level.

    Attributes:
        questions: Number of questions.
        overall: Estimates over all questions, by measure.
        categories: The same over the questions of each category.
    """

    questions: int
    overall: Mapping[str, Estimate]
    categories: Mapping[str, Mapping[str, Estimate]]


@dataclass(slots=True, kw_only=True)
class Card:
    """The results of a benchmark.

    Attributes:
        name: Name of the benchmark's file.
        format: Its format.
        encoder: Name of the encoder.
        haystacks: Number of conversations or collections.
        turns: Number of turns in all of them.
        questions: Number of questions with evidence.
        notes: How often something of the file was left out or mended, by what it was.
        missing: Why ways that were asked for could not run, by way.
        outcomes: By level (``turn``, ``session``), then by way.
        recall_ms: Median time of a recall, the encoding of the question included, by way.
        reliability: What the confidence of the hits is worth, by way; ways without confidence are left out.
    """

    name: str
    format: str
    encoder: str
    haystacks: int
    turns: int
    questions: int
    notes: Mapping[str, int]
    missing: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    recall_ms: dict[str, float] = field(default_factory=dict)
    reliability: dict[str, Reliability] = field(default_factory=dict)


class _OnceEncoder:
    """Encodes each document once, however many stores it goes into."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.scripts = getattr(encoder, "scripts", None)
        self._known: dict[str, FloatArray] = {}

    @property
    def spec(self) -> EncoderSpec:
        return self._encoder.spec

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            self._known.update(zip(missing, self._encoder.encode_documents(missing, progress=progress), strict=True))
        return np.stack([self._known[text] for text in texts])

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        return self._encoder.encode_queries(texts)


def run_benchmark(
    benchmark: Benchmark,
    *,
    modes: Iterable[str] = ("hybrid",),
    encoder: Encoder | str | None = None,
    peers: bool = False,
    progress: StageProgress | None = None,
) -> Card:
    """Ask every question of its haystack alone, and compare what is found with the evidence.

    Each mode runs with the times of the benchmark as event times and, if there are any, without.

    Args:
        benchmark: From ``read_benchmark``.
        modes: Modes of recall: ``hybrid``, ``dense``, ``lexical``; with ``+rerank`` behind it, read again by the
            embedded cross-encoder.
        encoder: As for ``Memory``.
        peers: Also run the other ways of ``load_peers`` on the same data.
        progress: Called with (way, haystacks done, haystacks in all).

    Raises:
        InvalidInputError: A mode is unknown.
    """
    modes = list(dict.fromkeys(modes))
    if unknown := [mode for mode in modes if mode.removesuffix(RERANK) not in MODES]:
        raise InvalidInputError(f"mode must be one of {MODES}, got {unknown[0]!r}")
    loaded = load_encoder(encoder)
    report = progress or (lambda *_: None)
    card = Card(
        name=benchmark.name,
        format=benchmark.format,
        encoder=loaded.spec.name,
        haystacks=len(benchmark.haystacks),
        turns=sum(len(haystack.turns) for haystack in benchmark.haystacks),
        questions=benchmark.questions,
        notes=dict(sorted((+benchmark.notes).items())),
    )
    asked: dict[str, list[Answer]] = {}
    rankings, times = _run_modes(benchmark, modes, loaded, report, asked)
    card.reliability = {
        way: measure_reliability(answers)
        for way, answers in asked.items()
        if any(answer.evidence != "unknown" for answer in answers)
    }
    if peers:
        ways, card.missing = load_peers(loaded)
        for way, rank in ways.items():
            for done, haystack in enumerate(benchmark.haystacks, start=1):
                rankings.setdefault(way, []).extend(rank(haystack, _DEPTH) if haystack.questions else ())
                report(way, done, len(benchmark.haystacks))
    card.recall_ms = {way: sorted(taken)[len(taken) // 2] for way, taken in times.items()}
    _add_outcomes(card, benchmark, rankings)
    return card


def _run_modes(
    benchmark: Benchmark,
    modes: Sequence[str],
    encoder: Encoder,
    report: StageProgress,
    asked: dict[str, list[Answer]],
) -> tuple[dict[str, list[list[str]]], dict[str, list[float]]]:
    """Return what every question finds, and the milliseconds that it took, by way; adds the answers to ``asked``."""
    rankings: dict[str, list[list[str]]] = {}
    times: dict[str, list[float]] = {}
    timed = any(turn.time for haystack in benchmark.haystacks for turn in haystack.turns)
    for done, haystack in enumerate(benchmark.haystacks, start=1):
        once = _OnceEncoder(encoder)
        for dated in (False, True) if timed else (False,):
            for way, rows in _recall_all(haystack, modes, once, dated, times, asked).items():
                rankings.setdefault(way, []).extend(rows)
        report("recall", done, len(benchmark.haystacks))
    return rankings, times


def _recall_all(
    haystack: Haystack,
    modes: Sequence[str],
    encoder: Encoder,
    dated: bool,
    times: dict[str, list[float]],
    asked: dict[str, list[Answer]],
) -> dict[str, list[list[str]]]:
    """Return the turns that each question of a haystack finds, by way; the store lives no longer than this."""
    session = _SESSION if any(turn.session for turn in haystack.turns) else None
    rows: dict[str, list[list[str]]] = {}
    with tempfile.TemporaryDirectory() as folder, Memory(Path(folder), encoder=encoder) as memory:
        memory.add_many([_make_item(number, haystack, session, dated) for number in range(len(haystack.turns))])
        for mode in modes:
            way = f"{mode} {DATED}" if dated else mode
            for question in haystack.questions:
                started = time.perf_counter()
                now = question.time if dated else None
                hits = memory.recall(question.text, k=_DEPTH, session=session, now=now, **split_mode(mode))
                times.setdefault(way, []).append((time.perf_counter() - started) * 1000)
                found = [haystack.turns[int(hit.entry.key)].id for hit in hits]
                rows.setdefault(way, []).append(found)
                asked.setdefault(way, []).append(_rate_answer(question, hits, found))
            for question in haystack.unanswered:
                now = question.time if dated else None
                hits = memory.recall(question.text, k=_DEPTH, session=session, now=now, **split_mode(mode))
                asked.setdefault(way, []).append(_rate_answer(question, hits, [""] * len(hits)))
    return rows


def _rate_answer(question: LabelledQuestion, hits: Hits, found: Sequence[str]) -> Answer:
    rated = [(hit.confidence or 0.0, turn in question.turns) for hit, turn in zip(hits, found, strict=True)]
    known = bool(question.turns or question.sessions)
    return Answer(answerable=known, evidence=hits.evidence, hits=rated[:_RATED] if question.turns or not known else [])


def _make_item(number: int, haystack: Haystack, session: str | None, dated: bool) -> dict[str, Any]:
    turn = haystack.turns[number]
    item: dict[str, Any] = {"key": str(number), "text": turn.text}
    if session is not None:
        item["session"] = session
    if turn.speaker is not None:
        item["speaker"] = turn.speaker
    if dated and turn.time is not None:
        item["event_time"] = turn.time
    return item


def _add_outcomes(card: Card, benchmark: Benchmark, rankings: Mapping[str, Sequence[Sequence[str]]]) -> None:
    homes = [
        (question, {turn.id: turn.session for turn in haystack.turns})
        for haystack in benchmark.haystacks
        for question in haystack.questions
    ]
    for way, rows in rankings.items():
        levels: dict[str, list[tuple[LabelledQuestion, dict[str, float]]]] = {}
        for (question, home), found in zip(homes, rows, strict=True):
            if question.turns:
                levels.setdefault("turn", []).append((question, measure_ranking(found, question.turns)))
            if question.sessions:
                sessions = list(dict.fromkeys(str(home[turn]) for turn in found))
                worth = dict.fromkeys(question.sessions, 1.0)
                levels.setdefault("session", []).append((question, measure_ranking(sessions, worth)))
        for level, measured in levels.items():
            card.outcomes.setdefault(level, {})[way] = _summarise(measured)


def _summarise(measured: Sequence[tuple[LabelledQuestion, dict[str, float]]]) -> Outcome:
    groups: dict[str, list[dict[str, float]]] = {}
    for question, figures in measured:
        groups.setdefault(question.category, []).append(figures)
    return Outcome(
        questions=len(measured),
        overall=estimate([figures for _, figures in measured]),
        categories={name: estimate(rows) for name, rows in sorted(groups.items())},
    )
