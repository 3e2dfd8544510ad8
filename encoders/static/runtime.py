"""What all encoders of token windows share: tokenise, batch by tokens, restore order, check, pool."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from agent_memory.encoders.base import EncoderSpec
from agent_memory.encoders.static.windows import TOKEN_BUDGET, merge_windows, normalise, plan_batches, split_windows
from agent_memory.errors import AgentMemoryError, EncoderError, InvalidInputError
from agent_memory.files import new_lock
from agent_memory.types import FloatArray, Progress

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_T = TypeVar("_T")
IntArray = npt.NDArray[np.int64]

_SLAB = 8192  # texts tokenised at once: long enough to sort well, short enough to bound memory
_COMPUTE = new_lock()
"""One batch at a time in a process.

Each batch already uses all the threads torch may use; two at once would oversubscribe the cores. It is taken
per batch and not per call, so a query waits for one batch of a bulk job at most.
"""


class Network(Protocol):
    """A loaded model: token ids in, one vector per row out."""

    def __call__(self, ids: IntArray, mask: IntArray) -> FloatArray:
        """Map (batch, width) ids and mask to float32 (batch, d), not necessarily normalised."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """What a model puts around the tokens of a window.

    Attributes:
        before: Special token ids in front of the content.
        after: Special token ids behind the content.
        pad: Token id of padding.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    pad: int

    @property
    def size(self) -> int:
        """Special tokens of one window."""
        return len(self.before) + len(self.after)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model ready to run.

    Attributes:
        tokenizer: Without truncation and padding.
        frame: Special tokens around each window.
        network: The forward pass.
    """

    tokenizer: Tokenizer
    frame: Frame
    network: Network


def frame_of(tokenizer: Tokenizer, pad: int) -> Frame:
    """Find the special tokens that a tokenizer puts around a text."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    at = next(i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare)
    return Frame(before=tuple(full[:at]), after=tuple(full[at + len(bare) :]), pad=pad)


def prepare_threads() -> None:
    """Let idle worker threads sleep, before torch starts them.

    Torch and FAISS keep a pool of OpenMP threads each. With the default of busy waiting, the idle pool takes
    the cores from the one that works. No effect where the user has decided, or OpenMP is already running.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


class WindowedEncoder(ABC):
    """Base of the encoders that run a network over token windows.

    The weights load on first use, under a lock. Text longer than ``spec.max_tokens`` is cut into windows of
    nearly equal length on token boundaries; its vector is the mean of their unit vectors weighted by tokens,
    normalised. Nothing is cut off.

    Args:
        token_budget: Tokens of one batch, padding included.
    """

    prefix_trained = False
    """Whether prefixes of the vectors are embeddings by themselves, without a rotation."""

    def __init__(self, *, token_budget: int = TOKEN_BUDGET) -> None:
        if token_budget < 1:
            raise InvalidInputError(f"token_budget must be at least 1, got {token_budget}")
        self._token_budget = token_budget
        self._lock = new_lock()
        self._loaded: Loaded | None = None

    @property
    @abstractmethod
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space."""

    @abstractmethod
    def _load(self) -> Loaded:
        """Read tokenizer and weights; called once, under the lock."""

    def _query_network(self, loaded: Loaded) -> Network:
        return loaded.network

    def _query_prompt(self) -> str:
        return ""

    def _document_prompt(self) -> str:
        return ""

    def load(self) -> Loaded:
        """Load the weights now instead of at the first text.

        Raises:
            EncoderError: The files are missing, damaged, or of another model.
        """
        loaded = self._loaded
        if loaded is None:
            with self._lock:
                if self._loaded is None:
                    prepare_threads()
                    self._loaded = _wrapped(self._load, f"{self.spec.name} could not be loaded")
                loaded = self._loaded
        return loaded

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
        loaded = self.load()
        network = self._query_network(loaded) if query else loaded.network
        prompt = self._query_prompt() if query else self._document_prompt()
        for start in range(0, len(texts), _SLAB):
            slab = texts[start : start + _SLAB]
            report = _shifted(progress, start, len(texts))
            out[start : start + len(slab)] = self._encode_slab(slab, loaded, network, prompt, report)
        return out

    def _encode_slab(
        self, texts: Sequence[str], loaded: Loaded, network: Network, prompt: str, report: Progress | None
    ) -> FloatArray:
        rows, weights, counts = self._windows(texts, loaded, prompt)
        vectors = np.empty((len(rows), self.spec.dimension), dtype=np.float32)
        owner = np.repeat(np.arange(len(texts)), counts)
        left = np.array(counts)
        for batch in plan_batches([len(row) for row in rows], self._token_budget):
            ids, mask = _pad([rows[i] for i in batch], loaded.frame.pad)
            vectors[batch] = self._run(network, ids, mask)
            np.subtract.at(left, owner[batch], 1)
            if report is not None:
                report(int((left == 0).sum()), len(texts))
        return merge_windows(vectors, weights, counts)

    def _windows(
        self, texts: Sequence[str], loaded: Loaded, prompt: str
    ) -> tuple[list[list[int]], list[int], list[int]]:
        frame = loaded.frame
        head = loaded.tokenizer.encode(prompt, add_special_tokens=False).ids if prompt else []
        capacity = self.spec.max_tokens - frame.size - len(head)
        if capacity < 1:
            raise InvalidInputError(
                f"max_tokens of {self.spec.max_tokens} leaves no room beside {frame.size + len(head)} tokens "
                "of prompt and special tokens"
            )
        rows, weights, counts = [], [], []
        encoded = loaded.tokenizer.encode_batch_fast([prompt + t for t in texts], add_special_tokens=False)
        for encoding in encoded:
            content = encoding.ids
            cuts = split_windows(len(content), capacity) if len(content) > capacity + len(head) else [slice(None)]
            for number, cut in enumerate(cuts):
                # Only the first window begins with the prompt of the text itself.
                lead = head if number else []
                rows.append([*frame.before, *lead, *content[cut], *frame.after])
                weights.append(len(content[cut]))
            counts.append(len(cuts))
        return rows, weights, counts

    def _run(self, network: Network, ids: IntArray, mask: IntArray) -> FloatArray:
        with _COMPUTE:
            vectors = _wrapped(lambda: network(ids, mask), f"{self.spec.name} failed")
        if vectors.shape != (len(ids), self.spec.dimension):
            raise EncoderError(
                f"{self.spec.name} gave vectors of shape {vectors.shape}, expected {(len(ids), self.spec.dimension)}"
            )
        if not np.isfinite(vectors).all():
            raise EncoderError(f"{self.spec.name} gave vectors that are not finite; its weights may be damaged")
        return normalise(vectors)


@contextmanager
def enough_memory(what: str) -> Iterator[None]:
    """Turn an allocation that fails into an error of this package; a context manager or a decorator.

    Args:
        what: What is being done, for the message.

    Raises:
        EncoderError: Python's ``MemoryError``, or an allocator of torch, for a processor or a device, gave up.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and not any(
            sign in text for sign in ("out of memory", "enough memory", "allocate memory", "alloc_failed")
        ):
            raise
        raise EncoderError(f"memory ran out while {what}; use shorter texts, fewer at once: {error}") from error


def check_texts(texts: Sequence[str]) -> None:
    """Refuse what is not a sequence of strings.

    Raises:
        InvalidInputError: A bare string, or an item that is no string.
    """
    if isinstance(texts, (str, bytes)):
        raise InvalidInputError(f"texts must be a list of strings, got one {type(texts).__name__}")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInputError(f"texts[{position}] must be a string, got {type(text).__name__}")


def _pad(rows: Sequence[Sequence[int]], pad: int) -> tuple[IntArray, IntArray]:
    width = max(1, max(len(row) for row in rows))
    ids = np.full((len(rows), width), pad, dtype=np.int64)
    mask = np.zeros((len(rows), width), dtype=np.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
        mask[i, : len(row)] = 1
    return ids, mask


def _shifted(progress: Progress | None, start: int, total: int) -> Progress | None:
    if progress is None:
        return None
    return lambda done, _: progress(start + done, total)


def _wrapped(call: Callable[[], _T], what: str) -> _T:
    """Run model code; errors of the model libraries leave as ``EncoderError``."""
    try:
        return call()
    except (AgentMemoryError, MemoryError):
        raise
    except Exception as error:
        raise EncoderError(f"{what}: {error}") from error
