from __future__ import annotations

import asyncio
import gc
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from support_langchain import WordEmbeddings

from agent_memory import DimensionMismatchError, EncoderMismatchError, InvalidInputError, Memory
from agent_memory.integrations.langchain import AgentMemoryVectorStore

FRUITS = ["red apple", "red cherry", "green apple", "yellow banana", "red car"]


@pytest.fixture
def embedding():
    return WordEmbeddings()


@pytest.fixture
def store(folder, embedding):
    numbers = [{"n": number} for number in range(5)]
    with AgentMemoryVectorStore.from_texts(FRUITS, embedding, numbers, ids=list("abcde"), path=folder) as store:
        yield store


def texts(documents):
    return [found.page_content for found in documents]


def test_it_ranks_as_langchains_own_store_does(store, embedding):
    reference = InMemoryVectorStore(embedding)
    reference.add_texts(FRUITS)
    for query in ("apple", "red", "yellow car"):
        ours = store.similarity_search_with_score(query, k=5)
        theirs = reference.similarity_search_with_score(query, k=5)
        assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=1e-5)
        assert texts(store.similarity_search(query, k=1)) == texts(reference.similarity_search(query, k=1))


def test_it_chooses_diverse_documents_as_langchains_own_store_does(store, embedding):
    reference = InMemoryVectorStore(embedding)
    reference.add_texts(FRUITS)
    before = len(embedding.documents)
    for weight in (0.0, 0.3, 1.0):
        arguments = {"k": 3, "fetch_k": 5, "lambda_mult": weight}
        ours = store.max_marginal_relevance_search("red apple", **arguments)
        assert texts(ours) == texts(reference.max_marginal_relevance_search("red apple", **arguments))
    assert embedding.documents[before:] == []  # stored vectors serve; nothing is embedded twice


def test_filters_are_applied_inside_the_search(store):
    found = store.similarity_search("red apple", k=2, filter={"n": {"$gte": 3}})
    assert sorted(texts(found)) == ["red car", "yellow banana"]
    found = store.max_marginal_relevance_search("red apple", k=2, filter={"n": {"$in": [1, 4]}})
    assert sorted(texts(found)) == ["red car", "red cherry"]
    assert store.similarity_search("red", k=3, filter={"n": 99}) == []


def test_options_of_recall_pass_through(store):
    store.add_texts(["red plum"], session="s", speaker="al")
    assert texts(store.similarity_search("red", k=9, session="s")) == ["red plum"]
    assert len(store.similarity_search("red", k=9, exact=True)) == 6
    with pytest.raises(TypeError):
        store.similarity_search("red", nonsense=1)


def test_search_by_vector_and_scores(store, embedding):
    vector = embedding.embed_query("green apple")
    assert texts(store.similarity_search_by_vector(vector, k=1)) == ["green apple"]
    (_, score), *_ = store.similarity_search_with_relevance_scores("green apple", k=5, score_threshold=0.99)
    assert score == pytest.approx(1, abs=1e-5)
    assert 0 <= store.similarity_search_with_relevance_scores("zebra", k=5)[-1][1] <= 1
    assert store.similarity_search("red", k=0) == []


def test_ids_upsert_and_come_back_in_order(store):
    assert store.add_texts(["blue plum"], [{"n": 7}], ids=["b"]) == ["b"]
    found = store.get_by_ids(["e", "b", "missing", "a"])
    assert [(each.id, each.page_content) for each in found] == [
        ("e", "red car"),
        ("b", "blue plum"),
        ("a", "red apple"),
    ]
    assert found[1].metadata == {"n": 7}
    assert "red cherry" not in texts(store.similarity_search("red cherry", k=10))


def test_ids_of_any_spelling(store):
    ids = ["", "line\nfeed", "␛", "␛000a", "\x00", "a/b.c", "\ud800", "ü" * 200]
    assert store.add_texts([f"text {number}" for number in range(len(ids))], ids=ids) == ids
    assert [each.id for each in store.get_by_ids(ids)] == ids
    store.delete(ids[:4])
    assert [each.id for each in store.get_by_ids(ids)] == ids[4:]


def test_documents_with_and_without_ids(store):
    made = store.add_documents([Document("grey elephant", id="x"), Document("pink pig")])
    assert made[0] == "x"
    assert len(made[1]) == 32
    assert texts(store.get_by_ids(made)) == ["grey elephant", "pink pig"]


def test_delete(store):
    assert store.delete(["a", "unknown"])
    assert store.delete([])
    assert [each.id for each in store.get_by_ids(list("abcde"))] == list("bcde")
    assert store.delete()
    assert store.get_by_ids(list("abcde")) == []


def test_ids_of_any_length(store):
    long = "https://example.org/" + "x" * 600
    assert store.add_texts(["grey elephant"], ids=[long]) == [long]
    assert store.similarity_search("grey elephant", k=1)[0].id == long
    assert store.get_by_ids([long])[0].metadata == {}
    store.delete([long])
    assert store.get_by_ids([long]) == []


@pytest.mark.parametrize(
    "arguments",
    [
        {"metadatas": [{}, {}]},
        {"ids": ["a", "b"]},
        {"metadatas": [{"when": object()}]},
    ],
)
def test_bad_input_is_named_and_nothing_is_written(store, arguments):
    with pytest.raises(InvalidInputError):
        store.add_texts(["one text"], **arguments)
    assert len(store.memory.entries()) == 5


def test_a_query_of_another_size_is_refused(store):
    with pytest.raises(DimensionMismatchError, match="96 dimensions, got 3"):
        store.similarity_search_by_vector([1.0, 0, 0])


def test_it_is_durable_and_refuses_another_embedding(folder, embedding):
    AgentMemoryVectorStore.from_texts(["kept"], embedding, path=folder).close()
    with AgentMemoryVectorStore(WordEmbeddings(), path=folder) as store:
        assert texts(store.similarity_search("kept")) == ["kept"]
    with pytest.raises(EncoderMismatchError):
        AgentMemoryVectorStore(WordEmbeddings(dimension=50), path=folder)


@pytest.mark.parametrize("size", [1, 2, 63, 64, 65, 257])
def test_every_size_of_vector_works(folder, size):
    with AgentMemoryVectorStore(WordEmbeddings(size), path=folder) as store:
        store.add_texts([f"subject {number}" for number in range(30)])
        assert len(store.similarity_search("subject 7", k=30)) == 30
        if size > 2:
            assert texts(store.similarity_search("subject 7", k=1)) == ["subject 7"]


def test_without_a_path_it_lives_in_a_temporary_folder(embedding):
    store = AgentMemoryVectorStore.from_texts(["short-lived"], embedding)
    folder = Path(store.memory.path)
    assert folder.is_dir()
    store.close()
    assert not folder.exists()
    forgotten = AgentMemoryVectorStore(embedding)
    folder = Path(forgotten.memory.path)
    forgotten.memory.close()
    del forgotten
    gc.collect()
    assert not folder.exists()


def test_a_memory_and_an_embedding_exclude_each_other(open_memory, embedding):
    for arguments in (
        {},
        {"embedding": embedding, "memory": open_memory()},
        {"memory": open_memory(), "path": "x"},
    ):
        with pytest.raises(InvalidInputError):
            AgentMemoryVectorStore(**arguments)


def test_over_a_memory_it_uses_the_memorys_encoder_and_scope(open_memory):
    memory: Memory = open_memory(namespace=("acme",))
    memory.add("red outside")
    store = AgentMemoryVectorStore(memory=memory, namespace=("docs",))
    store.add_texts(["red inside"])
    assert texts(store.similarity_search("red", k=9)) == ["red inside"]
    store.close()
    assert [hit.text for hit in memory.recall("red outside", k=1)] == ["red outside"]
    vector = store.embeddings.embed_query("red")
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


async def test_async_methods_await_the_embedding(folder, embedding):
    store = await AgentMemoryVectorStore.afrom_texts(FRUITS, embedding, ids=list("abcde"), path=folder)
    await asyncio.gather(*(store.aadd_texts([f"grape {number}"], ids=[str(number)]) for number in range(10)))
    assert embedding.awaited == 11
    assert texts(await store.asimilarity_search("green apple", k=1)) == ["green apple"]
    (found, score), *_ = await store.asimilarity_search_with_score("grape 3", k=1)
    assert (found.id, score) == ("3", pytest.approx(1, abs=1e-5))
    assert len(await store.amax_marginal_relevance_search("red", k=3)) == 3
    assert embedding.awaited == 14
    assert [each.id for each in await store.aget_by_ids(["e", "3"])] == ["e", "3"]
    assert len(await store.asimilarity_search_by_vector(embedding.embed_query("red"), k=2)) == 2
    await store.adelete(["e"])
    assert await store.aget_by_ids(["e"]) == []
    retriever = store.as_retriever(search_type="mmr", search_kwargs={"k": 2})
    assert len(await retriever.ainvoke("grape")) == 2
    store.close()
