"""all-MiniLM-L6-v2: 384 dimensions, the backbone of the embedded default encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from agent_memory.encoders.base import EncoderSpec, TokenArray, tiers_for
from agent_memory.encoders.files import (
    MINILM_SHA256,
    find_minilm,
    read_tokenizer,
    stamp_files,
    take_verification,
    verify_file,
)
from agent_memory.encoders.resources import share
from agent_memory.encoders.static.light import LightBert, map_tensors
from agent_memory.encoders.static.runtime import Loaded, WindowedEncoder, find_frame
from agent_memory.encoders.static.windows import TOKEN_BUDGET
from agent_memory.errors import InvalidInputError
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from torch import Tensor

_T = TypeVar("_T")

MAX_TOKENS = 256
MINILM_FILES = ("model.safetensors", "tokenizer.json")
HEADS = 12
PRECISIONS = ("auto", "fp32", "bf16", "int8")
LIGHT_PRECISIONS = ("auto", "fp32")
"""Precisions with which texts may be encoded in float32 by NumPy."""

_INT8 = "int8-per-token"  # "int8" alone stood for products that some processors cut off


class MiniLMEncoder(WindowedEncoder):
    """Plain all-MiniLM-L6-v2 (Apache-2.0), mean-pooled, 384 dimensions.

    Args:
        folder: Folder of the model files; the installed package if None.
        precision: Precision of the matrix products: ``fp32``, ``bf16``, ``auto`` for the faster of the two on this
            processor, or ``int8``, which defines a different embedding space. Its sums are exact on every processor,
            but rounding to 8 bits magnifies the last bits of float32: the vectors of a text from two processors or in
            two batches have a cosine of at least .995.
        token_budget: Maximum tokens of one batch, padding included.

    Raises:
        InvalidInputError: The precision is none of these.
    """

    scripts = ("LATIN",)

    def __init__(
        self, folder: Path | None = None, *, precision: str = "auto", token_budget: int = TOKEN_BUDGET
    ) -> None:
        super().__init__(token_budget=token_budget)
        self._folder = folder
        self._precision = check_precision(precision)

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space; does not read the files."""
        return EncoderSpec(
            name="minilm",
            revision=MINILM_SHA256,
            dimension=384,
            tiers=tiers_for(384),
            max_tokens=MAX_TOKENS,
            pipeline=describe_pipeline("mean-pooling", self._precision),
        )

    def _load(self) -> Loaded:
        folder, precision = self._folder or find_minilm(), resolve_precision(self._precision)
        key = ("minilm", precision, stamp_files(folder, *MINILM_FILES))
        return share(key, lambda: _load_minilm(folder, precision))

    def _load_light(self) -> Loaded | None:
        if self._precision not in LIGHT_PRECISIONS:
            return None
        folder = self._folder or find_minilm()
        return share(("minilm", "light", stamp_files(folder, *MINILM_FILES)), lambda: _load_light(folder))


def _load_minilm(folder: Path, precision: str) -> Loaded:
    import torch

    from agent_memory.encoders.static.bert import Bert, BertShape, mean_pool

    bert = Bert(read_minilm(folder), BertShape(heads=HEADS), precision)

    def network(ids: TokenArray, mask: TokenArray) -> FloatArray:
        with torch.inference_mode():
            seen = torch.from_numpy(mask)
            (last,) = bert.compute_states(torch.from_numpy(ids), seen, (len(bert.layers),))
            vectors: FloatArray = mean_pool(last, seen).numpy()
            return vectors

    tokenizer = read_tokenizer(folder)
    return Loaded(tokenizer, find_frame(tokenizer, pad=0), network)


def _load_light(folder: Path) -> Loaded:
    return verify_beside(folder / MINILM_FILES[0], MINILM_SHA256, lambda: _read_light(folder))


def _read_light(folder: Path) -> Loaded:
    bert = LightBert(map_tensors(folder / "model.safetensors"), HEADS)
    last = (len(bert.layers),)
    tokenizer = read_tokenizer(folder)
    return Loaded(tokenizer, find_frame(tokenizer, pad=0), lambda ids, mask: bert.compute_means(ids, mask, last)[0])


def check_precision(precision: str) -> str:
    """Return a valid precision.

    Raises:
        InvalidInputError: It is not one of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise InvalidInputError(f"precision must be one of {PRECISIONS}, got {precision!r}")
    return precision


def resolve_precision(precision: str) -> str:
    """Return the precision that ``auto`` means on this processor; others as they are."""
    from agent_memory.encoders.static.linear import choose_precision

    return choose_precision() if precision == "auto" else precision


def describe_pipeline(body: str, precision: str) -> str:
    """Name the steps after the tokenizer; bf16 and fp32 vectors may share an index, int8 vectors need their own."""
    steps = [body, "token-weighted-windows", "l2"]
    return "+".join([*steps, _INT8] if precision == "int8" else steps)


def verify_beside(weights: Path, expected: str, load: Callable[[], _T]) -> _T:
    """Load something from a model's files while another thread verifies the published SHA-256 of its weights.

    Args:
        weights: The file of the weights.
        expected: Their SHA-256.
        load: Reads the files; what it returns or raises counts only if they are the right ones.

    Raises:
        CheckpointError: The weights are missing or have another SHA-256.
    """
    verification = take_verification(weights, expected)
    try:
        return load()
    finally:
        verification.finish()


def read_minilm(folder: Path) -> dict[str, Tensor]:
    """Read the weights after verifying their published SHA-256.

    Raises:
        CheckpointError: The file is missing or has another SHA-256.
    """
    from safetensors.torch import load_file

    path = folder / "model.safetensors"
    verify_file(path, MINILM_SHA256)
    weights: dict[str, Tensor] = load_file(path)
    return weights
