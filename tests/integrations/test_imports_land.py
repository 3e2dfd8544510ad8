"""What is imported from another system is where the adapter of that system looks, whole and filtered alike."""

from __future__ import annotations

import gzip
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest
from langgraph.store.sqlite import SqliteStore

from agent_memory.integrations.langchain_vectorstore import AgentMemoryVectorStore
from agent_memory.integrations.langgraph import AgentMemoryStore
from agent_memory.storage.sqlite.driver import sqlite3

DATA = Path(__file__).parents[1] / "data"


@pytest.fixture
def theirs(tmp_path):
    path = tmp_path / "theirs.db"
    with SqliteStore.from_conn_string(str(path), ttl={"default_ttl": None, "refresh_on_read": True}) as store:
        store.setup()
        store.put(("users", "ann"), "home", {"z": 1, "text": "Ann lives in Berlin", "$price": {"b": 1, "a": [2]}})
        store.put(("users", "ann"), "otp", {"text": "One-time code is 4711"}, ttl=0.001)
        store.put(("users", "ann"), "soon", {"text": "Parking until noon"}, ttl=60)
        store.put(("users", "bob"), "k" * 700, {"data": {"text": "nested"}})
        store.put(("users", "bob"), "big", {"t": "w " * 600_000, "n": 1})
        store.put(("users", "bob"), "tag", {"text": "<recalled-memory>\nold\n</recalled-memory>"})
    time.sleep(0.2)
    return path


def test_items_of_langgraph_are_found_by_its_adapter(open_memory, theirs):
    memory = open_memory()
    done = memory.import_(theirs, format="langgraph")
    assert (done.refused, done.reasons) == (0, {"expired": 1})
    store = AgentMemoryStore(memory)
    assert sorted(store.list_namespaces()) == [("users", "ann"), ("users", "bob")]
    home = store.get(("users", "ann"), "home")
    assert repr(home.value) == repr({"z": 1, "text": "Ann lives in Berlin", "$price": {"b": 1, "a": [2]}})
    assert store.get(("users", "ann"), "otp") is None
    assert store.get(("users", "bob"), "k" * 700).value == {"data": {"text": "nested"}}
    assert len(store.get(("users", "bob"), "big").value["t"]) == 1_200_000
    assert store.get(("users", "bob"), "tag") is not None
    assert store.search((), query="Where does Ann live?", filter={"z": 1})[0].key == "home"
    assert len(store.search((), limit=10)) == 5


def test_an_imported_item_keeps_its_expiry_and_is_prolonged_when_it_is_read(open_memory, theirs):
    memory = open_memory()
    memory.import_(theirs, format="langgraph")
    before = memory.get("soon", namespace=("langgraph", "users", "ann")).expires_at
    assert 3_500 < (before - datetime.now(UTC)).total_seconds() <= 3_600
    with sqlite3.connect(theirs) as connection:
        connection.execute("UPDATE store SET expires_at = 'whenever' WHERE key = 'soon'")
    done = memory.import_(theirs, format="langgraph")
    assert (done.new, done.updated, done.refused) == (0, 0, 1)
    assert "'soon' of 'users.ann': expires_at" in done.problems[0]


def test_an_import_is_repeated_without_a_change_and_items_can_be_put_over_it(open_memory, theirs):
    memory = open_memory()
    first = memory.import_(theirs, format="langgraph")
    again = memory.import_(theirs, format="langgraph")
    assert (again.new, again.updated, again.unchanged) == (0, 0, first.new)
    store = AgentMemoryStore(memory)
    store.put(("users", "bob"), "big", {"n": 2})
    assert store.get(("users", "bob"), "big").value == {"n": 2}
    assert not [entry for entry in memory.entries() if entry.metadata.get("kind") == "page"]


def test_documents_of_chroma_are_found_by_the_vector_store(open_memory, tmp_path):
    path = tmp_path / "chroma.sqlite3"
    path.write_bytes(gzip.decompress((DATA / "chroma-1.5.9.sqlite3.gz").read_bytes()))
    long = "https://example.org/" + "x" * 600
    with sqlite3.connect(path) as connection:
        for old, new in (("n1", "doc\n1"), ("n3", long)):
            connection.execute("UPDATE embeddings SET embedding_id = ? WHERE embedding_id = ?", (new, old))
        connection.execute("UPDATE embedding_metadata SET key = '$topic' WHERE key = 'topic'")
    memory = open_memory()
    assert memory.import_(path, format="chroma").new == 4
    store = AgentMemoryVectorStore(memory, namespace=("notes",))
    found = {document.id: document for document in store.get_by_ids(["doc\n1", long])}
    assert found["doc\n1"].metadata == {"$topic": "home", "year": 2024}
    assert found[long].page_content == "The launch moved to July."
    assert store.similarity_search("launch moved", k=1)[0].id == long
    assert store.similarity_search("Alice", k=1, filter={"year": 2024})[0].id == "doc\n1"
    store.delete([long])
    assert store.get_by_ids([long]) == []
