"""Any sentence-transformers model from a folder or the local hub cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.encoders.base import EncoderSpec, tiers_for
from agent_memory.encoders.files import folder_digest
from agent_memory.encoders.static.runtime import IntArray, Loaded, Network, WindowedEncoder, frame_of
from agent_memory.encoders.static.windows import TOKEN_BUDGET
from agent_memory.errors import CheckpointError, InvalidInputError, ModelNotFoundError
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_DEFAULT_WINDOW = 512


class SentenceTransformerEncoder(WindowedEncoder):
    """Runs a sentence-transformers model with its own pooling, prompts and normalisation, on the CPU.

    Queries take the model's ``query`` prompt and documents its ``document`` prompt, where it has them.

    Args:
        model: A folder, or the name of a model in the local hub cache. Nothing is downloaded.
        name: Shown to people; the folder's or model's name when None.
        max_tokens: Window; the model's own limit when None.
        precision: ``fp32`` or ``bf16``.
        token_budget: Tokens of one batch, padding included.

    Raises:
        ModelNotFoundError: No such folder, and no such model in the cache.
        CheckpointError: The folder is not that of a model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        name: str | None = None,
        max_tokens: int | None = None,
        precision: str = "fp32",
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        super().__init__(token_budget=token_budget)
        if max_tokens is not None and max_tokens < 4:
            raise InvalidInputError(f"max_tokens must be at least 4, got {max_tokens}")
        if precision not in ("fp32", "bf16"):
            raise InvalidInputError(f"precision must be fp32 or bf16, got {precision!r}")
        self._precision = precision
        self._folder, self._commit = find_model(model)
        self._name = name or (Path(model).name if Path(model).is_dir() else str(model))
        self._facts = _Facts(self._folder)
        self._max_tokens = max_tokens or self._facts.window
        self._spec: EncoderSpec | None = None

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space, from the configuration files and a digest of the weights."""
        if self._spec is None:
            dimension = self._facts.dimension
            self._spec = EncoderSpec(
                name=self._name,
                revision=self._commit or folder_digest(self._folder),
                dimension=dimension,
                tiers=tiers_for(dimension),
                max_tokens=self._max_tokens,
                pipeline=f"sentence-transformers+{self._facts.modules}+token-weighted-windows+l2",
            )
        return self._spec

    def _query_prompt(self) -> str:
        return self._facts.prompt("query")

    def _document_prompt(self) -> str:
        return self._facts.prompt("document", "passage")

    def _load(self) -> Loaded:
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(self._folder), device="cpu", local_files_only=True).eval()
        if self._precision == "bf16":
            model = model.bfloat16()
        tokenizer = getattr(model.tokenizer, "backend_tokenizer", None)
        if tokenizer is None:
            raise CheckpointError(f"{self._folder} has no fast tokenizer (tokenizer.json)")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return Loaded(tokenizer, frame_of(tokenizer, model.tokenizer.pad_token_id or 0), _network(model))


def _network(model: SentenceTransformer) -> Network:
    import torch

    def run(ids: IntArray, mask: IntArray) -> FloatArray:
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
        }
        with torch.inference_mode():
            vectors: FloatArray = model(features)["sentence_embedding"].float().numpy().astype(np.float32)
        return vectors

    return run


def find_model(model: str | Path) -> tuple[Path, str | None]:
    """Find a model on this machine.

    Returns:
        Its folder, and the commit when it is in the hub cache.

    Raises:
        ModelNotFoundError: It is not on this machine; the message names the command that fetches it.
        CheckpointError: The folder lacks ``config.json``.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{folder} is not a model folder: config.json is missing")
        return folder, None
    missing = f"model {str(model)!r} is neither a folder nor in the local cache"
    if isinstance(model, Path) or folder.is_absolute() or str(model).startswith((".", "~")):
        raise ModelNotFoundError(f"{missing}; give the folder of a model or: agent-memory models list")
    snapshot = _cached_snapshot(str(model))
    if snapshot is None:
        raise ModelNotFoundError(f"{missing}; run: agent-memory models pull {model}")
    return snapshot, snapshot.name


def _cached_snapshot(name: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    candidates = (name,) if "/" in name else (f"sentence-transformers/{name}", name)
    for candidate in candidates:
        try:
            found = try_to_load_from_cache(candidate, "config.json")
        except HFValidationError:
            continue
        if isinstance(found, str):
            return Path(found).parent
    return None


class _Facts:
    """What the configuration files of a model say."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        config = self._json("config.json")
        config = config.get("text_config", config) if isinstance(config, dict) else {}
        listed = self._json("modules.json")
        parts = [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        self.modules = "+".join(str(m.get("type", "")).rsplit(".", 1)[-1].lower() for m in parts) or "mean-pooling"
        self.window = self._window(config)
        self.dimension = self._dimension(config, parts)

    def _window(self, config: dict[str, Any]) -> int:
        own = self._dict("sentence_bert_config.json").get("max_seq_length")
        positions = config.get("max_position_embeddings")
        limits = [n for n in (own, positions) if isinstance(n, int) and n > 0]
        return min(limits) if limits else _DEFAULT_WINDOW

    def _dimension(self, config: dict[str, Any], parts: list[dict[str, Any]]) -> int:
        size = config.get("hidden_size") or config.get("d_model") or config.get("dim")
        for part in parts:
            kind, own = str(part.get("type", "")), self._dict(f"{part.get('path', '')}/config.json")
            if kind.endswith(".Pooling"):
                size = (size or own.get("word_embedding_dimension", 0)) * _pooled_parts(own)
            elif kind.endswith(".Dense"):
                size = own.get("out_features", size)
        truncated = self._dict("config_sentence_transformers.json").get("truncate_dim")
        size = min(size, truncated) if size and truncated else size
        if not isinstance(size, int) or size < 1:
            raise CheckpointError(f"{self._folder}: the configuration does not tell the dimension of the vectors")
        return size

    def prompt(self, *names: str) -> str:
        prompts = self._dict("config_sentence_transformers.json").get("prompts") or {}
        return next((str(prompts[name]) for name in names if prompts.get(name)), "")

    def _dict(self, name: str) -> dict[str, Any]:
        found = self._json(name)
        return found if isinstance(found, dict) else {}

    def _json(self, name: str) -> Any:  # noqa: ANN401
        path = self._folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error


def _pooled_parts(config: dict[str, Any]) -> int:
    """Count the poolings that are put side by side."""
    return max(1, sum(1 for key, value in config.items() if key.startswith("pooling_mode_") and value is True))
