"""A BERT encoder for a few texts at a time, in NumPy over mapped weights.

Importing torch takes ten times as long as encoding a question. The arithmetic is that of ``bert``, in float32: the
vectors of the two differ in the last bits. Tokens of all texts stand below each other, without padding.

OpenBLAS hands each product above a certain size to threads that spin while they wait for each other; where other
processes use the cores, that takes twenty times as long as one thread does. So products are cut below that size.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from agent_memory.encoders.base import TokenArray
from agent_memory.errors import CheckpointError
from agent_memory.types import FloatArray

_ALONE = 2 * 65536 * 4 - 1
"""Multiplications up to which OpenBLAS computes a product in the calling thread."""

_ALONE_ROW = 2304 * 4 - 1
"""The same for a single row."""

_BLOCK = 32  # rows of one product: fewer read the weights more often, more leave less room for columns

_ERF_LIMIT = np.float32(3.832506856900711)  # erf is 1 in float32 from here on
_ERF_ABOVE = (
    0.00022905065861350646,
    0.0034082910107109506,
    0.050955695062380861,
    0.18520832239976145,
    1.128379143519084,
)
_ERF_BELOW = (
    -1.1791602954361697e-7,
    0.000023547966471313185,
    0.0010179625278914885,
    0.014070470171167667,
    0.11098505178285362,
    0.49746925110067538,
    1.0,
)
"""A rational approximation of erf(x) / x in x², the one of Eigen and XLA (BSD and Apache-2.0): exact to 2e-7."""

Delta = tuple[FloatArray, FloatArray]
"""A low-rank update of a weight: ``(down (r, in), up (out, r))``."""

LookUp = Callable[[TokenArray], FloatArray]
"""Maps token ids (n,) to their word vectors, float32 (n, size)."""

EPSILON = 1e-12
"""Added to the variance in layer norms, as the published BERT models do."""


def multiply(x: FloatArray, weight: FloatArray) -> FloatArray:
    """Return ``x @ weight.T``, computed in the calling thread.

    Args:
        x: float32 (n, k).
        weight: float32 (m, k), contiguous.

    Returns:
        float32 (n, m).
    """
    n, k = x.shape
    blocks = max(1, -(-n // _BLOCK))
    size = -(-n // blocks)
    most = (_ALONE_ROW if size == 1 else _ALONE) // (size * k)
    width = _find_divisor(len(weight), most)
    columns = weight.reshape(-1, width, k).transpose(0, 2, 1)
    if blocks * size != n:
        x = np.concatenate([x, np.zeros((blocks * size - n, k), np.float32)])
    parts = np.matmul(x.reshape(blocks, 1, size, k), columns)
    result: FloatArray = parts.transpose(0, 2, 1, 3).reshape(blocks * size, len(weight))[:n]
    return result


def _find_divisor(number: int, most: int) -> int:
    """Return the largest divisor of a number that is not above a limit; 1 if there is none."""
    return next((part for part in range(min(number, most), 1, -1) if number % part == 0), 1)


def gelu(x: FloatArray) -> FloatArray:
    """Return ``x * Φ(x)``, Φ the distribution function of the standard normal; float32 of the same shape."""
    z = x * np.float32(0.5**0.5)
    np.clip(z, -_ERF_LIMIT, _ERF_LIMIT, out=z)
    square = z * z
    z *= _evaluate(_ERF_ABOVE, square)
    z /= _evaluate(_ERF_BELOW, square)
    z += 1
    z *= x
    z *= np.float32(0.5)
    return z


def _evaluate(factors: Sequence[float], x: FloatArray) -> FloatArray:
    """Return the value of a polynomial, its highest factor first."""
    total = np.full_like(x, factors[0])
    for factor in factors[1:]:
        total *= x
        total += np.float32(factor)
    return total


@dataclass(frozen=True, slots=True)
class _Linear:
    """``x @ (weight + up @ down).T + bias``; the sum of weights is never formed, which would take as long as a text."""

    weight: FloatArray
    bias: FloatArray
    delta: Delta | None

    def __call__(self, x: FloatArray) -> FloatArray:
        result = multiply(x, self.weight)
        result += self.bias
        if self.delta is not None:
            down, up = self.delta
            result += multiply(multiply(x, down), up)
        return result


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: FloatArray
    bias: FloatArray
    epsilon: float

    def __call__(self, x: FloatArray) -> FloatArray:
        x = x - x.mean(1, keepdims=True)
        x /= np.sqrt(np.mean(x * x, axis=1, keepdims=True) + np.float32(self.epsilon))
        x *= self.weight
        x += self.bias
        return x


class _Layer:
    def __init__(
        self, w: Mapping[str, FloatArray], number: int, deltas: Mapping[str, Delta], heads: int, epsilon: float
    ) -> None:
        prefix = f"encoder.layer.{number}."

        def make(name: str, delta: Delta | None) -> _Linear:
            return _Linear(w[f"{prefix}{name}.weight"], w[f"{prefix}{name}.bias"], delta)

        shared = deltas.get(f"delta.{number}.qkv")
        parts = [None] * 3 if shared is None else [(shared[0], up) for up in np.split(shared[1], 3)]
        names = ("query", "key", "value")
        self.qkv = [make(f"attention.self.{name}", part) for name, part in zip(names, parts, strict=True)]
        self.out = make("attention.output.dense", deltas.get(f"delta.{number}.out"))
        self.up = make("intermediate.dense", deltas.get(f"delta.{number}.up"))
        self.down = make("output.dense", deltas.get(f"delta.{number}.down"))
        self.norm1 = _read_norm(w, f"{prefix}attention.output.LayerNorm", epsilon)
        self.norm2 = _read_norm(w, f"{prefix}output.LayerNorm", epsilon)
        self.heads = heads

    def __call__(self, x: FloatArray, edges: Sequence[int]) -> FloatArray:
        q, k, v = (part(x).reshape(len(x), self.heads, -1).transpose(1, 0, 2) for part in self.qkv)
        mixed = np.empty_like(x)
        for start, end in pairwise(edges):
            one = _attend(q[:, start:end], k[:, start:end], v[:, start:end])
            mixed[start:end] = one.transpose(1, 0, 2).reshape(end - start, -1)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.down(gelu(self.up(x))))


def _attend(q: FloatArray, k: FloatArray, v: FloatArray) -> FloatArray:
    """Return the attention of the tokens of one text, (heads, n, size)."""
    n, size = k.shape[1:]
    step = max(1, _ALONE // (n * size))
    mixed = np.empty_like(q)
    for start in range(0, n, step):
        scores = (q[:, start : start + step] * np.float32(size**-0.5)) @ k.transpose(0, 2, 1)
        scores -= scores.max(2, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(2, keepdims=True)
        mixed[:, start : start + step] = scores @ v
    return mixed


def map_tensors(path: Path) -> dict[str, FloatArray]:
    """Map the float32 tensors of a safetensors file: what is not read takes neither time nor memory.

    Args:
        path: The file.

    Returns:
        Read-only arrays by name. Tensors of other types are left out.

    Raises:
        CheckpointError: It is missing or no such file.
    """
    try:
        content = np.memmap(path, np.uint8, "r")
        size = int.from_bytes(content[:8].tobytes(), "little")
        header, tensors = json.loads(content[8 : 8 + size].tobytes()), {}
        for name, facts in header.items():
            if facts.get("dtype") == "F32":
                start, end = facts["data_offsets"]
                part = np.asarray(content[8 + size + start : 8 + size + end])
                tensors[name] = part.view("<f4").reshape(facts["shape"])
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a readable safetensors file: {error}") from error
    return tensors


class LightBert:
    """The embeddings and layers of a BERT model, for inference.

    Args:
        weights: float32 tensors by their published names; they may be mapped from a file, and are not copied.
        heads: Number of attention heads.
        deltas: Low-rank updates of the layers, keyed ``delta.{layer}.{part}``, as in ``matryoshka.Head``.
        look_up: Returns the word vectors of tokens, for weights without them.
        epsilon: Added to the variance in layer norms.

    Raises:
        CheckpointError: A tensor is missing.
    """

    def __init__(
        self,
        weights: Mapping[str, FloatArray],
        heads: int,
        deltas: Mapping[str, Delta] | None = None,
        *,
        look_up: LookUp | None = None,
        epsilon: float = EPSILON,
    ) -> None:
        w = {name.removeprefix("bert."): tensor for name, tensor in weights.items()}
        try:
            self.look_up = look_up or w["embeddings.word_embeddings.weight"].__getitem__
            self.positions = w["embeddings.position_embeddings.weight"]
            self.type = w["embeddings.token_type_embeddings.weight"][0]
            self.norm = _read_norm(w, "embeddings.LayerNorm", epsilon)
            depth = 1 + max(int(n.split(".")[2]) for n in w if n.startswith("encoder.layer."))
            self.layers = [_Layer(w, number, deltas or {}, heads, epsilon) for number in range(depth)]
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the weights are not those of a BERT model: {error} is missing") from error

    def compute_means(self, ids: TokenArray, mask: TokenArray, layers: Iterable[int]) -> list[FloatArray]:
        """Return the mean hidden states of each text after some layers.

        Args:
            ids: int64 (n, width), padded on the right.
            mask: int64 (n, width), 1 for tokens, 0 for padding.
            layers: 0 for the embeddings, i for the i-th layer.

        Returns:
            One float32 (n, size) for each of these layers, in ascending order.
        """
        chosen = set(layers)
        lengths = mask.sum(1)
        edges = [0, *np.cumsum(lengths).tolist()]
        places = np.concatenate([np.arange(length) for length in lengths])
        x = self.norm(self.look_up(ids[mask.astype(bool)]) + self.positions[places] + self.type)
        means = [_average(x, edges)] if 0 in chosen else []
        for number, layer in enumerate(self.layers[: max(chosen)], start=1):
            x = layer(x, edges)
            if number in chosen:
                means.append(_average(x, edges))
        return means


def _average(x: FloatArray, edges: Sequence[int]) -> FloatArray:
    return np.stack([x[start:end].mean(0) for start, end in pairwise(edges)])


def _read_norm(w: Mapping[str, FloatArray], name: str, epsilon: float) -> _Norm:
    return _Norm(w[f"{name}.weight"], w[f"{name}.bias"], epsilon)
