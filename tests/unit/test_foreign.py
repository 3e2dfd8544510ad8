"""Stores that other packages wrote are read; the files were made by those packages, at the versions in their names."""

from __future__ import annotations

import gzip
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import WordEncoder

from agent_memory import InvalidInputError, Memory, NotFoundError, StorageError
from agent_memory.storage.sqlite.driver import sqlite3

DATA = Path(__file__).parents[1] / "data"


def unpack(tmp_path, name, target):
    path = tmp_path / target
    path.write_bytes(gzip.decompress((DATA / name).read_bytes()))
    return path


@pytest.fixture
def scoped(open_memory):
    return open_memory(namespace=("acme",))


def test_chroma(tmp_path, scoped):
    unpack(tmp_path, "chroma-1.5.9.sqlite3.gz", "chroma.sqlite3")
    assert scoped.import_(tmp_path, source="chroma") == 4
    found = {(entry.namespace, entry.key): (entry.text, entry.metadata) for entry in scoped.entries()}
    assert found == {
        (("acme", "notes"), "n1"): ("Alice moved to Berlin in May.", {"topic": "home", "year": 2024}),
        (("acme", "notes"), "n3"): ("The launch moved to July.", {"topic": "work"}),
        (("acme", "notes"), "n4"): ("Carol plays chess.", {}),
        (("acme", "people"), "n1"): ("Alice is Bob's sister.", {}),
    }
    assert scoped.recall("moved to Berlin", k=1, where={"topic": "home"})[0].entry.key == "n1"
    assert scoped.import_(tmp_path / "chroma.sqlite3", source="chroma") == 0
    assert scoped.import_(tmp_path / "chroma.sqlite3").formats == ("chroma",)


def test_mem0(tmp_path, scoped):
    path = unpack(tmp_path, "mem0-2.2.1-history.db.gz", "history.db")
    assert scoped.import_(path, source="mem0") == 2
    tea, paris = scoped.entries()
    assert (tea.key, tea.text, tea.speaker) == ("id-1", "Likes tea", "ann")
    assert (paris.text, paris.event_time) == ("Lives in Paris", datetime(2025, 2, 3, 3, 4, 5, tzinfo=UTC))


def test_langgraph(tmp_path, scoped):
    path = unpack(tmp_path, "langgraph-3.1.2-store.sqlite.gz", "agent.sqlite")
    assert scoped.import_(path, source="langgraph") == 2
    ann, bob = scoped.entries()
    assert (ann.namespace, ann.text) == (("acme", "langgraph", "users", "ann"), "Ann likes tea")
    assert ann.metadata["value"] == {"text": "Ann likes tea", "kind": "taste"}
    assert (bob.text, bob.metadata["value"]["nested"]) == ("Bob lives in Rome", {"a": [1, 2]})
    assert scoped.import_(path, format="langgraph").unchanged == 2


def test_files_of_another_layout_are_refused(tmp_path, scoped):
    chroma = unpack(tmp_path, "chroma-1.5.9.sqlite3.gz", "chroma.sqlite3")
    with pytest.raises(InvalidInputError, match="lacks the tables"):
        scoped.import_(chroma, source="mem0")
    with pytest.raises(InvalidInputError, match="format must be"):
        scoped.import_(chroma, source="zep")
    with pytest.raises(NotFoundError):
        scoped.import_(tmp_path / "missing", source="chroma")
    (tmp_path / "text").write_bytes(b"not a database at all" * 100)
    with pytest.raises(StorageError):
        scoped.import_(tmp_path / "text", source="langgraph")
    qdrant = sqlite3.connect(tmp_path / "storage.sqlite")
    qdrant.execute("CREATE TABLE points (id TEXT PRIMARY KEY, point BLOB)")
    qdrant.close()
    with pytest.raises(InvalidInputError, match="pickled"):
        scoped.import_(tmp_path / "storage.sqlite", source="mem0")
    assert scoped.entries() == []


def test_a_view_in_the_place_of_a_table_is_not_queried(tmp_path, scoped):
    hostile = sqlite3.connect(tmp_path / "h.db")
    hostile.execute("CREATE VIEW history AS SELECT load_extension('/tmp/evil') AS memory_id")
    hostile.close()
    with pytest.raises(InvalidInputError, match="lacks"):
        scoped.import_(tmp_path / "h.db", source="mem0")


def test_another_encoder_reads_an_export(tmp_path, memory):
    memory.add("Alice moved to Berlin.", key="a", metadata={"topic": "home"})
    memory.export(tmp_path / "out.jsonl")
    with Memory(tmp_path / "new", encoder=WordEncoder(64, name="others")) as other:
        assert other.import_(tmp_path / "out.jsonl") == 1
        assert other.get("a").metadata == {"topic": "home"}
        assert other.recall("Berlin", k=1)[0].entry.key == "a"
