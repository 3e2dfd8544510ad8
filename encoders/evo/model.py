"""EvoEmbedding, the published session encoder: embeddings read behind a latent memory that evolves.

Source: EvoEmbedding, arXiv 2606.21649; checkpoints MiG-NJU/EvoEmbedding-{0.8B,2B,4B}.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

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
from agent_memory.encoders.session import LatentQueue, check_memory
from agent_memory.encoders.static.runtime import IntArray, check_texts, enough_memory, prepare_threads
from agent_memory.errors import EncoderError, InvalidInputError
from agent_memory.types import FloatArray

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from agent_memory.encoders.evo.network import EvoNetwork, Row

_TEMPERATURE = 0.1


class EvoEmbeddingModel:
    """A frozen language model with a memory generator, a retriever and a queue of latents (arXiv 2606.21649).

    A segment is embedded with the memory BEFORE it, a query with all of it. All state is passed in and out, so
    one model serves many sessions and threads. Made by ``from_pretrained``.

    Args:
        network: The loaded weights.
        text: Tokenizer and special ids.
        capacity: Latents that are read back.
    """

    def __init__(self, network: EvoNetwork, text: EvoText, capacity: int) -> None:
        self._network = network
        self._text = text
        self._capacity = capacity
        self._vocabulary = network.vocabulary

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, dtype: str = "float32") -> EvoEmbeddingModel:
        """Load a checkpoint of the published layout; nothing is downloaded.

        Args:
            folder: Holds ``config.json``, the weights as safetensors, ``base_config.json`` unless the base model
                is on this machine, and ``tokenizer.json`` if texts are to be embedded.
            dtype: ``float32`` or ``bfloat16``, for all weights, whatever they are stored in.

        Raises:
            InvalidInputError: Another dtype.
            ModelNotFoundError: The folder, or the base configuration it names, is not on this machine.
            CheckpointError: A file is damaged, or weights are missing, unexpected or of another shape.
        """
        if dtype not in ("float32", "bfloat16"):
            raise InvalidInputError(f"dtype must be float32 or bfloat16, got {dtype!r}")
        place = Path(folder).expanduser()
        settings = read_settings(place)
        prepare_threads()
        import torch

        from agent_memory.encoders.evo.load import load_network

        config = read_base_config(place, settings.base_model)
        network = load_network(place, settings, config, torch.float32 if dtype == "float32" else torch.bfloat16)
        return cls(network, EvoText(place, network.vocabulary), settings.buffer_capacity)

    @property
    def dimension(self) -> int:
        """Numbers of an embedding, E."""
        return self._network.dimension

    @property
    def num_latents(self) -> int:
        """Latents that one segment adds to the memory, m."""
        return self._network.num_latents

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The checkpoint's tokenizer; None where it has none, and texts cannot be embedded."""
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
        """Embed a session and a query after it, by the rules of the reference.

        Segments are written in chunks; inside one, a segment also sees the raw text of those before it, and the
        queue as it was at the start of the chunk. Streaming with ``embed_segment`` writes one at a time and
        therefore equals ``chunk_segments=1``. A segment's embedding reads the latents of ALL segments before it,
        those of its own chunk included, and never raw text.

        Args:
            memory_segments: Token ids that are written to the memory: the exchanges in ChatML.
            retriever_segments: Token ids of the same segments that are embedded: their plain text.
            query: Token ids of the query, without the prefix.
            chunk_segments: Segments of a chunk at most; a chunk also ends before 2,048 text tokens are exceeded.

        Returns:
            Embeddings of the segments (n, d) and of the query (d,), float32, L2-normalised.

        Raises:
            InvalidInputError: Empty, unequal or ill-typed lists, or ids out of the vocabulary.
            EncoderError: The weights gave numbers that are not finite, or memory ran out.
        """
        written = check_rows("memory_segments", memory_segments, self._vocabulary)
        embedded = check_rows("retriever_segments", retriever_segments, self._vocabulary)
        asked = check_ids("query", query, self._vocabulary)
        if len(written) != len(embedded):
            raise InvalidInputError(f"{len(written)} memory_segments do not match {len(embedded)} retriever_segments")
        history, memory = self._session(written, embedded, self.empty_memory(), chunk_segments)
        return history, self._read([self._query_row(asked)], memory)[0]

    def embed_segment(self, segment: Segment, memory: LatentQueue) -> tuple[FloatArray, FloatArray]:
        """Embed a segment with the memory before it, and compute what it adds to the memory.

        Args:
            segment: An exchange, or a string.
            memory: The session's memory, unchanged by this call; continue with ``memory.append(latents)``.

        Returns:
            The embedding (d,), L2-normalised, and the latents (m, H), both float32.

        Raises:
            InvalidInputError: An empty segment, a memory of another model, or a checkpoint without tokenizer.
            EncoderError: The weights gave numbers that are not finite, or memory ran out.
        """
        return self.embed_segment_ids(self._text.memory(segment), self._text.retriever(segment), memory)

    def embed_segment_ids(
        self, memory_segment: Ids, retriever_segment: Ids, memory: LatentQueue
    ) -> tuple[FloatArray, FloatArray]:
        """Like ``embed_segment``, from the token ids of the two forms of a segment."""
        written = check_ids("memory_segment", memory_segment, self._vocabulary)
        embedded = check_ids("retriever_segment", retriever_segment, self._vocabulary)
        self._check_memory(memory)
        vectors, after = self._session([written], [embedded], memory, 1)
        first: FloatArray = vectors[0]
        return first, after.latents[-self._network.num_latents :].copy()

    def embed_query(self, query: str, memory: LatentQueue) -> FloatArray:
        """Embed a query with all of the memory; (d,) float32, L2-normalised. Raises as ``embed_segment``."""
        check_texts([query])
        return self.embed_query_ids(self._text.retriever(query), memory)

    def embed_query_ids(self, query: Ids, memory: LatentQueue) -> FloatArray:
        """Like ``embed_query``, from token ids without the prefix."""
        asked = check_ids("query", query, self._vocabulary)
        self._check_memory(memory)
        vector: FloatArray = self._read([self._query_row(asked)], memory)[0]
        return vector

    def embed(self, texts: Sequence[str], *, query: bool = False) -> FloatArray:
        """Embed texts without any memory: a plain embedding function for pipelines that want one.

        Args:
            texts: Strings with at least one token each.
            query: Put the query prefix in front.

        Returns:
            float32 (len(texts), d), L2-normalised.

        Raises:
            InvalidInputError: Ill-typed or empty texts, or a checkpoint without tokenizer.
            EncoderError: The weights gave numbers that are not finite, or memory ran out.
        """
        check_texts(texts)
        rows = [self._text.retriever(text) for text in texts]
        return self._read([self._query_row(row) if query else row for row in rows], self.empty_memory())

    def rerank(
        self, query: str, candidates: Sequence[Segment], *, history: Sequence[Segment] | LatentQueue = ()
    ) -> FloatArray:
        """Score candidates for a query asked after a session.

        Candidates are not written to the memory, and their order does not change a bit of the scores. One that is a
        segment of ``history`` is embedded as the model was trained: with the memory before it, at its latest
        occurrence. Any other is read with the memory after all of it.

        Args:
            query: The question.
            candidates: What may answer it.
            history: The session's segments, oldest first, or its memory.

        Returns:
            cos / 0.1 of each candidate, float32 (len(candidates),), in the order given; higher is better.

        Raises:
            InvalidInputError: Ill-typed or empty texts, or a checkpoint without tokenizer.
            EncoderError: The weights gave numbers that are not finite, or memory ran out.
        """
        check_texts([query])
        check_segments("candidates", candidates)
        asked = self._text.retriever(query)
        rows = [self._text.retriever(candidate) for candidate in candidates]
        known: dict[bytes, FloatArray] = {}
        if isinstance(history, LatentQueue):
            self._check_memory(history)
            memory = history
        else:
            check_segments("history", history)
            known, memory = self._recall_history(history, {row.tobytes() for row in rows})
        # Sorted, so that the batches, and with them the last bits, do not depend on the order given.
        new = {row.tobytes(): row for row in sorted(rows, key=lambda row: (len(row), row.tobytes()))}
        fresh = [key for key in new if key not in known]
        known.update(zip(fresh, self._read([new[key] for key in fresh], memory), strict=True))
        against = self._read([self._query_row(asked)], memory)[0]
        scores = [float(known[row.tobytes()] @ against) / _TEMPERATURE for row in rows]
        return np.array(scores, np.float32)

    def _recall_history(
        self, history: Sequence[Segment], wanted: set[bytes]
    ) -> tuple[dict[bytes, FloatArray], LatentQueue]:
        if not len(history):
            return {}, self.empty_memory()
        written = [self._text.memory(segment) for segment in history]
        embedded = [self._text.retriever(segment) for segment in history]
        latest = {row.tobytes(): i for i, row in enumerate(embedded)}
        places = {i: key for key, i in latest.items() if key in wanted}
        needed = [row if i in places else None for i, row in enumerate(embedded)]
        vectors, memory = self._session(written, needed, self.empty_memory(), CHUNK_SEGMENTS)
        return {key: vectors[i] for i, key in places.items()}, memory

    @enough_memory("embedding")
    def _session(
        self, written: Sequence[IntArray], embedded: Sequence[IntArray | None], memory: LatentQueue, chunk_segments: int
    ) -> tuple[FloatArray, LatentQueue]:
        """Write segments chunk by chunk and embed those that are not None; rows of the others are zero."""
        import torch

        out = np.zeros((len(written), self.dimension), np.float32)
        with torch.inference_mode():
            latents = self._latents(memory)
            for chunk, befores, after in self._network.remember(written, latents, self._capacity, chunk_segments):
                latents = after
                rows: dict[int, Row] = {}
                for i, before in zip(chunk, befores, strict=True):
                    ids = embedded[i]
                    if ids is not None:
                        rows[i] = (np.concatenate((ids, self._text.end)), before)
                out[list(rows)] = self._embed(list(rows.values()))
            kept = _finite(latents.float().numpy(), "latents")
        return out, LatentQueue(kept, self._capacity)

    @enough_memory("embedding")
    def _read(self, rows: Sequence[IntArray], memory: LatentQueue) -> FloatArray:
        import torch

        with torch.inference_mode():
            projected = self._network.project(self._latents(memory))
            return self._embed([(np.concatenate((ids, self._text.end)), projected) for ids in rows])

    def _embed(self, rows: Sequence[Row]) -> FloatArray:
        out = np.empty((len(rows), self.dimension), np.float32)
        for batch in plan_batches([len(ids) for ids, _ in rows]):
            vectors = self._network.embed([rows[i] for i in batch]).numpy()
            out[batch.start : batch.stop] = _finite(vectors, "vectors")
        return out

    def _latents(self, memory: LatentQueue) -> torch.Tensor:
        import torch

        return torch.from_numpy(memory.latents.copy()).to(self._network.dtype)

    def _check_memory(self, memory: LatentQueue) -> None:
        check_memory(memory, capacity=self._capacity, width=self._network.hidden_size)

    def _query_row(self, ids: IntArray) -> IntArray:
        return np.concatenate((self._text.prefix, ids))


def _finite(values: FloatArray, what: str) -> FloatArray:
    if not np.isfinite(values).all():
        raise EncoderError(f"EvoEmbedding gave {what} that are not finite; its weights may be damaged")
    return values
