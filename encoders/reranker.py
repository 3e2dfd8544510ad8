"""Cross-encoders: a model reads query and text together and says how well they fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from agent_memory.errors import EncoderError, ModelNotFoundError
from agent_memory.files import new_lock
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


@runtime_checkable
class Reranker(Protocol):
    """Scores texts against a query, one by one; the order of the texts must not matter."""

    def score(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Return how well each text answers the query, shape (len(texts),), higher is better."""
        ...


class CrossEncoderReranker:
    """A sentence-transformers cross-encoder from a local folder; loaded at the first query, never downloaded.

    Args:
        folder: The model's folder.
        batch_size: Pairs that the model reads together.

    Raises:
        ModelNotFoundError: There is no such folder.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 32) -> None:
        self._folder = Path(folder).expanduser()
        if not self._folder.is_dir():
            raise ModelNotFoundError(f"{self._folder} is not the folder of a cross-encoder")
        self._batch_size = batch_size
        self._lock = new_lock()
        self._model: CrossEncoder | None = None

    def _loaded(self) -> CrossEncoder:
        with self._lock:
            if self._model is None:
                from sentence_transformers import CrossEncoder

                try:
                    self._model = CrossEncoder(str(self._folder), local_files_only=True, device="cpu")
                except Exception as error:
                    raise EncoderError(f"{self._folder} cannot be loaded as a cross-encoder: {error}") from error
            return self._model

    def score(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Return the model's score of each text, shape (len(texts),), float32.

        Raises:
            EncoderError: The model cannot be loaded or gave scores that are not finite.
        """
        if not texts:
            return np.empty(0, np.float32)
        pairs = [(query, text) for text in texts]
        raw = self._loaded().predict(pairs, batch_size=self._batch_size, show_progress_bar=False)
        scores = np.asarray(raw, np.float32).reshape(len(texts), -1)[:, -1]
        if not np.isfinite(scores).all():
            raise EncoderError(f"the cross-encoder in {self._folder} gave scores that are not finite")
        return scores
