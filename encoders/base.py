"""The contract between an encoder and the rest of the package."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, runtime_checkable

from agent_memory.encoders import forks as forks  # registers itself
from agent_memory.errors import InvalidInputError
from agent_memory.types import FloatArray, Progress

"""Called with (texts done, texts in all) while a long call is running."""

TIER_DIMENSIONS = (64, 256)
"""Coarse and main tier; the native dimension is always the last tier."""


def tiers_for(dimension: int) -> tuple[int, ...]:
    """Return the tier dimensions of a native dimension: 768 -> (64, 256, 768), 6 -> (6,)."""
    return (*(tier for tier in TIER_DIMENSIONS if tier < dimension), dimension)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """What makes two encoders the same embedding space.

    Attributes:
        name: The name shown to people, e.g. ``minilm``.
        revision: What pins the weights, e.g. a SHA-256 of them.
        dimension: Native dimension of the vectors.
        tiers: Ascending prefix dimensions that are searched one after the other; the last is ``dimension``.
        max_tokens: Tokens of one window; longer text is encoded in windows.
        pipeline: All else that changes the vectors (pooling, windows, head, quantisation), as a short string.
        dtype: How vectors are stored; half precision unless the encoder needs more.
    """

    name: str
    revision: str
    dimension: int
    tiers: tuple[int, ...]
    max_tokens: int
    pipeline: str = ""
    dtype: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        ascending = tuple(sorted(set(self.tiers))) == self.tiers
        if not self.tiers or not ascending or self.tiers[0] < 1 or self.tiers[-1] != self.dimension:
            raise InvalidInputError(
                f"tiers must ascend and end at the native dimension {self.dimension}, got {self.tiers}"
            )

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest that two encoders share only if their vectors may meet in one index."""
        facts = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(facts.encode()).hexdigest()[:32]


@runtime_checkable
class Encoder(Protocol):
    """Turns text into L2-normalised vectors whose prefixes are usable embeddings.

    Implementations load their weights on first use, never touch the network, and may be called from several
    threads.

    One that was trained on few scripts may say so in ``scripts``, by their Unicode names, e.g. ``("LATIN",)``: a hybrid
    recall then goes by words where a query is written in another.
    """

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space; cheap, does not load the weights."""
        ...

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Encode texts to be remembered.

        Args:
            texts: Non-empty strings of any length.
            progress: Called with (done, total) as batches finish.

        Returns:
            float32 of shape (len(texts), spec.dimension), rows in the order given, each of unit length.

        Raises:
            EncoderError: The weights cannot be loaded or gave unusable vectors.
        """
        ...

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode questions, with the query form of models that have one; shape as for documents."""
        ...
