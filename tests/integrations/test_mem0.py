"""The real mem0 on our vector store and embedder, with a scripted model in the place of its LLM."""

from __future__ import annotations

import json
import re
import uuid

import pages
import pytest
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from support import WordEncoder

from agent_memory import Memory
from agent_memory.integrations.langchain import AgentMemoryVectorStore, EncoderEmbeddings

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


class Extracting(BaseChatModel):
    """Finds the facts of a conversation that are marked as such."""

    @property
    def _llm_type(self):
        return "extracting"

    def _generate(self, messages, stop=None, run_manager=None, **options):
        said = messages[-1].content.split("New Messages")[-1]
        facts = dict.fromkeys(re.findall(r"FACT: ([^\n\"\\]+)", said))
        found = [{"id": str(number), "text": fact.strip()} for number, fact in enumerate(facts)]
        message = AIMessage(json.dumps({"memory": found}))
        return ChatResult(generations=[ChatGeneration(message=message)])


@pytest.fixture
def mem0(tmp_path, monkeypatch):
    monkeypatch.setenv("MEM0_TELEMETRY", "False")
    monkeypatch.setenv("MEM0_DIR", str(tmp_path / "mem0"))
    return pytest.importorskip("mem0")


@pytest.fixture
def store(folder):
    with Memory(folder, encoder=WordEncoder()) as memory:
        memory.add("of another part of the program", metadata={"user_id": "alice"})
        yield AgentMemoryVectorStore(memory, namespace=("mem0",))


def config_of(store, tmp_path, **parts):
    parts = {
        "vector_store": {"client": store},
        "embedder": {"model": EncoderEmbeddings(store.memory.encoder)},
        "llm": {"model": Extracting()},
        **parts,
    }
    config = {name: {"provider": "langchain", "config": part} for name, part in parts.items()}
    return {**config, "history_db_path": str(tmp_path / "history.db")}


@pytest.fixture
def memory(mem0, store, tmp_path):
    memory = mem0.Memory.from_config(config_of(store, tmp_path))
    yield memory
    memory.close()


@pytest.fixture
def filled(memory):
    for text, topic, year in [
        ("jazz is fine", "music", 2023),
        ("tea is fine", "food", 2024),
        ("rye is bad", "food", 2025),
    ]:
        memory.add(text, user_id="alice", infer=False, metadata={"topic": topic, "year": year, "tags": [topic, "x"]})
    memory.add("bob plays chess", user_id="bob", infer=False)
    memory.add("no topic is fine", user_id="alice", infer=False)
    return memory


def texts(found):
    return sorted(each["memory"] for each in found["results"])


def test_facts_that_it_extracts_are_kept_found_changed_and_deleted(memory, store):
    said = [{"role": "user", "content": "FACT: Alice lives in Berlin\nFACT: Alice eats no peanuts"}]
    added = memory.add(said, user_id="alice")["results"]
    assert [each["event"] for each in added] == ["ADD", "ADD"]
    assert memory.add(said, user_id="alice")["results"] == []
    home = added[0]["id"]
    found = memory.search("Alice lives in", filters={"user_id": "alice"}, threshold=0.0)["results"]
    assert (found[0]["id"], found[0]["memory"]) == (home, "Alice lives in Berlin") and 0 < found[0]["score"] <= 1
    memory.update(home, text="Alice lives in Porto")
    assert memory.get(home)["memory"] == "Alice lives in Porto"
    assert [each["event"] for each in memory.history(home)] == ["ADD", "UPDATE"]
    memory.delete(home)
    assert memory.get(home) is None
    assert texts(memory.get_all(filters={"user_id": "alice"})) == ["Alice eats no peanuts"]
    assert len(store.memory.entries(namespace=("mem0",))) == 1


def test_users_are_listed_and_deleted_apart(filled, store):
    assert texts(filled.get_all(filters={"user_id": "bob"})) == ["bob plays chess"]
    assert len(filled.get_all(filters={"user_id": "alice"}, top_k=2)["results"]) == 2
    filled.delete_all(user_id="alice")
    assert filled.get_all(filters={"user_id": "alice"})["results"] == []
    assert texts(filled.get_all(filters={"user_id": "bob"})) == ["bob plays chess"]
    filled.reset()
    assert [entry.text for entry in store.memory.entries()] == ["of another part of the program"]
    filled.add("carol sails", user_id="carol", infer=False)
    assert texts(filled.search("carol sails", filters={"user_id": "carol"})) == ["carol sails"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"topic": "food"}, ["rye is bad", "tea is fine"]),
        ({"topic": {"eq": "food"}}, ["rye is bad", "tea is fine"]),
        ({"topic": {"ne": "food"}}, ["jazz is fine", "no topic is fine"]),
        ({"topic": {"in": ["music", "art"]}}, ["jazz is fine"]),
        ({"topic": {"nin": ["music", "art"]}}, ["no topic is fine", "rye is bad", "tea is fine"]),
        ({"year": {"gte": 2024}}, ["rye is bad", "tea is fine"]),
        ({"year": {"gt": 2023, "lt": 2025}}, ["tea is fine"]),
        ({"year": {"lte": 2023}}, ["jazz is fine"]),
        ({"topic": {"contains": "oo"}}, ["rye is bad", "tea is fine"]),
        ({"topic": {"contains": "OO"}}, []),
        ({"topic": {"icontains": "OO"}}, ["rye is bad", "tea is fine"]),
        ({"tags": {"contains": "music"}}, ["jazz is fine"]),
        ({"tags": {"icontains": "MUSIC"}}, ["jazz is fine"]),
        ({"topic": "*"}, ["jazz is fine", "rye is bad", "tea is fine"]),
        ({"AND": [{"topic": "food"}, {"year": {"gte": 2025}}]}, ["rye is bad"]),
        ({"OR": [{"topic": "music"}, {"year": 2025}]}, ["jazz is fine", "rye is bad"]),
        ({"NOT": [{"topic": "music"}, {"year": {"gte": 2025}}]}, ["no topic is fine", "tea is fine"]),
        ({"NOT": [{"topic": {"contains": "o"}}]}, ["jazz is fine", "no topic is fine"]),
        ({"OR": [{"topic": {"icontains": "MUS"}}, {"topic": {"in": []}}]}, ["jazz is fine"]),
    ],
)
def test_its_filters_mean_what_it_says(filled, filters, expected):
    found = filled.search("is", filters={"user_id": "alice", **filters}, top_k=20, threshold=0.0)
    assert texts(found) == expected


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"AND": [{"topic": "food"}, {"year": {"gte": 2025}}]}, ["rye is bad"]),
        ({"OR": [{"topic": "music"}, {"year": 2025}]}, ["jazz is fine", "rye is bad"]),
        ({"NOT": [{"topic": "music"}, {"year": {"gte": 2025}}]}, ["no topic is fine", "tea is fine"]),
    ],
)
def test_its_lists_take_the_same_filters(filled, filters, expected):
    assert texts(filled.get_all(filters={"user_id": "alice", **filters}, top_k=20)) == expected


async def test_its_asynchronous_memory_works_too(mem0, store, tmp_path):
    memory = mem0.AsyncMemory.from_config(config_of(store, tmp_path))
    await memory.add("Alice likes jazz", user_id="alice", infer=False)
    assert texts(await memory.search("jazz", filters={"user_id": "alice"}, threshold=0.0)) == ["Alice likes jazz"]
    assert texts(await memory.get_all(filters={"user_id": "alice"})) == ["Alice likes jazz"]
    await memory.delete_all(user_id="alice")
    assert (await memory.get_all(filters={"user_id": "alice"}))["results"] == []


def test_the_page(mem0, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = pages.run("mem0", llm=Extracting())
    assert names["found"][0]["memory"] == "Alice moved to Berlin."
    assert uuid.UUID(names["found"][0]["id"])
    names["memory"].close()
    names["store"].close()
