from __future__ import annotations

import asyncio
import gc
import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
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


@pytest.mark.parametrize(
    "arguments",
    [
        {"metadatas": [{}, {}]},
        {"ids": ["a", "b"]},
        {"metadatas": [{"when": object()}]},
        {"ids": ["x" * 600]},
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


class Colour(Enum):
    RED = "red"


def sourced(number, source):
    return Document(f"text {number}", metadata={"source": source})


class TestIndex:
    """LangChain's ``index()`` with a record manager."""

    @pytest.fixture
    def records(self):
        manager = InMemoryRecordManager(namespace="test")
        manager.create_schema()
        return manager

    @pytest.fixture
    def filled(self, folder, embedding, records):
        with AgentMemoryVectorStore(folder, embedding=embedding) as store:
            documents = [sourced(0, "a"), sourced(1, "b"), sourced(2, "a"), sourced(3, "b")]
            self.run(documents, records, store, "full", added=4)
            yield store

    def run(self, documents, records, store, cleanup, *, added=0, updated=0, skipped=0, deleted=0, **options):
        done = index(
            documents,
            records,
            store,
            cleanup=cleanup,
            source_id_key="source",
            key_encoder="sha256",
            batch_size=2,
            **options,
        )
        assert done == {
            "num_added": added,
            "num_updated": updated,
            "num_skipped": skipped,
            "num_deleted": deleted,
        }

    def left(self, store):
        return sorted(entry.text for entry in store.memory.entries())

    def test_full_deletes_what_is_not_there_any_more(self, filled, records):
        self.run([sourced(0, "a"), sourced(1, "b")], records, filled, "full", skipped=2, deleted=2)
        assert self.left(filled) == ["text 0", "text 1"]
        self.run([], records, filled, "full", deleted=2)
        assert self.left(filled) == []

    def test_incremental_and_scoped_full_delete_within_the_sources_seen(self, filled, records):
        self.run([sourced(9, "a")], records, filled, "incremental", added=1, deleted=2)
        assert self.left(filled) == ["text 1", "text 3", "text 9"]
        self.run([sourced(3, "b"), sourced(8, "b")], records, filled, "scoped_full", added=1, skipped=1, deleted=1)
        assert self.left(filled) == ["text 3", "text 8", "text 9"]

    def test_without_cleanup_nothing_is_deleted_and_an_update_can_be_forced(self, filled, records):
        self.run([sourced(0, "a")], records, filled, None, updated=1, force_update=True)
        assert len(self.left(filled)) == 4

    async def test_asynchronously(self, filled, records):
        done = await aindex(
            [sourced(7, "a")], records, filled, cleanup="full", source_id_key="source", key_encoder="sha256"
        )
        assert (done["num_added"], done["num_deleted"]) == (1, 4)
        assert self.left(filled) == ["text 7"]


def test_metadata_that_loaders_bring_get_their_json_form(store):
    key = uuid.UUID(int=7)
    metadata = {
        "when": datetime(2025, 5, 1, 12, tzinfo=UTC),
        "day": date(2025, 5, 1),
        "took": timedelta(minutes=1),
        "id": key,
        "price": Decimal("1.5"),
        "count": Decimal("3"),
        "score": np.float32(0.5),
        "rows": np.array([[1, 2]]),
        "moment": np.datetime64("2025-05-01T12:00", "ns"),
        "none": float("nan"),
        "pair": (1, "b"),
        "tags": {"b", "a"},
        "colour": Colour.RED,
        "path": Path("a/b"),
        "broken": "\ud800",
        "$price": {"$": 1},
        7: {True: "x"},
    }
    store.add_texts(["loaded"], [metadata], ids=["x"])
    (found,) = store.get_by_ids(["x"])
    assert found.metadata == {
        "when": "2025-05-01T12:00:00+00:00",
        "day": "2025-05-01",
        "took": 60.0,
        "id": str(key),
        "price": 1.5,
        "count": 3,
        "score": 0.5,
        "rows": [[1, 2]],
        "moment": "2025-05-01T12:00:00",
        "none": None,
        "pair": [1, "b"],
        "tags": ["a", "b"],
        "colour": "red",
        "path": "a/b",
        "broken": "?",
        "$price": {"$": 1},
        "7": {"True": "x"},
    }
    since = {"when": {"$gte": datetime(2025, 1, 1, tzinfo=UTC)}, "price": {"$lt": Decimal(2)}, "pair": (1, "b")}
    assert texts(store.similarity_search("loaded", filter=since)) == ["loaded"]
    assert store.similarity_search("loaded", filter={"when": {"$gte": datetime(2026, 1, 1, tzinfo=UTC)}}) == []
    with pytest.raises(InvalidInputError, match="filter operator"):
        store.similarity_search("loaded", filter={"$nor": []})
    loop = {}
    loop["again"] = loop
    with pytest.raises(InvalidInputError, match="contains itself"):
        store.add_texts(["x"], [loop])


def test_blank_documents_are_kept_and_never_found(store, embedding):
    before = len(embedding.documents)
    repeated = "<recalled-memory>red apple</recalled-memory>"
    ids = store.add_documents(
        [Document("", id="x"), Document(" \n", id="y", metadata={"n": 7}), Document("red", id="z"), Document(repeated)]
    )
    assert embedding.documents[before:] == ["red"]
    kept = store.get_by_ids(ids)
    assert texts(kept) == ["", " \n", "red", repeated]
    assert kept[1].metadata == {"n": 7}
    assert len(store.similarity_search("red", k=50)) == 6
    assert store.similarity_search("red", k=50, filter={"n": 7}) == []
    assert len(store.max_marginal_relevance_search("red", k=50)) == 6
    store.delete(ids)
    assert store.get_by_ids(ids) == []


def test_blank_documents_can_be_refused(folder, embedding):
    with AgentMemoryVectorStore(folder, embedding=embedding, blank="refuse") as store:
        with pytest.raises(InvalidInputError, match="document 1 has no text"):
            store.add_texts(["red", " "])
        assert store.memory.entries() == []
    with pytest.raises(InvalidInputError, match="blank must be"):
        AgentMemoryVectorStore(folder, embedding=embedding, blank="drop")


def test_a_text_whose_embedding_is_zero_is_kept_and_never_found(folder):
    class Partial(WordEmbeddings):
        def embed_documents(self, texts):
            return [[0.0] * 96 if text == "???" else super(Partial, self).embed_query(text) for text in texts]

        def embed_query(self, text):
            return [0.0] * 96 if text == "???" else super().embed_query(text)

    with AgentMemoryVectorStore(folder, embedding=Partial()) as store:
        store.add_texts(["red", "???"], ids=["a", "b"])
        assert texts(store.similarity_search("red", k=9)) == ["red"]
        assert store.similarity_search("???", k=9) == []
        assert texts(store.get_by_ids(["b"])) == ["???"]


def test_a_callable_filter_is_refused_by_name(store):
    def recent(document):
        return True

    with pytest.raises(InvalidInputError, match="got the function 'recent'"):
        store.similarity_search("red", filter=recent)


def test_what_the_framework_passes_along_is_no_field_of_an_entry(store):
    store.add_documents([Document("red plum", id="p")], batch_size=7, session="s", importance=0.5)
    entry = store.memory.get("p")
    assert (entry.session, entry.importance) == ("s", 0.5)


def test_many_documents_are_deleted_by_one_call_and_only_here(folder, embedding, monkeypatch):
    with AgentMemoryVectorStore(folder, embedding=embedding, namespace=("docs",)) as store:
        ids = [f"id {number}" for number in range(60)]
        store.add_texts(["red"] * 60, ids=ids)
        below = AgentMemoryVectorStore(store.memory, namespace=("docs", "more"))
        below.add_texts(["red"], ids=["id 1"])
        store.memory.add("not of LangChain", key="other", namespace=("docs",))
        calls = []
        forget = Memory.forget
        monkeypatch.setattr(Memory, "forget", lambda *given, **named: calls.append(named) or forget(*given, **named))
        store.delete([*ids[:50], "unknown", "other"])
        assert len(calls) == 2  # all of LangChain's, and then the one that was added without it
        assert [each.id for each in store.get_by_ids(ids)] == ids[50:]
        assert store.memory.get_many(["other"], namespace=("docs",)) == {}
        assert len(below.get_by_ids(["id 1"])) == 1


def test_both_orders_of_arguments_are_understood(folder, embedding):
    with AgentMemoryVectorStore(embedding, path=folder) as store:
        store.add_texts(["red"])
    with AgentMemoryVectorStore(folder, embedding=embedding) as store:
        assert texts(store.similarity_search("red")) == ["red"]
