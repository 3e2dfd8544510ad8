"""``AgentMemoryVectorStore``: a folder of memories as a LangChain vector store."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np

from agent_memory.config import Config
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.integrations._embeddings import EmbeddingsEncoder, EncoderEmbeddings
from agent_memory.integrations._names import decode_name, encode_name
from agent_memory.memory import Memory
from agent_memory.records import Entry, Hit

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error

Filter = Mapping[str, Any]


class AgentMemoryVectorStore(VectorStore):
    """Documents in a memory: durable, filtered inside the search, shared between threads and processes.

    Scores are cosine similarities, higher is better. ``filter`` takes the store's metadata filters, e.g.
    ``{"year": {"$gte": 2024}}``; all other keyword arguments of a search go to ``Memory.recall``.

    Args:
        embedding: Becomes the encoder of the store, at whatever size its vectors have.
        path: The store's folder. A temporary one, deleted by ``close``, if left out.
        memory: An open memory to use instead of ``embedding`` and ``path``; it embeds with its own encoder.
        namespace: The scope of the documents.
        config: Settings of the memory; see ``Config``.

    Raises:
        InvalidInputError: Neither an embedding nor a memory was given, or both were.
        EncoderMismatchError: The folder was written with another embedding.
    """

    def __init__(
        self,
        embedding: Embeddings | None = None,
        *,
        path: str | Path | None = None,
        memory: Memory | None = None,
        namespace: Sequence[str] = (),
        config: Config | None = None,
    ) -> None:
        self._remove: Callable[[], object] = lambda: None
        self._own = memory is None
        if memory is None and embedding is not None:
            if path is None:
                path = tempfile.mkdtemp(prefix="agent-memory-")
                self._remove = weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
            encoder = EmbeddingsEncoder(embedding)
            memory = Memory(path, encoder=encoder, namespace=namespace, config=config)
            self._namespace = memory.namespace
        elif memory is not None and embedding is None and path is None and config is None:
            embedding = EncoderEmbeddings(memory.encoder)
            self._namespace = (*memory.namespace, *namespace)
        else:
            raise InvalidInputError("give either an embedding (and a path and a config) or a memory")
        self.memory = memory
        self._embedding: Embeddings = embedding

    @property
    def embeddings(self) -> Embeddings:
        """What embeds texts and queries."""
        return self._embedding

    def close(self) -> None:
        """Close the memory, unless it was given by the caller; a temporary folder is deleted."""
        if self._own:
            self.memory.close()
        self._remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Embed and store texts; returns their ids.

        Args:
            texts: What to store; none of them blank.
            metadatas: A JSON object for each.
            ids: An id for each, or None in the place of one to be made up. A known id is replaced.
            **kwargs: Fields for every entry: ``session``, ``speaker``, ``event_time``, ``expires_at``.
        """
        texts = list(texts)
        items = self._items(texts, metadatas, ids, kwargs)
        return self._write(items, self._embedding.embed_documents(texts) if texts else [])

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Do as ``add_texts`` does, without blocking the event loop."""
        texts = list(texts)
        items = self._items(texts, metadatas, ids, kwargs)
        vectors = await self._embedding.aembed_documents(texts) if texts else []
        return await asyncio.to_thread(self._write, items, vectors)

    def _items(
        self,
        texts: list[str],
        metadatas: Sequence[Mapping[str, Any]] | None,
        ids: Sequence[str | None] | None,
        fields: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        for name, values in (("metadatas", metadatas), ("ids", ids)):
            if values is not None and len(values) != len(texts):
                raise InvalidInputError(f"{name} must have one item per text: {len(values)} for {len(texts)} texts")
        keys = [uuid.uuid4().hex if key is None else encode_name(key) for key in ids or [None] * len(texts)]
        objects = metadatas or [{}] * len(texts)
        shared = {**fields, "namespace": self._namespace}
        return [
            {**shared, "text": text, "key": key, "metadata": metadata}
            for text, key, metadata in zip(texts, keys, objects, strict=True)
        ]

    def _write(self, items: list[dict[str, Any]], vectors: list[list[float]]) -> list[str]:
        entries = self.memory.add_many(
            [{**item, "vector": vector} for item, vector in zip(items, vectors, strict=True)]
        )
        return [decode_name(entry.key) for entry in entries]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents for good: those with the given ids, or all if ``ids`` is None."""
        if ids is None:
            self.memory.forget(everything=True, namespace=self._namespace)
        for key in ids or ():
            self.memory.forget(encode_name(key), namespace=self._namespace)
        return True

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with the given ids, in that order; unknown ids are left out."""
        keys = [encode_name(key) for key in ids]
        found = self.memory.get_many(keys, namespace=self._namespace)
        return [document(found[key]) for key in keys if key in found]

    def _recall(self, vector: Sequence[float], k: int, filter: Filter | None, options: dict[str, Any]) -> list[Hit]:
        if k < 1:
            return []
        query = np.asarray(vector, dtype=np.float32)
        return self.memory.recall(query, k=k, where=filter, namespace=self._namespace, **options)

    def similarity_search_with_score_by_vector(
        self, embedding: list[float], k: int = 4, *, filter: Filter | None = None, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Return the k documents closest to a vector, each with its cosine similarity, best first."""
        return [(document(hit.entry), hit.score) for hit in self._recall(embedding, k, filter, kwargs)]

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the k documents closest to a vector, best first."""
        return [found for found, _ in self.similarity_search_with_score_by_vector(embedding, k, **kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Return the k documents closest to a query, each with its cosine similarity, best first."""
        return self.similarity_search_with_score_by_vector(self._embedding.embed_query(query), k, **kwargs)

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Do as ``similarity_search_with_score`` does, without blocking the event loop."""
        vector = await self._embedding.aembed_query(query)
        return await asyncio.to_thread(self.similarity_search_with_score_by_vector, vector, k, **kwargs)

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the k documents closest to a query, best first."""
        return [found for found, _ in self.similarity_search_with_score(query, k, **kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Do as ``similarity_search`` does, without blocking the event loop."""
        return [found for found, _ in await self.asimilarity_search_with_score(query, k, **kwargs)]

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        # Rounding can carry a cosine past 1; a document that points away is as irrelevant as an unrelated one.
        return lambda score: min(max(score, 0.0), 1.0)

    def max_marginal_relevance_search_by_vector(
        self,
        embedding: list[float],
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        filter: Filter | None = None,
        **kwargs: Any,
    ) -> list[Document]:
        """Return k of the ``fetch_k`` documents closest to a vector, chosen to be unlike each other.

        Args:
            embedding: The vector to be close to.
            k: How many documents.
            fetch_k: How many to choose from.
            lambda_mult: 1 for relevance alone, 0 for diversity alone.
            filter: Only documents whose metadata match.
            **kwargs: Passed to ``Memory.recall``.
        """
        hits = self._recall(embedding, max(k, fetch_k) if k > 0 else 0, filter, kwargs)
        vectors = self._vectors(hits)
        hits = [hit for hit in hits if (hit.entry.namespace, hit.entry.key) in vectors]
        chosen = maximal_marginal_relevance(
            np.asarray(embedding, dtype=np.float32),
            [vectors[hit.entry.namespace, hit.entry.key] for hit in hits],
            k=k,
            lambda_mult=lambda_mult,
        )
        return [document(hits[place].entry) for place in chosen]

    def _vectors(self, hits: list[Hit]) -> dict[tuple[tuple[str, ...], str], Any]:
        places: dict[tuple[str, ...], list[str]] = {}
        for hit in hits:
            places.setdefault(hit.entry.namespace, []).append(hit.entry.key)
        return {
            (namespace, key): vector
            for namespace, keys in places.items()
            for key, vector in self.memory.vectors(keys, namespace=namespace).items()
        }

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Do as ``max_marginal_relevance_search_by_vector`` does, for a query."""
        vector = self._embedding.embed_query(query)
        return self.max_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Do as ``max_marginal_relevance_search`` does, without blocking the event loop."""
        vector = await self._embedding.aembed_query(query)
        return await self.amax_marginal_relevance_search_by_vector(vector, k, fetch_k, lambda_mult, **kwargs)

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        path: str | Path | None = None,
        namespace: Sequence[str] = (),
        config: Config | None = None,
        **kwargs: Any,
    ) -> Self:
        """Open the store of a folder and add texts to it; arguments as for the class and ``add_texts``."""
        store = cls(embedding, path=path, namespace=namespace, config=config)
        store.add_texts(texts, metadatas, ids=ids, **kwargs)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: list[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Do as ``from_texts`` does, without blocking the event loop."""
        opening = {name: kwargs.pop(name) for name in ("path", "namespace", "config") if name in kwargs}
        store = await asyncio.to_thread(lambda: cls(embedding, **opening))
        await store.aadd_texts(texts, metadatas, ids=ids, **kwargs)
        return store


def document(entry: Entry) -> Document:
    """Return an entry as a LangChain document."""
    return Document(page_content=entry.text, metadata=dict(entry.metadata), id=decode_name(entry.key))
