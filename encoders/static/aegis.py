"""aegis-embed, the production encoder: 2D Matryoshka over dimensions and layers."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_memory.encoders.base import EncoderSpec, TokenArray, tiers_for
from agent_memory.encoders.files import find_model, hash_folder, locate_model, read_tokenizer, stamp_files
from agent_memory.encoders.resources import share
from agent_memory.encoders.static.runtime import Loaded, Network, WindowedEncoder, find_frame
from agent_memory.encoders.static.windows import TOKEN_BUDGET
from agent_memory.errors import CheckpointError, InvalidInputError, ModelNotFoundError
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from transformers import ModernBertModel

AEGIS = "llm-semantic-router/aegis-embed"
UPSTREAM = "llm-semantic-router/mmbert-embed-32k-2d-matryoshka"
DIMENSIONS = (768, 512, 256, 128, 64)
LAYERS = (22, 11, 6, 3)
CONTEXT = 32_768


class AegisEncoder(WindowedEncoder):
    """ModernBERT with mean pooling over the tokens and without prompts.

    A vector is the first ``dimension`` numbers of the pooled state after ``layers`` layers, L2-normalised. Unused
    layers are not kept in memory.

    Args:
        model: A folder, or a hub id in the local cache. If None, the folder that ``models pull aegis`` created, or
            aegis-embed or its upstream model in the hub cache.
        dimension: One of ``DIMENSIONS``.
        layers: One of ``LAYERS``; for a model of another depth, any number up to its depth.
        query_layers: Layers for queries, if not the same as for documents.
        allow_mixed_layers: Permit ``query_layers`` to differ from ``layers``. Each depth is an embedding space of its
            own: queries of one and documents of another compare badly unless the model was trained for it.
        final_norm: Apply the model's final norm after the last layer that runs. Published runtimes disagree on whether
            a shortened model has it; at full depth it is always applied.
        max_tokens: Tokens of one window, at most 32,768; longer text is encoded in several windows.
        precision: ``fp32`` or ``bf16``.
        token_budget: Maximum tokens of one batch, padding included.

    Raises:
        InvalidInputError: The model does not support the dimension, depth, window or precision.
        ModelNotFoundError: The model is not on this machine.
        CheckpointError: The folder has no ``config.json``.
    """

    prefix_trained = True

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        dimension: int = 768,
        layers: int = 22,
        query_layers: int | None = None,
        allow_mixed_layers: bool = False,
        final_norm: bool = True,
        max_tokens: int = 2048,
        precision: str = "fp32",
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        super().__init__(token_budget=token_budget)
        _check_options(dimension, layers, query_layers, allow_mixed_layers, max_tokens, precision)
        self._folder, self._commit = find_model(model) if model is not None else _find_aegis()
        self._name = "aegis" if model is None else Path(model).name
        self._dimension = dimension
        self._layers = layers
        self._query_layers = query_layers or layers
        self._final_norm = final_norm
        self._max_tokens = max_tokens
        self._precision = precision
        self._spec: EncoderSpec | None = None

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space, from the model's commit or a digest of its files."""
        if self._spec is None:
            norm = "" if self._final_norm else "+no-final-norm"
            mixed = f"+query-layers-{self._query_layers}" if self._query_layers != self._layers else ""
            self._spec = EncoderSpec(
                name=self._name,
                revision=self._commit or hash_folder(self._folder),
                dimension=self._dimension,
                tiers=tiers_for(self._dimension),
                max_tokens=self._max_tokens,
                pipeline=f"layers-{self._layers}{mixed}{norm}+mean-pooling+truncate+token-weighted-windows+l2",
            )
        return self._spec

    def _load(self) -> Loaded:
        options = self._dimension, self._layers, self._query_layers, self._final_norm, self._precision
        return share(("aegis", *options, stamp_files(self._folder)), self._read)

    def _read(self) -> Loaded:
        deepest = max(self._layers, self._query_layers)
        model = _read_model(self._folder, deepest, self._precision)
        if model.config.hidden_size < self._dimension:
            raise InvalidInputError(
                f"{self._folder} has {model.config.hidden_size} dimensions, fewer than {self._dimension}"
            )
        full = _read_depth(self._folder)
        networks = {}
        for count in {self._layers, self._query_layers}:
            part = _shorten(model, count, keep_norm=self._final_norm or count == full)
            networks[count] = _make_network(part, self._dimension)
        tokenizer = read_tokenizer(self._folder)
        pad = model.config.pad_token_id
        return Loaded(tokenizer, find_frame(tokenizer, pad or 0), networks[self._layers], networks[self._query_layers])


def _check_options(
    dimension: int, layers: int, query_layers: int | None, mixed: bool, max_tokens: int, precision: str
) -> None:
    if dimension not in DIMENSIONS:
        raise InvalidInputError(f"dimension must be one of {DIMENSIONS}, got {dimension}")
    if layers < 1 or (query_layers is not None and query_layers < 1):
        raise InvalidInputError(f"layers must be at least 1, got {layers} and {query_layers} for queries")
    if query_layers not in (None, layers) and not mixed:
        raise InvalidInputError(
            f"documents at {layers} layers and queries at {query_layers} are two embedding spaces; "
            "pass allow_mixed_layers=True if the model was trained for that"
        )
    if not 4 <= max_tokens <= CONTEXT:
        raise InvalidInputError(f"max_tokens must be between 4 and {CONTEXT}, got {max_tokens}")
    if precision not in ("fp32", "bf16"):
        raise InvalidInputError(f"precision must be fp32 or bf16, got {precision!r}")


def _find_aegis() -> tuple[Path, str | None]:
    pulled = locate_model("aegis")
    if (pulled / "config.json").is_file():
        return pulled, None
    for name in (AEGIS, UPSTREAM):
        try:
            return find_model(name)
        except ModelNotFoundError:
            continue
    raise ModelNotFoundError(f"{AEGIS} is not on this machine; run: agent-memory models pull aegis")


def _read_depth(folder: Path) -> int:
    from transformers import ModernBertConfig

    return int(ModernBertConfig.from_pretrained(folder, local_files_only=True).num_hidden_layers)


def _read_model(folder: Path, layers: int, precision: str) -> ModernBertModel:
    """Read the embeddings, the first layers and the final norm; the other layers are never loaded."""
    import torch
    from transformers import AutoConfig, ModernBertModel
    from transformers.utils import logging

    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if config.model_type != "modernbert":
        raise CheckpointError(f"{folder} holds a {config.model_type} model, expected modernbert")
    if layers > config.num_hidden_layers:
        raise InvalidInputError(f"{folder} has {config.num_hidden_layers} layers, fewer than {layers}")
    config.layer_types = config.layer_types[:layers]
    config.num_hidden_layers = layers
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    # Transformers would warn about the omitted layers; missing weights are checked below.
    level = logging.get_verbosity()
    logging.set_verbosity(40)
    try:
        pair: Any = ModernBertModel.from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            local_files_only=True,
            attn_implementation="sdpa",
            output_loading_info=True,
        )
    finally:
        logging.set_verbosity(level)
    model, missing = pair[0], sorted(pair[1]["missing_keys"])
    if missing:
        raise CheckpointError(f"{folder} lacks weights: {', '.join(missing[:5])}")
    read: ModernBertModel = model.eval()
    return read


def _shorten(model: ModernBertModel, layers: int, *, keep_norm: bool) -> ModernBertModel:
    """Return a view of the model that runs only its first layers; weights are shared, not copied."""
    import torch

    part = copy.copy(model)
    part._modules = dict(model._modules)
    part.config = copy.deepcopy(model.config)
    part.config.num_hidden_layers = layers
    part.config.layer_types = list(model.config.layer_types or ())[:layers]
    part.layers = torch.nn.ModuleList(list(model.layers)[:layers])
    if not keep_norm:
        part._modules["final_norm"] = torch.nn.Identity()
    return part


def _make_network(model: ModernBertModel, dimension: int) -> Network:
    import torch

    from agent_memory.encoders.static.bert import mean_pool

    def run(ids: TokenArray, mask: TokenArray) -> FloatArray:
        seen = torch.from_numpy(mask)
        with torch.inference_mode():
            hidden = model(input_ids=torch.from_numpy(ids), attention_mask=seen).last_hidden_state
            vectors: FloatArray = mean_pool(hidden.float(), seen)[:, :dimension].numpy()
        return vectors

    return run
