"""The suites that ``langchain-tests`` ships, as they are."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests, VectorStoreIntegrationTests
from support import WordEncoder

from agent_memory import Memory
from agent_memory.integrations.langchain import AgentMemoryRetriever, AgentMemoryVectorStore


class TestVectorStore(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, place) -> Iterator[VectorStore]:
        with AgentMemoryVectorStore(self.get_embeddings(), path=place) as store:
            yield store


class TestVectorStoreWithTiers(TestVectorStore):
    """The same at a size that is searched tier by tier."""

    @staticmethod
    def get_embeddings():
        return DeterministicFakeEmbedding(size=300)


class TestVectorStoreOfAMemory(VectorStoreIntegrationTests):
    """The same over an open memory, in a namespace of it that has neighbours."""

    @pytest.fixture
    def vectorstore(self, place) -> Iterator[VectorStore]:
        with Memory(place, encoder=WordEncoder()) as memory:
            memory.add("foo", namespace=("neighbour",))
            yield AgentMemoryVectorStore(memory=memory, namespace=("documents",))


class TestRetriever(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _memory(self, place) -> Iterator[None]:
        with Memory(place, encoder=WordEncoder()) as memory:
            memory.add_many([f"a text about subject {number}" for number in range(10)])
            self.memory = memory
            yield

    @property
    def retriever_constructor(self):
        return AgentMemoryRetriever

    @property
    def retriever_constructor_params(self):
        return {"memory": self.memory}

    @property
    def retriever_query_example(self):
        return "a text about subject 3"
