"""Turns texts into the token ids that EvoEmbedding reads: chat form, end token, query prefix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.encoders.base import TokenArray
from agent_memory.encoders.evo.segments import Exchange, Segment
from agent_memory.encoders.files import read_tokenizer
from agent_memory.errors import CheckpointError, InvalidInputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

END_TOKEN = "<|endoftext|>"
QUERY_PREFIX = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
END_ID = 151643
# fmt: off
PREFIX_IDS = (641, 1235, 25, 16246, 264, 3482, 2711, 3239, 11, 17179, 9760, 46769, 429, 4226, 279, 3239, 198, 2859, 25)
# fmt: on


class EvoText:
    """Encodes texts, if the checkpoint has a tokenizer, and knows the token ids that surround them.

    With a tokenizer, the ids of the end token and the query prefix are looked up in it, because they differ between
    Qwen3 and Qwen3.5. Without one, those of Qwen3 are used.

    Args:
        folder: The checkpoint; ``tokenizer.json`` is optional.
        vocabulary: Number of rows in the embedding table.

    Attributes:
        tokenizer: The tokenizer; None if the checkpoint has none.
        end: The end token, int64 (1,).
        prefix: The query prefix, int64 (n,).

    Raises:
        CheckpointError: The tokenizer is damaged, or the ids are outside the vocabulary.
    """

    def __init__(self, folder: Path, vocabulary: int) -> None:
        self.tokenizer: Tokenizer | None = None
        end = END_ID
        prefix: tuple[int, ...] = PREFIX_IDS
        if (folder / "tokenizer.json").is_file():
            try:
                self.tokenizer = read_tokenizer(folder)
            except Exception as error:
                raise CheckpointError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
            # Text must not act as a control token; control tokens are inserted by id.
            self.tokenizer.encode_special_tokens = True
            found = self.tokenizer.token_to_id(END_TOKEN)
            end = END_ID if found is None else found
            prefix = tuple(self._encode(self.tokenizer, QUERY_PREFIX)) or PREFIX_IDS
        if max(end, *prefix) >= vocabulary:
            raise CheckpointError(
                f"{folder}: the end token and query prefix are outside the vocabulary of {vocabulary}; "
                "the checkpoint needs its tokenizer.json"
            )
        self.end = np.array([end], np.int64)
        self.prefix = np.array(prefix, np.int64)

    def encode_plain(self, segment: Segment) -> TokenArray:
        """Return the token ids that the retriever embeds: the plain text, without the end token; int64 (n,).

        Raises:
            InvalidInputError: It is not a segment, it is empty, or the checkpoint has no tokenizer.
        """
        text = segment.plain if isinstance(segment, Exchange) else segment
        if not isinstance(text, str):
            raise InvalidInputError(f"a segment must be a string or an Exchange, got {type(segment).__name__}")
        ids = self._encode(self._require_tokenizer(), text)
        if not ids:
            raise InvalidInputError("a segment has no tokens")
        return np.array(ids, np.int64)

    def encode_chat(self, segment: Segment) -> TokenArray:
        """Return the token ids that are written to the memory: the exchange in ChatML; int64 (n,).

        Raises:
            InvalidInputError: It is not a segment, it is empty, or the checkpoint has no tokenizer.
        """
        self.encode_plain(segment)
        exchange = segment if isinstance(segment, Exchange) else Exchange(segment)
        ids = self._encode_message("user", exchange.user)
        if exchange.assistant is not None:
            ids += self._encode_message("assistant", exchange.assistant)
        return np.array(ids, np.int64)

    @property
    def closing_size(self) -> int:
        """Number of tokens that close a message: the control token and a line break."""
        return len(self._encode_special("<|im_end|>")) + len(self._encode(self._require_tokenizer(), "\n"))

    def _encode_message(self, role: str, text: str) -> list[int]:
        tokenizer = self._require_tokenizer()
        body, newline = self._encode(tokenizer, f"{role}\n{text}"), self._encode(tokenizer, "\n")
        return [*self._encode_special("<|im_start|>"), *body, *self._encode_special("<|im_end|>"), *newline]

    def _encode_special(self, token: str) -> list[int]:
        tokenizer = self._require_tokenizer()
        found = tokenizer.token_to_id(token)
        return self._encode(tokenizer, token) if found is None else [found]

    def _require_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise InvalidInputError("this checkpoint has no tokenizer.json; pass token ids")
        return self.tokenizer

    @staticmethod
    def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
        ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
        return ids
