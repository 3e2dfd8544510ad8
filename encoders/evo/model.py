"""EvoEmbedding, the published session encoder: embeddings that depend on an evolving latent memory.

Source: arXiv 2606.21649; checkpoints MiG-NJU/EvoEmbedding-{0.8B,2B,4B}.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent_memory.encoders.base import TokenArray, check_texts
from agent_memory.encoders.evo.checkpoint import read_base_config, read_settings
from agent_memory.encoders.evo.segments import (
    CHUNK_SEGMENTS,
    Ids,
    Segment,
    check_ids,
    check_rows,
    check_segments,
    plan_batches,
)
from agent_memory.encoders.evo.text import EvoText
from agent_memory.encoders.resources import catch_out_of_memory, prepare_threads
from agent_memory.encoders.session import LatentQueue, check_memory
from agent_memory.errors import EncoderError, InvalidInputError
from agent_memory.files import import_whole
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from agent_memory.encoders.evo.network import EvoNetwork, Row

_TEMPERATURE = 0.1


class EvoEmbeddingModel:
    """A frozen language model with a memory generator, a retriever and a queue of latents (arXiv 2606.21649).

    A segment is embedded with the memory BEFORE it, a query with the whole memory. All state is passed in and out, so
    one model can serve many sessions and threads. Create it with ``from_pretrained``.

    Args:
        network: The loaded network.
        text: Tokenizer and special token ids.
        capacity: Maximum number of latents in a session's memory.
    """

    def __init__(self, network: EvoNetwork, text: EvoText, capacity: int) -> None:
        self._network = network
        self._text = text
        self._capacity = capacity
        self._vocabulary = network.vocabulary

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: str = "float32") -> EvoEmbeddingModel:
        """Load a checkpoint in the published layout; nothing is downloaded.

        Args:
            folder: Contains ``config.json``, the weights as safetensors, ``base_config.json`` unless the base model
                is on this machine, and ``tokenizer.json`` if texts are to be embedded.
            dtype: ``float32`` or ``bfloat16``; weights stored in another dtype are converted.

        Raises:
            InvalidInputError: The dtype is neither of these.
            ModelNotFoundError: The folder, or the base configuration it names, is not on this machine.
            CheckpointError: A file is damaged, or weights are missing, unexpected or of another shape.
        """
        if dtype not in ("float32", "bfloat16"):
            raise InvalidInputError(f"dtype must be float32 or bfloat16, got {dtype!r}")
        place = Path(folder).expanduser()
        settings = read_settings(place)
        prepare_threads()
        import_whole("torch")
        import torch

        from agent_memory.encoders.evo.load import load_network

        config = read_base_config(place, settings.base_model)
        network = load_network(place, settings, config, torch.float32 if dtype == "float32" else torch.bfloat16)
        return cls(network, EvoText(place, network.vocabulary), settings.buffer_capacity)

    @property
    def dimension(self) -> int:
        """Dimension of an embedding, d."""
        return self._network.dimension

    @property
    def num_latents(self) -> int:
        """Number of latents that one segment adds to the memory, m."""
        return self._network.num_latents

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer; None if it has none, in which case only token ids can be embedded."""
        return self._text.tokenizer

    def empty_memory(self) -> LatentQueue:
        """Return the memory of a session that has not begun."""
        return LatentQueue(np.empty((0, self._network.hidden_size), np.float32), self._capacity)

    def embed_token_ids(
        self,
        memory_segments: Sequence[Ids],
        retriever_segments: Sequence[Ids],
        query: Ids,
        *,
        chunk_segments: int = CHUNK_SEGMENTS,
    ) -> tuple[FloatArray, FloatArray]:
        """Embed a session and a query after it, as the reference implementation does.

        Segments are written to the memory in chunks. Within a chunk, a segment sees the raw text of the segments
        before it, and the queue as it was at the start of the chunk. Streaming with ``embed_segment`` writes one
        segment at a time and therefore equals ``chunk_segments=1``. The embedding of a segment depends on the latents
        of ALL segments before it, including those of its own chunk, and never on raw text.

        Args:
            memory_segments: Token ids to write to the memory: the exchanges in ChatML.
            retriever_segments: Token ids to embed: the plain text of the same segments.
            query: Token ids of the query, without the prefix.
            chunk_segments: Maximum number of segments in a chunk; a chunk also has at most 2,048 text tokens.

        Returns:
            Embeddings of the segments (n, d) and of the query (d,), float32, L2-normalised.

        Raises:
            InvalidInputError: The lists are empty, ill-typed or of unequal length, or ids are outside the vocabulary.
            EncoderError: The model returned numbers that are not finite, or memory ran out.
        """
        written = check_rows("memory_segments", memory_segments, self._vocabulary)
        embedded = check_rows("retriever_segments", retriever_segments, self._vocabulary)
        asked = check_ids("query", query, self._vocabulary)
        if len(written) != len(embedded):
            raise InvalidInputError(f"{len(written)} memory_segments do not match {len(embedded)} retriever_segments")
        history, memory = self._embed_session(written, embedded, self.empty_memory(), chunk_segments)
        return history, self._embed_with([self._add_prefix(asked)], memory)[0]

    def embed_segment(self, segment: Segment, memory: LatentQueue) -> tuple[FloatArray, FloatArray]:
        """Embed a segment with the memory before it, and compute the latents it adds to the memory.

        Args:
            segment: An exchange or a string.
            memory: The session's memory, unchanged by this call; continue with ``memory.append(latents)``.

        Returns:
            The embedding (d,), L2-normalised, and the latents (m, H), both float32.

        Raises:
            InvalidInputError: The segment is empty, the memory belongs to another model, or the checkpoint has no
                tokenizer.
            EncoderError: The model returned numbers that are not finite, or memory ran out.
        """
        return self.embed_segment_ids(self._text.encode_chat(segment), self._text.encode_plain(segment), memory)

    def embed_segment_ids(
        self, memory_segment: Ids, retriever_segment: Ids, memory: LatentQueue
    ) -> tuple[FloatArray, FloatArray]:
        """Like ``embed_segment``, but from token ids: the segment in ChatML and its plain text."""
        written = check_ids("memory_segment", memory_segment, self._vocabulary)
        embedded = check_ids("retriever_segment", retriever_segment, self._vocabulary)
        self._check_memory(memory)
        vectors, after = self._embed_session([written], [embedded], memory, 1)
        return vectors[0], after.latents[-self._network.num_latents :].copy()

    def embed_query(self, query: str, memory: LatentQueue) -> FloatArray:
        """Embed a query with the whole memory; float32 (d,), L2-normalised. Raises the errors of ``embed_segment``."""
        check_texts([query])
        return self.embed_query_ids(self._text.encode_plain(query), memory)

    def embed_query_ids(self, query: Ids, memory: LatentQueue) -> FloatArray:
        """Like ``embed_query``, but from token ids, without the prefix."""
        asked = check_ids("query", query, self._vocabulary)
        self._check_memory(memory)
        vector: FloatArray = self._embed_with([self._add_prefix(asked)], memory)[0]
        return vector

    def embed(self, texts: Sequence[str], *, query: bool = False) -> FloatArray:
        """Embed texts without a memory, as a plain embedding model does.

        Args:
            texts: Strings with at least one token each.
            query: Whether to add the query prefix.

        Returns:
            float32 (len(texts), d), L2-normalised.

        Raises:
            InvalidInputError: Texts are ill-typed or empty, or the checkpoint has no tokenizer.
            EncoderError: The model returned numbers that are not finite, or memory ran out.
        """
        check_texts(texts)
        rows = [self._text.encode_plain(text) for text in texts]
        return self._embed_with([self._add_prefix(row) if query else row for row in rows], self.empty_memory())

    def rerank(
        self, query: str, candidates: Sequence[Segment], *, history: Sequence[Segment] | LatentQueue = ()
    ) -> FloatArray:
        """Score candidates for a query that is asked after a session.

        Candidates are not written to the memory, and scores do not depend on their order, not even in the last bit. A
        candidate that occurs in ``history`` is embedded as in training: with the memory before its latest occurrence.
        Any other candidate is embedded with the whole memory.

        Args:
            query: The question.
            candidates: Segments that may answer it.
            history: The session's segments, oldest first, or its memory.

        Returns:
            cos / 0.1 of each candidate, float32 (len(candidates),), in the order given; higher is better.

        Raises:
            InvalidInputError: Texts are ill-typed or empty, or the checkpoint has no tokenizer.
            EncoderError: The model returned numbers that are not finite, or memory ran out.
        """
        check_texts([query])
        check_segments("candidates", candidates)
        asked = self._text.encode_plain(query)
        rows = [self._text.encode_plain(candidate) for candidate in candidates]
        known, memory = self._embed_history(history, {row.tobytes() for row in rows})
        # Sorted, because the last bits of a vector depend on the batch it is in.
        ordered = {row.tobytes(): row for row in sorted(rows, key=lambda row: (len(row), row.tobytes()))}
        new = {key: row for key, row in ordered.items() if key not in known}
        known.update(zip(new, self._embed_with(list(new.values()), memory), strict=True))
        against = self._embed_with([self._add_prefix(asked)], memory)[0]
        scores = [float(known[row.tobytes()] @ against) / _TEMPERATURE for row in rows]
        return np.array(scores, np.float32)

    def _embed_history(
        self, history: Sequence[Segment] | LatentQueue, wanted: set[bytes]
    ) -> tuple[dict[bytes, FloatArray], LatentQueue]:
        """Return the vectors of the wanted segments, by their token ids, and the memory after the history."""
        if isinstance(history, LatentQueue):
            self._check_memory(history)
            return {}, history
        check_segments("history", history)
        if not len(history):
            return {}, self.empty_memory()
        written = [self._text.encode_chat(segment) for segment in history]
        embedded = [self._text.encode_plain(segment) for segment in history]
        latest = {row.tobytes(): i for i, row in enumerate(embedded)}
        places = {i: key for key, i in latest.items() if key in wanted}
        needed = [row if i in places else None for i, row in enumerate(embedded)]
        vectors, memory = self._embed_session(written, needed, self.empty_memory(), CHUNK_SEGMENTS)
        return {key: vectors[i] for i, key in places.items()}, memory

    @catch_out_of_memory("embedding")
    def _embed_session(
        self, written: Sequence[TokenArray], embedded: Sequence[TokenArray | None], memory: LatentQueue, limit: int
    ) -> tuple[FloatArray, LatentQueue]:
        """Write segments chunk by chunk; embed those that are not None, and leave zeros for the others."""
        import torch

        out = np.zeros((len(written), self.dimension), np.float32)
        with torch.inference_mode():
            latents = self._to_tensor(memory)
            for chunk, befores, after in self._network.remember(written, latents, self._capacity, limit):
                latents = after
                rows: dict[int, Row] = {}
                for i, before in zip(chunk, befores, strict=True):
                    ids = embedded[i]
                    if ids is not None:
                        rows[i] = (np.concatenate((ids, self._text.end)), before)
                out[list(rows)] = self._embed(list(rows.values()))
            kept = _check_finite(latents.float().numpy(), "latents")
        return out, LatentQueue(kept, self._capacity)

    @catch_out_of_memory("embedding")
    def _embed_with(self, rows: Sequence[TokenArray], memory: LatentQueue) -> FloatArray:
        import torch

        with torch.inference_mode():
            projected = self._network.project(self._to_tensor(memory))
            return self._embed([(np.concatenate((ids, self._text.end)), projected) for ids in rows])

    def _embed(self, rows: Sequence[Row]) -> FloatArray:
        out = np.empty((len(rows), self.dimension), np.float32)
        for batch in plan_batches([len(ids) for ids, _ in rows]):
            vectors = self._network.embed([rows[i] for i in batch]).numpy()
            out[batch.start : batch.stop] = _check_finite(vectors, "vectors")
        return out

    def _to_tensor(self, memory: LatentQueue) -> torch.Tensor:
        import torch

        return torch.from_numpy(memory.latents.copy()).to(self._network.dtype)

    def _check_memory(self, memory: LatentQueue) -> None:
        check_memory(memory, capacity=self._capacity, width=self._network.hidden_size)

    def _add_prefix(self, ids: TokenArray) -> TokenArray:
        return np.concatenate((self._text.prefix, ids))


def _check_finite(values: FloatArray, name: str) -> FloatArray:
    if not np.isfinite(values).all():
        raise EncoderError(f"EvoEmbedding returned {name} that are not finite; its weights may be damaged")
    return values
