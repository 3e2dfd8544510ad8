"""The network of EvoEmbedding (arXiv 2606.21649): one frozen language model, two adapters, three projections."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from agent_memory.encoders.evo_checkpoint import BODY, EvoSettings, WeightFiles
from agent_memory.encoders.runtime import IntArray
from agent_memory.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

GENERATOR = "memory_generator"
RETRIEVER = "retriever"
ADAPTERS = (GENERATOR, RETRIEVER)
_TARGETS = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}

Row: TypeAlias = tuple[IntArray, torch.Tensor]
"""Token ids, and the projected memory in front of them, (n, H)."""


class LoraLinear(nn.Module):
    """A frozen linear layer plus the low-rank update of one adapter (LoRA, arXiv 2106.09685).

    Args:
        base: The layer, shared with the other views of the model.
        down: ``lora_A``, (r, in).
        up: ``lora_B``, (out, r).
        scale: alpha / r.
    """

    def __init__(self, base: nn.Module, down: nn.Parameter, up: nn.Parameter, scale: float) -> None:
        super().__init__()
        self.base, self.down, self.up, self.scale = base, down, up, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., in) to (..., out)."""
        out: torch.Tensor = self.base(x) + F.linear(F.linear(x, self.down), self.up) * self.scale
        return out


class EvoNetwork(nn.Module):
    """Writes segments into latents and reads embeddings from them; keeps no state between calls.

    Each adapter is a view of the base model of its own: the modules differ, the base weights are the same
    tensors. Nothing is switched, so threads may use both at once, and both can have gradients.

    Args:
        base: The language model without its head and without adapters.
        views: The same with each adapter, by its name.
        heads: Memory queries and the projections, by their names in the checkpoint.
    """

    def __init__(self, base: nn.Module, views: Mapping[str, nn.Module], heads: Mapping[str, nn.Parameter]) -> None:
        super().__init__()
        self.base = base
        self.views = nn.ModuleDict(dict(views))
        self.heads = nn.ParameterDict({_slot(name): value for name, value in heads.items()})
        self.hidden_size = int(heads["memory_queries"].shape[2])
        self.dimension = int(heads["mem_to_emb.2.weight"].shape[0])
        self.num_latents = int(heads["memory_queries"].shape[1])
        self.vocabulary = int(base.config.vocab_size)  # type: ignore[union-attr, arg-type]

    @property
    def dtype(self) -> torch.dtype:
        """What latents and weights are computed in."""
        queries: torch.Tensor = self.heads["memory_queries"]
        return queries.dtype

    def project(self, latents: torch.Tensor) -> torch.Tensor:
        """P: latents (n, H) as inputs of the language model, (n, H)."""
        return self._linear("mem_to_latent.0", latents)

    def write(self, segments: Sequence[IntArray], memory: torch.Tensor) -> torch.Tensor:
        """Write a chunk of segments in one causal pass of the memory generator.

        Args:
            segments: Token ids of each, none empty. A later one sees the text of the earlier ones.
            memory: Projected memory before the chunk, (n, H).

        Returns:
            Latents of each segment, (k, m, H).
        """
        queries = self.heads["memory_queries"][0]
        parts, ends = [memory], []
        end = len(memory)
        for ids in segments:
            parts += [self._tokens(ids), queries]
            end += len(ids) + len(queries)
            ends.append(end)
        inputs = torch.cat(parts)[None]
        hidden = self._hidden(GENERATOR, inputs, inputs.new_ones(inputs.shape[:2], dtype=torch.long))[0]
        blocks = torch.stack([hidden[end - len(queries) : end] for end in ends])
        return self._phi(blocks)

    def embed(self, rows: Sequence[Row]) -> torch.Tensor:
        """Embed token rows behind their memories with the retriever.

        Returns:
            float32 (len(rows), E), L2-normalised.
        """
        inputs = [torch.cat((memory, self._tokens(ids))) for ids, memory in rows]
        width = max(len(row) for row in inputs)
        padded = torch.stack([F.pad(row, (0, 0, width - len(row), 0)) for row in inputs])
        mask = torch.stack([F.pad(torch.ones(len(row), dtype=torch.long), (width - len(row), 0)) for row in inputs])
        last = self._phi(self._hidden(RETRIEVER, padded, mask)[:, -1])
        vectors = self._linear("mem_to_emb.2", torch.relu(self._linear("mem_to_emb.0", last)))
        return F.normalize(vectors.float(), dim=-1)

    def _hidden(self, adapter: str, inputs: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = self.views[adapter](inputs_embeds=inputs, attention_mask=mask, position_ids=positions, use_cache=False)
        hidden: torch.Tensor = out.last_hidden_state
        return hidden

    def _tokens(self, ids: IntArray) -> torch.Tensor:
        table: Any = self.base.get_input_embeddings()  # type: ignore[operator]
        out: torch.Tensor = table(torch.from_numpy(ids))
        return out

    def _phi(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.relu(self._linear("latent_to_mem.0", hidden))

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.heads[_slot(f"{name}.weight")], self.heads[_slot(f"{name}.bias")])


def load_network(folder: Path, settings: EvoSettings, config: PreTrainedConfig, dtype: torch.dtype) -> EvoNetwork:
    """Build the network from a checkpoint folder; all weights frozen, in evaluation mode.

    Raises:
        CheckpointError: Weights are missing, unexpected, of another shape, or the architecture is unknown.
    """
    files = WeightFiles(folder)
    base = _skeleton(config)
    # Shapes first: a wrong file is refused before gigabytes of it are read.
    expected = _expected(base, settings, files)
    files.check(expected)
    weights = files.read(expected, dtype)
    names = {name: _published(base, name) for name in base.state_dict()}
    base.load_state_dict({name: weights[key] for name, key in names.items()}, assign=True)
    _materialise_rotary(base, config)
    views = {}
    for adapter in ADAPTERS:
        updates = {path: _update(weights, path, adapter, settings) for path in _targets(base)}
        views[adapter] = _view(base, "", updates)
    heads = {name: nn.Parameter(weights[name]) for name in _heads(settings, files, config.hidden_size)}
    return EvoNetwork(base, views, heads).requires_grad_(False).eval()


def _skeleton(config: PreTrainedConfig) -> nn.Module:
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            build: Callable[..., nn.Module] = AutoModel.from_config
            model = build(config, attn_implementation="sdpa", dtype=torch.float32)
    except Exception as error:
        raise CheckpointError(f"no language model can be built from the base configuration: {error}") from error
    return model


def _materialise_rotary(base: nn.Module, config: PreTrainedConfig) -> None:
    """Compute the rotary frequencies, which no checkpoint holds.

    The reference casts its whole model to bfloat16 once, this table included, also where it computes in float32
    later. Its weights have seen the rounded frequencies, and its outputs are matched to 1e-7 only with them.
    """
    rotary = getattr(base, "rotary_emb", None)
    if rotary is not None:
        base.rotary_emb = type(rotary)(config=config).to(torch.bfloat16).to(torch.float32)
    left = [name for name, buffer in base.named_buffers() if buffer.is_meta]
    if left:
        raise CheckpointError(f"a base model of type {config.model_type} is not supported: {', '.join(left)}")


def _targets(base: nn.Module) -> list[str]:
    return [
        path
        for path, module in base.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in _TARGETS
    ]


def _published(base: nn.Module, name: str) -> str:
    path, _, kind = name.rpartition(".")
    wrapped = path.rpartition(".")[2] in _TARGETS and isinstance(base.get_submodule(path), nn.Linear)
    return f"{BODY}{path}.base_layer.{kind}" if wrapped else BODY + name


def _expected(base: nn.Module, settings: EvoSettings, files: WeightFiles) -> dict[str, tuple[int, ...]]:
    shapes = {_published(base, name): tuple(value.shape) for name, value in base.state_dict().items()}
    for path in _targets(base):
        out, into = base.get_submodule(path).weight.shape  # type: ignore[misc]
        for adapter in ADAPTERS:
            shapes[f"{BODY}{path}.lora_A.{adapter}.weight"] = (settings.lora_r, int(into))
            shapes[f"{BODY}{path}.lora_B.{adapter}.weight"] = (int(out), settings.lora_r)
    hidden = int(base.config.hidden_size)  # type: ignore[union-attr, arg-type]
    return shapes | _heads(settings, files, hidden)


def _heads(settings: EvoSettings, files: WeightFiles, hidden: int) -> dict[str, tuple[int, ...]]:
    wide = (files.shapes.get("mem_to_emb.0.weight") or (1024,))[0]
    square = {"latent_to_mem.0": (hidden, hidden), "mem_to_latent.0": (hidden, hidden)}
    head = {"mem_to_emb.0": (wide, hidden), "mem_to_emb.2": (wide, wide)}
    shapes: dict[str, tuple[int, ...]] = {"memory_queries": (1, settings.num_latents, hidden)}
    for name, (out, into) in (square | head).items():
        shapes[f"{name}.weight"] = (out, into)
        shapes[f"{name}.bias"] = (out,)
    return shapes


def _update(
    weights: Mapping[str, torch.Tensor], path: str, adapter: str, settings: EvoSettings
) -> tuple[nn.Parameter, nn.Parameter, float]:
    down = nn.Parameter(weights[f"{BODY}{path}.lora_A.{adapter}.weight"])
    up = nn.Parameter(weights[f"{BODY}{path}.lora_B.{adapter}.weight"])
    return down, up, settings.lora_alpha / settings.lora_r


def _view(module: nn.Module, path: str, updates: Mapping[str, tuple[nn.Parameter, nn.Parameter, float]]) -> nn.Module:
    """Copy the tree of modules, not the weights, with the adapter's layers in their places."""
    if path in updates:
        return LoraLinear(module, *updates[path])
    part = copy.copy(module)
    part._modules = {
        name: None if child is None else _view(child, f"{path}.{name}".lstrip("."), updates)
        for name, child in module._modules.items()
    }
    return part


def _slot(name: str) -> str:
    """A name that a parameter dictionary accepts."""
    return name.replace(".", "_")
