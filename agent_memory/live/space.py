"""``Space``: the encoder and session encoder of one embedding space."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory import inputs
from agent_memory.encoders.registry import NAMES
from agent_memory.errors import EncoderError, EncoderMismatchError, InvalidInputError
from agent_memory.formats.passages import Span as TextSpan
from agent_memory.formats.passages import split_passages
from agent_memory.live.gathering import Gathering
from agent_memory.live.sessions import Sessions
from agent_memory.reports import GenerationState
from agent_memory.storage.base import Transaction
from agent_memory.storage.codec import decode_vector, encode_vectors
from agent_memory.storage.records import Generation, StoredPassages, StoredVectors
from agent_memory.telemetry.stages import stage
from agent_memory.types import FloatArray, Progress

if TYPE_CHECKING:
    from datetime import datetime

    from agent_memory.encoders.base import Encoder, EncoderSpec


_TOGETHER = 512  # texts and passages that are handed to the encoder at once
_NOTHING = 1e-6


@dataclass(frozen=True)
class Space:
    """The encoders of a store's vectors. A running call keeps its space when the store moves to another.

    Attributes:
        encoder: Turns texts and queries into static vectors.
        sessions: Evolves the vectors of entries that belong to a session.
        folder: The store's folder, for messages.
        gathering: Encodes the questions of several threads together; None to encode each by itself.
    """

    encoder: Encoder
    sessions: Sessions
    folder: Path
    gathering: Gathering | None = None

    @cached_property
    def spec(self) -> EncoderSpec:
        """Facts about the encoder."""
        return self.encoder.spec

    @cached_property
    def fingerprint(self) -> str:
        """The encoder's fingerprint."""
        return self.spec.fingerprint

    def encode_documents(self, texts: list[str]) -> FloatArray:
        """Return static vectors of texts to store, float32 of shape (n, dimension), unit length."""
        return _encode(texts, self.encoder.encode_documents, self.spec)

    def encode_texts(self, texts: Sequence[str], *, progress: Progress | None = None) -> list[StoredVectors]:
        """Return what stands for each of some texts to store, in the encoder's number format.

        A long text is encoded passage by passage; the vector of the whole is the mean of theirs, weighted by length.
        So nothing is encoded twice, and texts of any length and number need little memory beside the results.

        Args:
            texts: The texts.
            progress: Called with (passages done, passages in all) after each batch.
        """
        spans = [split_passages(text) for text in texts]
        counts = [max(1, len(found)) for found in spans]
        blobs: list[bytes] = []
        pieces = _iter_pieces(texts, spans)
        while batch := list(islice(pieces, _TOGETHER)):
            blobs += [row.tobytes() for row in encode_vectors(self.encode_documents(batch), self.spec.dtype)]
            if progress is not None:
                progress(len(blobs), sum(counts))
        rest = iter(blobs)
        return [self._join(found, list(islice(rest, count))) for found, count in zip(spans, counts, strict=True)]

    def _join(self, spans: Sequence[TextSpan], blobs: list[bytes]) -> StoredVectors:
        """Return what stands for a text, given the vectors of its passages, or its own if it has no more than one."""
        if len(blobs) == 1:
            return StoredVectors(blobs[0])
        joined = b"".join(blobs)
        matrix = decode_vector(joined, self.spec.dtype).reshape(len(spans), self.spec.dimension)
        mean = np.array([stop - start for start, stop in spans], np.float32) @ matrix
        length = float(np.linalg.norm(mean))
        whole = mean / length if length > _NOTHING else matrix[0]
        return StoredVectors(encode_vectors(whole, self.spec.dtype).tobytes(), StoredPassages(tuple(spans), joined))

    def encode_queries(self, texts: list[str]) -> FloatArray:
        """Return vectors of queries, float32 of shape (n, dimension), unit length."""
        encode, gathering = self.encoder.encode_queries, self.gathering
        if gathering is None:
            return _encode(texts, encode, self.spec)
        return _encode(texts, lambda questions: gathering.encode(questions, encode), self.spec)

    def fits(self, generation: Generation) -> bool:
        """Return whether a generation's vectors were made by these encoders."""
        return self.fingerprint == generation.fingerprint and self.sessions.fits(generation)

    def accept(self, generation: Generation) -> None:
        """Raise EncoderMismatchError unless a generation's vectors were made by these encoders."""
        if self.fingerprint != generation.fingerprint:
            raise EncoderMismatchError(self._explain_mismatch(generation))
        self.sessions.accept(generation)

    def _explain_mismatch(self, generation: Generation) -> str:
        name = self.spec.name
        if generation.encoder.get("name") == name and name in NAMES:
            return (
                f"{self.folder} holds vectors of another version of encoder {name!r} (fingerprint "
                f"{generation.fingerprint}, not {self.fingerprint}). reindex(encoder={name!r}), or "
                f"agent-memory reindex --to {name}, encodes its texts again; nothing is lost."
            )
        return (
            f"{self.folder} holds vectors of encoder {generation.encoder.get('name')!r} "
            f"({generation.dimension} dimensions, fingerprint {generation.fingerprint}), not of {name!r} "
            f"({self.spec.dimension} dimensions, fingerprint {self.fingerprint}). Open it with its own "
            "encoder, and call reindex(encoder=…) to move it to another."
        )

    def find_or_begin(self, tx: Transaction, now: datetime) -> Generation:
        """Return the live generation, in a write transaction; the first write of a store creates it.

        Raises:
            EncoderMismatchError: Its vectors were made by other encoders.
        """
        generation = tx.generations.live() or tx.generations.begin(
            state=GenerationState.LIVE, session_encoder=self.sessions.facts, now=now, **self.facts
        )
        self.accept(generation)
        return generation

    @property
    def facts(self) -> dict[str, Any]:
        """What a generation records of the encoder."""
        spec = self.spec
        return {
            "fingerprint": self.fingerprint,
            "encoder": asdict(spec),
            "dimension": spec.dimension,
            "tiers": spec.tiers,
            "dtype": spec.dtype,
        }


def _iter_pieces(texts: Sequence[str], spans: Sequence[Sequence[TextSpan]]) -> Iterator[str]:
    """Yield what is encoded of each text: its passages, or the text itself if it has no more than one."""
    for text, found in zip(texts, spans, strict=True):
        if len(found) < 2:
            yield text
        else:
            yield from (text[start:stop] for start, stop in found)


def _encode(texts: list[str], encode: Callable[[list[str]], FloatArray], spec: EncoderSpec) -> FloatArray:
    """Return vectors of texts from a method of an encoder, float32 of shape (len(texts), dimension), unit length.

    Raises:
        EncoderError: The encoder failed, or returned a wrong shape or vectors that are not finite.
    """
    if not texts:
        return np.empty((0, spec.dimension), np.float32)
    try:
        with stage("encode", records=len(texts), model=spec.name, dimension=spec.dimension):
            vectors = np.asarray(encode(texts))
    except ValueError as error:  # rows of several lengths, or what the encoder itself raised
        raise EncoderError(f"encoder {spec.name} failed: {error}") from error
    if vectors.shape != (len(texts), spec.dimension):
        expected = len(texts), spec.dimension
        raise EncoderError(f"encoder {spec.name} returned shape {vectors.shape} instead of {expected}")
    try:
        return np.stack([inputs.parse_vector(one, spec.dimension) for one in vectors])
    except InvalidInputError as error:
        raise EncoderError(f"encoder {spec.name} returned an unusable vector: {error}") from error
