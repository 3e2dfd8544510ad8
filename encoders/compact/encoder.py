"""The compact session encoder: two million parameters over stored static vectors, fast on any CPU.

It applies the idea of EvoEmbedding (arXiv 2606.21649) to static vectors. A small causal transformer reads the static
vectors of a session. For each segment it decides how much to add of the preceding segments, of the speaker's name and
of the date, and adds these to the segment's static vector, together with codes for its place in the session and its
day. Questions about the first, the last or a certain day look for these codes. The latents of a segment hold what
later segments need: its state at each layer, a key, its static vector, its place and its day.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from pathlib import Path

import numpy as np

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.compact.features import (
    detect_order,
    encode_dates,
    encode_days,
    encode_place,
    format_day,
    measure_length,
)
from agent_memory.encoders.compact.weights import WEIGHTS, Shape, read_shape, read_weights
from agent_memory.encoders.files import hash_file, stamp_files
from agent_memory.encoders.resources import share
from agent_memory.encoders.session import LatentQueue, SessionEncoderSpec, SessionSegment, check_memory
from agent_memory.errors import CheckpointError, InvalidInputError
from agent_memory.files import new_lock
from agent_memory.types import FloatArray

_CACHED_TAGS = 4096
_DAYS = date(1000, 1, 1).toordinal(), date(9000, 1, 1).toordinal()  # days to which dates in a question may be relative
_THOUSAND = 1000  # half precision represents a day exactly only as two numbers
_LAYER_TENSORS = (
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


_Tag = tuple[FloatArray, FloatArray]
"""The vector of a name or date, and what it adds to a state."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class _Weights:
    tensors: Mapping[str, FloatArray]


@dataclass(frozen=True, slots=True)
class _Loaded:
    weights: _Weights
    get_tag: Callable[[str, str | None], _Tag]


class CompactSessionEncoder:
    """Evolves the vectors of one static encoder with the state of their session.

    The static encoder encodes each speaker's name and each date once. Segments are always computed one at a time with
    the same operations, so that streaming and replaying give the same bits.

    Args:
        encoder: The static encoder that the weights were trained for.
        path: Weights file; the embedded one if None.

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
                f"{encoder.spec.dimension}-d vectors of {encoder.spec.name!r}"
            )
        self._lock = new_lock()
        self._loaded: _Loaded | None = None
        self._spec: SessionEncoderSpec | None = None

    @property
    def spec(self) -> SessionEncoderSpec:
        """Identity of the evolved space."""
        if self._spec is None:
            shape = self.shape
            self._spec = SessionEncoderSpec(
                name="compact",
                revision=hash_file(self._path),
                static=self._encoder.spec.fingerprint,
                dimension=shape.dimension,
                latents=1,
                width=shape.latent,
                capacity=shape.window,
                horizon=shape.window * shape.layers + shape.places,
            )
        return self._spec

    def _load(self) -> _Loaded:
        if self._loaded is None:
            with self._lock:
                if self._loaded is None:
                    path, shape = self._path, self.shape
                    key = ("compact", stamp_files(path.parent, path.name))
                    weights = share(key, lambda: _Weights(read_weights(path, shape)))
                    self._loaded = _Loaded(weights, _make_tags(self._encoder, shape, weights.tensors))
        return self._loaded

    @property
    def _weights(self) -> Mapping[str, FloatArray]:
        return self._load().weights.tensors

    def _get_tag(self, kind: str, words: str | None) -> _Tag:
        return self._load().get_tag(kind, words)

    def empty_memory(self) -> LatentQueue:
        """Return the memory of a session that has not begun."""
        return LatentQueue(np.empty((0, self.shape.latent), np.float32), self.shape.window)

    def warm(self, speakers: Iterable[str | None], times: Iterable[datetime]) -> None:
        """Encode names and dates in advance, for ``embed_segment``; see ``SessionEncoder``."""
        for speaker in dict.fromkeys(speakers):
            self._get_tag("who", speaker)
        for words in dict.fromkeys(map(format_day, times)):
            self._get_tag("when", words)

    def embed_segment(self, segment: SessionSegment, memory: LatentQueue) -> tuple[FloatArray, FloatArray]:
        """Embed a segment with the memory before it; see ``SessionEncoder``."""
        static = self._check(segment.static, memory)
        w = self._weights
        who, who_in = self._get_tag("who", segment.speaker)
        when, when_in = self._get_tag("when", None if segment.time is None else format_day(segment.time))
        state = w["segment.weight"] @ static + w["segment.bias"] + who_in + when_in
        state += w["length"] * np.float32(measure_length(segment.text))
        before, place = self._read_place(memory)
        state += w["place.weight"] @ place
        state, read = self._run_layers(state, memory)
        day = 0 if segment.time is None else segment.time.toordinal()
        latent = np.concatenate([*read, w["mix.key"] @ state, static, (before, *divmod(day, _THOUSAND))])
        latents = latent.astype(np.float16).astype(np.float32)[None]
        if not len(memory):
            return static.copy(), latents
        amounts = w["tags.weight"] @ state + w["tags.bias"]
        added = amounts[0] * who + amounts[1] * when
        added += w["place.gain"] * (w["place.out"] @ place) + w["day.gain"] * (
            w["day.out"] @ encode_days(np.array([day]))[0]
        )
        added += w["mix.segment_gain"] * self._mix(w["mix.segment"] @ state, w["mix.segment_bias"], memory)
        return _normalise(static + added), latents

    def embed_query(self, static: FloatArray, text: str, memory: LatentQueue) -> FloatArray:
        """Embed a question with the whole memory; see ``SessionEncoder``. Its text is searched for dates and order."""
        static = self._check(static, memory)
        if not len(memory):
            return static.copy()
        w = self._weights
        state = w["question.weight"] @ static + w["question.bias"]
        state, _ = self._run_layers(state + w["place.question"] @ self._read_place(memory)[1], memory)
        added = w["question_out.weight"] @ state + w["question_out.bias"]
        asks = w["ask.weight"] @ state + w["ask.bias"]
        added += w["place.out"] @ (detect_order(text) @ asks[:-1].reshape(2, -1))
        added += asks[-1] * (w["day.out"] @ encode_dates(text, _read_day(memory)))
        added += w["mix.question_gain"] * self._mix(w["mix.question"] @ state, w["mix.question_bias"], memory)
        return _normalise(static + added)

    def _run_layers(self, state: FloatArray, memory: LatentQueue) -> tuple[FloatArray, list[FloatArray]]:
        """Return a state after all layers, and the normalised state that each layer reads."""
        read = []
        for layer in range(self.shape.layers):
            w = {name: self._weights[f"layers.{layer}.{name}"] for name in _LAYER_TENSORS}
            own = _rms_norm(state, w["norm"]).astype(np.float16).astype(np.float32)
            read.append(own)
            start = layer * self.shape.width
            seen = np.concatenate([memory.latents[:, start : start + self.shape.width], own[None]])
            state = state + w["out"] @ self._attend(w, own, seen)
            hidden = w["up.weight"] @ _rms_norm(state, w["norm2"]) + w["up.bias"]
            state = state + w["down.weight"] @ _gelu(hidden) + w["down.bias"]
        return state, read

    def _attend(self, w: Mapping[str, FloatArray], own: FloatArray, seen: FloatArray) -> FloatArray:
        """Attend from one state to itself and those before it; keys and values are folded into the query."""
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

    def _mix(self, query: FloatArray, bias: FloatArray, memory: LatentQueue) -> FloatArray:
        """Return the weighted sum of the static vectors of the most recent segments."""
        last = memory.latents[-self.shape.mix :]
        start = self.shape.layers * self.shape.width
        keys, statics = last[:, start : start + self.shape.key], last[:, start + self.shape.key : -3]
        scores = keys @ query / np.float32(math.sqrt(self.shape.key)) + bias[: len(last)][::-1]
        result: FloatArray = (1 / (1 + np.exp(-scores))) @ statics
        return result

    def _read_place(self, memory: LatentQueue) -> tuple[int, FloatArray]:
        """Return the number of segments that came before, and the code of that place."""
        before = min(max(0, int(memory.latents[-1, -3])) + 1, self.shape.places) if len(memory) else 0
        return before, encode_place(np.array([before]), self.shape.places)[0]

    def _check(self, static: FloatArray, memory: LatentQueue) -> FloatArray:
        if not isinstance(static, np.ndarray) or static.shape != (self.shape.dimension,):
            raise InvalidInputError(f"a static vector must be an array of shape ({self.shape.dimension},)")
        check_memory(memory, capacity=self.shape.window, width=self.shape.latent)
        return static.astype(np.float32, copy=False)


def _make_tags(encoder: Encoder, shape: Shape, weights: Mapping[str, FloatArray]) -> Callable[[str, str | None], _Tag]:
    # A cache of a bound method would hold its own encoder, whose memory then waits for the garbage collector.
    @lru_cache(_CACHED_TAGS)
    def get_tag(kind: str, words: str | None) -> _Tag:
        if not words:
            return np.zeros(shape.dimension, np.float32), np.zeros(shape.width, np.float32)
        vector = encoder.encode_documents([words])[0].astype(np.float16).astype(np.float32)
        return vector, weights[f"{kind}.weight"] @ vector

    return get_tag


def _rms_norm(x: FloatArray, weight: FloatArray) -> FloatArray:
    scale = np.float32(1) / np.sqrt(np.mean(x * x) + np.finfo(np.float32).eps)
    result: FloatArray = x * scale * weight
    return result


def _gelu(x: FloatArray) -> FloatArray:
    return np.fromiter((0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()), np.float32, len(x))


def _read_day(memory: LatentQueue) -> int:
    """Return the day of the last segment, counted from the year 1; 0 if unknown."""
    thousands, rest = (int(number) for number in memory.latents[-1, -2:])
    day = thousands * _THOUSAND + rest
    return day if _DAYS[0] < day < _DAYS[1] else 0


def _normalise(vector: FloatArray) -> FloatArray:
    result: FloatArray = vector / np.float32(np.linalg.norm(vector))
    return result
