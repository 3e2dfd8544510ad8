"""The embedded default encoder: MiniLM with a trained Matryoshka head, 768 dimensions."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from agent_memory.encoders.base import EncoderSpec, TokenArray, tiers_for
from agent_memory.encoders.files import MINILM_SHA256, find_minilm, hash_file, read_tokenizer, stamp_files
from agent_memory.encoders.resources import share
from agent_memory.encoders.static.light import LightBert, map_tensors, multiply
from agent_memory.encoders.static.minilm import (
    HEADS,
    LIGHT_PRECISIONS,
    MAX_TOKENS,
    MINILM_FILES,
    check_precision,
    describe_pipeline,
    read_minilm,
    resolve_precision,
    verify_beside,
)
from agent_memory.encoders.static.runtime import Loaded, Network, WindowedEncoder, find_frame
from agent_memory.encoders.static.windows import TOKEN_BUDGET, normalise
from agent_memory.errors import CheckpointError
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

    from agent_memory.encoders.static.bert import Bert

HEAD = Path(__file__).parents[1] / "weights" / "minilm-matryoshka.safetensors"
DIMENSION = 768
LAYER_PARTS = {
    "qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "out": ("attention.output.dense",),
    "up": ("intermediate.dense",),
    "down": ("output.dense",),
}
"""Short names that the head file uses for the backbone's products; queries, keys and values share one delta."""

_HALVES = 1 << 16  # values of float16

_A = TypeVar("_A")
_B = TypeVar("_B")


@dataclass(frozen=True, slots=True)
class Head(Generic[_A]):
    """The contents of a head file, as arrays of NumPy or of torch.

    The vector of a text is ``u R + z W + b``, normalised: ``u`` is the backbone's own unit vector, ``R`` maps it to the
    axes of the head, and ``z`` concatenates the mean hidden states of ``layers``. The first term preserves MiniLM's
    vectors, the second adds what was learned in training. Questions get a low-rank term ``z D U + c`` of their own,
    because a question is not phrased like its answer.

    Attributes:
        layers: Layers whose mean hidden states make up ``z``, ascending; the last one is the model's last layer.
        rotation: R, float32 (384, 768), orthonormal rows.
        weight: W, float32 (384 * len(layers), 768).
        bias: b, float32 (768,).
        question: The low-rank term for questions: ``(D (384 * len(layers), r), U (r, 768), c (768,))``.
        deltas: Low-rank updates of the backbone, keyed ``delta.{layer}.{part}``: ``(down (r, in), up (out, r))``.
    """

    layers: tuple[int, ...]
    rotation: _A
    weight: _A
    bias: _A
    question: tuple[_A, _A, _A]
    deltas: Mapping[str, tuple[_A, _A]]

    def convert(self, to: Callable[[_A], _B]) -> Head[_B]:
        """Return the same head with arrays of another kind."""
        down, up, bias = map(to, self.question)
        deltas = {place: (to(one), to(other)) for place, (one, other) in self.deltas.items()}
        return Head(self.layers, to(self.rotation), to(self.weight), to(self.bias), (down, up, bias), deltas)


class HeadedEncoder(WindowedEncoder):
    """Base of the encoders that are a backbone with a head; prefixes of 64, 128, 256 and 512 dimensions are embeddings.

    Args:
        head: Head file; the embedded one if None.
        folder: Folder of the backbone's files; the installed package if None.
        precision: Precision of the matrix products: ``fp32``, ``bf16``, ``auto`` for the faster of the two on this
            processor, or ``int8``, which defines a different embedding space. Its sums are exact on every processor,
            but rounding to 8 bits magnifies the last bits of float32: the vectors of a text from two processors or in
            two batches have a cosine of at least .995.
        token_budget: Maximum tokens of one batch, padding included.

    Raises:
        InvalidInputError: The precision is none of these.
    """

    prefix_trained = True

    name: ClassVar[str]
    embedded: ClassVar[Path]
    """The head that comes with the package."""
    backbone: ClassVar[str]
    """SHA-256 of the weights that the head was trained on."""
    files: ClassVar[tuple[str, ...]]
    """Files of the backbone's folder."""
    max_tokens: ClassVar[int]
    steps: ClassVar[str]
    """What is done to a text, for the identity of the space."""

    def __init__(
        self,
        head: Path | None = None,
        *,
        folder: Path | None = None,
        precision: str = "auto",
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        super().__init__(token_budget=token_budget)
        self._head = self.embedded if head is None else head
        self._folder = folder
        self._precision = check_precision(precision)
        self._spec: EncoderSpec | None = None

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space, from a digest of the head file; does not read the backbone."""
        if self._spec is None:
            if not self._head.is_file():
                raise CheckpointError(f"{self._head} is missing")
            self._spec = EncoderSpec(
                name=self.name,
                revision=f"{hash_file(self._head)[:32]}+{self.backbone[:32]}",
                dimension=DIMENSION,
                tiers=tiers_for(DIMENSION),
                max_tokens=self.max_tokens,
                pipeline=describe_pipeline(self.steps, self._precision),
            )
        return self._spec

    def _load(self) -> Loaded:
        precision = resolve_precision(self._precision)
        return self._share(precision, lambda folder: self._read(folder, precision))

    def _load_light(self) -> Loaded | None:
        if self._precision not in LIGHT_PRECISIONS:
            return None
        return self._share(
            "light",
            lambda folder: verify_beside(folder / self.files[0], self.backbone, lambda: self._read_light(folder)),
        )

    def _share(self, how: str, read: Callable[[Path], Loaded]) -> Loaded:
        folder = self._folder or self._find()
        stamps = stamp_files(self._head.parent, self._head.name), stamp_files(folder, *self.files)
        return share((self.name, how, *stamps), lambda: read(folder))

    @abstractmethod
    def _find(self) -> Path:
        """Return the folder of the installed backbone."""

    @abstractmethod
    def _read(self, folder: Path, precision: str) -> Loaded:
        """Return the networks as torch runs them."""

    @abstractmethod
    def _read_light(self, folder: Path) -> Loaded:
        """Return the networks as NumPy runs them."""


class MatryoshkaEncoder(HeadedEncoder):
    """all-MiniLM-L6-v2 with low-rank deltas and a linear head; arguments as for ``HeadedEncoder``."""

    scripts = ("LATIN",)
    name, steps = "minilm-matryoshka", "mean-pooling+matryoshka-head"
    embedded, backbone, files, max_tokens = HEAD, MINILM_SHA256, MINILM_FILES, MAX_TOKENS

    @override
    def _find(self) -> Path:
        return find_minilm()

    @override
    def _read(self, folder: Path, precision: str) -> Loaded:
        import torch

        from agent_memory.encoders.static.bert import Bert, BertShape

        head = read_head(self._head).convert(torch.from_numpy)
        bert = Bert(merge_deltas(read_minilm(folder), head.deltas), BertShape(heads=HEADS), precision)
        tokenizer = read_tokenizer(folder)
        documents, queries = (make_network(bert, head, query=query) for query in (False, True))
        return Loaded(tokenizer, find_frame(tokenizer, pad=0), documents, queries)

    @override
    def _read_light(self, folder: Path) -> Loaded:
        head, weights = read_head(self._head), map_tensors(folder / "model.safetensors")
        for place, delta in head.deltas.items():
            _find_parts(place, delta, weights)
        bert = LightBert(weights, HEADS, head.deltas)
        tokenizer = read_tokenizer(folder)
        documents, queries = (make_light_network(bert, head, query=query) for query in (False, True))
        return Loaded(tokenizer, find_frame(tokenizer, pad=0), documents, queries)


def read_head(path: Path, backbone: str = MINILM_SHA256) -> Head[FloatArray]:
    """Read a head file.

    Args:
        path: The file.
        backbone: SHA-256 of the weights that it must have been trained on.

    Raises:
        CheckpointError: It is missing, damaged, incomplete, or made for another backbone.
    """
    tensors, facts = read_halves(path, backbone)
    try:
        layers = tuple(int(n) for n in facts["layers"].split(","))
        return Head(
            layers,
            tensors["head.rotation"],
            tensors["head.weight"],
            tensors["head.bias"],
            (tensors["head.question.down"], tensors["head.question.up"], tensors["head.question.bias"]),
            read_deltas(tensors),
        )
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is incomplete: {error}") from error


def read_halves(path: Path, backbone: str) -> tuple[dict[str, FloatArray], dict[str, str]]:
    """Read trained weights, in float32, and the facts about them.

    Args:
        path: The file.
        backbone: SHA-256 of the weights that they must have been trained on.

    Raises:
        CheckpointError: The file is missing, damaged, or made for another backbone.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, FloatArray] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            for name in file.keys():
                tensors[name] = _widen(file.get_tensor(name))
    except (OSError, SafetensorError, TypeError) as error:
        raise CheckpointError(f"{path} is not a readable head: {error}") from error
    if facts.get("backbone") != backbone:
        raise CheckpointError(f"{path} was trained on backbone {facts.get('backbone')!r}, expected {backbone!r}")
    return tensors, facts


def read_deltas(tensors: Mapping[str, FloatArray]) -> dict[str, tuple[FloatArray, FloatArray]]:
    """Return the low-rank updates among some tensors, as in ``Head.deltas``.

    Raises:
        KeyError: One has no second half.
    """
    places = [name.removesuffix(".down") for name in tensors if name.startswith("delta.") and name.endswith(".down")]
    return {place: (tensors[f"{place}.down"], tensors[f"{place}.up"]) for place in places}


def _widen(tensor: npt.NDArray[Any]) -> FloatArray:
    """Return a tensor in float32."""
    if tensor.dtype != np.float16 or tensor.size < _HALVES:
        return tensor.astype(np.float32)
    # A look-up among all there are takes a fifth of the time of converting each.
    every = np.arange(_HALVES, dtype=np.uint16).view(np.float16).astype(np.float32)
    wide: FloatArray = np.take(every, tensor.view(np.uint16))
    return wide


def merge_deltas(weights: Mapping[str, Tensor], deltas: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """Add low-rank deltas to the backbone's weights, so that they cost nothing at inference.

    Args:
        weights: Tensors of the backbone by name.
        deltas: As in ``Head.deltas``.

    Returns:
        The weights with the deltas added; the given ones are unchanged.

    Raises:
        CheckpointError: A delta does not fit the backbone.
    """
    result = dict(weights)
    for place, (down, up) in deltas.items():
        names = _find_parts(place, (down, up), weights)
        for name, delta in zip(names, (up @ down).chunk(len(names)), strict=True):
            result[name] = result[name] + delta
    return result


def _find_parts(place: str, delta: tuple[Any, Any], weights: Mapping[str, Any]) -> list[str]:
    """Return the names of the weights to which a delta is added; of NumPy or of torch.

    Raises:
        CheckpointError: It does not fit them.
    """
    layer, _, part = place.removeprefix("delta.").partition(".")
    names = [f"encoder.layer.{layer}.{n}.weight" for n in LAYER_PARTS.get(part, ())]
    if not names:
        raise CheckpointError(f"delta {place} belongs to no part of the backbone")
    down, up = delta
    whole = (up.shape[0] // len(names), down.shape[1])
    for name in names:
        if name not in weights or tuple(weights[name].shape) != whole or up.shape[1] != down.shape[0]:
            raise CheckpointError(f"delta {place} does not fit the backbone's {name}")
    return names


def project(pooled: list[Tensor], head: Head[Tensor], *, query: bool) -> Tensor:
    """Apply the head to mean hidden states.

    Args:
        pooled: One float32 (n, 384) for each of the head's layers.
        head: The head.
        query: Whether the texts are questions.

    Returns:
        float32 (n, 768), not normalised.
    """
    import torch
    from torch.nn import functional

    own = functional.normalize(pooled[-1], dim=1) @ head.rotation
    features = torch.cat(pooled, 1)
    out = torch.addmm(head.bias, features, head.weight)
    if query:
        down, up, bias = head.question
        out = out + torch.addmm(bias, features @ down, up)
    return out + own


def make_network(bert: Bert, head: Head[Tensor], *, query: bool) -> Network:
    """Return torch's forward pass of a backbone with its head, for questions or for documents."""
    import torch

    from agent_memory.encoders.static.bert import mean_pool

    def run(ids: TokenArray, mask: TokenArray) -> FloatArray:
        with torch.inference_mode():
            seen = torch.from_numpy(mask)
            states = bert.compute_states(torch.from_numpy(ids), seen, head.layers)
            pooled = [mean_pool(state, seen) for state in states]
            vectors: FloatArray = project(pooled, head, query=query).numpy()
        return vectors

    return run


def make_light_network(bert: LightBert, head: Head[FloatArray], *, query: bool) -> Network:
    """Return NumPy's forward pass of a backbone with its head, for questions or for documents."""
    # As ``multiply`` takes them: outputs first, inputs next to each other. Of the two networks, most processes use one.
    turned: list[tuple[FloatArray, ...]] = []  # of threads that begin at once, each may add the same

    def run(ids: TokenArray, mask: TokenArray) -> FloatArray:
        if not turned:
            turned.append(tuple(map(_turn, (head.rotation, head.weight, *head.question[:2]))))
        rotation, weight, down, up = turned[0]
        pooled = bert.compute_means(ids, mask, head.layers)
        features = np.concatenate(pooled, axis=1)
        vectors = multiply(features, weight) + head.bias + multiply(normalise(pooled[-1]), rotation)
        return vectors + multiply(multiply(features, down), up) + head.question[2] if query else vectors

    return run


def _turn(matrix: FloatArray) -> FloatArray:
    return np.ascontiguousarray(matrix.T)
