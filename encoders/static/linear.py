"""Matrix products of inference in three precisions."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from agent_memory.errors import InvalidInputError

_ROWS = 1536
"""Rows of a product that packed weights are laid out for; others work too."""


class Linear(Protocol):
    """``x @ weight.T + bias``; float32 or bfloat16 in and out."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        ...


class _Plain:
    """Torch's own product: differentiable, and there on every processor."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


class _Packed:
    """oneDNN's product, with weights laid out once and not at each call."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self.bias, self.dtype = bias, weight.dtype

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "none", [], "")
        return result


class _Quantised:
    """Weights in int8 with a scale per output, activations in 8 bits with a scale per call."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        scales = weight.abs().amax(1).clamp(min=1e-8).double() / 127.0
        # Torch warns that its quantised tensors will go; the packed product they lead to is four times as
        # fast as float32 here, and its announced successor is not yet faster than float32 on all shapes.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantised = torch.quantize_per_channel(
                weight, scales, torch.zeros(len(scales), dtype=torch.int64), 0, torch.qint8
            )
            self.packed = torch.ops.quantized.linear_prepack(quantised, bias)

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.quantized.linear_dynamic(x, self.packed)
        return result


def fastest() -> str:
    """``bf16`` where the processor multiplies bfloat16 in hardware, else ``fp32``.

    Sums are kept in float32 either way; vectors of the two differ by less than 1e-4 in cosine.
    """
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") else "fp32"


def make_linear(weight: Tensor, bias: Tensor, precision: str, *, trainable: bool = False) -> Linear:
    """Build a product.

    Args:
        weight: float32 (out, in).
        bias: float32 (out,).
        precision: ``fp32``, ``bf16`` or ``int8``. With ``bf16`` sums are float32 and results bfloat16.
        trainable: Keep it differentiable, which is slower; not with ``int8``.

    Raises:
        InvalidInputError: Another precision.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision == "int8" and not trainable:
        return _Quantised(weight, bias)
    if precision not in dtypes:
        known = ", ".join(dtypes if trainable else [*dtypes, "int8"])
        raise InvalidInputError(f"precision must be one of {known}, got {precision!r}")
    weight, bias = (tensor.to(dtypes[precision]).contiguous() for tensor in (weight, bias))
    if not trainable:
        # What torch.compile uses, but not public: where one of them is missing or refuses, the plain product stays.
        with suppress(AttributeError, RuntimeError, TypeError):
            packed = _Packed(weight, bias)
            packed(torch.zeros(1, weight.shape[1]))
            return packed
    return _Plain(weight, bias)
