"""Reads the weights file of a compact session encoder, and declares its sizes and tensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.compact.features import DAY_FEATURES
from agent_memory.errors import CheckpointError
from agent_memory.types import FloatArray

WEIGHTS = Path(__file__).parents[1] / "weights" / "session-compact.safetensors"
_MAX_PLACES = 2048  # half precision represents whole numbers exactly up to here


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a compact session encoder, from the metadata of its weights file.

    Attributes:
        dimension: Dimension of static and evolved vectors.
        width: Width of the hidden states.
        layers: Number of transformer layers.
        heads: Number of attention heads.
        window: Number of preceding segments that attention reaches.
        mix: Number of preceding segments whose static vectors may be added.
        key: Width of the keys that decide how much of them is added.
        places: Number of places in a session that are told apart; later segments share the last one.
    """

    dimension: int
    width: int
    layers: int
    heads: int
    window: int
    mix: int
    key: int
    places: int

    @property
    def latent(self) -> int:
        """Width of one segment's latent."""
        return self.layers * self.width + self.key + self.dimension + 3

    def list_tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor in a weights file."""
        d, n, k = self.width, self.dimension, self.key
        tensors: dict[str, tuple[int, ...]] = {
            "segment.weight": (d, n),
            "segment.bias": (d,),
            "question.weight": (d, n),
            "question.bias": (d,),
            "who.weight": (d, n),
            "when.weight": (d, n),
            "length": (d,),
            "place.weight": (d, 4),
            "place.question": (d, 4),
            "place.out": (n, 4),
            "place.gain": (1,),
            "day.out": (n, DAY_FEATURES),
            "day.gain": (1,),
            "ask.weight": (9, d),
            "ask.bias": (9,),
            "tags.weight": (2, d),
            "tags.bias": (2,),
            "question_out.weight": (n, d),
            "question_out.bias": (n,),
            "mix.key": (k, d),
            "mix.segment": (k, d),
            "mix.question": (k, d),
            "mix.segment_bias": (self.mix,),
            "mix.question_bias": (self.mix,),
            "mix.segment_gain": (1,),
            "mix.question_gain": (1,),
        }
        for layer in range(self.layers):
            tensors |= {f"layers.{layer}.{name}": (d, d) for name in ("query", "key", "value", "out")}
            tensors |= {f"layers.{layer}.{name}": (d,) for name in ("norm", "norm2", "down.bias")}
            tensors |= {f"layers.{layer}.up.weight": (2 * d, d), f"layers.{layer}.up.bias": (2 * d,)}
            tensors |= {f"layers.{layer}.down.weight": (d, 2 * d)}
            tensors |= {f"layers.{layer}.offset": (self.heads, self.window + 1)}
        return tensors


def is_trained_for(encoder: Encoder) -> bool:
    """Return whether the embedded weights were trained on the vectors of an encoder."""
    return WEIGHTS.is_file() and read_shape(WEIGHTS)[1] == encoder.spec.name


def read_shape(path: Path) -> tuple[Shape, str]:
    """Return the sizes that a weights file declares, and the name of the encoder it was trained for.

    Raises:
        CheckpointError: The file is missing or damaged, or its tensors do not have the declared sizes.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            shape = Shape(**{name: int(facts[name]) for name in Shape.__slots__})
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is not the weights file of a compact session encoder: {error}") from error
    sizes = [getattr(shape, name) for name in Shape.__slots__]
    if min(sizes) < 1 or shape.width % shape.heads or shape.places > _MAX_PLACES:
        raise CheckpointError(f"{path} declares impossible sizes: {shape}")
    if found != shape.list_tensors():
        raise CheckpointError(f"{path}: tensors are missing, unknown, or not of the shape declared by {shape}")
    return shape, facts.get("encoder", "")


def read_weights(path: Path, shape: Shape) -> dict[str, FloatArray]:
    """Return the tensors of a weights file by name, as float32.

    Raises:
        CheckpointError: The file is damaged, or contains numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights = {name: tensor.astype(np.float32) for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if weights.keys() != shape.list_tensors().keys() or not all(np.isfinite(t).all() for t in weights.values()):
        raise CheckpointError(f"{path}: tensors are missing or not finite")
    return weights
