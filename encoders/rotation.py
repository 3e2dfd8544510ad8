"""A rotation that makes prefixes of any encoder's vectors useful (PCA)."""

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
    """An orthogonal change of basis; cosines of whole vectors stay what they were.

    Attributes:
        matrix: float32 (d, d), orthogonal; column i is the i-th new axis.
    """

    matrix: FloatArray

    @property
    def dimension(self) -> int:
        """Dimensions of the vectors it takes and gives."""
        return int(self.matrix.shape[0])

    @property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the matrix, for the generation's fingerprint."""
        little = np.ascontiguousarray(self.matrix, dtype="<f4")
        return hashlib.sha256(little.tobytes()).hexdigest()[:16]

    def apply(self, vectors: npt.ArrayLike) -> FloatArray:
        """Rotate vectors.

        Args:
            vectors: (n, d), any float type.

        Returns:
            float32 (n, d), rows of unchanged length.

        Raises:
            DimensionMismatchError: d differs from the rotation's.
        """
        given = _matrix(vectors)
        if given.shape[1] != self.dimension:
            raise DimensionMismatchError(self.dimension, given.shape[1])
        return np.ascontiguousarray(given @ self.matrix, dtype=np.float32)

    def save(self, path: Path | str) -> None:
        """Write a safetensors file; an existing one is replaced whole or not at all."""
        write_bytes(Path(path), self.to_bytes(), mode=SHARED)

    def to_bytes(self) -> bytes:
        """Return the content of a safetensors file."""
        from safetensors.numpy import save

        matrix = np.ascontiguousarray(self.matrix, dtype="<f4")
        return bytes(save({"rotation": matrix}, metadata={"format": _FORMAT}))

    @classmethod
    def load(cls, path: Path | str) -> Rotation:
        """Read what ``save`` wrote.

        Raises:
            CheckpointError: The file is missing, damaged, or holds no rotation.
        """
        try:
            content = Path(path).read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} is not a readable rotation: {error}") from error
        return cls.from_bytes(content, path)

    @classmethod
    def from_bytes(cls, content: bytes, path: Path | str = "the rotation") -> Rotation:
        """Read what ``to_bytes`` returned; ``path`` is its name in messages.

        Raises:
            CheckpointError: It is damaged, or no rotation.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            matrix = load(content).get("rotation")
        except SafetensorError as error:
            raise CheckpointError(f"{path} is not a readable rotation: {error}") from error
        if matrix is None or matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or matrix.dtype != np.float32:
            raise CheckpointError(f"{path} does not hold a square float32 rotation")
        off = np.abs(matrix.T @ matrix - np.eye(len(matrix))).max() if len(matrix) else np.inf
        if not off < 1e-3:
            raise CheckpointError(f"{path} is damaged: its matrix is not orthogonal (off by {off:.3g})")
        return cls(matrix)


def fit_rotation(vectors: npt.ArrayLike) -> Rotation:
    """Fit a rotation whose first axes carry the most of the vectors' energy.

    Principal axes of the second moment, not of the covariance: cosine ranks by the angle at the origin, so
    the mean must not be taken away. With fewer vectors than dimensions the other axes are arbitrary.

    Args:
        vectors: (n, d) with n of at least 2; a sample of a few thousand is enough.

    Returns:
        The rotation. The same vectors give the same rotation: each axis is signed so that its largest
        component is positive.

    Raises:
        InvalidInputError: Fewer than two vectors, or values that are not finite.
    """
    sample = _matrix(vectors).astype(np.float64)
    if len(sample) < 2:
        raise InvalidInputError(f"a rotation needs at least 2 vectors, got {len(sample)}")
    if not np.isfinite(sample).all():
        raise InvalidInputError("a rotation cannot be fitted on vectors that are not finite")
    _, axes = np.linalg.eigh(sample.T @ sample / len(sample))
    axes = axes[:, ::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(0)[None], axis=0)
    return Rotation(np.ascontiguousarray(axes * np.where(largest < 0, -1.0, 1.0), dtype=np.float32))


class RotatedEncoder:
    """An encoder whose vectors pass through a rotation.

    Args:
        encoder: Any encoder of the rotation's dimension.
        rotation: Fitted on vectors of that encoder.

    Raises:
        DimensionMismatchError: Encoder and rotation differ in dimension.
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
        """The encoder's own, with the rotation's fingerprint in the pipeline."""
        inner = self.encoder.spec
        return replace(inner, pipeline=f"{inner.pipeline}+rotation-{self.rotation.fingerprint}")

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Encode and rotate; see ``Encoder.encode_documents``."""
        return self.rotation.apply(self.encoder.encode_documents(texts, progress=progress))

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode and rotate; see ``Encoder.encode_queries``."""
        return self.rotation.apply(self.encoder.encode_queries(texts))


def needs_rotation(encoder: Encoder) -> bool:
    """Tell whether an encoder has several tiers but prefixes that were not trained for them."""
    return len(encoder.spec.tiers) > 1 and not getattr(encoder, "prefix_trained", False)


def _matrix(vectors: npt.ArrayLike) -> FloatArray:
    given = np.asarray(vectors, dtype=np.float32)
    if given.ndim != 2:
        raise InvalidInputError(f"vectors must be a matrix (n, d), got shape {given.shape}")
    return given
