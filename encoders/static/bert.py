"""A BERT encoder for inference, built directly from safetensors.

The arithmetic is that of Devlin et al. 2018 (arXiv 1810.04805) with exact GELU, as in the published MiniLM
checkpoints; parity with transformers is tested. It does not use transformers, because importing that takes seconds
that a query would wait for, and because fused projections and a choice of precision need the raw weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from agent_memory.encoders.static.light import EPSILON
from agent_memory.encoders.static.linear import Linear, choose_precision, make_linear
from agent_memory.errors import CheckpointError

_Make = Callable[[Tensor, Tensor], Linear]
"""Builds a matrix product from its weight and bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BertShape:
    """Sizes that cannot be derived from the weights.

    Attributes:
        heads: Number of attention heads.
        epsilon: Added to the variance in layer norms.
    """

    heads: int
    epsilon: float = EPSILON


@dataclass(frozen=True, slots=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


class _Layer:
    def __init__(self, w: Mapping[str, Tensor], prefix: str, shape: BertShape, make: _Make) -> None:
        names = [f"{prefix}attention.self.{part}" for part in ("query", "key", "value")]
        self.qkv = make(torch.cat([w[f"{n}.weight"] for n in names]), torch.cat([w[f"{n}.bias"] for n in names]))
        self.out, self.up, self.down = (
            make(w[f"{prefix}{part}.dense.weight"], w[f"{prefix}{part}.dense.bias"])
            for part in ("attention.output", "intermediate", "output")
        )
        self.norm1 = _read_norm(w, f"{prefix}attention.output.LayerNorm", shape)
        self.norm2 = _read_norm(w, f"{prefix}output.LayerNorm", shape)
        self.heads = shape.heads

    def __call__(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, width, size = x.shape
        qkv = self.qkv(x).view(batch, width, 3, self.heads, size // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = self.norm1(x + self.out(mixed.transpose(1, 2).reshape(batch, width, size)))
        return self.norm2(x + self.down(functional.gelu(self.up(x))))


class Bert:
    """The embeddings and layers of a BERT model.

    Args:
        weights: Tensors by their published names, with or without the prefix ``bert.``.
        shape: Sizes that cannot be derived from the weights.
        precision: Precision of the matrix products: ``auto``, ``fp32``, ``bf16`` or ``int8``.
        trainable: Keep the products differentiable, which is slower.
        look_up: Returns the word vectors of tokens, for weights without them.

    Raises:
        CheckpointError: A tensor is missing.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        shape: BertShape,
        precision: str = "fp32",
        *,
        trainable: bool = False,
        look_up: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        w = {
            name.removeprefix("bert."): tensor.float() for name, tensor in weights.items() if tensor.is_floating_point()
        }
        precision = choose_precision() if precision == "auto" else precision
        make = partial(make_linear, precision=precision, trainable=trainable)
        try:
            self.look_up = look_up or partial(_embed, w["embeddings.word_embeddings.weight"])
            # All tokens have segment type 0, so its embedding can be added to the positions once.
            self.positions = (
                w["embeddings.position_embeddings.weight"] + w["embeddings.token_type_embeddings.weight"][0]
            )
            self.norm = _read_norm(w, "embeddings.LayerNorm", shape)
            depth = 1 + max(int(n.split(".")[2]) for n in w if n.startswith("encoder.layer."))
            self.layers = [_Layer(w, f"encoder.layer.{i}.", shape, make) for i in range(depth)]
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the weights are not those of a BERT model: {error} is missing") from error

    @property
    def size(self) -> int:
        """Width of the hidden states."""
        return int(self.positions.shape[1])

    def compute_states(self, ids: Tensor, mask: Tensor, layers: Iterable[int]) -> list[Tensor]:
        """Run the model up to the last of the given layers.

        Args:
            ids: int64 (batch, width).
            mask: int64 (batch, width), 1 for tokens, 0 for padding.
            layers: Layers whose output is returned: 0 for the embeddings, i for the i-th layer.

        Returns:
            One float32 (batch, width, size) for each of these layers, in ascending order.
        """
        chosen = set(layers)
        x = self.norm(self.look_up(ids) + self.positions[: ids.shape[1]])
        # Without a mask, the kernel takes a faster path.
        seen = None if bool(mask.all()) else mask.bool()[:, None, None, :]
        states = [x] if 0 in chosen else []
        for number, layer in enumerate(self.layers[: max(chosen)], start=1):
            x = layer(x, seen)
            if number in chosen:
                states.append(x)
        return states


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Average hidden states over the tokens of a mask.

    Args:
        hidden: (batch, width, d).
        mask: (batch, width), 1 for tokens, 0 for padding.

    Returns:
        (batch, d), in the dtype of ``hidden``.
    """
    weight = mask.to(hidden.dtype)
    total = torch.bmm(weight[:, None, :], hidden)[:, 0]
    return total / weight.sum(1, keepdim=True).clamp(min=1)


def _embed(words: Tensor, ids: Tensor) -> Tensor:
    return functional.embedding(ids, words)


def _read_norm(w: Mapping[str, Tensor], name: str, shape: BertShape) -> _Norm:
    return _Norm(w[f"{name}.weight"], w[f"{name}.bias"], shape.epsilon)
