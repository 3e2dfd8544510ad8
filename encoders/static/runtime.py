"""The base of the encoders that run a network here: tokenise, batch by tokens, run, check, pool."""

from __future__ import annotations

import logging
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from agent_memory.encoders.base import EncoderSpec, TokenArray, check_texts
from agent_memory.encoders.resources import prepare_threads
from agent_memory.encoders.static.windows import (
    TOKEN_BUDGET,
    batch_windows,
    merge_windows,
    normalise,
    pad_rows,
    split_windows,
)
from agent_memory.errors import AgentMemoryError, EncoderError, InvalidInputError
from agent_memory.files import import_whole, new_lock
from agent_memory.types import FloatArray, Progress

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

_T = TypeVar("_T")

_log = logging.getLogger("agent_memory")

_QUICK = 64
"""Tokens of a call up to which the light network is used whatever was encoded before, so that its vectors are, too."""

_WORTH = 4096
"""Tokens in all calls after which the time that the heavy network saves is that of importing torch."""

_SLAB = 8192  # texts tokenised at once: enough to sort them well by length, few enough to bound memory
_COMPUTE = new_lock()
"""Held while a batch runs, so that a process runs one batch at a time.

One batch already uses all of torch's threads; two would oversubscribe the cores. The lock is taken per batch, not per
call, so that a query waits for at most one batch of a bulk job. The light network uses one thread and no lock.
"""


class TextTokenizer(Protocol):
    """What is used of a tokeniser; ``tokenizers.Tokenizer`` is one."""

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding:
        """Cut one text."""
        ...

    def encode_batch_fast(self, input: list[str], *, add_special_tokens: bool) -> list[Encoding]:
        """Cut several texts, without keeping where in the text each token is."""
        ...


class Network(Protocol):
    """The forward pass of a loaded model: token ids in, one vector per row out."""

    def __call__(self, ids: TokenArray, mask: TokenArray) -> FloatArray:
        """Map ids and mask, both (batch, width), to float32 (batch, d), not necessarily normalised."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The special tokens that a model expects around the tokens of a window.

    Attributes:
        before: Special token ids before the content.
        after: Special token ids after the content.
        pad: Token id of padding.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int

    @property
    def size(self) -> int:
        """Number of special tokens in one window."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Loaded:
    """A model ready to run; encoders of the same files and options share one.

    Attributes:
        tokenizer: The tokenizer, with truncation and padding turned off.
        frame: Special tokens around each window.
        network: The forward pass, for documents.
        query_network: The forward pass for queries, if it is another.
    """

    tokenizer: TextTokenizer
    frame: Frame
    network: Network
    query_network: Network | None = None


def find_frame(tokenizer: Tokenizer, pad: int) -> Frame:
    """Return the special tokens that a tokenizer puts around a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    at = next(i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare)
    return Frame(before=tuple(full[:at]), after=tuple(full[at + len(bare) :]), pad=pad)


class WindowedEncoder(ABC):
    """Base of the encoders that run a network over token windows.

    The weights load on first use, under a lock; encoders of the same files and options share them. Text longer than
    ``spec.max_tokens`` is split at token boundaries into windows of nearly equal length; its vector is the normalised
    mean of their unit vectors, weighted by tokens. Nothing is truncated.

    Args:
        token_budget: Tokens of one batch, padding included.
    """

    prefix_trained = False
    """Whether the model was trained to make prefixes of the vectors usable without a rotation."""

    def __init__(self, *, token_budget: int = TOKEN_BUDGET) -> None:
        if token_budget < 1:
            raise InvalidInputError(f"token_budget must be at least 1, got {token_budget}")
        self._token_budget = token_budget
        self._lock = new_lock()
        self._light_lock = new_lock()
        self._loaded: Loaded | None = None
        self._light: Loaded | None = None
        self._spent = 0  # tokens that the light network has encoded, of calls above _QUICK

    @property
    @abstractmethod
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space."""

    @abstractmethod
    def _load(self) -> Loaded:
        """Return the tokenizer and the weights, read or shared; called once, under the lock."""

    def _load_light(self) -> Loaded | None:
        """Return a network for a few texts that does without torch; None if there is none."""
        return None

    @property
    def _query_prompt(self) -> str:
        return ""

    @property
    def _document_prompt(self) -> str:
        return ""

    def load(self) -> Loaded:
        """Load the weights that encode many texts now, rather than when they are first used.

        Raises:
            EncoderError: The files are missing, damaged, or belong to another model.
        """
        loaded = self._loaded
        if loaded is None:
            with self._lock:
                if self._loaded is None:
                    prepare_threads()
                    self._loaded = _call_model(self._load_heavy, f"{self.spec.name} could not be loaded")
                loaded = self._loaded
        return loaded

    def _load_heavy(self) -> Loaded:
        import_whole("torch")
        return self._load()

    def _open(self) -> Loaded:
        """Return the light network; if there is none, the heavy one."""
        if self._light is None:
            with self._light_lock:
                if self._light is None:
                    prepare_threads()
                    self._light = _call_model(self._load_light, f"{self.spec.name} could not be loaded") or self.load()
        return self._light

    def _choose(self, first: Loaded, tokens: int) -> Loaded:
        """Return the network that takes the least time for a call, with what it takes to load it."""
        if tokens <= _QUICK or first is self._loaded:
            return first
        if self._loaded is None and sys.modules.get("torch") is None:
            self._spent += tokens
            if self._spent <= _WORTH:
                return first
        try:
            return self.load()
        except EncoderError as error:
            if not isinstance(error.__cause__, ImportError):
                raise
            _log.info("%s; NumPy encodes all texts, which takes longer", error)
            self._loaded = first
            return first

    def encode_documents(self, texts: Sequence[str], *, progress: Progress | None = None) -> FloatArray:
        """Encode texts to be remembered; see ``Encoder.encode_documents``."""
        return self._encode(texts, query=False, progress=progress)

    def encode_queries(self, texts: Sequence[str]) -> FloatArray:
        """Encode questions; see ``Encoder.encode_queries``."""
        return self._encode(texts, query=True, progress=None)

    def _encode(self, texts: Sequence[str], *, query: bool, progress: Progress | None) -> FloatArray:
        check_texts(texts)
        out = np.empty((len(texts), self.spec.dimension), dtype=np.float32)
        if not len(texts):
            return out
        for start in range(0, len(texts), _SLAB):
            slab = texts[start : start + _SLAB]
            report = _shift_progress(progress, start, len(texts))
            out[start : start + len(slab)] = self._encode_slab(slab, query, report)
        return out

    def _encode_slab(self, texts: Sequence[str], query: bool, report: Progress | None) -> FloatArray:
        loaded = self._open()
        rows, weights, counts = self._cut_windows(texts, loaded, self._query_prompt if query else self._document_prompt)
        loaded = self._choose(loaded, sum(map(len, rows)))
        network = (loaded.query_network if query else None) or loaded.network
        vectors = np.empty((len(rows), self.spec.dimension), dtype=np.float32)
        owner = np.repeat(np.arange(len(texts)), counts)
        remaining = np.array(counts)
        for batch in batch_windows([len(row) for row in rows], self._token_budget):
            ids, mask = pad_rows([rows[i] for i in batch], loaded.frame.pad)
            vectors[batch] = self._run(network, ids, mask, alone=loaded is self._loaded)
            np.subtract.at(remaining, owner[batch], 1)
            if report is not None:
                report(int((remaining == 0).sum()), len(texts))
        return merge_windows(vectors, weights, counts)

    def _cut_windows(
        self, texts: Sequence[str], loaded: Loaded, prompt: str
    ) -> tuple[list[list[int]], list[int], list[int]]:
        frame = loaded.frame
        head = loaded.tokenizer.encode(prompt, add_special_tokens=False).ids if prompt else []
        capacity = self.spec.max_tokens - frame.size - len(head)
        if capacity < 1:
            raise InvalidInputError(
                f"max_tokens of {self.spec.max_tokens} leaves no room for text: the prompt and the special tokens "
                f"take {frame.size + len(head)}"
            )
        rows, weights, counts = [], [], []
        encoded = loaded.tokenizer.encode_batch_fast([prompt + t for t in texts], add_special_tokens=False)
        for encoding in encoded:
            content = encoding.ids
            cuts = split_windows(len(content), capacity) if len(content) > capacity + len(head) else [slice(None)]
            for number, cut in enumerate(cuts):
                # The first window already begins with the prompt; the others repeat it.
                lead = head if number else []
                rows.append([*frame.before, *lead, *content[cut], *frame.after])
                weights.append(len(content[cut]))
            counts.append(len(cuts))
        return rows, weights, counts

    def _run(self, network: Network, ids: TokenArray, mask: TokenArray, *, alone: bool) -> FloatArray:
        with _COMPUTE if alone else nullcontext():
            vectors = _call_model(lambda: network(ids, mask), f"{self.spec.name} failed")
        if vectors.shape != (len(ids), self.spec.dimension):
            raise EncoderError(
                f"{self.spec.name} returned vectors of shape {vectors.shape}, "
                f"expected {(len(ids), self.spec.dimension)}"
            )
        if not np.isfinite(vectors).all():
            raise EncoderError(f"{self.spec.name} returned vectors that are not finite; its weights may be damaged")
        return normalise(vectors)


def _shift_progress(progress: Progress | None, start: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(start + done, total)


def _call_model(call: Callable[[], _T], problem: str) -> _T:
    """Call a model library; its errors are raised as ``EncoderError``."""
    try:
        return call()
    except (AgentMemoryError, MemoryError):
        raise
    except ImportError as error:
        raise EncoderError(
            f"{problem}: {error.name or error} cannot be imported; run: pip install agent-memory"
        ) from error
    except Exception as error:
        raise EncoderError(f"{problem}: {error}") from error
