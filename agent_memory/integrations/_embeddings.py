"""Between LangChain's ``Embeddings`` and this package's ``Encoder``, in both directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent_memory.encoders.base import Encoder, EncoderSpec, tiers_for
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.types import FloatArray, Progress

try:
    from langchain_core.embeddings import Embeddings
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error

_NAMES = ("model", "model_name", "model_id", "deployment", "repo_id")


class EmbeddingsEncoder:
    """An ``Embeddings`` object as the encoder of a store.

    The embedding space is told apart by the class of the object, the name of its model and the dimension, so
    that a store is never searched with vectors of another model.

    Args:
        embeddings: What embeds.
        dimension: Size of its vectors; measured with one query if left out.
    """

    def __init__(self, embeddings: Embeddings, *, dimension: int | None = None) -> None:
        self.embeddings = embeddings
        size = _measure(embeddings) if dimension is None else dimension
        models = (getattr(embeddings, name, None) for name in _NAMES)
        self._spec = EncoderSpec(
            name=f"langchain:{type(embeddings).__qualname__}",
            revision=next((model for model in models if isinstance(model, str)), ""),
            dimension=size,
            tiers=tiers_for(size),
            max_tokens=1_000_000,
            dtype="float32",
        )

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space."""
        return self._spec

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Return the vectors of texts, shape (n, dimension)."""
        vectors = np.asarray(self.embeddings.embed_documents(list(texts)), dtype=np.float32)
        if progress is not None:
            progress(len(texts), len(texts))
        return vectors

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of questions, shape (n, dimension)."""
        return np.asarray([self.embeddings.embed_query(text) for text in texts], dtype=np.float32)


def _measure(embeddings: Embeddings) -> int:
    try:
        return len(embeddings.embed_query("dimension"))
    except (NotImplementedError, ValueError) as error:
        raise InvalidInputError(
            f"give the size of the vectors of {type(embeddings).__name__}, for LangGraph as index={{'dims': ...}}: it "
            f"could not be measured: {error}"
        ) from error


class EncoderEmbeddings(Embeddings):
    """An encoder of this package as LangChain ``Embeddings``.

    Args:
        encoder: What encodes, e.g. ``Memory.encoder``.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return the vectors of texts."""
        vectors: list[list[float]] = self.encoder.encode_documents(texts).tolist() if texts else []
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of a question."""
        vector: list[float] = self.encoder.encode_queries([text])[0].tolist()
        return vector
