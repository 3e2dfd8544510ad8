"""Builds EvoEmbedding's network from the published layout of weights, and writes it back."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from agent_memory.encoders.evo.checkpoint import BODY, EvoSettings, WeightFiles
from agent_memory.encoders.evo.network import ADAPTERS, EvoNetwork, LoraLinear, escape_name
from agent_memory.errors import CheckpointError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

_TARGETS = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
_PROJECTIONS = ("latent_to_mem.0", "mem_to_latent.0", "mem_to_emb.0", "mem_to_emb.2")

_Updates: TypeAlias = Mapping[str, tuple[nn.Parameter, nn.Parameter]]
"""The low-rank updates of one adapter, by the path of the layer: down (r, in) and up (out, r)."""


def load_network(folder: Path, settings: EvoSettings, config: PreTrainedConfig, dtype: torch.dtype) -> EvoNetwork:
    """Build the network from a checkpoint folder; all weights frozen, in evaluation mode.

    Args:
        folder: Contains the weights as safetensors.
        settings: From ``read_settings``.
        config: From ``read_base_config``.
        dtype: Dtype of all weights.

    Raises:
        CheckpointError: Weights are missing, unexpected or of another shape, or the architecture is not supported.
    """
    files = WeightFiles(folder)
    base = _build_skeleton(config)
    # Shapes first, so that a wrong file is rejected before gigabytes of it are read.
    expected = _list_shapes(base, settings, files)
    files.check(expected)
    weights = files.read(expected, dtype)
    keys = {name: _find_key(base, name) for name in base.state_dict()}
    base.load_state_dict({name: weights[key] for name, key in keys.items()}, assign=True)
    _compute_rotary(base, config)
    updates: dict[str, _Updates] = {}
    for adapter in ADAPTERS:
        pairs = {path: _list_lora_keys(path, adapter) for path in _find_targets(base)}
        updates[adapter] = {p: (nn.Parameter(weights[a]), nn.Parameter(weights[b])) for p, (a, b) in pairs.items()}
    heads = {name: nn.Parameter(weights[name]) for name in _list_heads(settings, _read_dimension(files), base)}
    return _assemble(base, updates, heads, settings)


def make_network(config: PreTrainedConfig, settings: EvoSettings, dimension: int) -> EvoNetwork:
    """Build an untrained network over a base model with random weights; the result is as from ``load_network``.

    The adapters have no effect yet, the projections are the identity, and the memory queries are drawn from N(0, 0.02).
    All random numbers come from torch's global generator.

    Args:
        config: Configuration of the base model.
        settings: Sizes of queue and adapters.
        dimension: Dimension of the embeddings.
    """
    base = _build_base(config)
    _compute_rotary(base, config)
    updates: dict[str, _Updates] = {}
    for adapter in ADAPTERS:
        fresh = {}
        for path in _find_targets(base):
            out, into = base.get_submodule(path).weight.shape  # type: ignore[misc]
            down = nn.init.kaiming_uniform_(torch.empty(settings.lora_r, int(into)), a=math.sqrt(5))
            fresh[path] = (nn.Parameter(down), nn.Parameter(torch.zeros(int(out), settings.lora_r)))
        updates[adapter] = fresh
    heads = {}
    for name, shape in _list_heads(settings, dimension, base).items():
        value = torch.zeros(shape)
        heads[name] = nn.Parameter(nn.init.eye_(value) if name.endswith("weight") else value)
    nn.init.normal_(heads["memory_queries"], std=0.02)
    return _assemble(base, updates, heads, settings)


def export_weights(network: EvoNetwork) -> dict[str, torch.Tensor]:
    """Return all weights of a network under the keys of the published layout."""
    base = network.base
    out = {_find_key(base, name): value for name, value in base.state_dict().items()}
    for adapter, view in network.views.items():
        for path in _find_targets(base):
            layer: Any = view.get_submodule(path)
            down, up = _list_lora_keys(path, adapter)
            out |= {down: layer.down.detach(), up: layer.up.detach()}
    names = ["memory_queries", *(f"{name}.{kind}" for name in _PROJECTIONS for kind in ("weight", "bias"))]
    out |= {name: network.heads[escape_name(name)].detach() for name in names}
    return {name: value.contiguous() for name, value in out.items()}


def _build_base(config: PreTrainedConfig) -> nn.Module:
    from transformers import AutoModel

    build: Callable[..., nn.Module] = AutoModel.from_config
    return build(config, attn_implementation="sdpa", dtype=torch.float32)


def _build_skeleton(config: PreTrainedConfig) -> nn.Module:
    """Build the base model without allocating its weights."""
    try:
        with torch.device("meta"):
            return _build_base(config)
    except Exception as error:
        raise CheckpointError(f"no language model can be built from the base configuration: {error}") from error


def _assemble(
    base: nn.Module, updates: Mapping[str, _Updates], heads: Mapping[str, nn.Parameter], settings: EvoSettings
) -> EvoNetwork:
    scale = settings.lora_alpha / settings.lora_r
    views = {}
    for adapter, pairs in updates.items():
        layers = {path: LoraLinear(base.get_submodule(path), *pair, scale) for path, pair in pairs.items()}
        views[adapter] = _replace_modules(base, "", layers)
    return EvoNetwork(base, views, heads).requires_grad_(False).eval()


def _replace_modules(module: nn.Module, path: str, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Copy the tree of modules, but not the weights, with some layers replaced."""
    if path in layers:
        return layers[path]
    part = copy.copy(module)
    part._modules = {
        name: None if child is None else _replace_modules(child, f"{path}.{name}".lstrip("."), layers)
        for name, child in module._modules.items()
    }
    return part


def _compute_rotary(base: nn.Module, config: PreTrainedConfig) -> None:
    """Compute the rotary frequencies, which checkpoints do not contain.

    The reference casts its whole model, this table included, to bfloat16 once, even where it later computes in float32.
    Its weights were trained with the rounded frequencies, and its outputs are matched to 1e-7 only with them.
    """
    rotary = getattr(base, "rotary_emb", None)
    if rotary is not None:
        base.rotary_emb = type(rotary)(config=config).to(torch.bfloat16).to(torch.float32)
    missing = [name for name, buffer in base.named_buffers() if buffer.is_meta]
    if missing:
        raise CheckpointError(f"a base model of type {config.model_type} is not supported: {', '.join(missing)}")


def _find_targets(base: nn.Module) -> list[str]:
    """Return the paths of the layers that adapters update."""
    return [
        path
        for path, module in base.named_modules()
        if isinstance(module, nn.Linear) and path.rpartition(".")[2] in _TARGETS
    ]


def _find_key(base: nn.Module, name: str) -> str:
    """Return the published key of a weight of the base model."""
    path, _, kind = name.rpartition(".")
    wrapped = path.rpartition(".")[2] in _TARGETS and isinstance(base.get_submodule(path), nn.Linear)
    return f"{BODY}{path}.base_layer.{kind}" if wrapped else BODY + name


def _list_lora_keys(path: str, adapter: str) -> tuple[str, str]:
    """Return the published keys of a layer's low-rank update: down and up."""
    return f"{BODY}{path}.lora_A.{adapter}.weight", f"{BODY}{path}.lora_B.{adapter}.weight"


def _list_shapes(base: nn.Module, settings: EvoSettings, files: WeightFiles) -> dict[str, tuple[int, ...]]:
    """Return the shape of every weight that a checkpoint must have, by its published key."""
    shapes = {_find_key(base, name): tuple(value.shape) for name, value in base.state_dict().items()}
    for path in _find_targets(base):
        out, into = base.get_submodule(path).weight.shape  # type: ignore[misc]
        for adapter in ADAPTERS:
            down, up = _list_lora_keys(path, adapter)
            shapes |= {down: (settings.lora_r, int(into)), up: (int(out), settings.lora_r)}
    return shapes | _list_heads(settings, _read_dimension(files), base)


def _read_dimension(files: WeightFiles) -> int:
    return (files.shapes.get("mem_to_emb.0.weight") or (1024,))[0]


def _list_heads(settings: EvoSettings, dimension: int, base: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the memory queries and the projections."""
    hidden = int(base.config.hidden_size)  # type: ignore[union-attr, arg-type]
    sizes = ((hidden, hidden), (hidden, hidden), (dimension, hidden), (dimension, dimension))
    shapes: dict[str, tuple[int, ...]] = {"memory_queries": (1, settings.num_latents, hidden)}
    for name, (out, into) in zip(_PROJECTIONS, sizes, strict=True):
        shapes[f"{name}.weight"] = (out, into)
        shapes[f"{name}.bias"] = (out,)
    return shapes
