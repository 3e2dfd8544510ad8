"""``EvoReranker``: scores texts for a question that is asked after a conversation, whoever has found them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from agent_memory.encoders.base import Encoder, check_texts
from agent_memory.encoders.registry import load_encoder, load_session_encoder
from agent_memory.encoders.session import LatentQueue, SessionEncoder, SessionSegment, encode_session
from agent_memory.errors import InvalidInputError
from agent_memory.files import new_lock
from agent_memory.inputs import check_optional_name, is_blank, parse_time, type_name
from agent_memory.records import Entry
from agent_memory.types import FloatArray

Said: TypeAlias = str | Entry | Mapping[str, Any]
"""A step of a conversation: its text, an entry, or a mapping with ``text``, ``speaker`` and ``event_time``."""

_FIELDS = ("text", "speaker", "event_time")


@dataclass(frozen=True, slots=True)
class _Step:
    text: str
    speaker: str | None
    time: datetime | None


@dataclass(frozen=True, slots=True)
class _Session:
    """A conversation, read to its end: the latents that each step added, and the evolved vectors by text."""

    vectors: Mapping[str, FloatArray]
    latents: Sequence[FloatArray]
    memory: LatentQueue


class EvoReranker:
    """A reranker for any retriever: question and texts are embedded with the latent memory of a conversation.

    A text that was said in the conversation is embedded with the memory before its latest occurrence, as it is in a
    store; a stretch of something said, as its whole is. Any other text is embedded with the whole memory, as in the
    paper (arXiv 2606.21649). A score is the cosine, from -1 to 1; it depends on no other text. Without a conversation
    it is that of the static vectors.

    Safe to share between threads. The conversation is read when the first texts are scored.

    Args:
        encoder: As for ``Memory``: None for the embedded one, a name or an ``Encoder``.
        session_encoder: ``"auto"`` for the embedded one, or a ``SessionEncoder`` for the encoder's vectors.
        history: The conversation, oldest first: texts, entries (``memory.entries(session="chat-7")``), or mappings with
            ``text``, ``speaker`` and ``event_time``.

    Raises:
        InvalidInputError: A step of the conversation is unusable, or nothing evolves the encoder's vectors.

    Example:
        >>> chat = memory.entries(session="gift")
        >>> hits = memory.recall("What would Ben like?", rerank=EvoReranker(history=chat))
    """

    def __init__(
        self,
        encoder: Encoder | str | Path | None = None,
        session_encoder: SessionEncoder | str = "auto",
        *,
        history: Sequence[Said] = (),
    ) -> None:
        self.encoder = load_encoder(encoder)
        session = load_session_encoder(session_encoder, self.encoder, None)
        if session is None:
            raise InvalidInputError(
                f"no session encoder was trained on the vectors of {self.encoder.spec.name!r}: pass one that was, or "
                "take the embedded encoder"
            )
        self.session_encoder = session
        self._begin(_check_history(history))

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, *, history: Sequence[Said] = (), dtype: str = "float32"
    ) -> EvoReranker:
        """Return a reranker with an EvoEmbedding checkpoint; nothing is downloaded.

        Args:
            folder: The checkpoint; see ``EvoEmbeddingModel.from_pretrained``, also for errors.
            history: The conversation, oldest first.
            dtype: ``float32`` or ``bfloat16``.
        """
        from agent_memory.encoders.evo.session import EvoEncoder, EvoSessionEncoder

        encoder = EvoEncoder(folder, dtype=dtype)
        return cls(encoder, EvoSessionEncoder(encoder), history=history)

    def after(self, history: Sequence[Said]) -> EvoReranker:
        """Return a reranker for another conversation, with the same encoders."""
        other = EvoReranker.__new__(EvoReranker)
        other.encoder, other.session_encoder = self.encoder, self.session_encoder
        other._begin(_check_history(history))
        return other

    def score(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Score how well each text answers a question asked at the end of the conversation.

        Args:
            query: The question.
            texts: What a retriever has found, in any order.

        Returns:
            Cosines, float32 (len(texts),), in the order given; higher is better. A blank text gets -1.

        Raises:
            InvalidInputError: A text is not a string, or the question is blank.
            EncoderError: A text could not be encoded.
        """
        check_texts([query])
        check_texts(texts)
        if is_blank(query):
            raise InvalidInputError("the question to rerank for is blank")
        session = self._read()
        vectors = self._embed(sorted({text for text in texts if not is_blank(text)}), session)
        static = self.encoder.encode_queries([query])[0]
        asked = self.session_encoder.embed_query(static, query, session.memory)
        return np.array([float(vectors[text] @ asked) if text in vectors else -1.0 for text in texts], np.float32)

    # --- the conversation --------------------------------------------------------------------------------

    def _begin(self, steps: Sequence[_Step]) -> None:
        self._steps = steps
        self._lock = new_lock()
        self._session: _Session | None = None

    def _read(self) -> _Session:
        """Return the conversation, read once."""
        with self._lock:
            if self._session is None:
                statics = self._encode([step.text for step in self._steps])
                segments = [
                    SessionSegment(static=static, text=step.text, speaker=step.speaker, time=step.time)
                    for step, static in zip(self._steps, statics, strict=True)
                ]
                evolved, latents, memory = encode_session(
                    self.session_encoder, segments, self.session_encoder.empty_memory()
                )
                said = [step.text for step in self._steps]
                self._session = _Session(dict(zip(said, evolved, strict=True)), latents, memory)
            return self._session

    def _embed(self, texts: Sequence[str], session: _Session) -> dict[str, FloatArray]:
        """Return the vectors of different texts."""
        known = {text: session.vectors[text] for text in texts if text in session.vectors}
        new = [text for text in texts if text not in known]
        for text, static in zip(new, self._encode(new), strict=True):
            at = self._find(text)
            step = None if at is None else self._steps[at]
            memory = session.memory if at is None else self._before(at, session)
            who, when = (None, None) if step is None else (step.speaker, step.time)
            segment = SessionSegment(static=static, text=text, speaker=who, time=when)
            known[text] = self.session_encoder.embed_segment(segment, memory)[0] if len(memory) else static
        return known

    def _find(self, text: str) -> int | None:
        """Return where a stretch of what was said was said last."""
        return next((at for at in range(len(self._steps) - 1, -1, -1) if text in self._steps[at].text), None)

    def _before(self, at: int, session: _Session) -> LatentQueue:
        empty = self.session_encoder.empty_memory()
        rows = [empty.latents, *session.latents[max(0, at - self.session_encoder.spec.segments) : at]]
        return LatentQueue(np.concatenate(rows), empty.capacity)

    def _encode(self, texts: Sequence[str]) -> FloatArray:
        """Return static vectors, float32 (len(texts), dimension), in the precision in which a store keeps them."""
        if not texts:
            return np.empty((0, self.encoder.spec.dimension), np.float32)
        vectors = self.encoder.encode_documents(texts)
        return vectors.astype(self.encoder.spec.dtype).astype(np.float32)


def _check_history(history: object) -> list[_Step]:
    if isinstance(history, (str, bytes, Mapping)) or not isinstance(history, Sequence):
        raise InvalidInputError(f"history must be a list of what was said, got {type_name(history)}")
    return [_check_step(f"history[{at}]", said) for at, said in enumerate(history)]


def _check_step(name: str, said: object) -> _Step:
    if isinstance(said, Entry):
        return _Step(said.text, said.speaker, said.event_time)
    given = {"text": said} if isinstance(said, str) else said
    if not isinstance(given, Mapping):
        raise InvalidInputError(f"{name} must be a text, an Entry or a mapping, got {type_name(said)}")
    if unknown := sorted(map(str, given.keys() - set(_FIELDS))):
        raise InvalidInputError(f"{name} has {unknown}; a step of a conversation has {list(_FIELDS)}")
    text, speaker, time = (given.get(field) for field in _FIELDS)
    if not isinstance(text, str) or is_blank(text):
        raise InvalidInputError(f"{name} must have a text that is not blank, got {text!r}")
    return _Step(text, check_optional_name(f"{name}.speaker", speaker), parse_time(f"{name}.event_time", time))
