"""LlamaIndex: a vector store and a memory block.

    store = AgentMemoryLlamaStore("./my-index")
    index = VectorStoreIndex.from_documents(documents, StorageContext.from_defaults(vector_store=store))

    memory = Memory.from_defaults(memory_blocks=[AgentMemoryBlock(memory="./my-agent")])

The vector store keeps the vectors of LlamaIndex's embedding model; the block uses the memory's own encoder.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.integrations._given import LateMemory
from agent_memory.integrations._names import encode_name
from agent_memory.integrations._opening import below, opened
from agent_memory.integrations._text import block, entry_text, own_text
from agent_memory.memory import Memory
from agent_memory.records import Entry

try:
    from llama_index.core.base.llms.types import ChatMessage
    from llama_index.core.bridge.pydantic import ConfigDict, PrivateAttr, field_validator
    from llama_index.core.memory import BaseMemoryBlock
    from llama_index.core.schema import BaseNode, MetadataMode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        FilterCondition,
        FilterOperator,
        MetadataFilter,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ModuleNotFoundError as error:
    raise MissingDependencyError("llama-index-core", "llama-index") from error

Where = dict[str, Any]

_OPERATORS = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}
_CONDITIONS = {FilterCondition.AND: "$and", FilterCondition.OR: "$or"}


class AgentMemoryLlamaStore(BasePydanticVectorStore):
    """Nodes in a memory; filters are applied inside the search, scores are cosine similarities.

    Args:
        memory: The folder of a store, or an open memory whose vectors have the size of the embedding model's.
        namespace: Where the nodes live, within the memory's namespace.
    """

    stores_text: bool = True
    _late: LateMemory = PrivateAttr()
    _relative: tuple[str, ...] = PrivateAttr()

    def __init__(self, memory: Memory | str | Path, *, namespace: Sequence[str] = ()) -> None:
        super().__init__(stores_text=True)
        self._late = LateMemory(memory, "LlamaIndex")
        self._relative = tuple(namespace)

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
        memory.add_many([{**_as_entry(node), "namespace": below(memory, self._relative)} for node in nodes])
        return [node.node_id for node in nodes]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete the nodes of a document for good."""
        self._forget({"ref_doc_id": ref_doc_id})

    def delete_nodes(
        self,
        node_ids: list[str] | None = None,
        filters: MetadataFilters | None = None,
        **delete_kwargs: Any,
    ) -> None:
        """Delete the nodes with one of the ids that the filters match."""
        where = _where(filters, node_ids=node_ids)
        if where:
            self._forget(where)

    def _forget(self, where: Where) -> None:
        memory = self._late.known()
        if memory is not None:
            memory.forget(where=where, namespace=below(memory, self._relative))

    def clear(self) -> None:
        """Delete all nodes for good."""
        memory = self._late.known()
        if memory is not None:
            memory.forget(everything=True, namespace=below(memory, self._relative))

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return the nodes with one of the ids that the filters match, in the order they were added."""
        memory = self._late.known()
        if memory is None:
            return []
        where = _where(filters, node_ids=node_ids)
        return [_as_node(entry) for entry in memory.entries(where=where, namespace=below(memory, self._relative))]

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return the nodes closest to an embedding.

        Raises:
            InvalidInputError: A query mode or a filter operator that the store does not have.
        """
        if query.mode != VectorStoreQueryMode.DEFAULT or query.query_embedding is None:
            raise InvalidInputError(f"only queries by embedding are supported, got mode {query.mode}")
        memory = self._late.known()
        if memory is None:
            return VectorStoreQueryResult(nodes=[], similarities=[], ids=[])
        hits = memory.recall(
            query.query_embedding,
            k=query.similarity_top_k,
            where=_where(query.filters, node_ids=query.node_ids, doc_ids=query.doc_ids),
            namespace=below(memory, self._relative),
        )
        nodes = [_as_node(hit.entry) for hit in hits]
        scores = [hit.score for hit in hits]
        return VectorStoreQueryResult(nodes=nodes, similarities=scores, ids=[node.node_id for node in nodes])

    def close(self) -> None:
        """Close the memory if it was opened here."""
        self._late.close()


def _as_entry(node: BaseNode) -> dict[str, Any]:
    return {
        "text": entry_text(node.get_content(metadata_mode=MetadataMode.NONE)),
        "key": encode_name(node.node_id),
        "metadata": {**node_to_metadata_dict(node), "node_id": node.node_id},
        "vector": node.get_embedding(),
    }


def _as_node(entry: Entry) -> BaseNode:
    return metadata_dict_to_node(dict(entry.metadata))


def _where(
    filters: MetadataFilters | None, *, node_ids: list[str] | None = None, doc_ids: list[str] | None = None
) -> Where | None:
    parts = [] if filters is None or not filters.filters else [_all_of(filters)]
    # LlamaIndex means no restriction by an empty list.
    parts += [{"node_id": {"$in": node_ids}}] if node_ids else []
    parts += [{"ref_doc_id": {"$in": doc_ids}}] if doc_ids else []
    return {"$and": parts} if parts else None


def _all_of(filters: MetadataFilters) -> Where:
    parts = [_all_of(each) if isinstance(each, MetadataFilters) else _one(each) for each in filters.filters]
    if filters.condition == FilterCondition.NOT:
        return {"$not": {"$or": parts}}
    return {_CONDITIONS[filters.condition or FilterCondition.AND]: parts}


def _one(condition: MetadataFilter) -> Where:
    if condition.operator == FilterOperator.IS_EMPTY:
        name = condition.key
        return {"$or": [{name: {"$exists": False}}, {name: None}, {name: {"$eq": []}}]}
    if condition.operator not in _OPERATORS:
        raise InvalidInputError(f"the filter operator {condition.operator.value!r} is not supported")
    return {condition.key: {_OPERATORS[condition.operator]: condition.value}}


class AgentMemoryBlock(BaseMemoryBlock[str]):
    """Long-term memory beside LlamaIndex's short-term memory, which hands over what it lets go.

    Attributes:
        memory: A memory, or the folder of one.
        namespace: Where to recall and remember, within the memory's namespace.
        k: How many memories are recalled at most.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    name: str = "agent_memory"
    memory: Memory
    namespace: tuple[str, ...] = ()
    k: int = 5

    @field_validator("memory", mode="before")
    @classmethod
    def _open(cls, value: Any) -> Memory:
        return opened(value)[0]

    async def _aget(self, messages: list[ChatMessage] | None = None, **block_kwargs: Any) -> str:
        asked = [message.content for message in messages or [] if message.role == "user"]
        query = own_text((asked[-1] if asked else "") or "")
        if not query:
            return ""
        scope = below(self.memory, self.namespace)
        return block(await asyncio.to_thread(self.memory.recall, query, k=self.k, namespace=scope))

    async def _aput(self, messages: list[ChatMessage]) -> None:
        scope = below(self.memory, self.namespace)
        items = [
            {
                "text": text,
                "speaker": message.role.value,
                "session": None
                if (session := message.additional_kwargs.get("session_id")) is None
                else encode_name(session),
                "namespace": scope,
            }
            for message in messages
            if message.role in ("user", "assistant") and (text := own_text(message.content or ""))
        ]
        await asyncio.to_thread(self.memory.add_many, items)
