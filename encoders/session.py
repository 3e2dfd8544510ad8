"""The contract that every session encoder fulfils: embeddings that depend on what was said before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from agent_memory.encoders.base import hash_fields
from agent_memory.errors import InvalidInputError
from agent_memory.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEncoderSpec:
    """Identity of the evolved embedding space of a session encoder.

    Attributes:
        name: Name shown to people.
        revision: Identifies the weights, e.g. by their SHA-256.
        static: Fingerprint of the encoder whose vectors it evolves.
        dimension: Dimension of the evolved vectors; the same as that of the static ones.
        latents: Number of latents that one segment pushes into the queue.
        width: Dimension of one latent.
        capacity: Maximum number of latents in the queue.
        horizon: Number of preceding segments that can influence a segment's latents; None if all of them can.
        dtype: How latents are stored; the latents from ``embed_segment`` must be exact in it.

    Raises:
        InvalidInputError: A size is not positive, or the capacity is not a multiple of ``latents``.
    """

    name: str
    revision: str
    static: str
    dimension: int
    latents: int
    width: int
    capacity: int
    horizon: int | None = None
    dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        if min(self.dimension, self.latents, self.width) < 1 or self.capacity % self.latents or self.capacity < 1:
            raise InvalidInputError(
                f"a session encoder needs positive sizes and a queue that holds whole segments, got {self}"
            )

    @property
    def segments(self) -> int:
        """Number of segments that the queue holds."""
        return self.capacity // self.latents

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest, equal for two session encoders only if their vectors may share an index."""
        return hash_fields(self)


@dataclass(frozen=True, slots=True, eq=False)
class LatentQueue:
    """The latent memory of a session: the most recent latents, oldest first. Immutable.

    Attributes:
        latents: float32 (n, width), n <= capacity, read-only.
        capacity: Maximum number of latents.

    Raises:
        InvalidInputError: The latents have another shape or dtype, are not finite, or exceed the capacity.
    """

    latents: FloatArray
    capacity: int = 512

    def __post_init__(self) -> None:
        if isinstance(self.capacity, bool) or not isinstance(self.capacity, int) or self.capacity < 1:
            raise InvalidInputError(f"capacity must be a positive integer, got {self.capacity!r}")
        own = _check_latents(self.latents).copy()
        if len(own) > self.capacity:
            raise InvalidInputError(f"{len(own)} latents do not fit into a queue of {self.capacity}")
        own.setflags(write=False)
        object.__setattr__(self, "latents", own)

    def __len__(self) -> int:
        return len(self.latents)

    def append(self, latents: FloatArray) -> LatentQueue:
        """Return the queue after a segment; a full queue drops its oldest latents.

        Args:
            latents: float32 (m, width).

        Raises:
            InvalidInputError: Shape or dtype differ from the queue's.
        """
        new = _check_latents(latents)
        if new.shape[1] != self.latents.shape[1]:
            raise InvalidInputError(
                f"latents of width {new.shape[1]} do not fit a queue of width {self.latents.shape[1]}"
            )
        return LatentQueue(np.concatenate((self.latents, new))[-self.capacity :], self.capacity)


def check_memory(memory: LatentQueue, *, capacity: int, width: int) -> None:
    """Reject the memory of another session encoder.

    Raises:
        InvalidInputError: It is not a ``LatentQueue``, or its capacity or width differ.
    """
    if not isinstance(memory, LatentQueue):
        raise InvalidInputError(f"memory must be a LatentQueue, got {type(memory).__name__}")
    given = (memory.capacity, memory.latents.shape[1])
    if given != (capacity, width):
        raise InvalidInputError(f"memory has (capacity, width) {given}, this session encoder needs {(capacity, width)}")


def _check_latents(latents: FloatArray) -> FloatArray:
    if not isinstance(latents, np.ndarray) or latents.ndim != 2 or latents.dtype != np.float32:
        raise InvalidInputError("latents must be a float32 array of shape (n, width)")
    if not np.isfinite(latents).all():
        raise InvalidInputError("latents must be finite")
    return latents


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSegment:
    """One step of a session, as a session encoder sees it.

    Attributes:
        static: The static vector of the text, float32 (dimension,), of unit length.
        text: What was said.
        speaker: Who said it; None if unknown.
        time: When it was said; None if unknown.
    """

    static: FloatArray
    text: str
    speaker: str | None = None
    time: datetime | None = None


@runtime_checkable
class SessionEncoder(Protocol):
    """Turns static vectors into vectors that depend on a session's latent memory.

    Implementations are pure functions over explicit state: the same arguments give the same bits, and nothing is
    remembered between calls. They may be called from several threads.

    An implementation that loads a model or encodes names on first use may also offer ``warm(speakers, times)``, which
    does so in advance for the given speakers (``str | None``) and moments (``datetime``). A store calls it before it
    takes the write lock to replay a session. It must not change any result.
    """

    @property
    def spec(self) -> SessionEncoderSpec:
        """Identity of the evolved space; cheap."""
        ...

    def empty_memory(self) -> LatentQueue:
        """Return the memory of a session that has not begun."""
        ...

    def embed_segment(self, segment: SessionSegment, memory: LatentQueue) -> tuple[FloatArray, FloatArray]:
        """Embed a segment with the memory before it, and compute the latents it adds to the memory.

        Args:
            segment: The segment.
            memory: The session's memory, unchanged by this call; continue with ``memory.append(latents)``.

        Returns:
            The evolved vector, float32 (dimension,), of unit length, and the latents, float32 (latents, width).

        Raises:
            InvalidInputError: The vector or the memory has the wrong shape.
        """
        ...

    def embed_query(self, static: FloatArray, text: str, memory: LatentQueue) -> FloatArray:
        """Embed a question that is asked after everything in the memory.

        Args:
            static: The static vector of the question, float32 (dimension,), of unit length.
            text: The question.
            memory: The session's memory.

        Returns:
            float32 (dimension,), of unit length; the static vector if the memory is empty.

        Raises:
            InvalidInputError: The vector or the memory has the wrong shape.
        """
        ...


def encode_session(
    encoder: SessionEncoder, segments: Sequence[SessionSegment], memory: LatentQueue
) -> tuple[FloatArray, list[FloatArray], LatentQueue]:
    """Embed segments one after the other.

    Args:
        encoder: The session encoder.
        segments: Segments, oldest first.
        memory: The memory before the first of them.

    Returns:
        Evolved vectors, float32 (n, dimension); the latents of each segment; and the memory after the last one.
    """
    evolved = np.empty((len(segments), encoder.spec.dimension), np.float32)
    latents = []
    for row, segment in enumerate(segments):
        evolved[row], new = encoder.embed_segment(segment, memory)
        latents.append(new)
        memory = memory.append(new)
    return evolved, latents, memory
