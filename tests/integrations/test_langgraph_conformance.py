"""The contract of LangGraph's stores: one set of tests, run against LangGraph's own stores and this package's."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    Item,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore
from langgraph.store.sqlite import SqliteStore
from support_langchain import WordEmbeddings

from agent_memory.integrations.langgraph import AgentMemoryStore

Make = Callable[..., BaseStore]
DIMENSION = 96


def config(fields: list[str] | None = None, embed: object = None) -> dict[str, Any]:
    return {"dims": DIMENSION, "embed": embed or WordEmbeddings(DIMENSION), "fields": fields or ["$"]}


@pytest.fixture
def in_memory() -> Make:
    return lambda index=None, ttl=None: InMemoryStore(index=index)


@pytest.fixture
def sqlite(tmp_path):
    opened = []

    def make(index=None, ttl=None):
        if index is not None:
            index = {**index, "text_fields": index["fields"]}
        context = SqliteStore.from_conn_string(str(tmp_path / f"{len(opened)}.db"), index=index, ttl=ttl)
        opened.append(context)
        store = context.__enter__()
        store.setup()
        return store

    yield make
    for context in opened:
        context.__exit__(None, None, None)


@pytest.fixture
def ours(folder):
    yield from open_stores(lambda number: folder / str(number))


@pytest.fixture
def served(url):
    yield from open_stores(lambda number: f"{url}_{number}" if number else url)


def open_stores(place):
    """Yield what opens stores of this package, each in its own place; all are closed at the end."""
    opened = []

    def make(index=None, ttl=None):
        store = AgentMemoryStore(place(len(opened)), index=False if index is None else index, ttl=ttl)
        opened.append(store)
        return store

    yield make
    for store in opened:
        store.close()


class Contract:
    """What every store does."""

    def test_get_put_delete(self, make):
        store = make()
        value = {"title": "A", "nested": {"list": [1, 2.5, None, True, "x"]}, "ü": "ß"}
        store.put(("a", "b"), "k", value)
        item = store.get(("a", "b"), "k")
        assert isinstance(item, Item)
        assert (item.namespace, item.key, item.value) == (("a", "b"), "k", value)
        assert store.get(("a",), "k") is None
        assert store.get(("a", "b"), "other") is None
        store.put(("a", "b"), "k", {"title": "B"})
        assert store.get(("a", "b"), "k").value == {"title": "B"}
        store.delete(("a", "b"), "k")
        store.delete(("a", "b"), "k")
        assert store.get(("a", "b"), "k") is None

    def test_an_empty_value_is_an_item(self, make):
        store = make()
        store.put(("a",), "k", {})
        assert store.get(("a",), "k").value == {}
        assert [item.key for item in store.search(("a",))] == ["k"]

    def test_times(self, make):
        store = make()
        store.put(("a",), "k", {"n": 1})
        first = store.get(("a",), "k")
        assert abs(first.created_at - first.updated_at) < timedelta(seconds=1)

    def test_results_are_in_the_order_of_the_operations(self, make):
        store = make()
        store.put(("a", "x"), "1", {"n": 1})
        results = store.batch(
            [
                ListNamespacesOp(),
                GetOp(("a", "x"), "1"),
                PutOp(("a", "x"), "2", {"n": 2}),
                SearchOp(("a",), filter={"n": 1}),
                GetOp(("a", "x"), "missing"),
            ]
        )
        assert results[0] == [("a", "x")]
        assert results[1].value == {"n": 1}
        assert results[2] is None
        assert [item.key for item in results[3]] == ["1"]
        assert results[4] is None

    def test_reads_of_a_batch_do_not_see_its_writes(self, make):
        store = make()
        store.put(("a",), "old", {"n": 1})
        results = store.batch(
            [
                PutOp(("a",), "new", {"n": 2}),
                PutOp(("a",), "old", None),
                GetOp(("a",), "new"),
                GetOp(("a",), "old"),
                SearchOp(("a",)),
            ]
        )
        assert results[2] is None
        assert results[3].value == {"n": 1}
        assert [item.key for item in results[4]] == ["old"]
        assert [item.key for item in store.search(("a",))] == ["new"]

    @pytest.mark.parametrize("bad", [(), ("a.b",), ("a", ""), ("langgraph",)])
    def test_bad_namespaces_are_refused(self, make, bad):
        with pytest.raises(InvalidNamespaceError):
            make().put(bad, "k", {})

    def test_labels_and_keys_are_literal(self, make):
        store = make()
        labels = [
            "a%b",
            "axb",
            "a_b",
            "star*",
            "q?m",
            "br[x]",
            "é",
            "sp ace",
            "a'b",
            'a"b',
            "new\nline",
            "␛",
            "A%B",
        ]
        for label in labels:
            store.put((label, "child"), label, {"label": label})
        for label in labels:
            assert store.get((label, "child"), label).value == {"label": label}
            assert [item.namespace for item in store.search((label,), limit=99)] == [(label, "child")]
        assert sorted(store.list_namespaces(limit=99)) == sorted((label, "child") for label in labels)

    def test_prefixes_end_at_labels(self, make):
        store = make()
        for namespace in [("foo",), ("foo", "child"), ("foobar",), ("foo2", "x")]:
            store.put(namespace, "k", {"n": 1})
        found = {item.namespace for item in store.search(("foo",))}
        assert found == {("foo",), ("foo", "child")}
        assert len(store.search(())) == 4
        assert store.search(("fo",)) == []

    def test_pages_do_not_overlap(self, make):
        store = make()
        for number in range(7):
            store.put(("a",), str(number), {"n": number})
        pages = [store.search(("a",), limit=3, offset=offset) for offset in (0, 3, 6, 9)]
        assert [len(page) for page in pages] == [3, 3, 1, 0]
        assert sorted(item.key for page in pages for item in page) == list("0123456")
        assert all(isinstance(item, SearchItem) and item.score is None for page in pages for item in page)

    @pytest.mark.parametrize(
        ("filters", "expected"),
        [
            ({"color": "red"}, "ad"),
            ({"color": {"$eq": "red"}}, "ad"),
            ({"color": {"$ne": "red"}, "n": {"$lt": 11}}, "b"),
            ({"n": {"$gt": 2}}, "bc"),
            ({"n": {"$gte": 2}}, "bcd"),
            ({"n": {"$lt": 10}}, "ad"),
            ({"n": {"$lte": 10}}, "abd"),
            ({"n": {"$gte": 2, "$lt": 11}}, "bd"),
            ({"n": {"$lt": math.inf}}, "abcd"),
            ({"n": {"$gt": -math.inf}}, "abcd"),
            ({"n": {"$gt": math.inf}}, ""),
            ({"n": {"$lt": 10**100}}, "abcd"),
            ({"n": 1.0}, "a"),
            ({"n": {"$eq": math.nan}}, ""),
            ({"flag": True}, "a"),
            ({"flag": False}, "b"),
            ({"color": None}, "c"),
            ({"color": {"$eq": None}}, "c"),
            ({"tags": ["x", "y"]}, "a"),
            ({"tags": ["x"]}, "b"),
            ({"color": "red", "n": 2}, "d"),
            ({"color": "' OR 1=1 --"}, ""),
            ({"missing": "x"}, ""),
            ({}, "abcd"),
        ],
    )
    def test_filters(self, make, filters, expected):
        store = make()
        store.put(("f",), "a", {"color": "red", "n": 1, "flag": True, "tags": ["x", "y"]})
        store.put(("f",), "b", {"color": "blue", "n": 10, "flag": False, "tags": ["x"]})
        store.put(("f",), "c", {"n": 11, "color": None})
        store.put(("f",), "d", {"color": "red", "n": 2})
        assert "".join(sorted(item.key for item in store.search(("f",), filter=filters))) == expected

    def test_unknown_operators_are_refused(self, make):
        store = make()
        store.put(("f",), "a", {"n": 1})
        with pytest.raises(ValueError, match=r"\$like"):
            store.search(("f",), filter={"n": {"$like": "x"}})

    def test_namespaces(self, make):
        store = make()
        names = [
            ("a", "b", "c"),
            ("a", "b", "d", "e"),
            ("a", "b", "d", "i"),
            ("a", "c", "f"),
            ("b", "a", "f"),
            ("users", "1"),
            ("users", "2", "settings"),
            ("malice",),
        ]
        for namespace in names:
            store.put(namespace, "k", {"n": 1})
        listed = store.list_namespaces
        assert listed() == sorted(names)
        assert listed(prefix=("a", "b")) == names[:3]
        assert listed(suffix=("f",)) == [("a", "c", "f"), ("b", "a", "f")]
        assert listed(prefix=("a",), suffix=("f",)) == [("a", "c", "f")]
        assert listed(prefix=("*", "2")) == [("users", "2", "settings")]
        assert listed(prefix=("a", "*", "f")) == [("a", "c", "f")]
        assert listed(suffix=("*", "f")) == [("a", "c", "f"), ("b", "a", "f")]
        assert listed(prefix=("users", "1", "*")) == []
        assert listed(suffix=("alice",)) == []
        assert listed(max_depth=2) == [
            ("a", "b"),
            ("a", "c"),
            ("b", "a"),
            ("malice",),
            ("users", "1"),
            ("users", "2"),
        ]
        assert listed(prefix=("a",), max_depth=3) == [("a", "b", "c"), ("a", "b", "d"), ("a", "c", "f")]
        assert listed(limit=2) == sorted(names)[:2]
        assert listed(limit=2, offset=3) == sorted(names)[3:5]
        assert listed(offset=99) == []
        suffix = MatchCondition("suffix", ("settings",))
        assert store.batch([ListNamespacesOp(match_conditions=(suffix,))]) == [[("users", "2", "settings")]]


class RankingContract:
    """What every store with an index does."""

    def test_items_without_text(self, make):
        for index in (config(), config(["text"])):
            store = make(index=index)
            for key, value in {"empty": {}, "other": {"n": 1}, "list": {"text": []}}.items():
                store.put(("a",), key, value)
                assert store.get(("a",), key).value == value
            assert len(store.search(("a",))) == 3

    def test_the_last_write_of_a_batch_wins(self, make):
        store = make(index=config(["text"]))
        store.batch(
            [
                PutOp(("a",), "k", {"text": "first thing"}),
                PutOp(("a",), "gone", {"text": "first thing"}),
                PutOp(("a",), "k", None),
                PutOp(("a",), "k", {"text": "last word"}),
                PutOp(("a",), "gone", None),
                PutOp(("b",), "k", {"text": "elsewhere"}),
            ]
        )
        assert store.get(("a",), "k").value == {"text": "last word"}
        assert store.get(("a",), "gone") is None
        assert store.get(("b",), "k").value == {"text": "elsewhere"}
        assert store.search(("a",), query="last word")[0].score == pytest.approx(1, abs=1e-3)

    def test_ranking(self, make):
        store = make(index=config(["text"]))
        for key, text in {"1": "red apple", "2": "red car", "3": "green apple", "4": "blue car"}.items():
            store.put(("v", key), key, {"text": text, "color": text.split()[0], "n": int(key)})
        found = store.search(("v",), query="green apple")
        assert found[0].key == "3"
        assert found[0].score == pytest.approx(1, abs=1e-3)
        scores = [item.score for item in found]
        assert scores == sorted(scores, reverse=True)
        assert {item.key for item in found} == set("1234")
        assert [item.key for item in store.search(("v",), query="apple", filter={"color": "red"})] == ["1", "2"]
        assert [item.key for item in store.search(("v",), query="car", filter={"n": {"$gt": 2}})] == ["4", "3"]
        assert [item.key for item in store.search(("v", "2"), query="green apple")] == ["2"]
        assert store.search(("w",), query="green apple") == []

    def test_offset_counts_ranked_items(self, make):
        store = make(index=config(["text"]))
        words = "one two three four five six"
        for number in range(1, 7):
            store.put(("v",), str(number), {"text": " ".join(words.split()[:number])})
        everything = [item.key for item in store.search(("v",), query=words)]
        assert everything == list("654321")
        for offset in range(0, 8, 2):
            page = store.search(("v",), query=words, limit=2, offset=offset)
            assert [item.key for item in page] == everything[offset : offset + 2]

    def test_an_overwrite_changes_the_ranking(self, make):
        store = make(index=config(["text"]))
        store.put(("v",), "1", {"text": "zany zebra"})
        store.put(("v",), "2", {"text": "quiet dog"})
        assert store.search(("v",), query="zany zebra")[0].key == "1"
        store.put(("v",), "1", {"text": "quiet cat"})
        found = {item.key: item.score for item in store.search(("v",), query="zany zebra")}
        assert found["1"] < 0.5
        store.delete(("v",), "1")
        assert [item.key for item in store.search(("v",), query="quiet cat")] == ["2"]

    def test_an_item_ranks_by_its_closest_field_and_appears_once(self, make):
        store = make(index=config(["key0", "key1", "key3"]))
        store.put(("v",), "doc1", {"key1": "xxx", "key2": "yyy", "key3": "zzz"})
        store.put(("v",), "doc2", {"key0": "uuu", "key1": "vvv", "key2": "www", "key3": "xxx"})
        both = store.search(("v",), query="xxx")
        assert sorted(item.key for item in both) == ["doc1", "doc2"]
        assert [item.score for item in both] == pytest.approx([1, 1], abs=1e-3)
        for query, best in (("uuu", "doc2"), ("zzz", "doc1"), ("vvv", "doc2")):
            found = store.search(("v",), query=query)
            assert [found[0].key, len(found)] == [best, 2]
            assert found[0].score == pytest.approx(1, abs=1e-3)
            assert found[1].score < 0.9
            assert [item.key for item in store.search(("v",), query=query, limit=1)] == [best]
        assert all(item.score < 0.9 for item in store.search(("v",), query="www"))
        assert len(store.search(("v",))) == 2

    def test_index_fields_of_a_write(self, make):
        store = make(index=config(["key17"]))
        store.put(("v",), "doc3", {"key0": "aaa", "key1": "bbb", "key2": "ccc"}, index=["key0", "key1"])
        store.put(("v",), "doc4", {"key0": "eee", "key1": "bbb", "key3": "ggg"}, index=["key1", "key3"])
        assert [item.key for item in store.search(("v",), query="aaa")] == ["doc3", "doc4"]
        assert [item.key for item in store.search(("v",), query="ggg")] == ["doc4", "doc3"]
        scores = [item.score for item in store.search(("v",), query="bbb")]
        assert scores == pytest.approx([1, 1], abs=1e-3)
        assert all(item.score < 0.9 for item in store.search(("v",), query="ccc"))

    def test_paths_into_lists(self, make):
        store = make(index=config(["messages[*].content", "about.title"]))
        value = {
            "messages": [{"content": "hello there"}, {"content": "good bye"}],
            "about": {"title": "small talk"},
        }
        store.put(("v",), "chat", value)
        store.put(("v",), "other", {"about": {"title": "nothing"}})
        for text in ("hello there", "good bye", "small talk"):
            found = store.search(("v",), query=text)
            assert (found[0].key, found[0].score) == ("chat", pytest.approx(1, abs=1e-3))
            assert len(found) == 2

    def test_items_that_are_not_indexed_are_not_ranked(self, make):
        store = make(index=config(["text"]))
        store.put(("v",), "1", {"text": "some dogs"})
        store.put(("v",), "2", {"text": "some cats"})
        store.put(("v",), "hidden", {"text": "some birds"}, index=False)
        assert [item.key for item in store.search(("v",), query="some birds dogs", limit=2)] == ["1", "2"]
        assert len(store.search(("v",))) == 3

    def test_a_blank_query_is_no_query(self, make):
        store = make(index=config(["text"]))
        store.put(("v",), "1", {"text": "some dogs"})
        for query in ("", None):
            assert [(item.key, item.score) for item in store.search(("v",), query=query)] == [("1", None)]

    def test_without_an_index_queries_and_index_are_ignored(self, make):
        store = make()
        store.put(("v",), "1", {"text": "some dogs"}, index=["text"])
        store.put(("v",), "2", {"text": "some cats"}, index=False)
        assert len(store.search(("v",), query="some cats")) == 2

    def test_embedding_functions(self, make):
        words = WordEmbeddings(DIMENSION)
        store = make(index=config(["text"], embed=words.embed_documents))
        store.put(("v",), "1", {"text": "some dogs"})
        store.put(("v",), "2", {"text": "some cats"})
        assert store.search(("v",), query="some cats")[0].key == "2"


class AsyncContract:
    """What every store with an ``abatch`` does."""

    async def test_async(self, make):
        embedding = WordEmbeddings(DIMENSION)
        store = make(index=config(["text"], embed=embedding))
        await asyncio.gather(*(store.aput(("v",), str(number), {"text": f"item {number}"}) for number in range(20)))
        assert (await store.aget(("v",), "7")).value == {"text": "item 7"}
        assert (await store.asearch(("v",), query="item 7"))[0].key == "7"
        assert await store.alist_namespaces() == [("v",)]
        await store.adelete(("v",), "7")
        assert await store.aget(("v",), "7") is None
        assert embedding.awaited > 0

    async def test_async_embedding_functions(self, make):
        words = WordEmbeddings(DIMENSION)
        store = make(index=config(["text"], embed=words.aembed_documents))
        await store.aput(("v",), "1", {"text": "some dogs"})
        assert (await store.asearch(("v",), query="some dogs"))[0].score == pytest.approx(1, abs=1e-3)

    def test_queries_are_embedded_as_queries(self, make):
        store = make(index=config(["text"], embed=WordEmbeddings(DIMENSION, query_prefix="query: ")))
        store.put(("v",), "plain", {"text": "dogs"})
        store.put(("v",), "prefixed", {"text": "query: dogs"})
        assert store.search(("v",), query="dogs")[0].key == "prefixed"


class ExpiryContract:
    """What every store that lets items expire does."""

    TTL_S = 2.0
    TTL = TTL_S / 60

    def sleep(self, share: float) -> None:
        time.sleep(self.TTL_S * share)

    def test_items_expire(self, make):
        store = make(ttl={"default_ttl": self.TTL})
        store.put(("t",), "default", {"n": 1})
        store.put(("t",), "own", {"n": 1}, ttl=1)
        store.put(("t",), "never", {"n": 1}, ttl=None)
        assert store.get(("t",), "default") is not None
        self.sleep(1.75)
        assert store.sweep_ttl() == 1
        assert {item.key for item in store.search(("t",))} == {"own", "never"}
        assert store.get(("t",), "default") is None

    def test_an_overwrite_sets_the_time_again(self, make):
        store = make(ttl={"default_ttl": None})
        store.put(("t",), "k", {"n": 1}, ttl=self.TTL)
        store.put(("t",), "k", {"n": 2}, ttl=None)
        self.sleep(1.75)
        assert store.sweep_ttl() == 0
        assert store.get(("t",), "k").value == {"n": 2}

    def test_without_settings_nothing_expires_by_default(self, make):
        store = make()
        store.put(("t",), "k", {"n": 1})
        assert store.sweep_ttl() == 0
        assert store.get(("t",), "k") is not None

    def test_reading_refreshes(self, make):
        store = make(ttl={"default_ttl": self.TTL, "refresh_on_read": True})
        for key in ("got", "found", "left", "unrefreshed"):
            store.put(("t", key), "k", {"n": 1})
        for _ in range(4):
            self.sleep(0.5)
            assert store.get(("t", "got"), "k") is not None
            assert len(store.search(("t", "found"))) == 1
            store.get(("t", "unrefreshed"), "k", refresh_ttl=False)
            store.search(("t", "unrefreshed"), refresh_ttl=False)
            store.sweep_ttl()
        assert store.list_namespaces() == [("t", "found"), ("t", "got")]

    def test_reading_refreshes_only_where_the_settings_say_so(self, make):
        store = make(ttl={"default_ttl": self.TTL})
        store.put(("t",), "k", {"n": 1})
        self.sleep(0.5)
        store.get(("t",), "k", refresh_ttl=True)
        self.sleep(1.5)
        assert store.sweep_ttl() == 1

    def test_the_sweeper_stops(self, make):
        store = make(ttl={"default_ttl": self.TTL, "sweep_interval_minutes": self.TTL / 4})
        done = store.start_ttl_sweeper()
        store.put(("t",), "k", {"n": 1})
        self.sleep(2.5)
        assert store.search(("t",)) == []
        assert store.stop_ttl_sweeper(timeout=5)
        done.result(timeout=5)
        assert store.stop_ttl_sweeper()


class TestInMemoryStore(Contract, RankingContract, AsyncContract):
    @pytest.fixture
    def make(self, in_memory):
        return in_memory


class TestSqliteStore(Contract, ExpiryContract):
    """Without its index, which needs a Python that can load extensions of SQLite; few are built so."""

    TTL_S = 2  # it keeps whole seconds

    @pytest.fixture
    def make(self, sqlite):
        return sqlite


class TestAgentMemoryStore(Contract, RankingContract, AsyncContract, ExpiryContract):
    @pytest.fixture
    def make(self, ours):
        return ours


class TestAgentMemoryStoreOnPostgresql(Contract, RankingContract, AsyncContract, ExpiryContract):
    @pytest.fixture
    def make(self, served):
        return served
