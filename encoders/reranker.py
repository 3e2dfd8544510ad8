"""Cross-encoders: models that read a query and a text together and score how well the text answers it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from agent_memory.encoders.files import stamp_files
from agent_memory.encoders.resources import require_sentence_transformers, share
from agent_memory.errors import EncoderError, ModelNotFoundError
from agent_memory.files import import_whole, new_lock
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder


@runtime_checkable
class Reranker(Protocol):
    """Scores texts against a query; the score of a text must not depend on the other texts or their order."""

    def score(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Score how well each text answers the query; float32 (len(texts),), higher is better."""
        ...


@runtime_checkable
class AddingReranker(Reranker, Protocol):
    """A reranker whose scores are added to those of the recall, where others take their place.

    Texts are given to it as ``speaker: text`` where a speaker is known.

    Attributes:
        depth: Number of candidates that it is asked about; those behind stay behind.
    """

    depth: int

    @property
    def blend(self) -> float:
        """What one of its scores, 0 or more, counts for beside those of the recall."""
        ...


def describe_text(speaker: str | None, text: str) -> str:
    """Return a text as an ``AddingReranker`` reads it: with who said it before it."""
    return f"{speaker}: {text}" if speaker else text


def check_scores(scores: object, count: int) -> FloatArray:
    """Return what a reranker gave for so many texts, as float32 (count,).

    Raises:
        EncoderError: It gave something else, or numbers that are not finite.
    """
    try:
        array = np.asarray(scores, np.float32)
    except (TypeError, ValueError) as error:
        raise EncoderError(f"the reranker must give numbers, got {type(scores).__name__}: {error}") from error
    if array.shape != (count,) or not np.isfinite(array).all():
        what = "numbers that are not finite" if array.shape == (count,) else f"scores of shape {array.shape}"
        raise EncoderError(f"the reranker gave {what} for {count} texts")
    return array


class CrossEncoderReranker:
    """A sentence-transformers cross-encoder in a local folder, never downloaded; loaded once a process, on first use.

    Needs the extra ``sentence-transformers``.

    Args:
        folder: The model's folder.
        batch_size: Number of pairs in one batch.

    Raises:
        ModelNotFoundError: The folder does not exist.
        MissingDependencyError: sentence-transformers is not installed.
    """

    def __init__(self, folder: str | Path, *, batch_size: int = 32) -> None:
        self._folder = Path(folder).expanduser()
        if not self._folder.is_dir():
            raise ModelNotFoundError(f"{self._folder} is not the folder of a cross-encoder")
        require_sentence_transformers()
        self._batch_size = batch_size
        self._lock = new_lock()
        self._model: CrossEncoder | None = None

    def _load(self) -> CrossEncoder:
        with self._lock:
            if self._model is None:
                self._model = share(("cross-encoder", stamp_files(self._folder)), self._read)
            return self._model

    def _read(self) -> CrossEncoder:
        import_whole("torch")
        from sentence_transformers import CrossEncoder

        try:
            return CrossEncoder(str(self._folder), local_files_only=True, device="cpu")
        except Exception as error:
            raise EncoderError(f"{self._folder} cannot be loaded as a cross-encoder: {error}") from error

    def score(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Score how well each text answers the query; float32 (len(texts),), higher is better.

        Raises:
            EncoderError: The model cannot be loaded, or its scores are not finite.
        """
        if not texts:
            return np.empty(0, np.float32)
        pairs = [(query, text) for text in texts]
        raw = self._load().predict(pairs, batch_size=self._batch_size, show_progress_bar=False)
        scores = np.asarray(raw, np.float32).reshape(len(texts), -1)[:, -1]
        if not np.isfinite(scores).all():
            raise EncoderError(f"the cross-encoder in {self._folder} returned scores that are not finite")
        return scores
