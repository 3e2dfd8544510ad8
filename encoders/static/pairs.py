"""The embedded reranker: MiniLM that reads a question and a text together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.encoders.base import TokenArray
from agent_memory.encoders.files import MINILM_SHA256, find_minilm, read_tokenizer, stamp_files
from agent_memory.encoders.resources import share
from agent_memory.encoders.static.matryoshka import merge_deltas, read_deltas, read_halves
from agent_memory.encoders.static.minilm import HEADS, MINILM_FILES, read_minilm, resolve_precision
from agent_memory.encoders.static.runtime import find_frame
from agent_memory.encoders.static.windows import TOKEN_BUDGET, batch_windows, pad_rows
from agent_memory.errors import CheckpointError
from agent_memory.files import import_whole
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from torch import Tensor

    from agent_memory.encoders.static.bert import Bert

WEIGHTS = Path(__file__).parents[1] / "weights" / "minilm-reranker.safetensors"
QUESTION_TOKENS, TEXT_TOKENS = 40, 72
"""Tokens of a question and of a text that are read; the rest is cut off."""

_ROWS, _WIDTH = 8, 16  # batches are padded to multiples of these


class MiniLMReranker:
    """all-MiniLM-L6-v2 with low-rank deltas and a small head, trained on what ``Memory.recall`` finds.

    Its scores are added to those of the recall; they are 0 or more, and depend on no other text. Loaded once a process,
    on first use.

    Args:
        weights: The trained file; the embedded one if None.
        folder: Folder of MiniLM's files; the installed package if None.
        precision: Precision of the matrix products: ``auto``, ``fp32`` or ``bf16``.

    Attributes:
        depth: Number of candidates that it is worth asking about.
    """

    depth = 30

    def __init__(self, weights: Path | None = None, *, folder: Path | None = None, precision: str = "auto") -> None:
        self._weights, self._folder, self._precision = weights or WEIGHTS, folder, precision
        self._loaded: _Loaded | None = None

    @property
    def blend(self) -> float:
        """What one of its scores counts for beside those of a recall."""
        return self._load().blend

    def score(self, query: str, texts: Sequence[str]) -> FloatArray:
        """Score how well each text answers the query; float32 (len(texts),), 0 or more, higher is better.

        Raises:
            CheckpointError: The weights are missing, damaged or of another backbone.
        """
        return self._load().score(query, texts) if texts else np.empty(0, np.float32)

    def _load(self) -> _Loaded:
        if self._loaded is None:
            folder = self._folder or find_minilm()
            precision = resolve_precision(self._precision)
            stamps = stamp_files(self._weights.parent, self._weights.name), stamp_files(folder, *MINILM_FILES)
            key = ("minilm-reranker", precision, *stamps)
            self._loaded = share(key, lambda: _Loaded(self._weights, folder, precision))
        return self._loaded


class _Loaded:
    """The networks, as torch runs them."""

    def __init__(self, weights: Path, folder: Path, precision: str) -> None:
        torch = import_whole("torch")
        from agent_memory.encoders.static.bert import Bert, BertShape

        tensors, facts = read_halves(weights, MINILM_SHA256)
        try:
            deltas = {place: tuple(map(torch.from_numpy, pair)) for place, pair in read_deltas(tensors).items()}
            self._head = [torch.from_numpy(tensors[f"head.{name}"]) for name in HEAD]
            self.blend = float(facts["blend"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"{weights} is incomplete: {error}") from error
        self._bert = Bert(merge_deltas(read_minilm(folder), deltas), BertShape(heads=HEADS), precision)
        self._tokenizer = read_tokenizer(folder)

    def score(self, query: str, texts: Sequence[str]) -> FloatArray:
        import torch

        with torch.inference_mode():
            pairs = [(query, text) for text in texts]
            found: FloatArray = read_pairs(self._bert, self._tokenizer, pairs, self._rate).numpy()
        return found

    def _rate(self, states: Tensor) -> Tensor:
        return rate(states, *self._head)


HEAD = ("hidden.weight", "hidden.bias", "out.weight", "out.bias")
"""Names of the head's tensors, in the order that ``rate`` takes them."""


def rate(states: Tensor, hidden: Tensor, hidden_bias: Tensor, out: Tensor, out_bias: Tensor) -> Tensor:
    """Return the scores (n,) of states (n, 2 * size): the first of each row and the mean of all, side by side."""
    from torch.nn import functional

    inner = functional.gelu(functional.linear(states, hidden, hidden_bias))
    return functional.softplus(functional.linear(inner, out, out_bias)[:, 0])


def read_pairs(
    bert: Bert,
    tokenizer: Tokenizer,
    pairs: Sequence[tuple[str, str]],
    rate: Callable[[Tensor], Tensor],
    budget: int = TOKEN_BUDGET,
) -> Tensor:
    """Score pairs of a question and a text.

    Args:
        bert: The backbone, with its deltas.
        tokenizer: The backbone's.
        pairs: Questions and texts; at least one.
        rate: Maps states as ``rate`` takes them to scores.
        budget: Maximum tokens of a batch, padding included.

    Returns:
        float32 (len(pairs),), in the order of the pairs.
    """
    import torch

    from agent_memory.encoders.static.bert import mean_pool

    rows, pad = _join(tokenizer, pairs)
    parts, order = [], []
    for batch in batch_windows([len(row) for row in rows], budget):
        ids, mask = map(torch.from_numpy, _round_up(*pad_rows([rows[at] for at in batch], pad), pad))
        (last,) = bert.compute_states(ids, mask, (len(bert.layers),))
        parts.append(rate(torch.cat([last[:, 0], mean_pool(last, mask)], 1).float())[: len(batch)])
        order.append(batch)
    return torch.cat(parts)[torch.from_numpy(np.argsort(np.concatenate(order)))]


def _round_up(ids: TokenArray, mask: TokenArray, pad: int) -> tuple[TokenArray, TokenArray]:
    """Return rows of tokens padded to one of a few shapes: the products of each new one are compiled first."""
    more = (0, -len(ids) % _ROWS), (0, -ids.shape[1] % _WIDTH)
    ids, seen = np.pad(ids, more, constant_values=pad), np.pad(mask, more)
    seen[len(mask) :, 0] = 1
    return ids, seen


def _join(tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]]) -> tuple[list[list[int]], int]:
    """Return the tokens of each pair, with a separator behind question and text; and the padding token."""
    frame = find_frame(tokenizer, pad=0)
    distinct = list(dict.fromkeys(text for pair in pairs for text in pair))
    encoded = tokenizer.encode_batch_fast(distinct, add_special_tokens=False)
    ids = dict(zip(distinct, (one.ids for one in encoded), strict=True))
    before, after = frame.before, frame.after
    rows = [[*before, *ids[one][:QUESTION_TOKENS], *after, *ids[two][:TEXT_TOKENS], *after] for one, two in pairs]
    return rows, frame.pad
