"""Reads a published EvoEmbedding checkpoint: settings, base configuration, weights. Never accesses the network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.encoders.files import find_model
from agent_memory.errors import CheckpointError, ModelNotFoundError

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig

BODY = "model.base_model.model.model."
"""Prefix of the keys of the language model, as PEFT writes them."""

_BASELINE = ("emb_model.", "model.base_model.model.lm_head.")
_WRAPPED = ("language_model.", "visual.")
_LISTED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class EvoSettings:
    """The settings in a checkpoint's ``config.json``.

    Attributes:
        num_latents: Number of latents that one segment writes.
        buffer_capacity: Number of latents that are read back, the most recent ones.
        lora_r: Rank of both adapters.
        lora_alpha: Numerator of the scale of both adapters, ``lora_alpha / lora_r``.
        base_model: Folder or hub id of the base model; empty if not given.
    """

    num_latents: int = 16
    buffer_capacity: int = 512
    lora_r: int = 64
    lora_alpha: int = 128
    base_model: str = ""


def read_settings(folder: Path) -> EvoSettings:
    """Read ``config.json``; missing settings take the published values.

    Raises:
        ModelNotFoundError: The folder does not exist.
        CheckpointError: The file is missing, is not a JSON object, or contains invalid numbers.
    """
    if not folder.is_dir():
        raise ModelNotFoundError(f"{folder} is not the folder of an EvoEmbedding checkpoint")
    raw = _read_json(folder / "config.json")
    found: dict[str, Any] = {}
    for name in ("num_latents", "buffer_capacity", "lora_r", "lora_alpha"):
        value = raw.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{folder / 'config.json'}: {name} must be a positive integer, got {value!r}")
        found[name] = value
    base = raw.get("base_model_name_or_path")
    return EvoSettings(**found, base_model=base if isinstance(base, str) else "")


def read_base_config(folder: Path, base_model: str) -> PreTrainedConfig:
    """Read the configuration of the language model.

    It is ``base_config.json`` in the folder or, if that is missing, the configuration of ``base_model``: a folder
    (which may be inside ``folder``) or a model in the local hub cache. For a multimodal model, the text part is
    returned.

    Raises:
        ModelNotFoundError: None of these is on this machine.
        CheckpointError: The configuration cannot be used.
    """
    from transformers import AutoConfig

    path = folder / "base_config.json"
    if not path.is_file():
        inside = folder / base_model
        path = (inside if base_model and inside.is_dir() else _find_base(folder, base_model)) / "config.json"
    raw = _read_json(path)
    kind = raw.pop("model_type", None)
    # A checkpoint must not choose the code that runs on this machine.
    for name in ("attn_implementation", "_attn_implementation", "auto_map", "quantization_config"):
        raw.pop(name, None)
    try:
        config: PreTrainedConfig = AutoConfig.for_model(kind, **raw).get_text_config()
    except Exception as error:
        raise CheckpointError(f"{path} is not the configuration of a known language model: {error}") from error
    return config


def _find_base(folder: Path, base_model: str) -> Path:
    if not base_model:
        raise CheckpointError(f"{folder} has no base_config.json, and its config.json names no base model")
    try:
        return find_model(base_model)[0]
    except ModelNotFoundError as error:
        raise ModelNotFoundError(
            f"{folder} has no base_config.json, and its base {error}; put the base model's config.json "
            "there under the name base_config.json"
        ) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} does not contain a JSON object")
    return raw


def rename_weight(key: str) -> str | None:
    """Return the canonical name of a weight, as in the paper's release; None for weights that are not used here.

    The plain embedding model included as a baseline, the output head and the vision part are not used. The
    ``language_model.`` in the keys of multimodal base models is removed.
    """
    if key.startswith(_BASELINE):
        return None
    if not key.startswith(BODY):
        return key
    rest = key.removeprefix(BODY)
    text, vision = _WRAPPED
    return None if rest.startswith(vision) else BODY + rest.removeprefix(text)


class WeightFiles:
    """The safetensors files of a checkpoint: a single file, or shards with an index. Tensors are read one at a time.

    Args:
        folder: Contains ``model.safetensors``, or ``model.safetensors.index.json`` and its shards.

    Attributes:
        shapes: Shape of each weight that is used, by its canonical name.

    Raises:
        CheckpointError: A file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._places: dict[str, tuple[Path, str]] = {}
        for path in _find_shards(folder):
            self._scan(path)

    def _scan(self, path: Path) -> None:
        from safetensors import safe_open

        try:
            with safe_open(path, framework="pt") as file:
                for key in file.keys():
                    name = rename_weight(key)
                    if name is not None:
                        self.shapes[name] = tuple(file.get_slice(key).get_shape())
                        self._places[name] = (path, key)
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Compare the weights with those a model needs.

        Args:
            expected: Shapes by canonical name.

        Raises:
            CheckpointError: Some are missing, unexpected or of another shape; the message names them.
        """
        wrong = [
            f"{name} is {self.shapes[name]}, expected {shape}"
            for name, shape in expected.items()
            if name in self.shapes and self.shapes[name] != shape
        ]
        faults = (
            ("lacks", sorted(expected.keys() - self.shapes.keys())),
            ("has unexpected", sorted(self.shapes.keys() - expected.keys())),
            ("has weights of another shape:", wrong),
        )
        problems = [f"{fault} {_list_some(names)}" for fault, names in faults if names]
        if problems:
            raise CheckpointError(f"{self._folder} {'; '.join(problems)}")

    def read(self, names: Iterable[str], dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """Read weights and convert them to one dtype.

        Args:
            names: Canonical names.
            dtype: The dtype to return.

        Returns:
            The weights by canonical name.

        Raises:
            CheckpointError: A file cannot be read.
        """
        from safetensors import safe_open

        out: dict[str, torch.Tensor] = {}
        try:
            with ExitStack() as stack:
                files: dict[Path, Any] = {}
                for name in names:
                    path, key = self._places[name]
                    if path not in files:
                        files[path] = stack.enter_context(safe_open(path, framework="pt"))
                    out[name] = files[path].get_tensor(key).to(dtype)
        except Exception as error:
            raise CheckpointError(f"the weights in {self._folder} cannot be read: {error}") from error
        return out


def _list_some(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _find_shards(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        if not (folder / "model.safetensors").is_file():
            raise CheckpointError(f"{folder} has neither model.safetensors nor an index of shards")
        return [folder / "model.safetensors"]
    listed = _read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{index} has no weight_map")
    paths = []
    for name in sorted({str(value) for value in listed.values()}):
        # A shard must be beside its index, or an index could point anywhere on this machine.
        if Path(name).name != name or not (folder / name).is_file():
            raise CheckpointError(f"{index} names the shard {name!r}, which is not in {folder}")
        paths.append(folder / name)
    return paths
