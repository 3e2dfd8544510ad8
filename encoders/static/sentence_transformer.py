"""Any sentence-transformers model in a folder or the local hub cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent_memory.encoders.base import EncoderSpec, TokenArray, tiers_for
from agent_memory.encoders.files import find_model, hash_folder, stamp_files
from agent_memory.encoders.resources import require_sentence_transformers, share
from agent_memory.encoders.static.runtime import Loaded, Network, WindowedEncoder, find_frame
from agent_memory.encoders.static.windows import TOKEN_BUDGET
from agent_memory.errors import CheckpointError, InvalidInputError
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

_DEFAULT_WINDOW = 512


class SentenceTransformerEncoder(WindowedEncoder):
    """Runs a sentence-transformers model on the CPU, with the model's own pooling, prompts and normalisation.

    Needs the extra ``sentence-transformers``.

    Queries use the model's ``query`` prompt and documents its ``document`` prompt, if it has them.

    Args:
        model: A folder, or the name of a model in the local hub cache. Nothing is downloaded.
        name: Name shown to people; the name of the folder or model if None.
        max_tokens: Tokens of one window; the model's own limit if None.
        precision: ``fp32`` or ``bf16``.
        token_budget: Maximum tokens of one batch, padding included.

    Raises:
        ModelNotFoundError: There is no such folder, and no such model in the cache.
        CheckpointError: The folder does not contain a model.
        InvalidInputError: The window is too short, or the precision unknown.
        MissingDependencyError: sentence-transformers is not installed.
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
        require_sentence_transformers()
        self._name = name or (Path(model).name if Path(model).is_dir() else str(model))
        self._configuration = _Configuration(self._folder)
        self._max_tokens = max_tokens or self._configuration.window
        self._spec: EncoderSpec | None = None

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space, from the configuration and the model's commit or a digest of its files."""
        if self._spec is None:
            dimension = self._configuration.dimension
            self._spec = EncoderSpec(
                name=self._name,
                revision=self._commit or hash_folder(self._folder),
                dimension=dimension,
                tiers=tiers_for(dimension),
                max_tokens=self._max_tokens,
                pipeline=f"sentence-transformers+{self._configuration.modules}+token-weighted-windows+l2",
            )
        return self._spec

    @property
    def _query_prompt(self) -> str:
        return self._configuration.find_prompt("query")

    @property
    def _document_prompt(self) -> str:
        return self._configuration.find_prompt("document", "passage")

    def _load(self) -> Loaded:
        folder, precision = self._folder, self._precision
        key = ("sentence-transformers", precision, stamp_files(folder))
        return share(key, lambda: _load_model(folder, precision))


def _load_model(folder: Path, precision: str) -> Loaded:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True).eval()
    if precision == "bf16":
        model = model.bfloat16()
    tokenizer = getattr(model.tokenizer, "backend_tokenizer", None)
    if tokenizer is None:
        raise CheckpointError(f"{folder} has no fast tokenizer (tokenizer.json)")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return Loaded(tokenizer, find_frame(tokenizer, model.tokenizer.pad_token_id or 0), _make_network(model))


def _make_network(model: SentenceTransformer) -> Network:
    import torch

    def run(ids: TokenArray, mask: TokenArray) -> FloatArray:
        features: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(mask),
        }
        with torch.inference_mode():
            vectors: FloatArray = model(features)["sentence_embedding"].float().numpy().astype(np.float32)
        return vectors

    return run


class _Configuration:
    """The facts in a model's configuration files that matter here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        config = self._read_json("config.json")
        config = config.get("text_config", config) if isinstance(config, dict) else {}
        listed = self._read_json("modules.json")
        parts = [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
        self.modules = "+".join(str(m.get("type", "")).rsplit(".", 1)[-1].lower() for m in parts) or "mean-pooling"
        self.window = self._read_window(config)
        self.dimension = self._read_dimension(config, parts)

    def _read_window(self, config: dict[str, Any]) -> int:
        own = self._read_object("sentence_bert_config.json").get("max_seq_length")
        positions = config.get("max_position_embeddings")
        limits = [n for n in (own, positions) if isinstance(n, int) and n > 0]
        return min(limits) if limits else _DEFAULT_WINDOW

    def _read_dimension(self, config: dict[str, Any], parts: list[dict[str, Any]]) -> int:
        size = config.get("hidden_size") or config.get("d_model") or config.get("dim")
        for part in parts:
            kind, own = str(part.get("type", "")), self._read_object(f"{part.get('path', '')}/config.json")
            if kind.endswith(".Pooling"):
                size = (size or own.get("word_embedding_dimension", 0)) * _count_poolings(own)
            elif kind.endswith(".Dense"):
                size = own.get("out_features", size)
        truncated = self._read_object("config_sentence_transformers.json").get("truncate_dim")
        size = min(size, truncated) if size and truncated else size
        if not isinstance(size, int) or size < 1:
            raise CheckpointError(f"{self._folder}: its configuration does not give the dimension of the vectors")
        return size

    def find_prompt(self, *names: str) -> str:
        prompts = self._read_object("config_sentence_transformers.json").get("prompts") or {}
        return next((str(prompts[name]) for name in names if prompts.get(name)), "")

    def _read_object(self, name: str) -> dict[str, Any]:
        found = self._read_json(name)
        return found if isinstance(found, dict) else {}

    def _read_json(self, name: str) -> Any:  # noqa: ANN401
        path = self._folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged: {error}") from error


def _count_poolings(config: dict[str, Any]) -> int:
    """Count the poolings that the model concatenates."""
    return max(1, sum(1 for key, value in config.items() if key.startswith("pooling_mode_") and value is True))
