"""LlamaIndex: a vector store, a memory block and a postprocessor.

    store = AgentMemoryLlamaStore("./my-index")
    index = VectorStoreIndex.from_documents(documents, StorageContext.from_defaults(vector_store=store))

    memory = Memory.from_defaults(memory_blocks=[AgentMemoryBlock(memory="./my-agent")])

    retriever = index.as_query_engine(node_postprocessors=[AgentMemoryPostprocessor(EvoReranker(history=said))])

The vector store keeps the vectors of LlamaIndex's embedding model; the block uses the memory's own encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from agent_memory.aio import run_in_thread
from agent_memory.config import Config
from agent_memory.encoders import EvoReranker
from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.formats.names import encode_name
from agent_memory.integrations._erasing import Erase, check_erase
from agent_memory.integrations._given import LateMemory
from agent_memory.integrations._opening import Adapter, Given, below, opened, relative
from agent_memory.integrations._plain import plain, restored
from agent_memory.integrations._prompting import Prompting
from agent_memory.integrations._reranking import check_reranker, rank_texts
from agent_memory.integrations._text import entry_text, own_text, text_of
from agent_memory.integrations._vectors import UNRANKED, anywhere, closest, direction
from agent_memory.memory import Memory
from agent_memory.records import Entry

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.bridge.pydantic import ConfigDict, PrivateAttr
    from llama_index.core.memory import BaseMemoryBlock
    from llama_index.core.postprocessor.types import BaseNodePostprocessor
    from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
    from pydantic import SkipValidation

    from agent_memory.integrations._llama_filters import Where, where_of
except ModuleNotFoundError as error:
    raise MissingDependencyError("llama-index-core", "llama-index") from error


_NODES: Where = {"_node_content": {"$exists": True}}
"""Filter for what is a node, since a memory may hold other entries."""


class AgentMemoryLlamaStore(BasePydanticVectorStore, Adapter):
    """Nodes in a memory; filters are applied inside the search, scores are cosine similarities.

    Args:
        memory: The folder of a store, or an open memory whose vectors have the size of the embedding model's.
        namespace: Where the nodes live, within the memory's namespace.
        config: Settings of the memory that a folder is opened with; see ``Config``.
        erase: ``"now"``, or ``"later"`` to leave the traces of what is deleted, which nothing reads any more, in the
            store's files until ``maintenance`` or the next deletion that does not defer them.
    """

    stores_text: bool = True
    _late: LateMemory = PrivateAttr()
    _relative: tuple[str, ...] = PrivateAttr()
    _later: bool = PrivateAttr()

    def __init__(
        self,
        memory: Given,
        *,
        namespace: Sequence[str] = (),
        config: Config | None = None,
        erase: Erase = "now",
    ) -> None:
        super().__init__(stores_text=True)
        self._later = check_erase(erase)
        self._late = LateMemory(memory, "LlamaIndex", config)
        self._relative = relative(namespace)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex knows the class by."""
        return "AgentMemoryLlamaStore"

    @property
    def client(self) -> Memory | None:
        """The memory; None as long as nothing was ever added."""
        return self._late.known()

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Add nodes that have embeddings, replacing those with the same ids; returns the ids."""
        if not nodes:
            return []
        memory = self._late.sized(len(nodes[0].get_embedding()))
        scope, dimension = below(memory, self._relative), memory.encoder.spec.dimension
        memory.add_many([{**_as_entry(node, dimension), "namespace": scope} for node in nodes])
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Do as ``add`` does, without blocking the event loop."""
        return await run_in_thread(lambda: self.add(nodes, **kwargs))

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document for good."""
        self._forget({"ref_doc_id": ref_doc_id})

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Do as ``delete`` does, without blocking the event loop."""
        await run_in_thread(lambda: self.delete(ref_doc_id))

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete the nodes with one of the ids that the filters match."""
        memory = self._late.known()
        where = None if memory is None else self._where(memory, filters, node_ids=node_ids)
        if where:
            self._forget(where)

    async def adelete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Do as ``delete_nodes`` does, without blocking the event loop."""
        await run_in_thread(lambda: self.delete_nodes(node_ids, filters))

    def _forget(self, where: Where) -> None:
        memory = self._late.known()
        if memory is not None:
            memory.forget(where=_only_nodes(where), namespace=below(memory, self._relative), deferred=self._later)

    def clear(self) -> None:
        """Delete all nodes for good."""
        memory = self._late.known()
        if memory is not None:
            memory.forget(where=_NODES, namespace=below(memory, self._relative), deferred=self._later)

    async def aclear(self) -> None:
        """Do as ``clear`` does, without blocking the event loop."""
        await run_in_thread(self.clear)

    def _where(self, memory: Memory, filters: MetadataFilters | None, **ids: list[str] | None) -> Where | None:
        nodes = cache(lambda: memory.entries(where=_NODES, namespace=below(memory, self._relative)))
        return where_of(filters, nodes, **ids)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the nodes with one of the ids that the filters match, in the order they were added."""
        memory = self._late.known()
        if memory is None:
            return []
        where = _only_nodes(self._where(memory, filters, node_ids=node_ids))
        return [_as_node(entry) for entry in memory.entries(where=where, namespace=below(memory, self._relative))]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Do as ``get_nodes`` does, without blocking the event loop."""
        return await run_in_thread(lambda: self.get_nodes(node_ids, filters))

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the nodes closest to an embedding; without one, the first that match the filters, without scores.

        Raises:
            InvalidInputError: A query mode that the store does not have, or a filter that it cannot apply.
        """
        if query.mode != VectorStoreQueryMode.DEFAULT:
            raise InvalidInputError(f"only the mode {VectorStoreQueryMode.DEFAULT} is supported, got {query.mode}")
        sought = query.query_embedding
        memory = self._late.known() if sought is None else self._late.asked(len(sought))
        if memory is None:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        found = self._where(memory, query.filters, node_ids=query.node_ids, doc_ids=query.doc_ids)
        where = _only_nodes(found)
        scope, k = below(memory, self._relative), query.similarity_top_k
        if query.query_embedding is None:
            entries = memory.entries(where=where, namespace=scope, limit=k) if k > 0 else []
            return _result([_as_node(entry) for entry in entries], None)
        hits = closest(memory, query.query_embedding, k, where, scope)
        return _result([_as_node(hit.entry) for hit in hits], [hit.score for hit in hits])

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do as ``query`` does, without blocking the event loop."""
        return await run_in_thread(lambda: self.query(query, **kwargs))

    def _release(self) -> None:
        self._late.close()


def _only_nodes(where: Where | None) -> Where:
    return {"$and": [_NODES, where]} if where else _NODES


def _result(nodes: list[BaseNode], scores: list[float] | None) -> VectorStoreQueryResult:
    return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=[node.node_id for node in nodes])


def _as_entry(node: BaseNode, dimension: int) -> dict[str, Any]:
    vector = direction(node.get_embedding())
    marks = {UNRANKED: True} if vector is None else {}
    return {
        "text": entry_text(node.get_content(metadata_mode=MetadataMode.NONE)),
        "key": encode_name(node.node_id),
        "metadata": {**plain(node_to_metadata_dict(_in_json(node))), "node_id": node.node_id, **marks},
        "vector": anywhere(dimension) if vector is None else vector,
    }


def _in_json(node: BaseNode) -> BaseNode:
    """Return a node whose metadata are JSON, whatever its loader has put there."""
    return node.model_copy(update={"metadata": restored(plain(node.metadata))})


def _as_node(entry: Entry) -> BaseNode:
    metadata = {name: value for name, value in entry.metadata.items() if name != UNRANKED}
    return metadata_dict_to_node(restored(metadata))


class AgentMemoryBlock(BaseMemoryBlock[str], Adapter):
    """Long-term memory beside LlamaIndex's short-term memory, which hands over what it lets go.

    Attributes:
        memory: A memory, or the folder of one.
        namespace: Where to recall and remember, within the memory's namespace.
        k: How many memories are recalled at most.
        where: Only entries whose metadata match are recalled.
        min_score: Entries that score lower are left out.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    name: str = "agent_memory"
    memory: SkipValidation[Memory]  # looked at by ``opened``, which takes others with its methods
    namespace: tuple[str, ...] = ()
    k: int = 5
    where: Mapping[str, Any] | None = None
    min_score: float | None = None
    _own: bool = PrivateAttr(default=False)

    def __init__(self, memory: Given, **fields: Any) -> None:
        held, own = opened(memory)
        super().__init__(memory=held, **fields)
        self._own = own

    def _prompting(self) -> Prompting:
        return Prompting(
            memory=self.memory, namespace=self.namespace, k=self.k, where=self.where, min_score=self.min_score
        )

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        asked = [message for message in messages or [] if message.role == "user"]
        return await run_in_thread(lambda: self._prompting().block(_said(asked[-1]) if asked else ""))

    async def _aput(self, messages: list[ChatMessage]) -> None:
        items = [
            {
                "text": text,
                "speaker": str(message.role.value),
                "session": None
                if (session := message.additional_kwargs.get("session_id")) is None
                else encode_name(str(session)),
                "namespace": self._prompting().scope,
            }
            for message in messages
            if message.role in ("user", "assistant") and (text := own_text(_said(message)))
        ]
        await run_in_thread(lambda: self.memory.add_many(items))


def _said(message: ChatMessage) -> str:
    """Return the text of a message's blocks, without the model's reasoning."""
    return text_of([each for each in message.blocks if each.block_type != "thinking"])


class AgentMemoryPostprocessor(BaseNodePostprocessor):
    """Ranks the nodes of any retriever again, best first; a node's score is then the reranker's.

    Attributes:
        reranker: An ``EvoReranker``, which knows the conversation, or any ``Reranker``; an ``EvoReranker`` without a
            conversation if left out.
        top_n: How many nodes are kept at most; None for all.
        min_score: Nodes that score lower are left out.
    """

    reranker: Any = None
    top_n: int | None = None
    min_score: float | None = None

    def __init__(self, reranker: Any = None, **fields: Any) -> None:
        chosen = EvoReranker() if reranker is None else reranker
        check_reranker(chosen)
        super().__init__(reranker=chosen, **fields)

    @classmethod
    def class_name(cls) -> str:
        """Return the name that LlamaIndex knows the class by."""
        return "AgentMemoryPostprocessor"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        texts = [node.node.get_content(metadata_mode=MetadataMode.NONE) for node in nodes]
        query = "" if query_bundle is None else query_bundle.query_str
        ranked = rank_texts(self.reranker, query, texts, top_n=self.top_n, min_score=self.min_score)
        return [NodeWithScore(node=nodes[place].node, score=score) for place, score in ranked]
