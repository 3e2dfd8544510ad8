"""EvoEmbedding's network from and to the published layout of weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from agent_memory.encoders.evo.checkpoint import BODY, EvoSettings, WeightFiles
from agent_memory.encoders.evo.network import ADAPTERS, EvoNetwork, LoraLinear, slot
from agent_memory.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_TARGETS = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
_PROJECTIONS = ("latent_to_mem.0", "mem_to_latent.0", "mem_to_emb.0", "mem_to_emb.2")


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
    heads = {name: nn.Parameter(weights[name]) for name in _heads(settings, _wide(files), config.hidden_size)}
    return EvoNetwork(base, views, heads).requires_grad_(False).eval()


def fresh_network(config: PreTrainedConfig, settings: EvoSettings, dimension: int) -> EvoNetwork:
    """Build an untrained network over a base model with random weights, as training begins; see ``load_network``.

    Adapters have no effect, projections are the identity, memory queries are drawn from N(0, 0.02). Everything random
    comes from torch's global generator.
    """
    from transformers import AutoModel

    build: Callable[..., nn.Module] = AutoModel.from_config
    base = build(config, attn_implementation="sdpa", dtype=torch.float32)
    _materialise_rotary(base, config)
    views = {}
    for adapter in ADAPTERS:
        updates = {}
        for path in _targets(base):
            out, into = base.get_submodule(path).weight.shape  # type: ignore[misc]
            down = nn.init.kaiming_uniform_(torch.empty(settings.lora_r, int(into)), a=math.sqrt(5))
            up = torch.zeros(int(out), settings.lora_r)
            updates[path] = (nn.Parameter(down), nn.Parameter(up), settings.lora_alpha / settings.lora_r)
        views[adapter] = _view(base, "", updates)
    heads = {}
    for name, shape in _heads(settings, dimension, int(config.hidden_size)).items():
        value = torch.zeros(shape)
        heads[name] = nn.Parameter(nn.init.eye_(value) if name.endswith("weight") else value)
    nn.init.normal_(heads["memory_queries"], std=0.02)
    return EvoNetwork(base, views, heads).requires_grad_(False).eval()


def published_weights(network: EvoNetwork) -> dict[str, torch.Tensor]:
    """Return all weights of a network under the keys they are published with."""
    base = network.base
    out = {_published(base, name): value for name, value in base.state_dict().items()}
    for adapter, view in network.views.items():
        for path in _targets(base):
            layer: Any = view.get_submodule(path)
            out[f"{BODY}{path}.lora_A.{adapter}.weight"] = layer.down.detach()
            out[f"{BODY}{path}.lora_B.{adapter}.weight"] = layer.up.detach()
    out["memory_queries"] = network.heads["memory_queries"].detach()
    for name in _PROJECTIONS:
        for kind in ("weight", "bias"):
            out[f"{name}.{kind}"] = network.heads[slot(f"{name}.{kind}")].detach()
    return {name: value.contiguous() for name, value in out.items()}


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
    return shapes | _heads(settings, _wide(files), hidden)


def _wide(files: WeightFiles) -> int:
    return (files.shapes.get("mem_to_emb.0.weight") or (1024,))[0]


def _heads(settings: EvoSettings, wide: int, hidden: int) -> dict[str, tuple[int, ...]]:
    sizes = ((hidden, hidden), (hidden, hidden), (wide, hidden), (wide, wide))
    shapes: dict[str, tuple[int, ...]] = {"memory_queries": (1, settings.num_latents, hidden)}
    for name, (out, into) in zip(_PROJECTIONS, sizes, strict=True):
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
