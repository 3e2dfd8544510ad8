"""Checkpoints and the learning-rate schedule, for all trainings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from agent_memory.files import SHARED, write_bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A safetensors file with a model's parameters and its optimiser's moments.

    Attributes:
        path: The file.
    """

    path: Path

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Write the state after ``step`` steps; an existing file is replaced atomically."""
        from safetensors.torch import save

        tensors: dict[str, Tensor] = {"step": torch.tensor(step)}
        for name, parameter in model.named_parameters():
            tensors[f"parameter.{name}"] = parameter.detach().contiguous()
            for key, value in optimiser.state.get(parameter, {}).items():
                tensors[f"{key}.{name}"] = torch.as_tensor(value).contiguous()
        write_bytes(self.path, save(tensors), mode=SHARED)


def restore(checkpoint: Checkpoint, model: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    """Read a checkpoint into model and optimiser.

    Returns:
        Number of steps done; 0 if there is no checkpoint.
    """
    from safetensors.torch import load_file

    if not checkpoint.path.is_file():
        return 0
    tensors = load_file(checkpoint.path)
    for name, parameter in model.named_parameters():
        parameter.data.copy_(tensors[f"parameter.{name}"])
        state = {
            key: tensors[f"{key}.{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}.{name}" in tensors
        }
        if state:
            optimiser.state[parameter] = state
    return int(tensors["step"])


def scale_rate(step: int, steps: int, warm_up: int = 30) -> float:
    """Return the factor of the learning rate at a step: linear warm-up, then half a cosine down to zero."""
    return min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / max(1, steps)))
