"""The contract that every encoder fulfils, and what encoders of all kinds share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from agent_memory.errors import InvalidInputError
from agent_memory.types import FloatArray, Progress

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

TokenArray: TypeAlias = npt.NDArray[np.int64]
"""Token ids, or a mask over them: int64, of shape (n,) or (batch, width)."""

TIER_DIMENSIONS = (64, 256)
"""Coarse and main tier; the native dimension is always the last tier."""


def tiers_for(dimension: int) -> tuple[int, ...]:
    """Return the tier dimensions of a native dimension: 768 -> (64, 256, 768), 6 -> (6,)."""
    return (*(tier for tier in TIER_DIMENSIONS if tier < dimension), dimension)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """Identity of an embedding space: two encoders with equal specs produce vectors that may be compared.

    Attributes:
        name: Name shown to people, e.g. ``minilm``.
        revision: Identifies the weights, e.g. by their SHA-256.
        dimension: Native dimension of the vectors.
        tiers: Ascending prefix dimensions, searched one after the other; the last one is ``dimension``.
        max_tokens: Tokens of one window; longer text is encoded in several windows.
        pipeline: Everything else that changes the vectors (pooling, windows, head, quantisation), as a short string.
        dtype: How vectors are stored; half precision unless the encoder needs more.

    Raises:
        InvalidInputError: The tiers do not ascend, or do not end at ``dimension``.
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
        """Hexadecimal digest, equal for two encoders only if their vectors may share an index."""
        return hash_fields(self)


@runtime_checkable
class Encoder(Protocol):
    """Turns text into L2-normalised vectors whose prefixes are usable embeddings.

    Implementations load their weights on first use, never access the network, and may be called from several
    threads.

    An encoder trained on only a few scripts may list their Unicode names in an attribute ``scripts``, e.g.
    ``("LATIN",)``. For queries in other scripts, hybrid recall then relies on full-text search.
    """

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space; cheap, does not load the weights."""
        ...

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Encode texts to be remembered.

        Args:
            texts: Strings of any length.
            progress: Called with (done, total) after each batch.

        Returns:
            float32 of shape (len(texts), spec.dimension), rows in the order given, each of unit length.

        Raises:
            EncoderError: The weights cannot be loaded, or they produced unusable vectors.
        """
        ...

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode questions, using the model's query form if it has one; shape as for documents."""
        ...


def check_texts(texts: Sequence[str]) -> None:
    """Reject anything but a sequence of strings.

    Raises:
        InvalidInputError: A bare string, something without an order or a length, or an item that is not a string of
            valid Unicode.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidInputError(f"texts must be a list of strings, got one {type(texts).__name__}")
    if isinstance(texts, Mapping) or not (hasattr(texts, "__len__") and hasattr(texts, "__getitem__")):
        raise InvalidInputError(f"texts must be a list of strings, got {type(texts).__name__}")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInputError(f"texts[{position}] must be a string, got {type(text).__name__}")
        if not text.isascii():
            _check_unicode(position, text)


def _check_unicode(position: int, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"texts[{position}] is not valid Unicode (lone surrogate)") from error


def hash_fields(record: DataclassInstance) -> str:
    """Return the first 32 hexadecimal digits of the SHA-256 of a record's fields, written as sorted JSON."""
    fields = json.dumps(asdict(record), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(fields.encode()).hexdigest()[:32]
