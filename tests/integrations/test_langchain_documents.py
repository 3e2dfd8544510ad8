"""What loaders bring, LangChain's ``index()``, and deleting: documents in the vector store."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, aindex, index
from support_langchain import WordEmbeddings

from agent_memory import InvalidInputError, Memory, format_hits
from agent_memory.integrations.langchain import AgentMemoryVectorStore


@pytest.fixture
def embedding():
    return WordEmbeddings()


@pytest.fixture
def store(folder, embedding):
    with AgentMemoryVectorStore(folder, embedding=embedding) as store:
        store.add_texts(["red apple", "red cherry", "green apple", "yellow banana", "red car"])
        yield store


def texts(documents):
    return [found.page_content for found in documents]


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


def test_odd_values_of_filters_and_metadata_are_understood_or_refused_by_name(store):
    store.add_texts(["a", "b"], [{"n": Decimal("sNaN")}, {"n": [1, 2]}])
    assert store.get_by_ids([]) == []
    assert [each.page_content for each in store.similarity_search("b", filter={"n": np.array([1, 2])})] == ["b"]
    with pytest.raises(InvalidInputError, match="ids must be a list of strings, got str"):
        store.add_texts(["p", "q"], ids="ab")


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
    repeated = format_hits(store.memory.recall(embedding.embed_query("red"), k=1))
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


@pytest.mark.parametrize("ids", ["id", [7], 7, [None]])
def test_ids_are_a_list_of_strings_and_a_single_string_is_not_one(folder, embedding, ids):
    with AgentMemoryVectorStore(folder, embedding=embedding) as store:
        store.add_texts(["red", "blue"], ids=["i", "d"])
        for call in (store.delete, store.get_by_ids):
            with pytest.raises(InvalidInputError, match="ids must be a list of strings"):
                call(ids)
        assert len(store.get_by_ids(["i", "d"])) == 2
        with pytest.raises(InvalidInputError, match="ids must be a list of strings, got int in it"):
            store.add_texts(["red"], ids=[7])
        with pytest.raises(InvalidInputError, match="text of a document must be a string, got NoneType"):
            store.add_texts([None])


def test_both_orders_of_arguments_are_understood(folder, embedding):
    with AgentMemoryVectorStore(embedding, path=folder) as store:
        store.add_texts(["red"])
    with AgentMemoryVectorStore(folder, embedding=embedding) as store:
        assert texts(store.similarity_search("red")) == ["red"]
