"""What vectors alone retrieve inside conversations: static, averaged and evolved ones, at each tier's dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.evaluation.questions import Question
from agent_memory.memory import Memory
from agent_memory.records import Entry
from agent_memory.types import FloatArray, Progress

if TYPE_CHECKING:
    from agent_memory.encoders import LatentQueue, SessionEncoder

AVERAGE = (1.0, 0.5, 0.25)
"""Weights of a segment and of the two before it in the moving average."""

_PAGE = 500


@dataclass(frozen=True, slots=True)
class _Segments:
    """The entries of one conversation, or all passages, with their vectors."""

    keys: list[str]
    positions: dict[int, int]
    static: FloatArray
    evolved: FloatArray | None
    memory_before: Callable[[int], LatentQueue] | None


def list_kinds(session_encoder: SessionEncoder | None, *, conversations: bool) -> tuple[str, ...]:
    """Return the kinds of vectors that can be compared.

    ``static`` always; inside conversations also ``average``, ``evolved``, and ``sessionless`` (evolved entries,
    static questions).
    """
    if not conversations:
        return ("static",)
    return ("static", "average") if session_encoder is None else ("static", "average", "evolved", "sessionless")


def rank_entries(
    memory: Memory,
    questions: Sequence[Question],
    *,
    session_encoder: SessionEncoder | None,
    dimensions: Sequence[int],
    limit: int,
    progress: Progress,
) -> Iterator[tuple[Question, str, int, list[str]]]:
    """Yield (question, kind of vector, dimension, keys of the nearest entries, best first) for every question.

    Each segment is evolved with the latent memory before it. A question is evolved with the memory of the whole
    conversation, or, if it is itself a turn of the conversation, with the memory before that turn.

    Args:
        memory: A store that holds the conversations or passages.
        questions: The questions to rank entries for.
        session_encoder: Evolves vectors; None to leave evolved vectors out.
        dimensions: Prefix lengths to compare vectors by.
        limit: Maximum number of keys per ranking.
        progress: Called with (questions done, questions in all).
    """
    by_session: dict[str | None, list[Question]] = {}
    for question in questions:
        by_session.setdefault(question.session, []).append(question)
    done = 0
    for session, group in by_session.items():
        yield from _rank_in_session(memory, session, group, session_encoder, dimensions, limit)
        done += len(group)
        progress(done, len(questions))


def _rank_in_session(
    memory: Memory,
    session: str | None,
    questions: Sequence[Question],
    session_encoder: SessionEncoder | None,
    dimensions: Sequence[int],
    limit: int,
) -> Iterator[tuple[Question, str, int, list[str]]]:
    segments = _read_segments(memory, session, session_encoder)
    vectors = memory.encoder.encode_queries([question.text for question in questions])
    kinds = list_kinds(session_encoder, conversations=session is not None)
    rows = {kind: _choose_rows(segments, kind) for kind in kinds}
    for question, vector in zip(questions, vectors, strict=True):
        start, end = _find_hidden(question, segments)
        for kind in kinds:
            query = vector
            if kind == "evolved" and session_encoder is not None and segments.memory_before is not None:
                query = session_encoder.embed_query(vector, question.text, segments.memory_before(start))
            for dimension in dimensions:
                scores = cut_vectors(rows[kind], dimension) @ query[:dimension]
                scores[start:end] = -np.inf
                best = np.argsort(-scores, kind="stable")[:limit]
                yield question, kind, dimension, [segments.keys[i] for i in best]


def _read_segments(memory: Memory, session: str | None, encoder: SessionEncoder | None) -> _Segments:
    entries = memory.entries(session=session)
    keys = [entry.key for entry in entries]
    static = read_vectors(memory, keys)
    positions = {entry.metadata["idx"]: i for i, entry in enumerate(entries) if "idx" in entry.metadata}
    if session is None or encoder is None:
        return _Segments(keys, positions, static, None, None)
    evolved, memory_before = evolve_session(encoder, entries, static)
    return _Segments(keys, positions, static, evolved, memory_before)


def read_vectors(memory: Memory, keys: Sequence[str]) -> FloatArray:
    """Return the static vectors of entries, float32 (len(keys), dimension)."""
    rows: dict[str, FloatArray] = {}
    for start in range(0, len(keys), _PAGE):
        rows |= memory.vectors(keys[start : start + _PAGE])
    return np.stack([rows[key] for key in keys])


def evolve_session(
    encoder: SessionEncoder, entries: Sequence[Entry], static: FloatArray
) -> tuple[FloatArray, Callable[[int], LatentQueue]]:
    """Embed a whole session.

    Args:
        encoder: The session encoder.
        entries: The session's entries, in order.
        static: Their static vectors, float32 (n, dimension).

    Returns:
        The evolved vectors, float32 (n, dimension), and a function from a position to the latent memory before it.
    """
    from agent_memory.encoders import SessionSegment, encode_session

    segments = [
        SessionSegment(static=vector, text=entry.text, speaker=entry.speaker, time=entry.event_time)
        for entry, vector in zip(entries, static, strict=True)
    ]
    evolved, latents, _ = encode_session(encoder, segments, encoder.empty_memory())

    def memory_before(position: int) -> LatentQueue:
        queue = encoder.empty_memory()
        last = latents[max(0, position - encoder.spec.segments) : position]
        return queue.append(np.concatenate(last)) if last else queue

    return evolved, memory_before


def _find_hidden(question: Question, segments: _Segments) -> tuple[int, int]:
    """Return the positions [start, end) that the question must not find."""
    if question.source is None:
        return len(segments.keys), len(segments.keys)
    start = segments.positions[question.source]
    return start, len(segments.keys) if question.hides_later else start + 1


def _choose_rows(segments: _Segments, kind: str) -> FloatArray:
    if kind in ("evolved", "sessionless") and segments.evolved is not None:
        return segments.evolved
    if kind == "static":
        return segments.static
    return average_neighbours(segments.static)


def average_neighbours(rows: FloatArray) -> FloatArray:
    """Return the moving average of vectors that follow each other, float32 (n, d), not normalised."""
    mixed = np.zeros_like(rows)
    for back, weight in enumerate(AVERAGE):
        mixed[back:] += weight * rows[: max(0, len(mixed) - back)]
    return mixed


def cut_vectors(rows: FloatArray, dimension: int) -> FloatArray:
    """Return the leading dimensions of each row, scaled to unit length."""
    prefix = rows[:, :dimension]
    unit: FloatArray = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
    return unit
