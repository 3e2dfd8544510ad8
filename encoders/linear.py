"""Matrix products of inference in three precisions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from agent_memory.errors import InvalidInputError


class Linear(Protocol):
    """``x @ weight.T + bias`` with float32 in and out."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        ...


class _Full:
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.contiguous(), bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight, self.bias)


class _Half:
    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight.bfloat16().contiguous(), bias.bfloat16()

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x.bfloat16(), self.weight, self.bias).float()


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


def make_linear(weight: Tensor, bias: Tensor, precision: str) -> Linear:
    """Build a product.

    Args:
        weight: float32 (out, in).
        bias: float32 (out,).
        precision: ``fp32``, ``bf16`` or ``int8``.

    Raises:
        InvalidInputError: Another precision.
    """
    kinds: dict[str, Callable[[Tensor, Tensor], Linear]] = {"fp32": _Full, "bf16": _Half, "int8": _Quantised}
    if precision not in kinds:
        raise InvalidInputError(f"precision must be one of {sorted(kinds)}, got {precision!r}")
    return kinds[precision](weight, bias)
