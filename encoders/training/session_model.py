"""The compact session encoder as a trainable module; ``encoders/compact.py`` runs the same weights in NumPy."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent_memory.encoders.compact.encoder import day_features, place_features
from agent_memory.encoders.compact.weights import Shape
from agent_memory.files import SHARED, write_bytes


class SessionNetwork(nn.Module):
    """Reads a whole conversation at once, each segment with those before it.

    Parameters are named as in the weights file, dots replaced by two underscores. ``predict`` is for training only.

    Args:
        shape: Sizes.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        for name, size in shape.parameters().items():
            self.register_parameter(_attribute(name), nn.Parameter(_initial(name, size)))
        self.predict = nn.Linear(shape.width, shape.dimension)

    def _p(self, name: str) -> Tensor:
        parameter: Tensor = getattr(self, _attribute(name))
        return parameter

    def begin(self) -> None:
        """Let codes of place and day count from the first step on: so few steps hardly find them from zero."""
        with torch.no_grad():
            for name in ("place.gain", "day.gain"):
                self._p(name).fill_(0.3)
            # What came first asks for codes that begin high, what came last for those that end high.
            self._p("ask.bias").copy_(torch.tensor([0.1, 0.1, -0.1, -0.1, -0.1, -0.1, 0.1, 0.1, 0.1]))

    def segments(
        self, static: Tensor, who: Tensor, when: Tensor, length: Tensor, days: Tensor, first: int = 0
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Evolve the segments of a conversation.

        Args:
            static: (n, d), unit rows.
            who: (n, d), names of speakers.
            when: (n, d), dates.
            length: (n, 1).
            days: (n,), counted from the year 1; 0 where unknown.
            first: Segments of the session before these, which are not seen.

        Returns:
            Evolved vectors (n, d); what each layer reads of each segment, (n, width) each; last states (n, width).
        """
        place = torch.arange(len(static))
        distance = place[:, None] - place
        state = functional.linear(static, self._p("segment.weight"), self._p("segment.bias"))
        state = state + functional.linear(who, self._p("who.weight")) + functional.linear(when, self._p("when.weight"))
        places = self._places(place + first)
        state = state + length * self._p("length") + functional.linear(places, self._p("place.weight"))
        read = []
        for layer in range(self.shape.layers):
            normal = self._normal(state, layer, "norm")
            read.append(normal)
            state = self._layer(state, normal, normal, distance, layer)
        amounts = functional.linear(state, self._p("tags.weight"), self._p("tags.bias"))
        added = amounts[:, :1] * who + amounts[:, 1:] * when
        added = added + self._p("place.gain") * functional.linear(places, self._p("place.out"))
        waves = torch.from_numpy(day_features(days.numpy()))
        added = added + self._p("day.gain") * functional.linear(waves, self._p("day.out"))
        added = added + self._mixed(state, state, static, distance - 1, "segment")
        remembers = (place + first > 0).float()[:, None]  # an empty memory leaves the static vector as it is
        return functional.normalize(static + remembers * added, dim=1), read, state

    def questions(
        self,
        asked: Tensor,
        at: Tensor,
        order: Tensor,
        dates: Tensor,
        read: list[Tensor],
        last: Tensor,
        static: Tensor,
        first: int = 0,
    ) -> Tensor:
        """Evolve questions, each behind the first ``at`` segments.

        Args:
            asked: (q, d), unit rows.
            at: (q,), integers.
            order: (q, 2), from ``order_features``.
            dates: (q, 32), from ``dates_feature``.
            read: From ``segments``.
            last: From ``segments``.
            static: (n, d).
            first: As for ``segments``.

        Returns:
            (q, d).
        """
        state = functional.linear(asked, self._p("question.weight"), self._p("question.bias"))
        state = state + functional.linear(self._places(at + first), self._p("place.question"))
        behind = at[:, None] - torch.arange(len(static))
        itself = torch.full((len(asked), len(asked)), -1).fill_diagonal_(0)
        distance = torch.cat([behind.masked_fill(behind < 1, -1), itself], 1)
        for layer in range(self.shape.layers):
            normal = self._normal(state, layer, "norm")
            state = self._layer(state, normal, torch.cat([read[layer], normal]), distance, layer)
        added = functional.linear(state, self._p("question_out.weight"), self._p("question_out.bias"))
        asks = functional.linear(state, self._p("ask.weight"), self._p("ask.bias"))
        places = (order[:, :, None] * asks[:, :-1].view(-1, 2, 4)).sum(1)
        added = added + functional.linear(places, self._p("place.out"))
        added = added + asks[:, -1:] * functional.linear(dates, self._p("day.out"))
        added = added + self._mixed(state, last, static, behind - 1, "question")
        return functional.normalize(asked + (at > 0).float()[:, None] * added, dim=1)

    def _places(self, counts: Tensor) -> Tensor:
        return torch.from_numpy(place_features(counts.numpy(), self.shape.places))

    def _normal(self, state: Tensor, layer: int, name: str) -> Tensor:
        return functional.rms_norm(
            state, (self.shape.width,), self._p(f"layers.{layer}.{name}"), eps=torch.finfo(torch.float32).eps
        )

    def _layer(self, state: Tensor, normal: Tensor, seen: Tensor, distance: Tensor, layer: int) -> Tensor:
        p, heads = f"layers.{layer}.", self.shape.heads
        query, key, value = (
            functional.linear(rows, self._p(p + name)).view(len(rows), heads, -1).transpose(0, 1)
            for rows, name in ((normal, "query"), (seen, "key"), (seen, "value"))
        )
        allowed = (distance >= 0) & (distance <= self.shape.window)
        bias = self._p(p + "offset")[:, distance.clamp(0, self.shape.window)].masked_fill(~allowed, -1e4)
        weights = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + bias).softmax(-1)
        state = state + functional.linear((weights @ value).transpose(0, 1).flatten(1), self._p(p + "out"))
        hidden = functional.linear(
            self._normal(state, layer, "norm2"), self._p(p + "up.weight"), self._p(p + "up.bias")
        )
        return state + functional.linear(functional.gelu(hidden), self._p(p + "down.weight"), self._p(p + "down.bias"))

    def _mixed(self, state: Tensor, last: Tensor, static: Tensor, distance: Tensor, kind: str) -> Tensor:
        """Add the static vectors of the last segments, each as far as its key says."""
        allowed = (distance >= 0) & (distance < self.shape.mix)
        query = functional.linear(state, self._p(f"mix.{kind}"))
        scores = query @ functional.linear(last, self._p("mix.key")).T / math.sqrt(self.shape.key)
        bias = self._p(f"mix.{kind}_bias")[distance.clamp(0, self.shape.mix - 1)]
        return self._p(f"mix.{kind}_gain") * ((scores + bias).sigmoid() * allowed) @ static

    def write(self, path: Path, facts: dict[str, str]) -> None:
        """Write the weights, in half precision, as ``CompactSessionEncoder`` reads them."""
        from safetensors.torch import save

        sizes = {name: str(getattr(self.shape, name)) for name in Shape.__slots__}
        tensors = {name: self._p(name).detach().half().contiguous() for name in self.shape.parameters()}
        write_bytes(path, save(tensors, metadata=sizes | facts), mode=SHARED)


def _attribute(name: str) -> str:
    return name.replace(".", "__")


def _initial(name: str, size: tuple[int, ...]) -> Tensor:
    """Start as the static vector: what is added begins at zero."""
    part = name.rsplit(".", 1)[-1]
    if name in ("segment.weight", "question.weight", "who.weight", "when.weight"):
        # Leading dimensions of a Matryoshka vector carry the most.
        return torch.eye(*size) * (16.0 if name in ("segment.weight", "question.weight") else 4.0)
    if part in ("norm", "norm2"):
        return torch.ones(size)
    if name in ("place.out", "day.out"):
        # As static vectors, more in the leading dimensions.
        rows: Tensor = torch.randn(size) / (1 + torch.arange(size[0])[:, None] / 64).sqrt()
        return functional.normalize(rows, dim=0)
    if name == "length":
        return torch.empty(size).uniform_(-0.5, 0.5)
    if part == "offset":
        return -0.15 * torch.arange(size[1]).expand(size).clone()
    if part in ("segment_bias", "question_bias"):
        return -0.3 * torch.arange(size[0]).float()
    if part in ("query", "key", "value", "segment", "question") or name.endswith("up.weight"):
        return torch.empty(size).uniform_(-1, 1) / math.sqrt(size[-1])
    return torch.zeros(size)
