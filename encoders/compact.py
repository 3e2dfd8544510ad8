"""The compact session encoder: a few million parameters over stored static vectors, for any CPU.

The idea of EvoEmbedding (arXiv 2606.21649) in representation space. A small causal transformer reads the static
vectors of a session. It decides how much of each of the last segments, of the speaker's name and of the date
belongs to a segment, and adds that to the segment's static vector. What later segments need of a segment are its
latents: its state at each layer, a key, and its static vector.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from agent_memory.encoders.base import Encoder, FloatArray
from agent_memory.encoders.evo_state import LatentQueue
from agent_memory.encoders.files import sha256_of
from agent_memory.encoders.session import SessionEncoderSpec, SessionSegment
from agent_memory.errors import CheckpointError, InvalidInputError

WEIGHTS = Path(__file__).parent / "weights" / "session-compact.safetensors"
_MONTHS = "January February March April May June July August September October November December".split()
_NAMES_KEPT = 4096


def day_words(moment: datetime) -> str:
    """Return a date as people write it in questions: ``8 May 2023``."""
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"


def length_feature(text: str) -> float:
    """Return how long a text is, on a scale where a sentence is near 1."""
    return math.log1p(len(text)) / 5


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a compact session encoder, as the weights' metadata give them.

    Attributes:
        dimension: Of static and evolved vectors.
        width: Of the hidden states.
        layers: Of the transformer.
        heads: Of its attention.
        window: Segments that are looked back at.
        mix: Last segments whose static vectors may be added.
        key: Width of the keys that decide about that.
    """

    dimension: int
    width: int
    layers: int
    heads: int
    window: int
    mix: int
    key: int

    @property
    def latent(self) -> int:
        """Numbers of one segment's latent."""
        return self.layers * self.width + self.key + self.dimension

    def parameters(self) -> dict[str, tuple[int, ...]]:
        """Return the name and shape of every tensor in a weights file."""
        d, n, k = self.width, self.dimension, self.key
        found: dict[str, tuple[int, ...]] = {
            "segment.weight": (d, n),
            "segment.bias": (d,),
            "question.weight": (d, n),
            "question.bias": (d,),
            "who.weight": (d, n),
            "when.weight": (d, n),
            "length": (d,),
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
            found |= {f"layers.{layer}.{name}": (d, d) for name in ("query", "key", "value", "out")}
            found |= {f"layers.{layer}.{name}": (d,) for name in ("norm", "norm2", "down.bias")}
            found |= {f"layers.{layer}.up.weight": (2 * d, d), f"layers.{layer}.up.bias": (2 * d,)}
            found |= {f"layers.{layer}.down.weight": (d, 2 * d)}
            found |= {f"layers.{layer}.offset": (self.heads, self.window + 1)}
        return found


class CompactSessionEncoder:
    """Evolves the vectors of one static encoder by the state of their session.

    Speakers' names and dates are encoded by the static encoder, once each. Segments are computed one at a time
    with the same operations whether they are streamed or replayed, so that both give the same bits.

    Args:
        encoder: The static encoder that the weights were trained for.
        path: Weights; the embedded ones when None.

    Raises:
        CheckpointError: The file is missing, damaged, or made for another encoder.
    """

    def __init__(self, encoder: Encoder, path: Path | None = None) -> None:
        self._path = WEIGHTS if path is None else Path(path)
        self._encoder = encoder
        self.shape, static = read_shape(self._path)
        if self.shape.dimension != encoder.spec.dimension or static not in ("", encoder.spec.name):
            raise CheckpointError(
                f"{self._path} evolves {self.shape.dimension}-d vectors of encoder {static!r}, not the "
                f"{encoder.spec.dimension}-d ones of {encoder.spec.name!r}"
            )
        self._tag = lru_cache(_NAMES_KEPT)(self._encoded_tag)

    @cached_property
    def spec(self) -> SessionEncoderSpec:
        """Identity of the evolved space."""
        shape = self.shape
        return SessionEncoderSpec(
            name="compact",
            revision=sha256_of(self._path),
            static=self._encoder.spec.fingerprint,
            dimension=shape.dimension,
            latents=1,
            width=shape.latent,
            capacity=shape.window,
            horizon=shape.window * shape.layers,
        )

    @cached_property
    def _weights(self) -> Mapping[str, FloatArray]:
        return read_weights(self._path, self.shape)

    def empty_memory(self) -> LatentQueue:
        """Return the memory of a session that has not begun."""
        return LatentQueue(np.empty((0, self.shape.latent), np.float32), self.shape.window)

    def warm(self, speakers: Iterable[str | None], times: Iterable[datetime]) -> None:
        """Encode names and dates now, so that ``embed_segment`` finds them; see ``SessionEncoder``."""
        for speaker in dict.fromkeys(speakers):
            self._tag("who", speaker)
        for words in dict.fromkeys(map(day_words, times)):
            self._tag("when", words)

    def embed_segment(self, segment: SessionSegment, memory: LatentQueue) -> tuple[FloatArray, FloatArray]:
        """Embed a segment with the memory before it; see ``SessionEncoder``."""
        static = self._checked(segment.static, memory)
        w = self._weights
        who, who_in = self._tag("who", segment.speaker)
        when, when_in = self._tag("when", None if segment.time is None else day_words(segment.time))
        state = w["segment.weight"] @ static + w["segment.bias"] + who_in + when_in
        state += w["length"] * np.float32(length_feature(segment.text))
        state, read = self._transformed(state, memory)
        latent = np.concatenate([*read, w["mix.key"] @ state, static])
        latents = latent.astype(np.float16).astype(np.float32)[None]
        if not len(memory):
            return static.copy(), latents
        amounts = w["tags.weight"] @ state + w["tags.bias"]
        added = amounts[0] * who + amounts[1] * when
        added += w["mix.segment_gain"] * self._mixed(w["mix.segment"] @ state, w["mix.segment_bias"], memory)
        return _unit(static + added), latents

    def embed_query(self, static: FloatArray, text: str, memory: LatentQueue) -> FloatArray:
        """Embed a question with all of the memory; see ``SessionEncoder``. The text itself is not read."""
        static = self._checked(static, memory)
        if not len(memory):
            return static.copy()
        w = self._weights
        state, _ = self._transformed(w["question.weight"] @ static + w["question.bias"], memory)
        added = w["question_out.weight"] @ state + w["question_out.bias"]
        added += w["mix.question_gain"] * self._mixed(w["mix.question"] @ state, w["mix.question_bias"], memory)
        return _unit(static + added)

    def _transformed(self, state: FloatArray, memory: LatentQueue) -> tuple[FloatArray, list[FloatArray]]:
        """Return a state after all layers, and what each layer read of it."""
        read = []
        for layer in range(self.shape.layers):
            w = {name: self._weights[f"layers.{layer}.{name}"] for name in _LAYER}
            own = _scaled(state, w["norm"]).astype(np.float16).astype(np.float32)
            read.append(own)
            start = layer * self.shape.width
            seen = np.concatenate([memory.latents[:, start : start + self.shape.width], own[None]])
            state = state + w["out"] @ self._attended(w, own, seen)
            hidden = w["up.weight"] @ _scaled(state, w["norm2"]) + w["up.bias"]
            state = state + w["down.weight"] @ _gelu(hidden) + w["down.bias"]
        return state, read

    def _attended(self, w: Mapping[str, FloatArray], own: FloatArray, seen: FloatArray) -> FloatArray:
        """Attend from one state to those before it and itself; keys and values are folded into the query."""
        heads, size = self.shape.heads, self.shape.width // self.shape.heads
        query = (w["query"] @ own).reshape(heads, 1, size)
        folded = (query @ w["key"].reshape(heads, size, -1))[:, 0]
        distances = np.arange(len(seen) - 1, -1, -1)
        scores = folded @ seen.T / np.float32(math.sqrt(size)) + w["offset"][:, distances]
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        values = w["value"].reshape(heads, size, -1) @ (weights @ seen)[:, :, None]
        result: FloatArray = values.reshape(-1)
        return result

    def _mixed(self, query: FloatArray, bias: FloatArray, memory: LatentQueue) -> FloatArray:
        """Return the weighted sum of the static vectors of the last segments."""
        last = memory.latents[-self.shape.mix :]
        start = self.shape.layers * self.shape.width
        keys, statics = last[:, start : start + self.shape.key], last[:, start + self.shape.key :]
        scores = keys @ query / np.float32(math.sqrt(self.shape.key)) + bias[: len(last)][::-1]
        result: FloatArray = (1 / (1 + np.exp(-scores))) @ statics
        return result

    def _encoded_tag(self, kind: str, words: str | None) -> tuple[FloatArray, FloatArray]:
        if not words:
            return np.zeros(self.shape.dimension, np.float32), np.zeros(self.shape.width, np.float32)
        vector = self._encoder.encode_documents([words])[0].astype(np.float16).astype(np.float32)
        return vector, self._weights[f"{kind}.weight"] @ vector

    def _checked(self, static: FloatArray, memory: LatentQueue) -> FloatArray:
        if not isinstance(static, np.ndarray) or static.shape != (self.shape.dimension,):
            raise InvalidInputError(f"a static vector must have shape ({self.shape.dimension},)")
        if memory.latents.shape[1] != self.shape.latent or memory.capacity != self.shape.window:
            raise InvalidInputError("the latent memory is of another session encoder")
        return static.astype(np.float32, copy=False)


_LAYER = (
    "norm",
    "norm2",
    "query",
    "key",
    "value",
    "out",
    "offset",
    "up.weight",
    "up.bias",
    "down.weight",
    "down.bias",
)


def trained_for(encoder: Encoder) -> bool:
    """Return whether the embedded weights were trained on an encoder's vectors."""
    return WEIGHTS.is_file() and read_shape(WEIGHTS)[1] == encoder.spec.name


def read_shape(path: Path) -> tuple[Shape, str]:
    """Return the sizes that a weights file declares, and the name of the encoder it is for.

    Raises:
        CheckpointError: The file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            shape = Shape(**{name: int(facts[name]) for name in Shape.__slots__})
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is no compact session encoder: {error}") from error
    if min(getattr(shape, name) for name in Shape.__slots__) < 1 or shape.width % shape.heads:
        raise CheckpointError(f"{path} declares impossible sizes: {shape}")
    if found != shape.parameters():
        raise CheckpointError(f"{path}: tensors are missing, unknown or of another shape than {shape} says")
    return shape, facts.get("encoder", "")


def read_weights(path: Path, shape: Shape) -> dict[str, FloatArray]:
    """Return the tensors of a weights file as float32.

    Raises:
        CheckpointError: The file is damaged, or holds numbers that are not finite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        weights = {name: tensor.astype(np.float32) for name, tensor in load_file(path).items()}
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if weights.keys() != shape.parameters().keys() or not all(np.isfinite(t).all() for t in weights.values()):
        raise CheckpointError(f"{path}: tensors are missing or not finite")
    return weights


def _scaled(x: FloatArray, weight: FloatArray) -> FloatArray:
    scale = np.float32(1) / np.sqrt(np.mean(x * x) + np.finfo(np.float32).eps)
    result: FloatArray = x * scale * weight
    return result


def _gelu(x: FloatArray) -> FloatArray:
    return np.fromiter((0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()), np.float32, len(x))


def _unit(vector: FloatArray) -> FloatArray:
    result: FloatArray = vector / np.float32(np.linalg.norm(vector))
    return result
