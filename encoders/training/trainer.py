"""Checkpoints and the learning-rate schedule."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from agent_memory.files import SHARED, write_bytes


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Trainable parameters and optimiser moments, as safetensors."""

    path: Path

    def save(self, model: nn.Module, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Write the state after ``step`` steps; the old file stays until the new one is complete."""
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
        Steps done; 0 when there is no checkpoint.
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


def schedule(step: int, steps: int, warm_up: int = 30) -> float:
    """Linear warm-up, then half a cosine down to zero; a factor between 0 and 1."""
    return min(1.0, (step + 1) / warm_up) * (0.5 + 0.5 * math.cos(math.pi * step / max(1, steps)))
