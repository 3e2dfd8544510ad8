"""Adapts EvoEmbedding to the contracts of encoders and session encoders, for ``Memory``."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent_memory.encoders.base import EncoderSpec, tiers_for
from agent_memory.encoders.evo.model import EvoEmbeddingModel
from agent_memory.encoders.files import hash_file
from agent_memory.encoders.session import LatentQueue, SessionEncoderSpec, SessionSegment
from agent_memory.types import FloatArray, Progress

_STEP = 32
_MAX_TOKENS = 2048


class EvoEncoder:
    """The static vectors of an EvoEmbedding checkpoint: texts embedded without a memory.

    Args:
        folder: A checkpoint in the published layout with its tokenizer; see ``EvoEmbeddingModel.from_pretrained``.
        dtype: ``float32`` or ``bfloat16``.

    Raises:
        InvalidInputError: The dtype is neither of these.
        CheckpointError: The checkpoint cannot be used.
        ModelNotFoundError: The folder does not exist.
    """

    def __init__(self, folder: str | Path, *, dtype: str = "float32") -> None:
        self.model = EvoEmbeddingModel.from_pretrained(folder, dtype=dtype)
        files = sorted(Path(folder).expanduser().glob("*.safetensors"))
        digest = hashlib.sha256("".join(hash_file(file) for file in files).encode()).hexdigest()
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
        """Embed texts without a memory or prefix; see ``Encoder``."""
        return self._embed(texts, progress, query=False)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Embed questions without a memory, with the query prefix; see ``Encoder``."""
        return self._embed(texts, None, query=True)

    def _embed(self, texts: Sequence[str], progress: Progress | None, *, query: bool) -> FloatArray:
        vectors = np.empty((len(texts), self.spec.dimension), np.float32)
        for start in range(0, len(texts), _STEP):
            chunk = texts[start : start + _STEP]
            vectors[start : start + len(chunk)] = self.model.embed(chunk, query=query)
            if progress is not None:
                progress(start + len(chunk), len(texts))
        return vectors


class EvoSessionEncoder:
    """The published session encoder: 16 latents per segment, a queue of 512.

    Evolved vectors are computed from the text, not from the static vector. Every segment is written to the memory as
    if a user had said it, whoever the speaker is.

    Args:
        encoder: The static encoder of the same checkpoint.
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
        """Embed a question with the whole memory; see ``SessionEncoder``. Without text, return the static vector."""
        return self._model.embed_query(text, memory) if text else static
