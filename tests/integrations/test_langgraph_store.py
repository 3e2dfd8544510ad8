"""What this package's LangGraph store does beyond the contract, and in real graphs and agents."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Annotated, TypedDict

import numpy as np
import pytest
from langchain.agents import create_agent
from langchain.tools import InjectedStore, tool
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph
from langgraph.store.base import BaseStore, GetOp, PutOp, SearchOp, ensure_embeddings
from support import WordEncoder
from support_cancel import hold_in_transaction
from support_langchain import ScriptedModel, WordEmbeddings

from agent_memory import ClosedError, DimensionMismatchError, EncoderMismatchError, InvalidInputError
from agent_memory.integrations.langgraph import AgentMemoryStore


@pytest.fixture
def make(folder):
    opened = []

    def make(fields=None, embed=None, **options):
        if "index" not in options:
            options["index"] = {"dims": 96, "embed": embed or WordEmbeddings(), "fields": fields or ["text"]}
        opened.append(AgentMemoryStore(folder, **options))
        return opened[-1]

    yield make
    for store in opened:
        store.close()


def keys(items):
    return [item.key for item in items]


def test_created_at_survives_an_overwrite_and_updated_at_a_refresh(make):
    store = make(ttl={"default_ttl": 1, "refresh_on_read": True})
    store.put(("a",), "k", {"text": "one"})
    first = store.get(("a",), "k")
    assert first.created_at == first.updated_at
    assert abs(datetime.now(UTC) - first.created_at) < timedelta(seconds=5)
    store.put(("a",), "k", {"text": "two"}, index=False)
    second = store.get(("a",), "k")
    assert second.created_at == first.created_at < second.updated_at
    store.memory.update("k", expires_at=datetime.now(UTC) + timedelta(seconds=30), namespace=("langgraph", "a"))
    assert store.get(("a",), "k").updated_at == second.updated_at
    assert store.memory.get("k", namespace=("langgraph", "a")).expires_at > datetime.now(UTC) + timedelta(seconds=50)


def test_items_are_hidden_from_the_moment_they_expire(make):
    store = make(["a", "b"])
    store.put(("t",), "k", {"a": "some dogs", "b": "some cats"}, ttl=0.3 / 60)
    assert keys(store.search(("t",), query="dogs")) == ["k"]
    time.sleep(0.4)
    assert store.get(("t",), "k") is None
    assert store.search(("t",), query="dogs") == store.search(("t",)) == store.list_namespaces() == []
    assert store.sweep_ttl() == 2
    assert store.memory.entries() == []


def test_refreshing_moves_every_text_of_an_item(make):
    store = make(["a", "b"], ttl={"default_ttl": 0.8 / 60, "refresh_on_read": True})
    store.put(("t",), "k", {"a": "some dogs", "b": "other cats"})
    for _ in range(4):
        time.sleep(0.4)
        assert store.search(("t",), query="other cats")[0].score > 0.99


def test_reading_in_a_loop_writes_seldom(make):
    store = make(ttl={"default_ttl": 10, "refresh_on_read": True})
    store.put(("t",), "k", {"text": "dogs"})
    before = store.memory.stats().seq
    for _ in range(20):
        store.get(("t",), "k")
    assert store.memory.stats().seq == before


def test_fewer_fields_leave_nothing_behind(make):
    store = make(["a", "b", "c"])
    store.put(("v",), "k", {"a": "red", "b": "green", "c": "blue"})
    assert len(store.memory.entries()) == 3
    store.put(("v",), "k", {"a": "red", "b": "red"})
    assert len(store.memory.entries()) == 1
    store.put(("v",), "k", {"a": "red", "b": "green", "c": "blue"})
    store.delete(("v",), "k")
    assert store.memory.entries() == []


def test_parts_of_an_interrupted_write_are_not_seen(make):
    store = make(["a", "b"])
    store.put(("v",), "k", {"a": "red", "b": "green"})
    part = next(entry for entry in store.memory.entries() if entry.text == "green")
    store.put(("v",), "k", {"a": "red", "b": "yellow"})
    store.memory.add(part.text, key="k␛v7", namespace=part.namespace, metadata=part.metadata)
    found = store.search(("v",), query="green", limit=1)
    assert found[0].value == {"a": "red", "b": "yellow"}
    assert found[0].score < 0.9
    store.memory.forget("k", namespace=part.namespace)
    assert store.search(("v",), query="green") == store.search(("v",)) == []


def test_filters_hold_for_every_text_of_an_item(make):
    store = make(["a", "b"])
    for number in range(30):
        store.put(("v",), str(number), {"a": f"text {number}", "b": f"other {number}", "n": number})
    found = store.search(("v",), query="other 7", filter={"n": {"$gte": 20}}, limit=30)
    assert sorted(map(int, keys(found))) == list(range(20, 30))


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"user.name": "al"}, "nested"),
        ({"user": {"name": "al"}}, "nested"),
        ({"user": {}}, "nested"),
        ({"user.name": {"$ne": "al"}}, "flat quoted"),
        ({"a.b": 1}, "flat"),
        ({"missing": None, "a.b": {"$exists": True}}, "flat"),
        ({"n": {"$in": [1, 2]}}, "nested flat"),
        ({"n": {"$nin": [1, 3]}}, "flat"),
        ({"n": {"$ne": None, "$exists": True}}, "nested flat quoted"),
        ({"n": {"$exists": False}}, ""),
        ({"q\"uo'te": 1}, "quoted"),
        ({"n": {"$gte": 10**400}}, ""),
        ({"n": {"$lt": 10**400}}, "nested flat quoted"),
        ({"n": {"$eq": 10**30}}, ""),
        ({"big": 1e30}, "quoted"),
        ({"big": 10**30}, ""),
        ({"user": {"$eq": {"name": "al", "age": 3}}}, "nested"),
    ],
)
def test_more_filters(make, filters, expected):
    store = make(index=False)
    store.put(("f",), "nested", {"user": {"name": "al", "age": 3}, "n": 1})
    store.put(("f",), "flat", {"a.b": 1, "n": 2})
    store.put(("f",), "quoted", {"q\"uo'te": 1, "n": 3, "big": 1e30})
    assert keys(store.search(("f",), filter=filters)) == expected.split()


def test_ranked_items_come_first_then_those_without_text(make):
    store = make()
    for number in range(5):
        store.put(("v",), f"ranked {number}", {"text": f"dog {number}"})
        store.put(("v",), f"bare {number}", {"n": number})
    pages = [store.search(("v",), query="dog", limit=3, offset=offset) for offset in range(0, 12, 3)]
    found = [item for page in pages for item in page]
    assert [len(page) for page in pages] == [3, 3, 3, 1]
    assert [item.score is None for item in found] == [False] * 5 + [True] * 5
    assert len(set(keys(found))) == 10


def test_many_items_that_are_not_ranked_do_not_crowd_out_the_others(make):
    class Axis(WordEmbeddings):
        """Maps everything to the place where items without text are kept."""

        def embed_documents(self, texts):
            return [[1.0, 0.0]] * len(texts)

        def embed_query(self, text):
            return [1.0, 0.0]

    store = make(index={"embed": Axis(), "dims": 2, "fields": ["text"]})
    store.batch([PutOp(("v",), f"bare {number}", {"n": number}) for number in range(300)])
    store.batch([PutOp(("v",), f"ranked {number}", {"text": "x"}) for number in range(3)])
    found = store.search(("v",), query="x", limit=4)
    assert sorted(keys(found)[:3]) == ["ranked 0", "ranked 1", "ranked 2"]
    assert found[3].score is None


def test_texts_and_queries_without_direction_are_not_ranked(make):
    class Hollow(WordEmbeddings):
        def embed_documents(self, texts):
            return [
                [0.0] * 96 if text == "nothing" else super(Hollow, self).embed_documents([text])[0] for text in texts
            ]

        def embed_query(self, text):
            return self.embed_documents([text])[0]

    store = make(embed=Hollow())
    store.put(("v",), "1", {"text": "nothing"})
    store.put(("v",), "2", {"text": "something"})
    store.put(("w",), "3", {"text": "  "})
    assert [item.score is None for item in store.search(("v",), query="something")] == [False, True]
    assert [item.score for item in store.search(("v",), query="nothing")] == [None, None]


def test_bad_values_are_refused_before_anything_is_written(make):
    store = make()
    for value in ({"x": object()}, {"x": {1: 2}}, {"x": float("nan")}, {"x": "\ud800"}):
        with pytest.raises(InvalidInputError):
            store.batch([PutOp(("a",), "good", {"text": "x"}), PutOp(("a",), "bad", value)])
    with pytest.raises(InvalidInputError):
        store.batch([PutOp(("a",), "good", {"text": "x"}), "nonsense"])
    assert store.search(()) == []


def test_keys_of_any_spelling(make):
    store = make()
    for key in ("", "/etc/passwd", "new\nline", "␛v0", "k", "ü.x", "\x00"):
        store.put(("a",), key, {"text": key or "none"})
    assert sorted(keys(store.search(("a",)))) == sorted(["", "/etc/passwd", "new\nline", "␛v0", "k", "ü.x", "\x00"])
    assert store.get(("a",), "").value == {"text": "none"}


def test_keys_that_begin_with_a_dollar_sign_are_values_like_others(make):
    store = make()
    value = {"text": "tea", "$price": 3, "in": [{"$x": {"$y": 1}}], "of": {"$x": 1}}
    store.put(("a",), "one", value)
    store.put(("a",), "two", {"text": "tea", "$price": 5, "of": {"$x": 2}})
    assert store.get(("a",), "one").value == value
    assert keys(store.search(("a",), filter={"$price": {"$lt": 4}})) == ["one"]
    assert keys(store.search(("a",), query="tea", filter={"$price": 5})) == ["two"]
    assert keys(store.search(("a",), filter={"of.$x": 2})) == ["two"]
    loop = {}
    loop["again"] = loop
    with pytest.raises(InvalidInputError):
        store.put(("a",), "three", loop, index=False)


def test_what_else_is_in_the_memory_stays_out(memory):
    memory.add("some dogs", key="fact")
    memory.add("some dogs", key="intruder", namespace=("langgraph", "a"))
    store = AgentMemoryStore(memory)
    store.put(("a",), "k", {"text": "some cats"})
    assert keys(store.search((), query="some dogs")) == keys(store.search(())) == ["k"]
    assert store.get(("a",), "intruder") is None
    assert store.list_namespaces() == [("a",)]
    other = AgentMemoryStore(memory, namespace=("other",))
    assert other.search(()) == []
    store.close()
    assert memory.get("fact").text == "some dogs"


def test_without_settings_the_memory_embeds(memory):
    store = AgentMemoryStore(memory, index={"fields": ["text"]})
    store.put(("a",), "1", {"text": "some dogs", "note": "x"})
    assert store.search(("a",), query="some dogs")[0].score == pytest.approx(1, abs=1e-3)
    assert memory.recall("some dogs", k=1)[0].text == "some dogs"


def test_without_an_index_nothing_is_embedded(folder):
    class Refusing(WordEncoder):
        def encode_documents(self, texts, *, progress=None):
            raise AssertionError("embedded")

    from agent_memory import Memory

    with Memory(folder, encoder=Refusing()) as memory:
        store = AgentMemoryStore(memory, index=False)
        store.put(("a",), "1", {"text": "some dogs"})
        assert [item.score for item in store.search(("a",), query="some dogs")] == [None]


def test_sizes_that_do_not_fit_are_refused(make, folder, memory):
    store = make(index={"embed": WordEmbeddings(50), "dims": 96})
    with pytest.raises(DimensionMismatchError, match="expected vectors of 96 dimensions, got 50"):
        store.put(("a",), "1", {"text": "x"})
    store.close()
    good = make()
    good.put(("a",), "1", {"text": "x"})
    with pytest.raises(EncoderMismatchError):
        make(index={"embed": WordEmbeddings(50)})
    with pytest.raises(InvalidInputError, match="its own encoder"):
        AgentMemoryStore(memory, index={"embed": WordEmbeddings()})


def test_it_is_durable(make, folder):
    first = make()
    first.put(("a",), "k", {"text": "kept"})
    created = first.get(("a",), "k").created_at
    first.close()
    with AgentMemoryStore.from_conn_string(folder, index={"embed": WordEmbeddings(), "dims": 96}) as store:
        store.setup()
        assert store.search((), query="kept")[0].value == {"text": "kept"}
        assert store.get(("a",), "k").created_at == created


def test_threads_and_tasks_share_it(make):
    store = make(["a", "b"])

    def work(worker):
        for number in range(10):
            store.put(("w", str(number % 3)), f"{number}", {"a": f"worker {worker}", "b": f"number {number}"})
            store.search(("w",), query="number 3")

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    async def tasks():
        await asyncio.gather(*(store.aput(("w", "x"), str(n), {"a": f"task {n}", "b": "y"}) for n in range(20)))
        return await store.asearch(("w",), query="task 5", limit=100)

    found = asyncio.run(tasks())
    assert len(found) == 30
    assert found[0].key == "5"


def test_each_text_is_embedded_once(make):
    embedding = WordEmbeddings()
    store = make(["a", "b"], embed=embedding)
    same = [PutOp(("v",), str(number), {"a": "same", "b": "same"}) for number in range(5)]
    searches = [SearchOp(("v",), query="same")] * 3
    store.batch([*same, *searches, GetOp(("v",), "1")])
    assert (embedding.documents, embedding.queries) == (["same"], ["same"])


# --- in graphs and agents ----------------------------------------------------------------------------------


class State(TypedDict):
    text: str
    found: list[str]


def test_in_a_compiled_graph(make):
    def remember(state: State, *, store: BaseStore):
        store.put(("facts",), state["text"], {"text": state["text"]})
        return {}

    async def look_up(state: State, *, store: BaseStore):
        return {"found": keys(await store.asearch(("facts",), query=state["text"], limit=2))}

    def look_up_now(state: State, *, store: BaseStore):
        return {"found": keys(store.search(("facts",), query=state["text"], limit=2))}

    def graph(look):
        builder = StateGraph(State)
        builder.add_node("remember", remember)
        builder.add_node("look_up", look)
        builder.add_edge(START, "remember")
        builder.add_edge("remember", "look_up")
        builder.add_edge("look_up", END)
        return builder.compile(store=store)

    store = make()
    store.put(("facts",), "old", {"text": "Al likes tea"})
    assert graph(look_up_now).invoke({"text": "Al likes"})["found"] == ["Al likes", "old"]
    assert asyncio.run(graph(look_up).ainvoke({"text": "tea"}))["found"] == ["tea", "old"]


@tool
def save(fact: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
    """Save a fact."""
    store.put(("facts",), fact, {"text": fact})
    return "saved"


@tool
def look(query: str, store: Annotated[BaseStore, InjectedStore()]) -> str:
    """Look a fact up."""
    return store.search(("facts",), query=query)[0].value["text"]


def call(name, **arguments):
    return AIMessage("", tool_calls=[{"name": name, "args": arguments, "id": "1"}])


def react_agent(model, tools, store):
    from langgraph.prebuilt import create_react_agent

    return create_react_agent(model, tools, store=store)


@pytest.mark.filterwarnings("ignore:create_react_agent has been moved")
@pytest.mark.parametrize("build", [lambda m, t, s: create_agent(m, t, store=s), react_agent])
def test_in_agents(make, build):
    store = make()
    model = ScriptedModel(replies=[call("save", fact="Al likes tea"), "ok", call("look", query="likes"), "tea"])
    agent = build(model, [save, look], store)
    agent.invoke({"messages": [HumanMessage("I am Al, I like tea.")]})
    messages = asyncio.run(agent.ainvoke({"messages": [HumanMessage("What do I like?")]}))["messages"]
    assert messages[-2].content == "Al likes tea"


def test_vectors_are_stored_as_given(make):
    store = make()
    store.put(("v",), "k", {"text": "some dogs"})
    vector = store.memory.vectors(["k"], namespace=("langgraph", "v"))["k"]
    assert np.allclose(vector, WordEmbeddings().embed_query("some dogs"), atol=1e-6)


# --- one batch for what many tasks ask at once -----------------------------------------------------------


def transactions_of(store, monkeypatch):
    """Count the write transactions of a store from now on."""
    counted = []
    database = store.memory._store.database
    real = database.write
    monkeypatch.setattr(database, "write", lambda **options: (counted.append(1), real(**options))[1])
    return counted


async def test_puts_of_one_turn_are_one_batch_and_the_last_of_a_key_wins(make, monkeypatch):
    store = make(["text"])
    counted = transactions_of(store, monkeypatch)
    puts = [store.aput(("a",), f"k{number % 50}", {"text": f"dog {number}"}) for number in range(100)]
    await asyncio.gather(*puts)
    assert len(counted) == 1
    found = await asyncio.gather(*(store.aget(("a",), f"k{number}") for number in range(50)))
    assert [item.value["text"] for item in found] == [f"dog {number + 50}" for number in range(50)]
    await asyncio.gather(*(store.adelete(("a",), f"k{number}") for number in range(50)))
    assert len(counted) == 2 and await store.asearch(("a",)) == []


async def test_a_faulty_operation_does_not_fail_those_beside_it(make):
    store = make(["text"])
    faulty = store.aput(("a",), "bad", {"text": object()})
    results = await asyncio.gather(
        store.aput(("a",), "good", {"text": "dog"}),
        faulty,
        store.asearch(("a",), filter={"n": {"$wrong": 1}}),
        store.aput(("a",), "fine", {"text": "cat"}),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), InvalidInputError, InvalidInputError, type(None)]
    assert keys(await store.asearch(("a",))) == ["good", "fine"]


async def test_one_of_a_batch_may_be_cancelled(make, monkeypatch):
    embedding, go_on = asyncio.Event(), asyncio.Event()

    async def embed(texts):
        embedding.set()
        await go_on.wait()
        return WordEmbeddings().embed_documents(texts)

    store = make(["text"], embed=ensure_embeddings(embed))
    kept, given_up = (asyncio.ensure_future(store.aput(("a",), key, {"text": key})) for key in ("kept", "given up"))
    await embedding.wait()
    given_up.cancel()
    await asyncio.wait([given_up])
    go_on.set()
    await kept
    assert given_up.cancelled() and kept.exception() is None
    assert keys(await store.asearch(("a",))) == ["kept"]
    barrier = hold_in_transaction(monkeypatch)
    both = [asyncio.ensure_future(store.aput(("b",), key, {"text": key})) for key in ("one", "two")]
    await barrier.wait_for_thread()
    both[0].cancel()
    await asyncio.sleep(0.01)
    assert not both[0].done()
    barrier.free.set()
    await asyncio.wait(both)
    assert both[0].cancelled() and both[1].exception() is None
    assert keys(await store.asearch(("b",))) == ["one", "two"]


def test_a_store_serves_one_event_loop_after_another(make):
    store = make(["text"])
    for number in range(3):
        asyncio.run(store.aput(("a",), str(number), {"text": "dog"}))
    assert keys(store.search(("a",))) == ["0", "1", "2"]


def test_what_a_search_reads_is_refreshed_in_one_transaction(make, monkeypatch):
    store = make(["a", "b"], ttl={"default_ttl": 0.05, "refresh_on_read": True})
    for number in range(20):
        store.put(("t",), str(number), {"a": f"dog {number}", "b": f"cat {number}"})
    before = {entry.key: entry.expires_at for entry in store.memory.entries()}
    time.sleep(0.2)
    counted = transactions_of(store, monkeypatch)
    assert len(store.search(("t",), limit=20)) == 20
    assert len(counted) == 1
    assert all(entry.expires_at > before[entry.key] for entry in store.memory.entries())
    assert len(store.memory.history("3", namespace=("langgraph", "t"))) == 1
    assert store.memory.check().ok


# --- as LangGraph's asynchronous stores are used ---------------------------------------------------------


async def test_it_is_used_as_asynchronous_stores_are(folder):
    index = {"embed": WordEmbeddings(), "dims": 96, "text_fields": ["text"]}
    async with AgentMemoryStore.from_conn_string(folder, index=index, ttl={"default_ttl": 1}) as store:
        await store.setup()
        await store.aput(("a",), "k", {"text": "some dogs", "other": "cats"}, ttl=0.0001)
        await asyncio.sleep(0.05)
        assert await store.sweep_ttl() == 1
        sweeper = await store.start_ttl_sweeper()
        assert not sweeper.done()
        assert await store.stop_ttl_sweeper(timeout=5)
    with pytest.raises(ClosedError):
        await store.aget(("a",), "k")


def test_settings_of_the_index_that_mean_the_same_are_the_same(folder):
    for number, names in enumerate([{"text_fields": ["a"]}, {"fields": ["a"]}, {"text_fields": "a"}]):
        index = {"embed": WordEmbeddings(), "dims": 96, **names}
        with AgentMemoryStore(folder / str(number), index=index) as store:
            store.put(("t",), "k", {"a": "some dogs", "b": "other cats"})
            assert store.search(("t",), query="other cats")[0].score < 0.5


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"fieldz": ["a"]}, "'fieldz'"),
        ({"fields": ["a"], "text_fields": ["b"]}, "differ"),
        ({"fields": 3}, "list of paths"),
        ({"distance_type": "l2"}, "'l2'"),
        (["a"], "an object"),
    ],
)
def test_settings_of_the_index_that_cannot_be_followed_are_refused(folder, index, message):
    with pytest.raises(InvalidInputError, match=message):
        AgentMemoryStore(folder, index=index)
    assert not folder.exists()


async def test_an_embedding_that_is_only_asynchronous_needs_its_size(folder):
    async def embed(texts):
        return WordEmbeddings().embed_documents(texts)

    with pytest.raises(InvalidInputError, match=r"index=\{'dims'"):
        AgentMemoryStore(folder, index={"embed": embed})
    with AgentMemoryStore(folder, index={"embed": embed, "dims": 96, "fields": ["text"]}) as store:
        await store.aput(("a",), "k", {"text": "some dogs"})
        assert (await store.asearch(("a",), query="some dogs"))[0].score > 0.5


# --- what other stores keep --------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [False, None])
def test_values_of_any_length_come_back_whole(make, index):
    store = make(**({"index": False} if index is False else {}))
    long = {"z": 'say "x" \\ ' * 300_000, "n": 7, "a": [{"y": 1, "b": "ü" * 10}], "text": "some dogs"}
    store.put(("x",), "big", long)
    store.put(("x",), "many", {"numbers": list(range(300_000)), "n": 8})
    assert store.get(("x",), "big").value == long
    assert list(store.get(("x",), "big").value) == ["z", "n", "a", "text"]
    assert store.get(("x",), "many").value["numbers"][-1] == 299_999
    assert sorted(keys(store.search(("x",)))) == ["big", "many"]
    found = store.search(("x",), filter={"n": 7})
    assert found[0].value == long
    assert store.list_namespaces() == [("x",)]
    store.put(("x",), "big", {"n": 9})
    store.delete(("x",), "many")
    assert store.get(("x",), "big").value == {"n": 9}
    assert len(store.memory.entries()) == 1


def test_long_values_in_a_memory_that_was_handed_over_and_with_an_expiry(memory):
    store = AgentMemoryStore(memory, ttl={"default_ttl": 10, "refresh_on_read": True})
    value = {"text": "w " * 600_000}
    store.put(("x",), "big", value)
    assert store.get(("x",), "big").value == value
    assert store.search(("x",), query="w", limit=1)[0].value == value
    assert all(entry.expires_at is not None for entry in memory.entries())


def test_keys_and_namespaces_of_any_length(make):
    store = make(["a", "b"])
    long, other, label = "k" * 600, "k" * 599 + "x", "user/" + "é" * 900
    for key in (long, other, "k" * 511, "\n" * 200):
        store.put((label, "notes"), key, {"a": f"red {key[-1]}", "b": f"blue {len(key)}"})
    assert store.get((label, "notes"), long).value == {"a": "red k", "b": "blue 600"}
    assert store.get((label, "notes"), long).key == long
    found = store.search((label,), query="red x", limit=1)[0]
    assert (found.key, found.namespace) == (other, (label, "notes"))
    assert sorted(keys(store.search((label,)))) == sorted([long, other, "k" * 511, "\n" * 200])
    assert store.list_namespaces() == [(label, "notes")]
    assert store.list_namespaces(suffix=("notes",), max_depth=1) == [(label,)]
    assert store.search((label[:-1],)) == []
    store.delete((label, "notes"), long)
    assert store.get((label, "notes"), long) is None
    assert len(store.search((label,))) == 3


def test_keys_of_values_keep_their_order(make):
    store = make()
    value = {"z": 1, "text": "tea", "a": {"y": 1, "b": [{"q": 1, "c": 2}, {"d": 1}], "$x": {}}, "m": []}
    store.put(("x",), "k", value)
    for item in (store.get(("x",), "k"), store.search(("x",))[0], store.search(("x",), query="tea")[0]):
        assert repr(item.value) == repr(value)
    store.put(("x",), "k", {"a": 1, "b": 2})
    assert list(store.get(("x",), "k").value) == ["a", "b"]


def test_an_order_that_is_not_that_of_the_value_changes_nothing(memory):
    store = AgentMemoryStore(memory)
    store.put(("x",), "k", {"b": 1, "a": 2})
    entry = memory.get("k", namespace=("langgraph", "x"))
    for order in ([[0, 0]], [[5, 6]], [], "x", [None], [[1, 0], [0]]):
        memory.update("k", metadata={**entry.metadata, "order": order}, namespace=entry.namespace)
        assert store.get(("x",), "k").value == {"a": 2, "b": 1}


def test_filters_do_not_look_into_lists_as_in_langgraph(make):
    store = make(index=False)
    store.put(("f",), "list", {"tags": ["work"]})
    store.put(("f",), "text", {"tags": "work"})
    assert keys(store.search(("f",), filter={"tags": "work"})) == ["text"]
    assert keys(store.search(("f",), filter={"tags": ["work"]})) == ["list"]
    assert keys(store.search(("f",), filter={"tags": {"$ne": "work"}})) == ["list"]


@pytest.mark.parametrize("texts", [5, 40])
def test_items_and_parts_that_are_no_longer_needed_go_and_what_was_written_again_stays(make, texts):
    store = make(["notes[*]"])
    for key in ("kept", "gone", "other"):
        store.put(("x",), key, {"notes": [f"{key} {number}" for number in range(texts)]})
    again = PutOp(("x",), "kept", {"notes": ["kept at last", "kept too"]})
    store.batch([again, *(PutOp(("x",), key, None) for key in ("gone", "other"))])
    assert store.get(("x",), "kept").value == again.value
    assert keys(store.search(("x",), query="kept at last")) == ["kept"]
    assert len(store.memory.entries()) == 2
    assert store.get(("x",), "gone") is None and store.get(("x",), "other") is None


def test_pages_are_refreshed_with_their_item(make):
    store = make(index=False, ttl={"default_ttl": 0.05, "refresh_on_read": True})
    store.put(("x",), "big", {"text": "w " * 600_000})
    before = {entry.key: entry.expires_at for entry in store.memory.entries()}
    assert len(before) > 1
    time.sleep(0.2)
    assert store.get(("x",), "big") is not None
    assert all(entry.expires_at > before[entry.key] for entry in store.memory.entries())


def test_texts_that_nobody_can_see_are_kept_as_they_are(make):
    store = make(["text"])
    for key, text in (("zero", "\u200b"), ("tab", "\t"), ("control", "\x00\u2060")):
        store.put(("x",), key, {"text": text})
        assert store.get(("x",), key).value == {"text": text}
    assert sorted(keys(store.search(("x",), query="something"))) == ["control", "tab", "zero"]


async def test_a_call_that_was_cancelled_while_another_made_its_batch_fail_ends(make):
    """The batch is tried again call by call, and one that has left in between would never get an answer."""
    store, first = make(), threading.Event()
    run, go_on = store._batches._run, threading.Event()

    def held(ops, embedded):
        first.set()
        assert go_on.wait(60)
        return run(ops, embedded)

    store._batches._run = held
    faulty = asyncio.create_task(store.asearch(("a",), filter={"x": {"$foo": 1}}))
    left = asyncio.create_task(store.aput(("a",), "left", {"v": 1}))
    while not first.is_set():
        await asyncio.sleep(0.001)
    later = asyncio.create_task(store.aput(("a",), "later", {"v": 2}))
    await asyncio.sleep(0.01)
    left.cancel()
    await asyncio.sleep(0.01)
    go_on.set()
    done, _ = await asyncio.wait([faulty, left, later], timeout=60)
    assert len(done) == 3
    assert left.cancelled() and isinstance(faulty.exception(), InvalidInputError)
    assert await store.aget(("a",), "left") is None
    assert (await store.aget(("a",), "later")).value == {"v": 2}


@pytest.mark.parametrize("ttl", [float("inf"), float("nan"), 1e12, "1", True])
def test_a_time_to_live_that_is_none_is_refused(make, ttl):
    store = make()
    with pytest.raises(InvalidInputError, match="ttl must be a number of minutes"):
        store.put(("a",), "k", {"v": 1}, ttl=ttl)
    assert store.get(("a",), "k") is None


@pytest.mark.parametrize(
    "ttl",
    [
        {"default": 1},
        {"default_ttl": "60"},
        {"default_ttl": 0},
        {"default_ttl": True},
        {"refresh_on_read": 1},
        60,
    ],
)
def test_a_setting_of_expiry_that_nothing_follows_is_refused(folder, ttl):
    with pytest.raises(InvalidInputError, match="ttl"):
        AgentMemoryStore(folder, ttl=ttl)


def test_dims_that_the_encoder_does_not_make_are_refused(folder):
    with pytest.raises(InvalidInputError, match="16 dims.* 768"):
        AgentMemoryStore(folder, index={"dims": 16})
    with AgentMemoryStore(folder, index={"dims": 768}) as store:
        store.put(("a",), "k", {"text": "x", "photo": "A" * 3_000_000})
        assert len(store.get(("a",), "k").value["photo"]) == 3_000_000
