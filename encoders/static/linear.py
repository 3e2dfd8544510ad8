"""Matrix products for inference, in three precisions."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from agent_memory.errors import InvalidInputError

_ROWS = 1536
"""Number of rows that the layout of packed weights is optimised for; other numbers work too."""

_WEIGHT_STEPS = 64
_ROW_STEPS = 127
_SMALLEST = 1e-8  # peak of a row that is all zeros, which has no scale of its own
_EXACT_IN_FLOAT32 = 2**24  # whole numbers up to this are exact in float32

_Product = Callable[[Tensor], Tensor]
"""Maps whole numbers (n, in) to float32 (n, out): their exact sums with the weights, times the scale of each output."""


class Linear(Protocol):
    """``x @ weight.T + bias``; float32 or bfloat16 in and out."""

    def __call__(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        ...


class _Plain:
    """Torch's own product: differentiable, and available on every processor."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        return functional.linear(x.to(self.weight.dtype), self.weight, self.bias)


class _Packed:
    """oneDNN's product, with weights that are laid out once rather than at each call."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS)
        self.bias, self.dtype = bias, weight.dtype

    def __call__(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.weight, self.bias, "none", [], "")
        return result


class _Quantised:
    """Weights in 7 bits with a scale per output, activations in 8 bits with a scale per row, exact integer sums.

    The product of the quantised operands is the same on every processor, and a row's result is the same beside any
    other rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        whole, scales = quantise_weight(weight)
        self.bias, self.product = bias, _sum_in_floats(whole, scales)
        # The packed product is two to four times as fast, but not every processor and release of torch has it. One
        # that does not give the exact sum of the largest terms is not used.
        with suppress(AttributeError, RuntimeError, TypeError):
            packed = _sum_in_integers(whole, scales)
            largest = torch.full((1, whole.shape[1]), float(_ROW_STEPS))
            if torch.equal(packed(largest), self.product(largest)):
                self.product = packed

    def __call__(self, x: Tensor) -> Tensor:
        whole, scales = quantise_rows(x.reshape(-1, x.shape[-1]))
        return torch.addcmul(self.bias, self.product(whole), scales).view(*x.shape[:-1], -1)


def quantise_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round a weight to whole numbers that leave room for exact sums.

    Processors without VNNI add two neighbouring products of an unsigned and a signed 8-bit number in 16 bits, and
    silently cut off what exceeds 32,767. Up to 64, a pair of terms is at most 2 * 255 * 64 = 32,640.

    Args:
        weight: float32 (out, in).

    Returns:
        int8 (out, in) from -64 to 64, and the float32 scale (out,) of each output.
    """
    scales = weight.abs().amax(1).clamp_(min=_SMALLEST).div_(_WEIGHT_STEPS)
    return weight.div(scales[:, None]).round_().to(torch.int8), scales


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Round activations to whole numbers, each row by itself.

    Args:
        rows: float32 (n, in).

    Returns:
        Whole numbers from -127 to 127 as float32 (n, in), and the float32 scale (n, 1) of each row.
    """
    peaks = torch.maximum(rows.amax(1, keepdim=True), rows.amin(1, keepdim=True).neg_())
    scales = peaks.clamp_(min=_SMALLEST).div_(_ROW_STEPS)
    return rows.div(scales).round_(), scales


def _sum_in_floats(weight: Tensor, scales: Tensor) -> _Product:
    """Multiply whole numbers in floats that hold every sum of them exactly."""
    most = weight.shape[1] * _ROW_STEPS * _WEIGHT_STEPS
    wide = weight.to(torch.float32 if most <= _EXACT_IN_FLOAT32 else torch.float64)
    return lambda whole: functional.linear(whole.to(wide.dtype), wide).float().mul_(scales)


def _sum_in_integers(weight: Tensor, scales: Tensor) -> _Product:
    """Multiply with FBGEMM, which takes whole numbers plus 128 as unsigned 8-bit numbers."""
    # Torch warns that its quantised tensors will go; their announced successor is slower than float32.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        quantised = torch._make_per_channel_quantized_tensor(weight, scales.double(), zeros, 0)
        packed = torch.ops.quantized.linear_prepack(quantised, None)
    multiply = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32
    return lambda whole: multiply(whole, 1.0, 128, packed)


def choose_precision() -> str:
    """Return ``bf16`` if the processor multiplies bfloat16 in hardware, otherwise ``fp32``.

    Sums are float32 either way; the vectors of the two precisions differ by less than 1e-4 in cosine.
    """
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bf16" if found.get("avx512_bf16") or found.get("amx_bf16") else "fp32"


def make_linear(weight: Tensor, bias: Tensor, precision: str, *, trainable: bool = False) -> Linear:
    """Build a matrix product.

    Args:
        weight: float32 (out, in).
        bias: float32 (out,).
        precision: ``fp32``, ``bf16`` or ``int8``. With ``bf16``, sums are float32 and results bfloat16.
        trainable: Keep the product differentiable, which is slower; not available with ``int8``.

    Raises:
        InvalidInputError: The precision is none of these.
    """
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if precision == "int8" and not trainable:
        return _Quantised(weight, bias)
    if precision not in dtypes:
        known = ", ".join(dtypes if trainable else [*dtypes, "int8"])
        raise InvalidInputError(f"precision must be one of {known}, got {precision!r}")
    weight, bias = (tensor.to(dtypes[precision]).contiguous() for tensor in (weight, bias))
    if not trainable:
        # torch.compile uses these functions, but they are not public: if one is missing or refuses, use torch's own.
        with suppress(AttributeError, RuntimeError, TypeError):
            packed = _Packed(weight, bias)
            packed(torch.zeros(1, weight.shape[1]))
            return packed
    return _Plain(weight, bias)
