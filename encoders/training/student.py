"""The networks that are trained: a linear head on a frozen backbone, and MiniLM with low-rank deltas and a head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from agent_memory.encoders.files import MINILM_SHA256, find_minilm, read_tokenizer
from agent_memory.encoders.static.bert import Bert, BertShape, mean_pool
from agent_memory.encoders.static.linear import Linear
from agent_memory.encoders.static.matryoshka import DIMENSION, Head, project
from agent_memory.encoders.static.minilm import read_minilm
from agent_memory.encoders.static.runtime import Frame, TextTokenizer, find_frame
from agent_memory.encoders.static.windows import batch_windows, pad_rows
from agent_memory.files import SHARED, write_bytes

LAYERS = (3, 4, 5, 6)
QUESTION_RANK = 64
_UNIT = 0.02  # the head's trained weights are in units of this


class AdaptedLinear(nn.Module):
    """A frozen product plus a low-rank delta that is initially zero (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, base: Linear, inputs: int, outputs: int, rank: int) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, inputs) / inputs**0.5)
        self.up = nn.Parameter(torch.zeros(outputs, rank))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return self.base(x) + functional.linear(functional.linear(x, self.down), self.up)


class HeadStudent(nn.Module):
    """A head on a backbone.

    Subclasses call ``add_head`` when they have added what is theirs.

    Attributes:
        layers: Layers whose mean hidden states the head reads; the last one is the backbone's last layer.
        backbone: SHA-256 of the backbone's weights.
    """

    layers: tuple[int, ...]
    backbone: str
    bert: Bert
    tokenizer: TextTokenizer
    frame: Frame

    def add_head(self, rotation: Tensor, mean: Tensor, scale: Tensor, centre: Tensor | None = None) -> None:
        """Add an untrained head.

        Args:
            rotation: Principal axes of the backbone's unit vectors, (size, size).
            mean: Mean of the pooled features, (size * len(layers),).
            scale: Standard deviation of the pooled features, as the mean.
            centre: What is taken from the backbone's unit vectors before they are rotated, (size,); zeros if None.
        """
        self.weight = nn.Parameter(torch.zeros(len(mean), DIMENSION))
        self.bias = nn.Parameter(torch.zeros(DIMENSION))
        self.question_down = nn.Parameter(torch.randn(len(mean), QUESTION_RANK) / len(mean) ** 0.5)
        self.question_up = nn.Parameter(torch.zeros(QUESTION_RANK, DIMENSION))
        self.register_buffer("rotation", rotation)
        self.register_buffer("centre", torch.zeros(len(rotation)) if centre is None else centre)
        self.register_buffer("mean", mean)
        self.register_buffer("scale", scale)

    def widen(self, seed: int, spread: float = 0.013) -> None:
        """Initialise the dimensions beyond the backbone's with a small random projection of the features.

        If both factors of a product were zero, they would have no gradient and stay zero.
        """
        generator = torch.Generator().manual_seed(seed)
        beyond = self.weight.data[:, self.bert.size :]
        beyond.copy_(torch.randn(beyond.shape, generator=generator) * spread)

    def make_head(self) -> Head[Tensor]:
        """Return the head for inference, with the normalisation of the features folded into its weights."""
        scale, mean = self.get_buffer("scale"), self.get_buffer("mean")
        weight = self.weight / scale[:, None] * _UNIT
        rotation = functional.pad(self.get_buffer("rotation"), (0, DIMENSION - self.bert.size))
        bias = self.bias * _UNIT - mean @ weight - self.get_buffer("centre") @ rotation
        down, up = self.question_down / scale[:, None], self.question_up * _UNIT
        question = (down, up, -(mean @ down) @ up)
        return Head(self.layers, rotation, weight, bias, question, {})

    def get_own(self, pooled: Tensor) -> Tensor:
        """Return the backbone's own vectors of pooled features, centred, of unit length; (n, size)."""
        unit = functional.normalize(pooled[:, -self.bert.size :], dim=1)
        return functional.normalize(unit - self.get_buffer("centre"), dim=1)

    def pool(self, texts: Sequence[str], max_tokens: int = 64, budget: int = 2048) -> Tensor:
        """Compute the mean hidden states of ``layers``, side by side.

        Args:
            texts: Texts to encode.
            max_tokens: Texts are truncated to this many tokens.
            budget: Maximum tokens of a batch, padding included.

        Returns:
            float32 (len(texts), size * len(layers)).
        """
        room = max_tokens - self.frame.size
        rows = [
            [*self.frame.before, *encoding.ids[:room], *self.frame.after]
            for encoding in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]
        parts, order = [], []
        for batch in batch_windows([len(r) for r in rows], budget):
            ids, mask = (torch.from_numpy(part) for part in pad_rows([rows[i] for i in batch], self.frame.pad))
            states = self.bert.compute_states(ids, mask, self.layers)
            parts.append(torch.cat([mean_pool(state, mask) for state in states], 1))
            order.append(batch)
        back = torch.from_numpy(np.argsort(np.concatenate(order)))
        return torch.cat(parts)[back]

    def project(self, pooled: Tensor, *, query: bool = False) -> Tensor:
        """Map pooled features to vectors (n, 768), which are not normalised."""
        return project(list(torch.split(pooled, self.bert.size, dim=1)), self.make_head(), query=query)

    def export(self, path: Path, facts: Mapping[str, str]) -> None:
        """Write the head file that the encoder reads, in half precision."""
        from safetensors.torch import save

        head = self.make_head()
        tensors = {"head.rotation": head.rotation, "head.weight": head.weight, "head.bias": head.bias}
        names = ("down", "up", "bias")
        tensors |= {f"head.question.{n}": t for n, t in zip(names, head.question, strict=True)}
        tensors |= self.list_deltas()
        halves = {name: t.detach().to(torch.float16).contiguous() for name, t in tensors.items()}
        metadata = {"backbone": self.backbone, "layers": ",".join(map(str, self.layers)), **facts}
        write_bytes(path, save(halves, metadata=metadata), mode=SHARED)

    def list_deltas(self) -> dict[str, Tensor]:
        """Return the low-rank updates of the backbone by their names in the head file."""
        return {}


class Student(HeadStudent):
    """MiniLM with deltas and a head.

    Args:
        rank: Rank of the deltas; 0 for none.
        rotation: Principal axes of MiniLM's unit vectors, (384, 384).
        mean: Mean of the pooled features, (1536,).
        scale: Standard deviation of the pooled features, (1536,).
    """

    layers = LAYERS
    backbone = MINILM_SHA256

    def __init__(self, rank: int, rotation: Tensor, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        folder = find_minilm()
        tokenizer = read_tokenizer(folder)
        self.tokenizer, self.frame = tokenizer, find_frame(tokenizer, pad=0)
        self.bert = Bert(read_minilm(folder), BertShape(heads=12), "bf16", trainable=True)
        self.deltas = add_deltas(self.bert, rank)
        self.add_head(rotation, mean, scale)

    def list_deltas(self) -> dict[str, Tensor]:
        """Return the low-rank updates of the backbone by their names in the head file."""
        return list_deltas(self.deltas)


def add_deltas(bert: Bert, rank: int) -> nn.ModuleDict:
    """Add low-rank deltas to the products of a backbone, none if the rank is 0; returns them by layer and part."""
    size, deltas = bert.size, nn.ModuleDict()
    shapes = {"qkv": (size, 3 * size), "out": (size, size), "up": (size, 4 * size), "down": (4 * size, size)}
    for number, layer in enumerate(bert.layers if rank else ()):
        for part, (inputs, outputs) in shapes.items():
            adapted = AdaptedLinear(getattr(layer, part), inputs, outputs, rank)
            setattr(layer, part, adapted)
            deltas[f"{number}-{part}"] = adapted
    return deltas


def list_deltas(deltas: nn.ModuleDict) -> dict[str, Tensor]:
    """Return low-rank deltas by their names in a file of weights."""
    found: dict[str, Tensor] = {}
    for name, adapted in deltas.items():
        place = f"delta.{name.replace('-', '.')}"
        found[f"{place}.down"] = adapted.get_parameter("down")
        found[f"{place}.up"] = adapted.get_parameter("up")
    return found
