"""The compact session encoder as a trainable module; ``encoders.compact`` runs the same weights in NumPy."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from agent_memory.encoders.compact.features import encode_days, encode_place
from agent_memory.encoders.compact.weights import Shape
from agent_memory.files import SHARED, write_bytes


class SessionNetwork(nn.Module):
    """Evolves a whole conversation at once, each segment with those before it.

    Parameters are named as in the weights file, with each dot replaced by two underscores. ``predict`` is used only in
    training.

    Args:
        shape: Sizes of the network.
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        for name, size in shape.list_tensors().items():
            self.register_parameter(_escape_name(name), nn.Parameter(_make_initial(name, size)))
        self.predict = nn.Linear(shape.width, shape.dimension)

    def _get(self, name: str) -> Tensor:
        parameter: Tensor = getattr(self, _escape_name(name))
        return parameter

    def set_codes(self) -> None:
        """Give the codes of place and day an initial weight; from zero, a short training would hardly learn them."""
        with torch.no_grad():
            for name in ("place.gain", "day.gain"):
                self._get(name).fill_(0.3)
            # Questions for the first look for codes that start high, questions for the last for codes that end high.
            self._get("ask.bias").copy_(torch.tensor([0.1, 0.1, -0.1, -0.1, -0.1, -0.1, 0.1, 0.1, 0.1]))

    def evolve_segments(
        self, static: Tensor, who: Tensor, when: Tensor, length: Tensor, days: Tensor, first: int = 0
    ) -> tuple[Tensor, list[Tensor], Tensor]:
        """Evolve the segments of a conversation.

        Args:
            static: Static vectors, (n, d), unit rows.
            who: Vectors of the speakers' names, (n, d).
            when: Vectors of the dates, (n, d).
            length: Lengths of the texts, (n, 1).
            days: Days counted from the year 1, (n,); 0 if unknown.
            first: Number of segments of the session before these, which are not seen.

        Returns:
            Evolved vectors (n, d); the normalised states that each layer reads, (n, width) each; and the last states,
            (n, width).
        """
        place = torch.arange(len(static))
        distance = place[:, None] - place
        state = functional.linear(static, self._get("segment.weight"), self._get("segment.bias"))
        state = (
            state + functional.linear(who, self._get("who.weight")) + functional.linear(when, self._get("when.weight"))
        )
        places = self._encode_places(place + first)
        state = state + length * self._get("length") + functional.linear(places, self._get("place.weight"))
        read = []
        for layer in range(self.shape.layers):
            normal = self._normalise(state, layer, "norm")
            read.append(normal)
            state = self._run_layer(state, normal, normal, distance, layer)
        amounts = functional.linear(state, self._get("tags.weight"), self._get("tags.bias"))
        added = amounts[:, :1] * who + amounts[:, 1:] * when
        added = added + self._get("place.gain") * functional.linear(places, self._get("place.out"))
        waves = torch.from_numpy(encode_days(days.numpy()))
        added = added + self._get("day.gain") * functional.linear(waves, self._get("day.out"))
        added = added + self._mix(state, state, static, distance - 1, "segment")
        remembers = (place + first > 0).float()[:, None]  # with an empty memory the vector stays static
        return functional.normalize(static + remembers * added, dim=1), read, state

    def evolve_questions(
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
        """Evolve questions, each with the memory of the first ``at`` segments.

        Args:
            asked: Static vectors of the questions, (q, d), unit rows.
            at: Number of segments before each question, (q,), integers.
            order: From ``detect_order``, (q, 2).
            dates: From ``encode_dates``, (q, 32).
            read: From ``evolve_segments``.
            last: From ``evolve_segments``.
            static: Static vectors of the segments, (n, d).
            first: As in ``evolve_segments``.

        Returns:
            Evolved vectors of the questions, (q, d).
        """
        state = functional.linear(asked, self._get("question.weight"), self._get("question.bias"))
        state = state + functional.linear(self._encode_places(at + first), self._get("place.question"))
        behind = at[:, None] - torch.arange(len(static))
        itself = torch.full((len(asked), len(asked)), -1).fill_diagonal_(0)
        distance = torch.cat([behind.masked_fill(behind < 1, -1), itself], 1)
        for layer in range(self.shape.layers):
            normal = self._normalise(state, layer, "norm")
            state = self._run_layer(state, normal, torch.cat([read[layer], normal]), distance, layer)
        added = functional.linear(state, self._get("question_out.weight"), self._get("question_out.bias"))
        asks = functional.linear(state, self._get("ask.weight"), self._get("ask.bias"))
        places = (order[:, :, None] * asks[:, :-1].view(-1, 2, 4)).sum(1)
        added = added + functional.linear(places, self._get("place.out"))
        added = added + asks[:, -1:] * functional.linear(dates, self._get("day.out"))
        added = added + self._mix(state, last, static, behind - 1, "question")
        return functional.normalize(asked + (at > 0).float()[:, None] * added, dim=1)

    def _encode_places(self, counts: Tensor) -> Tensor:
        return torch.from_numpy(encode_place(counts.numpy(), self.shape.places))

    def _normalise(self, state: Tensor, layer: int, name: str) -> Tensor:
        return functional.rms_norm(
            state, (self.shape.width,), self._get(f"layers.{layer}.{name}"), eps=torch.finfo(torch.float32).eps
        )

    def _run_layer(self, state: Tensor, normal: Tensor, seen: Tensor, distance: Tensor, layer: int) -> Tensor:
        p, heads = f"layers.{layer}.", self.shape.heads
        query, key, value = (
            functional.linear(rows, self._get(p + name)).view(len(rows), heads, -1).transpose(0, 1)
            for rows, name in ((normal, "query"), (seen, "key"), (seen, "value"))
        )
        allowed = (distance >= 0) & (distance <= self.shape.window)
        bias = self._get(p + "offset")[:, distance.clamp(0, self.shape.window)].masked_fill(~allowed, -1e4)
        weights = (query @ key.transpose(1, 2) / math.sqrt(query.shape[-1]) + bias).softmax(-1)
        state = state + functional.linear((weights @ value).transpose(0, 1).flatten(1), self._get(p + "out"))
        hidden = functional.linear(
            self._normalise(state, layer, "norm2"), self._get(p + "up.weight"), self._get(p + "up.bias")
        )
        return state + functional.linear(
            functional.gelu(hidden), self._get(p + "down.weight"), self._get(p + "down.bias")
        )

    def _mix(self, state: Tensor, last: Tensor, static: Tensor, distance: Tensor, kind: str) -> Tensor:
        """Return the sum of the preceding static vectors, weighted by how well their keys match."""
        allowed = (distance >= 0) & (distance < self.shape.mix)
        query = functional.linear(state, self._get(f"mix.{kind}"))
        scores = query @ functional.linear(last, self._get("mix.key")).T / math.sqrt(self.shape.key)
        bias = self._get(f"mix.{kind}_bias")[distance.clamp(0, self.shape.mix - 1)]
        return self._get(f"mix.{kind}_gain") * ((scores + bias).sigmoid() * allowed) @ static

    def write(self, path: Path, facts: dict[str, str]) -> None:
        """Write the weights file that ``CompactSessionEncoder`` reads, in half precision.

        Args:
            path: The file.
            facts: Metadata to add.
        """
        from safetensors.torch import save

        sizes = {name: str(getattr(self.shape, name)) for name in Shape.__slots__}
        tensors = {name: self._get(name).detach().half().contiguous() for name in self.shape.list_tensors()}
        write_bytes(path, save(tensors, metadata=sizes | facts), mode=SHARED)


def _escape_name(name: str) -> str:
    return name.replace(".", "__")


def _make_initial(name: str, size: tuple[int, ...]) -> Tensor:
    """Return the initial value of a parameter, such that nothing is added to static vectors at first."""
    part = name.rsplit(".", 1)[-1]
    if name in ("segment.weight", "question.weight", "who.weight", "when.weight"):
        # The leading dimensions of a Matryoshka vector carry the most information.
        return torch.eye(*size) * (16.0 if name in ("segment.weight", "question.weight") else 4.0)
    if part in ("norm", "norm2"):
        return torch.ones(size)
    if name in ("place.out", "day.out"):
        # Like static vectors, larger in the leading dimensions.
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
