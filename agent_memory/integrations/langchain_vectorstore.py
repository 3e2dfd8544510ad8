"""``AgentMemoryVectorStore``: a folder of memories as a LangChain vector store."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from agent_memory.aio import run_in_thread
from agent_memory.config import Config
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.formats.names import encode_name
from agent_memory.integrations._document_filters import Filter, where_of
from agent_memory.integrations._documents import (
    as_items,
    document,
    document_id,
    forget_keys,
    has_text,
    with_vectors,
)
from agent_memory.integrations._embeddings import EmbeddingsEncoder, EncoderEmbeddings
from agent_memory.integrations._erasing import Erase, check_erase, check_ids
from agent_memory.integrations._opening import Adapter, Given, below, opened
from agent_memory.integrations._vectors import closest
from agent_memory.records import Hit

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
    from langchain_core.vectorstores.utils import maximal_marginal_relevance
except ModuleNotFoundError as error:
    raise MissingDependencyError("langchain-core", "langchain") from error


class AgentMemoryVectorStore(Adapter, VectorStore):
    """Documents in a memory: durable, filtered inside the search, shared between threads and processes.

    Scores are cosine similarities, higher is better. ``filter`` takes the store's metadata filters, e.g.
    ``{"year": {"$gte": 2024}}``; all other keyword arguments of a search go to ``Memory.recall``.

    Args:
        memory: A memory, or the folder of one. If left out, a temporary folder, deleted by ``close``.
        embedding: Becomes the encoder of the folder, at whatever size its vectors have; LangChain's order, with the
            embedding first, is understood. Without one, the memory's own encoder embeds.
        namespace: Where the documents live, within the memory's namespace.
        config: Settings of the memory that a folder is opened with; see ``Config``.
        blank: ``"keep"`` to store documents without text, which no search finds, or ``"refuse"``.
        path: Another name of ``memory`` for a folder.
        erase: ``"now"``, or ``"later"`` to leave the traces of what is deleted, which nothing reads any more, in the
            store's files until ``maintenance`` or the next deletion that does not defer them.

    Raises:
        InvalidInputError: Neither an embedding nor a memory was given, or an embedding with an open memory.
        EncoderMismatchError: The folder was written with another embedding.
    """

    def __init__(
        self,
        memory: Given | Embeddings | None = None,
        *,
        embedding: Embeddings | None = None,
        namespace: Sequence[str] = (),
        config: Config | None = None,
        blank: Literal["keep", "refuse"] = "keep",
        path: str | Path | None = None,
        erase: Erase = "now",
    ) -> None:
        self._later = check_erase(erase)
        if isinstance(memory, Embeddings):
            memory, embedding = None, memory
        if (memory is None and embedding is None) or (memory is not None and path is not None):
            raise InvalidInputError("give a memory or the folder of one, an embedding, or a folder and an embedding")
        if blank not in ("keep", "refuse"):
            raise InvalidInputError(f"blank must be 'keep' or 'refuse', got {blank!r}")
        self._remove: Callable[[], object] = lambda: None
        given = memory or path
        if given is None:
            given = tempfile.mkdtemp(prefix="agent-memory-")
            self._remove = weakref.finalize(self, shutil.rmtree, given, ignore_errors=True)
        encoder = None if embedding is None else EmbeddingsEncoder(embedding)
        self.memory, self._own = opened(given, encoder=encoder, config=config)
        self._embedding: Embeddings = embedding or EncoderEmbeddings(self.memory.encoder)
        self._scope = below(self.memory, namespace)
        self._blank = blank

    @property
    def embeddings(self) -> Embeddings:
        """What embeds texts and queries."""
        return self._embedding

    def _release(self) -> None:
        super()._release()
        self._remove()

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
            texts: What to store. A blank text is kept as a document that no search finds; see ``blank``.
            metadatas: An object for each. Dates, decimals, UUIDs, NumPy values and other keys than strings get
                their JSON form.
            ids: An id for each, or None in the place of one to be made up. A known id is replaced.
            **kwargs: Fields for every entry: ``session``, ``speaker``, ``event_time``, ``expires_at``,
                ``importance``. Others, such as ``batch_size``, are the framework's own and change nothing.
        """
        items = self._items(texts, metadatas, ids, kwargs)
        worded = [item["text"] for item in items if has_text(item)]
        return self._write(items, self._embedding.embed_documents(worded) if worded else [])

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Do as ``add_texts`` does, without blocking the event loop."""
        items = self._items(texts, metadatas, ids, kwargs)
        worded = [item["text"] for item in items if has_text(item)]
        vectors = await self._embedding.aembed_documents(worded) if worded else []
        return await run_in_thread(lambda: self._write(items, vectors))

    def _items(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None,
        ids: Sequence[str | None] | None,
        fields: Mapping[str, Any],
    ) -> list[dict[str, Any]]:
        items = as_items(list(texts), metadatas, ids, self._scope, fields)
        blank = [place for place, item in enumerate(items) if not has_text(item)]
        if blank and self._blank == "refuse":
            raise InvalidInputError(f"document {blank[0]} has no text, and blank='refuse' was set")
        return items

    def _write(self, items: list[dict[str, Any]], vectors: list[list[float]]) -> list[str]:
        entries = self.memory.add_many(with_vectors(items, vectors, self.memory.encoder.spec.dimension))
        return [document_id(entry) for entry in entries]

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents for good: those with the given ids, or all if ``ids`` is None."""
        if ids is None:
            self.memory.forget(everything=True, namespace=self._scope, deferred=self._later)
            return True
        keys = [encode_name(key) for key in check_ids("ids", ids)]
        forget_keys(self.memory, keys, self._scope, later=self._later)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Do as ``delete`` does, without blocking the event loop."""
        return await run_in_thread(lambda: self.delete(ids, **kwargs))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents with the given ids, in that order; unknown ids are left out."""
        keys = [encode_name(key) for key in check_ids("ids", ids)]
        found = self.memory.get_many(keys, namespace=self._scope)
        return [document(found[key]) for key in keys if key in found]

    def _recall(self, vector: Sequence[float], k: int, filter: Any, options: dict[str, Any]) -> list[Hit]:
        return closest(self.memory, vector, k, self._where(filter), self._scope, **options)

    def _where(self, filter: Filter | None) -> Filter | None:
        return where_of(filter, lambda: self.memory.entries(namespace=self._scope))

    @property
    def _collection(self) -> DocumentCollection:
        return DocumentCollection(self)  # mem0 lists what it stores as Chroma's collections do

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
        return await run_in_thread(lambda: self.similarity_search_with_score_by_vector(vector, k, **kwargs))

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
        **kwargs: Any,
    ) -> Self:
        """Open the store of a folder and add texts to it; arguments as for the class and ``add_texts``."""
        store = cls(embedding=embedding, **_for_opening(kwargs))
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
        opening = _for_opening(kwargs)
        store = await run_in_thread(lambda: cls(embedding=embedding, **opening), whole=True)
        await store.aadd_texts(texts, metadatas, ids=ids, **kwargs)
        return store


class DocumentCollection:
    """The documents of a store, listed as Chroma's collections list theirs."""

    def __init__(self, store: AgentMemoryVectorStore) -> None:
        self._store = store

    def get(self, where: Filter | None = None, limit: int | None = None) -> dict[str, list[Any]]:
        """Return ids, texts and metadata of the documents that a filter matches, in the order they were added."""
        store = self._store
        entries = store.memory.entries(where=store._where(where), namespace=store._scope, limit=limit)
        found = [document(entry) for entry in entries]
        return {
            "ids": [each.id for each in found],
            "documents": [each.page_content for each in found],
            "metadatas": [each.metadata for each in found],
        }


def _for_opening(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the arguments of the class out of those of ``from_texts``."""
    names = ("memory", "namespace", "config", "blank", "path", "erase")
    return {name: kwargs.pop(name) for name in names if name in kwargs}
