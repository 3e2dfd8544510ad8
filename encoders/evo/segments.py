"""What EvoEmbedding reads: exchanges and token ids, checked, and cut into chunks and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from agent_memory.encoders.base import TokenArray
from agent_memory.errors import InvalidInputError

CHUNK_SEGMENTS = 16
CHUNK_TOKENS = 2048
BATCH_TOKENS = 2048

Ids: TypeAlias = Sequence[int] | TokenArray
"""Token ids of one text, as a caller may pass them."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn of a user and the assistant's answer to it.

    Attributes:
        user: What the user said.
        assistant: What the assistant answered; None if there is no answer yet.

    Raises:
        InvalidInputError: A part is not a string.
    """

    user: str
    assistant: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.user, str) or not isinstance(self.assistant, (str, type(None))):
            raise InvalidInputError("user and assistant of an Exchange must be strings")

    @property
    def plain(self) -> str:
        """The text that is embedded: ``User: …`` and, on the next line, ``Assistant: …``."""
        return f"User: {self.user}" + ("" if self.assistant is None else f"\nAssistant: {self.assistant}")


Segment: TypeAlias = str | Exchange
"""A string is embedded as it is, and written to the memory as if a user had said it."""


def check_segments(name: str, segments: Sequence[Segment]) -> None:
    """Reject anything but a list of segments.

    Args:
        name: Name of the argument, for the message.
        segments: The argument.

    Raises:
        InvalidInputError: A bare string, not a sequence, or an item that is neither a string nor an exchange.
    """
    if isinstance(segments, (str, bytes)) or not isinstance(segments, Sequence):
        raise InvalidInputError(f"{name} must be a list of segments, got {type(segments).__name__}")
    for i, segment in enumerate(segments):
        if not isinstance(segment, (str, Exchange)):
            raise InvalidInputError(f"{name}[{i}] must be a string or an Exchange, got {type(segment).__name__}")


def check_ids(name: str, ids: Ids, vocabulary: int) -> TokenArray:
    """Check one row of token ids.

    Args:
        name: Name of the argument, for the message.
        ids: The argument.
        vocabulary: Number of token ids that the model knows.

    Returns:
        int64 (n,), n >= 1.

    Raises:
        InvalidInputError: It is not a row of integers, is empty, or has ids outside the vocabulary.
    """
    try:
        row = np.asarray(ids)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"{name} must be a list of token ids: {error}") from error
    if row.ndim == 1 and not row.size:
        raise InvalidInputError(f"{name} is empty")
    if row.ndim != 1 or row.dtype.kind not in "iu":
        raise InvalidInputError(f"{name} must be a list of token ids, got {type(ids).__name__}")
    if row.min() < 0 or row.max() >= vocabulary:
        raise InvalidInputError(f"{name} has token ids outside the vocabulary of {vocabulary}")
    return row.astype(np.int64)


def check_rows(name: str, rows: Sequence[Ids], vocabulary: int) -> list[TokenArray]:
    """Check a list of rows of token ids; arguments, result and errors are those of ``check_ids``, for each row."""
    if isinstance(rows, (str, bytes)) or not isinstance(rows, (Sequence, np.ndarray)):
        raise InvalidInputError(f"{name} must be a list of lists of token ids, got {type(rows).__name__}")
    if not len(rows):
        raise InvalidInputError(f"{name} is empty")
    return [check_ids(f"{name}[{i}]", row, vocabulary) for i, row in enumerate(rows)]


def plan_chunks(lengths: Sequence[int], segments: int = CHUNK_SEGMENTS, tokens: int = CHUNK_TOKENS) -> list[range]:
    """Divide segments, in order, into chunks that are written to the memory in one pass each.

    A segment of more than ``tokens`` tokens forms a chunk of its own.

    Args:
        lengths: Text tokens of each segment; latents are not counted.
        segments: Maximum number of segments in a chunk.
        tokens: Maximum number of text tokens in a chunk.

    Returns:
        Positions of the segments of each chunk.

    Raises:
        InvalidInputError: ``segments`` is not a positive integer.
    """
    if type(segments) is not int or segments < 1:
        raise InvalidInputError(f"the number of segments in a chunk must be a positive integer, got {segments!r}")
    chunks, start, total = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and (i - start == segments or total + length > tokens):
            chunks.append(range(start, i))
            start, total = i, 0
        total += length
    if lengths:
        chunks.append(range(start, len(lengths)))
    return chunks


def plan_batches(lengths: Sequence[int], tokens: int = BATCH_TOKENS) -> list[range]:
    """Divide rows, in order, into batches that are embedded together.

    Args:
        lengths: Text tokens of each row.
        tokens: Maximum number of tokens in a batch, padding included; latents are not counted. A longer row forms a
            batch of its own.

    Returns:
        Positions of the rows of each batch.
    """
    batches, start, longest = [], 0, 0
    for i, length in enumerate(lengths):
        if i > start and (i - start + 1) * max(longest, length) > tokens:
            batches.append(range(start, i))
            start, longest = i, 0
        longest = max(longest, length)
    if lengths:
        batches.append(range(start, len(lengths)))
    return batches
