"""The compact session encoder: a few million parameters over stored static vectors, for any CPU.

The idea of EvoEmbedding (arXiv 2606.21649) in representation space. A small causal transformer reads the static
vectors of a session. It decides how much of each of the last segments, of the speaker's name and of the date
belongs to a segment, and adds that to the segment's static vector, with codes of the segment's place in the session
and of its day. Questions for what was first, last or on a day ask for such codes. What later segments need of a
segment are its latents: its state at each layer, a key, its static vector, its place and its day.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent_memory.encoders.base import Encoder
from agent_memory.encoders.compact.weights import DAY_FEATURES, WEIGHTS, read_shape, read_weights
from agent_memory.encoders.files import sha256_of
from agent_memory.encoders.session import LatentQueue, SessionEncoderSpec, SessionSegment, check_memory
from agent_memory.errors import CheckpointError, InvalidInputError
from agent_memory.timewords import intervals
from agent_memory.types import FloatArray

_MONTHS = "January February March April May June July August September October November December".split()
_NAMES_KEPT = 4096
_FIRST = re.compile(r"\b(?:first|earliest|initially|originally|(?:at|in) the (?:beginning|start))\b", re.IGNORECASE)
_LAST = re.compile(
    r"\b(?:latest|newest|most recent(?:ly)?|currently|now|these days|at the end|"
    r"last(?! (?:night|week|weekend|month|year|summer|winter|spring|fall|name|\w+day)))\b",
    re.IGNORECASE,
)
_DAYS = date(1000, 1, 1).toordinal(), date(9000, 1, 1).toordinal()  # those that dates can be relative to
_THOUSAND = 1000  # half precision holds a day in two numbers
_RATES = 2 * np.pi / np.geomspace(3, 3000, DAY_FEATURES // 2)  # from days to years


def day_words(moment: datetime) -> str:
    """Return a date as people write it in questions: ``8 May 2023``."""
    return f"{moment.day} {_MONTHS[moment.month - 1]} {moment.year}"


def place_features(before: npt.NDArray[np.integer], most: int) -> FloatArray:
    """Return unit vectors (n, 4) for how many segments came before: from the first to the last by steady turns."""
    before = np.clip(before, 0, most)
    shares = np.stack([np.log1p(before) / math.log1p(most), np.sqrt(before / most)], 1) * (np.pi / 2)
    result: FloatArray = (np.concatenate([np.cos(shares), np.sin(shares)], 1) / math.sqrt(2)).astype(np.float32)
    return result


def day_features(days: npt.NDArray[np.integer]) -> FloatArray:
    """Return unit vectors (n, 32) for days counted from the year 1: alike for the same day, less so for others.

    A day of 0 is unknown, and has zeros.
    """
    angles = np.multiply.outer(days.astype(np.float64), _RATES)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], 1) / math.sqrt(len(_RATES))
    result: FloatArray = (waves * (days > 0)[:, None]).astype(np.float32)
    return result


def order_features(text: str) -> FloatArray:
    """Return (2,): 1 where an English question asks for what was first, and for what was last."""
    return np.array([_FIRST.search(text) is not None, _LAST.search(text) is not None], np.float32)


def dates_feature(text: str, day: int) -> FloatArray:
    """Return the unit vector (32,) for the stretches of time that a question speaks of, asked on a day; or zeros."""
    named = intervals(text, datetime.fromordinal(day).replace(tzinfo=UTC)) if day else []
    first_last = [(i.start.toordinal(), max(i.end.toordinal(), i.start.toordinal() + 1)) for i in named]
    total = sum((day_features(np.arange(*span)).mean(0) for span in first_last), np.zeros(DAY_FEATURES, np.float32))
    length = float(np.linalg.norm(total))
    return total / np.float32(length) if length > 1e-3 else np.zeros(DAY_FEATURES, np.float32)


def length_feature(text: str) -> float:
    """Return how long a text is, on a scale where a sentence is near 1."""
    return math.log1p(len(text)) / 5


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
            horizon=shape.window * shape.layers + shape.places,
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
        before, place = self._place(memory)
        state += w["place.weight"] @ place
        state, read = self._transformed(state, memory)
        day = 0 if segment.time is None else segment.time.toordinal()
        latent = np.concatenate([*read, w["mix.key"] @ state, static, (before, *divmod(day, _THOUSAND))])
        latents = latent.astype(np.float16).astype(np.float32)[None]
        if not len(memory):
            return static.copy(), latents
        amounts = w["tags.weight"] @ state + w["tags.bias"]
        added = amounts[0] * who + amounts[1] * when
        added += w["place.gain"] * (w["place.out"] @ place) + w["day.gain"] * (
            w["day.out"] @ day_features(np.array([day]))[0]
        )
        added += w["mix.segment_gain"] * self._mixed(w["mix.segment"] @ state, w["mix.segment_bias"], memory)
        return _unit(static + added), latents

    def embed_query(self, static: FloatArray, text: str, memory: LatentQueue) -> FloatArray:
        """Embed a question with all of the memory; see ``SessionEncoder``. Its text is read for dates and order."""
        static = self._checked(static, memory)
        if not len(memory):
            return static.copy()
        w = self._weights
        state = w["question.weight"] @ static + w["question.bias"]
        state, _ = self._transformed(state + w["place.question"] @ self._place(memory)[1], memory)
        added = w["question_out.weight"] @ state + w["question_out.bias"]
        asks = w["ask.weight"] @ state + w["ask.bias"]
        added += w["place.out"] @ (order_features(text) @ asks[:-1].reshape(2, -1))
        added += asks[-1] * (w["day.out"] @ dates_feature(text, _day(memory)))
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
        keys, statics = last[:, start : start + self.shape.key], last[:, start + self.shape.key : -3]
        scores = keys @ query / np.float32(math.sqrt(self.shape.key)) + bias[: len(last)][::-1]
        result: FloatArray = (1 / (1 + np.exp(-scores))) @ statics
        return result

    def _place(self, memory: LatentQueue) -> tuple[int, FloatArray]:
        """Return how many segments came before, and the features of that."""
        before = min(max(0, int(memory.latents[-1, -3])) + 1, self.shape.places) if len(memory) else 0
        return before, place_features(np.array([before]), self.shape.places)[0]

    def _encoded_tag(self, kind: str, words: str | None) -> tuple[FloatArray, FloatArray]:
        if not words:
            return np.zeros(self.shape.dimension, np.float32), np.zeros(self.shape.width, np.float32)
        vector = self._encoder.encode_documents([words])[0].astype(np.float16).astype(np.float32)
        return vector, self._weights[f"{kind}.weight"] @ vector

    def _checked(self, static: FloatArray, memory: LatentQueue) -> FloatArray:
        if not isinstance(static, np.ndarray) or static.shape != (self.shape.dimension,):
            raise InvalidInputError(f"a static vector must have shape ({self.shape.dimension},)")
        check_memory(memory, capacity=self.shape.window, width=self.shape.latent)
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


def _scaled(x: FloatArray, weight: FloatArray) -> FloatArray:
    scale = np.float32(1) / np.sqrt(np.mean(x * x) + np.finfo(np.float32).eps)
    result: FloatArray = x * scale * weight
    return result


def _gelu(x: FloatArray) -> FloatArray:
    return np.fromiter((0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()), np.float32, len(x))


def _day(memory: LatentQueue) -> int:
    """Return the day of the last segment; 0 if it is unknown."""
    thousands, rest = (int(number) for number in memory.latents[-1, -2:])
    day = thousands * _THOUSAND + rest
    return day if _DAYS[0] < day < _DAYS[1] else 0


def _unit(vector: FloatArray) -> FloatArray:
    result: FloatArray = vector / np.float32(np.linalg.norm(vector))
    return result
