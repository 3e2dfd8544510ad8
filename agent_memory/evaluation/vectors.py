"""What vectors alone retrieve inside conversations: static, averaged and evolved ones, at each tier's dimension."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.memory import Memory
from agent_memory.records import Entry
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from agent_memory.encoders import LatentQueue, SessionEncoder
    from agent_memory.evaluation.datasets import Question

AVERAGE = (1.0, 0.5, 0.25)
"""Weights of a segment and of those before it in the moving average."""

_PAGE = 500


@dataclass(frozen=True, slots=True)
class _Session:
    keys: list[str]
    places: dict[int, int]
    static: FloatArray
    evolved: FloatArray | None
    memories: Callable[[int], LatentQueue] | None


def ways(session_encoder: SessionEncoder | None, *, conversations: bool) -> tuple[str, ...]:
    """Return what can be compared.

    ``static``; inside conversations ``average``, ``evolved``, and ``sessionless``: evolved entries, static questions.
    """
    if not conversations:
        return ("static",)
    return ("static", "average") if session_encoder is None else ("static", "average", "evolved", "sessionless")


def rankings(
    memory: Memory,
    questions: Sequence[Question],
    *,
    session_encoder: SessionEncoder | None,
    dimensions: Sequence[int],
    most: int,
    progress: Callable[[int, int], None],
) -> Iterable[tuple[Question, str, int, list[str]]]:
    """Yield (question, way, dimension, keys found, best first) of every question.

    A segment is evolved with the memory before it; a question with all of the conversation, or where it is a turn
    of the conversation, with what comes before that turn.

    Args:
        memory: A store that holds the conversations or passages.
        questions: What is asked.
        session_encoder: Evolves vectors; None to leave that out.
        dimensions: Prefixes to compare by.
        most: Keys to return of each.
        progress: Called with (questions done, questions in all).
    """
    by_session: dict[str | None, list[Question]] = {}
    for question in questions:
        by_session.setdefault(question.session, []).append(question)
    done = 0
    for session, asked in by_session.items():
        found = _read(memory, session, session_encoder)
        vectors = memory.encoder.encode_queries([question.text for question in asked])
        compared = ways(session_encoder, conversations=session is not None)
        turns = {way: _turns(found, way) for way in compared}
        for question, vector in zip(asked, vectors, strict=True):
            start, end = _hidden(question, found)
            for way in compared:
                query = _query(found, way, vector, question, session_encoder, start)
                for dimension in dimensions:
                    scores = _cut(turns[way], dimension) @ query[:dimension]
                    scores[start:end] = -np.inf
                    best = np.argsort(-scores, kind="stable")[:most]
                    yield question, way, dimension, [found.keys[i] for i in best]
        done += len(asked)
        progress(done, len(questions))


def _read(memory: Memory, session: str | None, encoder: SessionEncoder | None) -> _Session:
    entries = memory.entries(session=session)
    keys = [entry.key for entry in entries]
    static = read_vectors(memory, keys)
    places = {entry.metadata["idx"]: i for i, entry in enumerate(entries) if "idx" in entry.metadata}
    if session is None or encoder is None:
        return _Session(keys, places, static, None, None)
    evolved, memories = evolved_session(encoder, entries, static)
    return _Session(keys, places, static, evolved, memories)


def read_vectors(memory: Memory, keys: Sequence[str]) -> FloatArray:
    """Return the static vectors of entries, float32 (len(keys), dimension)."""
    rows: dict[str, FloatArray] = {}
    for start in range(0, len(keys), _PAGE):
        rows |= memory.vectors(keys[start : start + _PAGE])
    return np.stack([rows[key] for key in keys])


def evolved_session(
    encoder: SessionEncoder, entries: Sequence[Entry], static: FloatArray
) -> tuple[FloatArray, Callable[[int], LatentQueue]]:
    """Embed a whole session.

    Args:
        encoder: The session encoder.
        entries: The session's entries, in their order.
        static: Their static vectors, float32 (n, dimension).

    Returns:
        Evolved vectors, float32 (n, dimension), and what returns the latent memory before a position.
    """
    from agent_memory.encoders import SessionSegment, encode_session

    segments = [
        SessionSegment(static=vector, text=entry.text, speaker=entry.speaker, time=entry.event_time)
        for entry, vector in zip(entries, static, strict=True)
    ]
    evolved, latents, _ = encode_session(encoder, segments, encoder.empty_memory())

    def memory_before(place: int) -> LatentQueue:
        queue = encoder.empty_memory()
        last = latents[max(0, place - encoder.spec.segments) : place]
        return queue.append(np.concatenate(last)) if last else queue

    return evolved, memory_before


def _hidden(question: Question, found: _Session) -> tuple[int, int]:
    if question.source is None:
        return len(found.keys), len(found.keys)
    start = found.places[question.source]
    return start, len(found.keys) if question.hides_later else start + 1


def _turns(found: _Session, way: str) -> FloatArray:
    if way in ("evolved", "sessionless") and found.evolved is not None:
        return found.evolved
    if way == "static":
        return found.static
    mixed = np.zeros_like(found.static)
    for back, weight in enumerate(AVERAGE):
        mixed[back:] += weight * found.static[: len(mixed) - back]
    return mixed


def _query(
    found: _Session, way: str, vector: FloatArray, question: Question, encoder: SessionEncoder | None, before: int
) -> FloatArray:
    if way != "evolved" or encoder is None or found.memories is None:
        return vector
    return encoder.embed_query(vector, question.text, found.memories(before))


def _cut(rows: FloatArray, dimension: int) -> FloatArray:
    prefix = rows[:, :dimension]
    result: FloatArray = prefix / np.linalg.norm(prefix, axis=1, keepdims=True)
    return result
