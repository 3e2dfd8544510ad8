"""A rotation (PCA) that makes prefixes of any encoder's vectors usable as embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent_memory.encoders.base import Encoder, EncoderSpec
from agent_memory.errors import CheckpointError, DimensionMismatchError, InvalidInputError
from agent_memory.files import SHARED, write_bytes
from agent_memory.types import FloatArray, Progress

_FORMAT = "agent-memory-rotation-1"


@dataclass(frozen=True, slots=True, eq=False)
class Rotation:
    """An orthogonal change of basis; it preserves the cosines of whole vectors.

    Attributes:
        matrix: float32 (d, d), orthogonal; column i is the i-th new axis.
    """

    matrix: FloatArray

    @property
    def dimension(self) -> int:
        """Dimension of the vectors, before and after."""
        return int(self.matrix.shape[0])

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the matrix, part of the fingerprint of a rotated encoder."""
        little = np.ascontiguousarray(self.matrix, dtype="<f4")
        return hashlib.sha256(little.tobytes()).hexdigest()[:16]

    def apply(self, vectors: npt.ArrayLike) -> FloatArray:
        """Rotate vectors.

        Args:
            vectors: (n, d), any float type.

        Returns:
            float32 (n, d); the length of each row is preserved.

        Raises:
            DimensionMismatchError: d is not the rotation's dimension.
            InvalidInputError: ``vectors`` is not a matrix.
        """
        given = _as_matrix(vectors)
        if given.shape[1] != self.dimension:
            raise DimensionMismatchError(self.dimension, given.shape[1])
        return np.ascontiguousarray(given @ self.matrix, dtype=np.float32)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file; an existing file is replaced atomically."""
        write_bytes(Path(path), self.to_bytes(), mode=SHARED)

    def to_bytes(self) -> bytes:
        """Return the content of the safetensors file that ``save`` writes."""
        from safetensors.numpy import save

        matrix = np.ascontiguousarray(self.matrix, dtype="<f4")
        return bytes(save({"rotation": matrix}, metadata={"format": _FORMAT}))

    @classmethod
    def load(cls, path: Path | str) -> Rotation:
        """Read a file written by ``save``.

        Raises:
            CheckpointError: The file is missing or damaged, or contains no rotation.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} is not a readable rotation: {error}") from error
        return cls.from_bytes(content, path)

    @classmethod
    def from_bytes(cls, content: bytes, path: Path | str = "the rotation") -> Rotation:
        """Parse the result of ``to_bytes``.

        Args:
            content: The bytes.
            path: Name of the content in error messages.

        Raises:
            CheckpointError: The content is damaged, or contains no rotation.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            matrix = load(content).get("rotation")
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a readable rotation: {error}") from error
        if matrix is None or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype != np.float32:
            raise CheckpointError(f"{path} does not contain a square float32 rotation")
        off = np.abs(matrix.T @ matrix - np.eye(len(matrix))).max() if len(matrix) else np.inf
        if not off < 1e-3:
            raise CheckpointError(f"{path} is damaged: its matrix is not orthogonal (off by {off:.3g})")
        return cls(matrix)


def fit_rotation(vectors: npt.ArrayLike) -> Rotation:
    """Fit a rotation whose leading axes carry as much of the vectors' energy as possible.

    The axes are the principal axes of the second moment, not of the covariance: cosine similarity measures angles at
    the origin, so the mean must not be subtracted. With fewer vectors than dimensions the trailing axes are arbitrary.

    Args:
        vectors: (n, d), n >= 2; a sample of a few thousand is enough.

    Returns:
        The rotation. It is deterministic: each axis is signed so that its largest component is positive.

    Raises:
        InvalidInputError: There are fewer than two vectors, or values that are not finite.
    """
    sample = _as_matrix(vectors).astype(np.float64)
    if len(sample) < 2:
        raise InvalidInputError(f"a rotation needs at least 2 vectors, got {len(sample)}")
    if not np.isfinite(sample).all():
        raise InvalidInputError("a rotation cannot be fitted on vectors that are not finite")
    _, axes = np.linalg.eigh(sample.T @ sample / len(sample))
    axes = axes[:, ::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(0)[None], axis=0)
    return Rotation(np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0), dtype=np.float32))


class RotatedEncoder:
    """An encoder whose vectors are rotated.

    Args:
        encoder: An encoder with the rotation's dimension.
        rotation: A rotation fitted on vectors of that encoder.

    Raises:
        DimensionMismatchError: The dimensions of encoder and rotation differ.
    """

    prefix_trained = True

    def __init__(self, encoder: Encoder, rotation: Rotation) -> None:
        if encoder.spec.dimension != rotation.dimension:
            raise DimensionMismatchError(rotation.dimension, encoder.spec.dimension)
        self.encoder = encoder
        self.rotation = rotation
        self.scripts = getattr(encoder, "scripts", None)

    @property
    def spec(self) -> EncoderSpec:
        """The spec of the encoder, with the rotation's fingerprint added to the pipeline."""
        inner = self.encoder.spec
        return replace(inner, pipeline=f"{inner.pipeline}+rotation-{self.rotation.fingerprint}")

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Encode and rotate; see ``Encoder.encode_documents``."""
        return self.rotation.apply(self.encoder.encode_documents(texts, progress=progress))

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode and rotate; see ``Encoder.encode_queries``."""
        return self.rotation.apply(self.encoder.encode_queries(texts))


def needs_rotation(encoder: Encoder) -> bool:
    """Return whether an encoder has several tiers but was not trained to make prefixes usable."""
    return len(encoder.spec.tiers) > 1 and not getattr(encoder, "prefix_trained", False)


def _as_matrix(vectors: npt.ArrayLike) -> FloatArray:
    given = np.asarray(vectors, dtype=np.float32)
    if given.ndim != 2:
        raise InvalidInputError(f"vectors must be a matrix (n, d), got shape {given.shape}")
    return given
