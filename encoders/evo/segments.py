"""What EvoEmbedding reads: exchanges and token ids, checked, and cut into chunks and batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from agent_memory.encoders.static.runtime import IntArray
from agent_memory.errors import InvalidInputError

CHUNK_SEGMENTS = 16
CHUNK_TOKENS = 2048
BATCH_TOKENS = 2048


Ids: TypeAlias = Sequence[int] | IntArray


@dataclass(frozen=True, slots=True)
class Exchange:
    """One turn of a user and the answer to it.

    Attributes:
        user: What the user said.
        assistant: What the assistant answered; None when there is no answer yet.
    """

    user: str
    assistant: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.user, str) or not isinstance(self.assistant, (str, type(None))):
            raise InvalidInputError("an exchange consists of strings")

    @property
    def plain(self) -> str:
        """The form that is embedded: ``User: …`` and, on the next line, ``Assistant: …``."""
        return f"User: {self.user}" + ("" if self.assistant is None else f"\nAssistant: {self.assistant}")


Segment: TypeAlias = str | Exchange
"""A string is embedded as it is, and written to the memory as the words of a user."""


def check_segments(name: str, segments: Sequence[Segment]) -> None:
    """Refuse what is not a list of segments.

    Raises:
        InvalidInputError: A bare string, no sequence, or an item that is neither a string nor an exchange.
    """
    if isinstance(segments, (str, bytes)) or not isinstance(segments, Sequence):
        raise InvalidInputError(f"{name} must be a list of segments, got {type(segments).__name__}")
    for i, segment in enumerate(segments):
        if not isinstance(segment, (str, Exchange)):
            raise InvalidInputError(f"{name}[{i}] must be a string or an Exchange, got {type(segment).__name__}")


def check_ids(name: str, ids: Ids, vocabulary: int) -> IntArray:
    """Check one row of token ids and return it as int64.

    Raises:
        InvalidInputError: No row of integers, empty, or out of the vocabulary.
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
        raise InvalidInputError(f"{name} has token ids out of the vocabulary of {vocabulary}")
    return row.astype(np.int64)


def check_rows(name: str, rows: Sequence[Ids], vocabulary: int) -> list[IntArray]:
    """Check a list of rows of token ids; see ``check_ids``."""
    if isinstance(rows, (str, bytes)) or not isinstance(rows, (Sequence, np.ndarray)):
        raise InvalidInputError(f"{name} must be a list of lists of token ids, got {type(rows).__name__}")
    if not len(rows):
        raise InvalidInputError(f"{name} is empty")
    return [check_ids(f"{name}[{i}]", row, vocabulary) for i, row in enumerate(rows)]


def plan_chunks(lengths: Sequence[int], segments: int = CHUNK_SEGMENTS, tokens: int = CHUNK_TOKENS) -> list[range]:
    """Cut segments into chunks that are written in one pass: greedy, in order, at least one segment each.

    A segment of more than ``tokens`` tokens is a chunk of its own.

    Args:
        lengths: Text tokens of each segment; latents are not counted.
        segments: Segments of a chunk at most.
        tokens: Text tokens of a chunk at most.

    Raises:
        InvalidInputError: ``segments`` is no positive integer.
    """
    if type(segments) is not int or segments < 1:
        raise InvalidInputError(f"segments of a chunk must be a positive integer, got {segments!r}")
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
    """Cut rows into batches that are embedded together: greedy while (n + 1) * longest <= ``tokens``.

    Args:
        lengths: Text tokens of each row.
        tokens: Tokens of a batch, padding included; latents are not counted.
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
