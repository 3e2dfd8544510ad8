from __future__ import annotations

import asyncio
import warnings
from datetime import UTC, datetime, timedelta
from uuid import UUID

import numpy as np
import pages
import pytest
from support import WordEncoder

from agent_memory import DimensionMismatchError, InvalidInputError

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # CrewAI and what it imports warn about one another
    from crewai.memory.storage.backend import EmbeddingDimensionMismatchError, StorageBackend
    from crewai.memory.types import MemoryRecord
    from crewai.memory.unified_memory import Memory as CrewMemory

    from agent_memory.integrations.crewai import AgentMemoryStorage

pytestmark = pytest.mark.filterwarnings("ignore:::crewai", "ignore:::pydantic")

WORDS = WordEncoder(96)


def vector(text):
    return WORDS.encode_documents([text])[0].tolist()


def record(number, content, **fields):
    fields.setdefault("embedding", vector(content))
    return MemoryRecord(id=str(number), content=content, **fields)


@pytest.fixture
def storage(folder):
    storage = AgentMemoryStorage(folder)
    yield storage
    storage.close()


@pytest.fixture
def filled(storage):
    old = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=2)
    storage.save(
        [
            record(1, "red apple", scope="/a/b", categories=["fruit"], metadata={"n": 1}, created_at=old),
            record(2, "red car", scope="/a/bc", categories=["car", "red"], source="al", private=True),
            record(3, "green apple", scope="/a", categories=["fruit"], importance=0.9),
            record(4, "blue sky", scope="/", embedding=None),
        ]
    )
    return storage


def ids(found):
    return [each.id if isinstance(each, MemoryRecord) else each[0].id for each in found]


def test_an_empty_storage_answers(storage):
    assert isinstance(storage, StorageBackend)
    assert storage.search(vector("x")) == storage.list_records() == storage.list_scopes() == []
    assert storage.count() == storage.delete(record_ids=["1"]) == 0
    assert storage.get_record("1") is None
    storage.reset()
    storage.save([])


def test_search(filled):
    found = filled.search(vector("red apple"), limit=2)
    assert ids(found)[0] == "1"
    assert found[0][1] == pytest.approx(1, abs=1e-3)
    assert sorted(ids(filled.search(vector("red apple")))) == ["1", "2", "3"]
    assert ids(filled.search(vector("red apple"), scope_prefix="/a/b")) == ["1"]
    assert ids(filled.search(vector("red apple"), categories=["car", "boat"])) == ["2"]
    assert ids(filled.search(vector("red apple"), metadata_filter={"n": 1})) == ["1"]
    assert ids(filled.search(vector("red apple"), min_score=0.9)) == ["1"]
    assert filled.search(vector("red apple"), limit=0) == []
    with pytest.raises(DimensionMismatchError):
        filled.search([1.0, 0.0])


def test_records_come_back_as_they_were(filled):
    kept = filled.get_record("2")
    assert (kept.content, kept.scope, kept.categories) == ("red car", "/a/bc", ["car", "red"])
    assert (kept.source, kept.private) == ("al", True)
    assert filled.get_record("missing") is None


def test_listing(filled):
    assert ids(filled.list_records())[-1] == "1"
    assert len(filled.list_records(limit=2, offset=3)) == 1
    assert (filled.count(), filled.count("/a"), filled.count("/a/b/")) == (4, 3, 1)
    assert filled.list_scopes("/") == ["/a"]
    assert filled.list_scopes("/a") == ["/a/b", "/a/bc"]
    assert filled.list_categories() == {"fruit": 2, "car": 1, "red": 1}
    info = filled.get_scope_info("/a")
    assert (info.record_count, info.categories, info.child_scopes) == (
        3,
        ["car", "fruit", "red"],
        ["/a/b", "/a/bc"],
    )
    assert info.oldest_record < info.newest_record


def test_update_keeps_the_embedding(filled):
    filled.update(filled.get_record("1").model_copy(update={"importance": 1.0, "scope": "/moved"}))
    assert ids(filled.search(vector("red apple"), scope_prefix="/moved", min_score=0.9)) == ["1"]
    filled.touch_records(["1", "missing"])
    assert filled.get_record("1").last_accessed > filled.get_record("1").created_at
    assert filled.count() == 4


def test_delete(filled):
    assert filled.delete(record_ids=["1", "missing"]) == 1
    assert filled.delete(scope_prefix="/a", categories=["car"]) == 1
    assert filled.delete(older_than=datetime.now(UTC) - timedelta(days=1)) == 0
    filled.reset("/a")
    assert ids(filled.list_records()) == ["4"]
    assert filled.delete() == 1


def test_a_store_that_was_reset_takes_embeddings_of_another_size(filled, folder):
    with pytest.raises(EmbeddingDimensionMismatchError) as caught:
        filled.save([record(9, "new", embedding=[1.0, 0.0, 0.0])])
    assert isinstance(caught.value, DimensionMismatchError)
    assert (caught.value.stored_dim, caught.value.new_dim, caught.value.expected) == (96, 3, 96)
    assert filled.count() == 4
    filled.reset()
    filled.save([record(9, "new", embedding=[1.0, 0.0, 0.0])])
    assert ids(filled.search([1.0, 0.0, 0.0])) == ["9"]
    with pytest.raises(EmbeddingDimensionMismatchError):
        filled.search(vector("red apple"))
    filled.close()
    with AgentMemoryStorage(folder) as again:
        assert ids(again.search([1.0, 0.0, 0.0])) == ["9"]


def test_through_crewais_reset_all_another_embedder_can_follow(storage):
    for size in (96, 48):
        words = WordEncoder(size)
        memory = CrewMemory(
            storage=storage,
            embedder=lambda texts: [words.encode_documents([text])[0].tolist() for text in texts],
            llm=None,
            query_analysis_threshold=10**6,
        )
        memory.remember("Al likes tea", scope="/drinks", categories=["drink"], importance=0.5, metadata={})
        (found,) = memory.recall("Al likes tea", depth="shallow")
        assert found.record.content == "Al likes tea"
        memory.reset_all()


@pytest.mark.parametrize("name", ["$price", "v1.2", "", "a b", 'q"uote', "␛0024x"])
def test_categories_and_metadata_of_any_name(storage, name):
    storage.save([record(1, "red apple", categories=[name], metadata={name: {name: 1}}), record(2, "red car")])
    assert ids(storage.search(vector("red"), categories=[name])) == ["1"]
    assert ids(storage.search(vector("red"), metadata_filter={name: {name: 1}})) == ["1"]
    assert storage.list_categories() == {name: 1}
    assert storage.get_record("1").metadata == {name: {name: 1}}
    assert storage.delete(categories=[name]) == 1


def test_an_embedding_of_zeros_is_kept_and_never_found(storage):
    storage.save([record(1, "red apple"), record(2, "nothing", embedding=[0.0] * 96)])
    assert ids(storage.search(vector("red apple"))) == ["1"]
    assert storage.search([0.0] * 96) == []
    storage.update(storage.get_record("2").model_copy(update={"importance": 1.0}))
    assert ids(storage.search(vector("red apple"))) == ["1"]
    assert storage.count() == 2
    with pytest.raises(InvalidInputError, match="finite"):
        storage.save([record(3, "x", embedding=[float("nan")] * 96)])


def test_delete_by_ids_and_age(filled):
    yesterday = datetime.now(UTC) - timedelta(days=1)
    assert filled.delete(older_than=yesterday, record_ids=["2"]) == 0
    assert filled.delete(older_than=yesterday, record_ids=["1", "2"]) == 1
    assert filled.delete(record_ids=[]) == 0
    assert filled.count() == 3


def test_it_is_durable_and_async(filled, folder):
    filled.close()
    again = AgentMemoryStorage(folder)
    assert again.count() == 4
    asyncio.run(again.asave([record(5, "new thing")]))
    assert ids(asyncio.run(again.asearch(vector("new thing"), limit=1))) == ["5"]
    assert asyncio.run(again.adelete(record_ids=["5"])) == 1
    again.close()


def test_in_crewais_memory(storage):
    memory = CrewMemory(
        storage=storage,
        embedder=lambda texts: [vector(text) for text in texts],
        llm=None,
        query_analysis_threshold=10**6,
    )
    for text in ("Al likes tea", "Bo likes coffee"):
        memory.remember(text, scope="/drinks", categories=["drink"], importance=0.5, metadata={})
    found = memory.recall("Al likes tea", scope="/drinks", depth="shallow", limit=1)
    assert [match.record.content for match in found] == ["Al likes tea"]
    assert memory.forget(scope="/drinks") == 2
    memory.close()


def test_the_page(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    names = pages.run("crewai", embedder=lambda texts: [vector(text) for text in texts], llm=None)
    assert [match.record.content for match in names["found"]] == ["Alice moved to Berlin."]
    names["memory"].close()


def test_metadata_get_their_json_form_and_a_single_string_is_no_list_of_ids(folder):
    held = {"when": datetime(2024, 5, 1, tzinfo=UTC), "size": np.float32(1.5), 3: "three", "id": UUID(int=5)}
    with AgentMemoryStorage(folder) as storage:
        record = MemoryRecord(id="a", content="red", embedding=[1.0, 0.0])
        record.metadata = held
        storage.save([record])
        kept = {"when": "2024-05-01T00:00:00+00:00", "size": 1.5, "3": "three", "id": str(UUID(int=5))}
        assert storage.get_record("a").metadata == kept
        assert storage.delete(metadata_filter={"size": np.float32(2)}) == 0
        with pytest.raises(InvalidInputError, match="record_ids must be a list of strings, got str"):
            storage.delete(record_ids="a")
        assert storage.count() == 1
        assert storage.delete(metadata_filter={"id": UUID(int=5)}) == 1


def test_after_a_reset_another_embedder_may_ask_first(filled):
    filled.reset()
    assert filled.search([1.0, 0.0]) == []
    filled.save([record(9, "small", embedding=[1.0, 0.0])])
    assert ids(filled.search([1.0, 0.0])) == ["9"]


def test_a_filter_by_metadata_is_for_the_value_itself(storage):
    values = {"1": "a", "2": ["a"], "3": ["a", "b"], "4": {"y": 1}, "5": {"y": 1, "z": 2}, "6": {}, "7": None}
    storage.save([record(int(number), f"text {number}", metadata={"x": value}) for number, value in values.items()])
    for number, value in values.items():
        assert ids(storage.search(vector("text"), limit=9, metadata_filter={"x": value})) == [number]
    assert storage.delete(metadata_filter={"x": "a"}) == 1
    assert storage.delete(metadata_filter={"x": {}}) == 1
    assert sorted(each.id for each in storage.list_records()) == ["2", "3", "4", "5", "7"]
