"""The contract of session encoders: embeddings that depend on what was said before."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from agent_memory.encoders.evo.state import LatentQueue
from agent_memory.errors import InvalidInputError
from agent_memory.types import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEncoderSpec:
    """What makes two session encoders the same.

    Attributes:
        name: The name shown to people.
        revision: What pins the weights, e.g. a SHA-256 of them.
        static: Fingerprint of the encoder whose vectors it evolves.
        dimension: Of evolved vectors; the same as of static ones.
        latents: Latents that one segment pushes into the queue.
        width: Numbers of one latent.
        capacity: Latents that the queue holds.
        horizon: Segments before a segment that can have any influence on its latents; None for all of them.
        dtype: How latents are stored; what ``embed_segment`` returns must be exact in it.
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
            raise InvalidInputError(f"a session encoder needs positive sizes and whole segments in its queue: {self}")

    @property
    def segments(self) -> int:
        """Segments that the queue holds."""
        return self.capacity // self.latents

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest that two session encoders share only if their vectors may meet in one index."""
        facts = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionSegment:
    """A step of a session, as a session encoder sees it.

    Attributes:
        static: The static vector of the text, float32 (dimension,), of unit length.
        text: What was said.
        speaker: Who said it.
        time: When.
    """

    static: FloatArray
    text: str
    speaker: str | None = None
    time: datetime | None = None


@runtime_checkable
class SessionEncoder(Protocol):
    """Turns static vectors into vectors that depend on a session's latent memory.

    Implementations are pure functions over explicit state: the same arguments give the same bits, nothing is
    remembered between calls. They may be called from several threads.

    One that loads a model or encodes names at first use may also have ``warm(speakers, times)``, which gets that done
    for the given speakers (``str | None``) and moments (``datetime``). A store calls it before it takes the write lock
    to replay a session. It must not change any result.
    """

    @property
    def spec(self) -> SessionEncoderSpec:
        """Identity; cheap."""
        ...

    def empty_memory(self) -> LatentQueue:
        """Return the memory of a session that has not begun."""
        ...

    def embed_segment(self, segment: SessionSegment, memory: LatentQueue) -> tuple[FloatArray, FloatArray]:
        """Embed a segment with the memory before it, and compute what it adds to the memory.

        Args:
            segment: What was said.
            memory: The session's memory, unchanged by this call; continue with ``memory.append(latents)``.

        Returns:
            The evolved vector, float32 (dimension,), of unit length, and the latents, float32 (latents, width).

        Raises:
            InvalidInputError: A vector or memory of another shape.
        """
        ...

    def embed_query(self, static: FloatArray, text: str, memory: LatentQueue) -> FloatArray:
        """Embed a question asked after all that is in the memory; float32 (dimension,), of unit length.

        With an empty memory this is the static vector.
        """
        ...


def encode_session(
    encoder: SessionEncoder, segments: Sequence[SessionSegment], memory: LatentQueue
) -> tuple[FloatArray, list[FloatArray], LatentQueue]:
    """Embed segments one after the other.

    Args:
        encoder: What embeds them.
        segments: In their order.
        memory: What was before them.

    Returns:
        Evolved vectors, float32 (n, dimension); the latents of each; and the memory after the last.
    """
    evolved = np.empty((len(segments), encoder.spec.dimension), np.float32)
    latents = []
    for row, segment in enumerate(segments):
        evolved[row], new = encoder.embed_segment(segment, memory)
        latents.append(new)
        memory = memory.append(new)
    return evolved, latents, memory
