"""How a question's hits and the latent memory change while a session grows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent_memory import inputs
from agent_memory.errors import InvalidInputError, NotFoundError
from agent_memory.evaluation.vectors import evolve_session, read_vectors
from agent_memory.memory import Memory
from agent_memory.records import Entry
from agent_memory.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionView:
    """One question, recalled at several moments of a session.

    Attributes:
        session: Name of the session.
        query: The question.
        texts: All segments, in order.
        after: Number of segments that the session had at each step.
        top: Positions of the nearest segments at each step, best first, by meaning alone.
        scores: Their cosines.
        question: Cosine between the question's vectors at every two steps, float32 (steps, steps).
        latents: Cosine between the mean latents of the memory at every two steps, float32 (steps, steps).
    """

    session: str
    query: str
    texts: list[str]
    after: list[int]
    top: list[list[int]]
    scores: list[list[float]]
    question: FloatArray
    latents: FloatArray


def view_session(memory: Memory, session: str, query: str | None = None, *, steps: int = 12, k: int = 3) -> SessionView:
    """Recall one question at several moments of a session.

    Args:
        memory: The store.
        session: Name of the session.
        query: The question; the first text of the session if None.
        steps: Number of moments, evenly spread; the last one is the present.
        k: Hits to keep at each moment.

    Raises:
        NotFoundError: There is no such session.
        InvalidInputError: The store has no session encoder.
    """
    entries = memory.entries(session=session)
    if not entries:
        raise NotFoundError(f"no session {session!r}")
    encoder = memory.session_encoder
    if encoder is None:
        raise InvalidInputError("this store has no session encoder: its vectors do not evolve")
    query = query or entries[0].text
    static = read_vectors(memory, [entry.key for entry in entries])
    evolved, memory_before = evolve_session(encoder, entries, static)
    plain = memory.encoder.encode_queries([query])[0]
    after = sorted({int(point) for point in np.linspace(1, len(entries), max(1, min(steps, len(entries))))})
    questions, means, top, scores = [], [], [], []
    for count in after:
        queue = memory_before(count)
        vector = encoder.embed_query(plain, query, queue)
        cosines = evolved[:count] @ vector
        best = np.argsort(-cosines, kind="stable")[:k]
        top.append(best.tolist())
        scores.append(cosines[best].tolist())
        questions.append(vector)
        means.append(queue.latents.mean(0))
    return SessionView(
        session=session,
        query=query,
        texts=[entry.text for entry in entries],
        after=after,
        top=top,
        scores=scores,
        question=_compare(np.stack(questions)),
        latents=_compare(np.stack(means)),
    )


def _compare(rows: FloatArray) -> FloatArray:
    """Return the cosine between every two rows."""
    unit = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    cosines: FloatArray = unit @ unit.T
    return cosines


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """How alike a question and each turn of a session are, as the session goes on.

    Attributes:
        session: Name of the session.
        query: The question.
        turns: The session's entries, in order.
        after: Number of turns that the session had at each step.
        static: Cosine of each turn to the question, by their texts alone.
        evolved: At each step, the cosine of each turn that had been said; None for later ones. Empty if the store has
            no session encoder.
    """

    session: str
    query: str
    turns: list[Entry]
    after: list[int]
    static: list[float]
    evolved: list[list[float | None]]


def measure_likeness(memory: Memory, session: str, query: str, *, steps: int = 16) -> Likeness:
    """Compare a question with each turn of a session at several moments of it.

    Args:
        memory: The store; of the session only what lies in exactly its namespace.
        session: Name of the session.
        query: The question.
        steps: Number of moments, evenly spread; the last one is the present.

    Raises:
        NotFoundError: There is no such session.
        InvalidInputError: The question is unusable.
    """
    query = inputs.check_query(query, memory.config)
    entries = [entry for entry in memory.entries(session=session) if entry.namespace == memory.namespace]
    if not entries:
        raise NotFoundError(f"no session {session!r}")
    static = read_vectors(memory, [entry.key for entry in entries])
    plain = memory.encoder.encode_queries([query])[0]
    after = sorted({int(point) for point in np.linspace(1, len(entries), max(1, min(steps, len(entries))))})
    evolved: list[list[float | None]] = []
    if memory.session_encoder is not None:
        rows, memory_before = evolve_session(memory.session_encoder, entries, static)
        for count in after:
            vector = memory.session_encoder.embed_query(plain, query, memory_before(count))
            cosines: list[float | None] = (rows[:count] @ vector).tolist()
            evolved.append(cosines + [None] * (len(entries) - count))
    return Likeness(
        session=session,
        query=query,
        turns=entries,
        after=after,
        static=(static @ plain).tolist(),
        evolved=evolved,
    )
