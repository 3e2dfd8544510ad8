"""EvoEmbedding behind the contracts of encoders and session encoders, for ``Memory``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent_memory.encoders.base import EncoderSpec, tiers_for
from agent_memory.encoders.evo.model import EvoEmbeddingModel
from agent_memory.encoders.files import sha256_of
from agent_memory.encoders.session import LatentQueue, SessionEncoderSpec, SessionSegment
from agent_memory.types import FloatArray, Progress

_STEP = 32
_MAX_TOKENS = 2048


class EvoEncoder:
    """Static vectors of an EvoEmbedding checkpoint: texts read without any memory.

    Args:
        folder: A checkpoint of the published layout with its tokenizer; see ``EvoEmbeddingModel.from_pretrained``.
        dtype: ``float32`` or ``bfloat16``.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ModelNotFoundError: The folder is not there.
    """

    def __init__(self, folder: str | Path, *, dtype: str = "float32") -> None:
        self.model = EvoEmbeddingModel.from_pretrained(folder, dtype=dtype)
        files = sorted(Path(folder).expanduser().glob("*.safetensors"))
        digest = hashlib.sha256("".join(sha256_of(file) for file in files).encode()).hexdigest()
        self.spec = EncoderSpec(
            name="evoembedding",
            revision=digest,
            dimension=self.model.dimension,
            tiers=tiers_for(self.model.dimension),
            max_tokens=_MAX_TOKENS,
            pipeline=dtype,
            dtype="float32",
        )

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Embed texts without memory or prefix; see ``Encoder``."""
        return self._embedded(texts, progress, query=False)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Embed questions without memory, with the query prefix; see ``Encoder``."""
        return self._embedded(texts, None, query=True)

    def _embedded(self, texts: Sequence[str], progress: Progress | None, *, query: bool) -> FloatArray:
        vectors = np.empty((len(texts), self.spec.dimension), np.float32)
        for start in range(0, len(texts), _STEP):
            chunk = texts[start : start + _STEP]
            vectors[start : start + len(chunk)] = self.model.embed(chunk, query=query)
            if progress is not None:
                progress(start + len(chunk), len(texts))
        return vectors


class EvoSessionEncoder:
    """The published session encoder: 16 latents a segment, a queue of 512.

    Evolved vectors are read from the text, not from the static vector. A segment is written to the memory as the
    words of a user, whoever the speaker.

    Args:
        encoder: The same checkpoint as the static encoder.
    """

    def __init__(self, encoder: EvoEncoder) -> None:
        self._model = encoder.model
        self.spec = SessionEncoderSpec(
            name="evoembedding",
            revision=encoder.spec.revision,
            static=encoder.spec.fingerprint,
            dimension=encoder.spec.dimension,
            latents=self._model.num_latents,
            width=self._model.empty_memory().latents.shape[1],
            capacity=self._model.empty_memory().capacity,
            dtype="float32",
        )

    def empty_memory(self) -> LatentQueue:
        """Return the memory of a session that has not begun."""
        return self._model.empty_memory()

    def embed_segment(self, segment: SessionSegment, memory: LatentQueue) -> tuple[FloatArray, FloatArray]:
        """Embed a segment with the memory before it; see ``SessionEncoder``."""
        return self._model.embed_segment(segment.text, memory)

    def embed_query(self, static: FloatArray, text: str, memory: LatentQueue) -> FloatArray:
        """Embed a question with all of the memory; see ``SessionEncoder``. Without its text the vector stays."""
        return self._model.embed_query(text, memory) if text else static
