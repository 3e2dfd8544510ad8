from __future__ import annotations

import gc
import warnings
from datetime import UTC, datetime
from uuid import UUID

import numpy as np
import pages
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.llms.types import ChatMessage, CitableBlock, ImageBlock, TextBlock, ThinkingBlock
from llama_index.core.memory import Memory as ShortTerm
from llama_index.core.schema import Document, NodeRelationship, NodeWithScore, RelatedNodeInfo, TextNode
from llama_index.core.vector_stores import FilterCondition, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode
from support import WordEncoder

from agent_memory import InvalidInputError, Memory
from agent_memory.encoders import EvoReranker
from agent_memory.integrations.llama_index import AgentMemoryBlock, AgentMemoryLlamaStore, AgentMemoryPostprocessor

ENCODER = WordEncoder(96)


@pytest.fixture(autouse=True)
def collected():
    """Let what LlamaIndex leaves open (its own chat store's connection) be collected here, not in another's test."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


class Words(BaseEmbedding):
    def _get_text_embedding(self, text):
        return ENCODER.encode_documents([text])[0].tolist()

    def _get_query_embedding(self, query):
        return self._get_text_embedding(query)

    async def _aget_query_embedding(self, query):
        return self._get_text_embedding(query)


def node(text, number, document="d", **metadata):
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)}
    made = TextNode(text=text, id_=f"n{number}", metadata={"n": number, **metadata}, relationships=source)
    made.embedding = Words()._get_text_embedding(text or "x")
    return made


@pytest.fixture
def store(folder):
    store = AgentMemoryLlamaStore(folder, namespace=("nodes",))
    yield store
    store.close()


def query(text, top=2, **options):
    return VectorStoreQuery(query_embedding=Words()._get_text_embedding(text), similarity_top_k=top, **options)


def test_an_empty_store_answers(store):
    assert store.client is None
    assert store.query(query("x")).nodes == store.get_nodes() == store.add([]) == []
    store.delete("d")
    store.clear()


def test_nodes_come_back_as_they_were(store, folder):
    nodes = [node("red apple", 1, tags=["a"]), node("red car", 2, document="e"), node("", 3)]
    assert store.add(nodes) == ["n1", "n2", "n3"]
    found = store.query(query("red apple", top=1))
    assert found.ids == ["n1"]
    assert found.similarities == pytest.approx([1], abs=1e-3)
    expected = nodes[0].model_copy(update={"embedding": None})
    assert found.nodes[0].model_dump() == expected.model_dump()
    store.close()
    again = AgentMemoryLlamaStore(folder, namespace=("nodes",))
    assert [each.node_id for each in again.get_nodes()] == ["n1", "n2", "n3"]
    assert [each.node_id for each in again.get_nodes(["n3", "n1"])] == ["n1", "n3"]
    again.delete("d")
    assert [each.node_id for each in again.get_nodes()] == ["n2"]
    again.clear()
    assert again.get_nodes() == []
    again.close()


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("==", 2, "2"),
        ("!=", 2, "13"),
        (">", 1, "23"),
        (">=", 2, "23"),
        ("<", 2, "1"),
        ("<=", 2, "12"),
        ("in", [1, 3], "13"),
        ("nin", [1, 3], "2"),
    ],
)
def test_filters(store, operator, value, expected):
    store.add([node(f"text {number}", number) for number in (1, 2, 3)])
    filters = MetadataFilters(filters=[MetadataFilter(key="n", value=value, operator=operator)])
    assert sorted(store.query(query("text", top=9, filters=filters)).ids) == [f"n{number}" for number in expected]


def test_nested_filters(store):
    store.add([node("a", 1, color="red"), node("b", 2, color=None), node("c", 3)])
    one, two = (MetadataFilter(key="n", value=number) for number in (1, 2))
    empty = MetadataFilter(key="color", value=None, operator="is_empty")

    def ids(filters, condition=FilterCondition.AND):
        found = store.get_nodes(filters=MetadataFilters(filters=filters, condition=condition))
        return [each.node_id for each in found]

    assert ids([one, two], FilterCondition.OR) == ["n1", "n2"]
    assert ids([one, two]) == []
    assert ids([one, two], FilterCondition.NOT) == ["n3"]
    assert ids([empty]) == ["n2", "n3"]
    assert ids([MetadataFilters(filters=[one, two], condition="or"), empty]) == ["n2"]
    assert store.query(query("a", top=9, node_ids=["n1", "n3"], doc_ids=["d"])).ids[0] == "n1"
    store.delete_nodes(filters=MetadataFilters(filters=[empty]))
    assert [each.node_id for each in store.get_nodes()] == ["n1"]
    store.delete_nodes()
    assert len(store.get_nodes()) == 1
    with pytest.raises(InvalidInputError, match="mode"):
        store.query(query("a", mode=VectorStoreQueryMode.MMR))


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("contains", "red", "13"),
        ("contains", 7, "2"),
        ("any", ["green", "7"], "12"),
        ("all", ["red", "green"], "1"),
        ("text_match", "Long", "4"),
        ("text_match_insensitive", "LONG road", "4"),
        ("contains", "ong", "4"),
        ("any", ["nothing"], ""),
    ],
)
def test_filters_that_look_into_lists_and_texts(store, operator, value, expected):
    held = {1: ["red", "green"], 2: [7, "7"], 3: ["red"], 4: "Long road", 5: None, 6: 7}
    store.add([node(f"text {number}", number, tags=tags) for number, tags in held.items()])
    condition = MetadataFilter(key="tags", value=value, operator=operator)
    found = [f"n{number}" for number in expected]
    filters = MetadataFilters(filters=[condition])
    assert sorted(store.query(query("text", top=9, filters=filters)).ids) == found
    assert [each.node_id for each in store.get_nodes(filters=filters)] == found
    others = MetadataFilters(filters=[filters], condition=FilterCondition.NOT)
    assert len(store.query(query("text", top=9, filters=others)).ids) == 6 - len(found)
    both = MetadataFilters(filters=[condition, MetadataFilter(key="n", value=2, operator=">")])
    assert sorted(store.query(query("text", top=9, filters=both)).ids) == [each for each in found if each > "n2"]


def test_an_empty_filter_restricts_nothing(store):
    store.add([node("a", 1), node("b", 2)])
    empty = MetadataFilters(filters=[])
    for nested in (
        empty,
        MetadataFilters(filters=[empty]),
        MetadataFilters(filters=[empty, empty], condition=FilterCondition.OR),
        MetadataFilters(filters=[empty], condition=FilterCondition.NOT),
    ):
        assert len(store.query(query("a", top=9, filters=nested)).ids) == 2
        store.delete_nodes(filters=nested)
    one = MetadataFilters(filters=[empty, MetadataFilter(key="n", value=1)])
    assert store.query(query("a", top=9, filters=one)).ids == ["n1"]
    with pytest.raises(InvalidInputError, match="takes a list"):
        store.get_nodes(filters=MetadataFilters(filters=[MetadataFilter(key="n", value=1, operator="any")]))


def test_a_query_by_filters_alone(store):
    store.add([node(f"text {number}", number) for number in (1, 2, 3)])
    filters = MetadataFilters(filters=[MetadataFilter(key="n", value=1, operator=">")])
    found = store.query(VectorStoreQuery(similarity_top_k=1, filters=filters))
    assert (found.ids, found.similarities) == (["n2"], None)
    assert store.query(VectorStoreQuery(similarity_top_k=9)).ids == ["n1", "n2", "n3"]


def test_keys_that_begin_with_a_dollar_sign(store):
    store.add([node("a", 1, **{"$price": 3}), node("b", 2, **{"$price": 5})])
    filters = MetadataFilters(filters=[MetadataFilter(key="$price", value=4, operator="<")])
    (found,) = store.query(query("a", top=9, filters=filters)).nodes
    assert found.metadata == {"n": 1, "$price": 3}


def test_a_node_whose_embedding_is_zero_is_kept_and_never_found(store):
    empty = node("b", 2)
    empty.embedding = [0.0] * 96
    store.add([node("a", 1), empty])
    assert store.query(query("a", top=9)).ids == ["n1"]
    assert store.query(VectorStoreQuery(query_embedding=[0.0] * 96, similarity_top_k=9)).ids == []
    assert [each.node_id for each in store.get_nodes()] == ["n1", "n2"]
    assert store.get_nodes()[1].metadata == {"n": 2}


async def test_in_an_index(store):
    storage = StorageContext.from_defaults(vector_store=store)
    documents = [Document(text=text, doc_id=text) for text in ("Al likes tea", "Bo likes coffee")]
    index = VectorStoreIndex.from_documents(documents, storage_context=storage, embed_model=Words())
    retriever = index.as_retriever(similarity_top_k=1)
    assert [each.text for each in retriever.retrieve("Al likes")] == ["Al likes tea"]
    assert [each.text for each in await retriever.aretrieve("coffee")] == ["Bo likes coffee"]
    index.delete_ref_doc("Al likes tea")
    assert [each.text for each in retriever.retrieve("Al likes")] == ["Bo likes coffee"]


def test_over_an_open_memory(memory):
    store = AgentMemoryLlamaStore(memory)
    store.add([node("red apple", 1)])
    assert memory.recall("red apple", k=1)[0].text == "red apple"
    store.close()
    assert isinstance(store.client, Memory)


async def test_the_block_keeps_what_short_term_memory_lets_go(memory):
    block = AgentMemoryBlock(memory=memory, namespace=("al",))
    short = ShortTerm.from_defaults(
        session_id="s", token_limit=40, chat_history_token_ratio=0.5, token_flush_size=10, memory_blocks=[block]
    )
    for number in range(6):
        await short.aput(ChatMessage(role="user", content=f"Al likes tea number {number} with milk"))
        await short.aput(ChatMessage(role="assistant", content=f"Noted number {number}"))
    kept = memory.entries(session="s", namespace=("al",))
    assert kept
    assert {entry.speaker for entry in kept} <= {"user", "assistant"}
    await short.aput(ChatMessage(role="user", content="Al likes tea number 0 ?"))
    shown = "".join(str(message.content) for message in await short.aget())
    assert "<recalled-memory>" in shown
    assert "Al likes tea number 0 with milk" in shown
    await block.aput([ChatMessage(role="assistant", content=shown)])
    assert not any("recalled" in entry.text for entry in memory.entries())
    assert await block.aget([ChatMessage(role="assistant", content="x")]) == ""


async def test_the_block_reads_text_out_of_lists_of_parts(memory):
    memory.add("Al likes tea")
    block = AgentMemoryBlock(memory, k=1, min_score=0.3)
    picture = ImageBlock(image=b"x", image_mimetype="image/png")
    cited = CitableBlock(title="t", source="s", content=[TextBlock(text="Al likes what")])
    for blocks in ([picture, TextBlock(text="Al likes what")], [cited, picture]):
        assert "Al likes tea" in await block.aget([ChatMessage(role="user", blocks=blocks)])
    assert await block.aget([ChatMessage(role="user", blocks=[picture])]) == ""
    thought = ThinkingBlock(content="Perhaps coffee?")
    await block.aput([ChatMessage(role="assistant", blocks=[thought, TextBlock(text="Al likes juice"), picture])])
    assert [entry.text for entry in memory.entries()] == ["Al likes tea", "Al likes juice"]
    assert await AgentMemoryBlock(memory, min_score=0.99).aget([ChatMessage(role="user", content="Bo")]) == ""


def test_the_page(folder, monkeypatch):
    folder.mkdir()
    monkeypatch.chdir(folder)
    documents = [Document(text="Alice lives in Berlin"), Document(text="Parcels above 30 kg")]
    names = pages.run("llama-index", documents=documents, embed_model=Words())
    assert names["nodes"][0].text == "Alice lives in Berlin"
    names["storage"].vector_store.close()


def test_metadata_of_loaders_get_their_json_form(folder):
    held = {"when": datetime(2024, 5, 1, tzinfo=UTC), "size": np.float32(1.5), "list": np.arange(2), "id": UUID(int=5)}
    with AgentMemoryLlamaStore(folder) as store:
        store.add([TextNode(text="red", id_="1", embedding=[1.0, 0.0], metadata={**held, "pair": (1, 2), "$cost": 1})])
        (node,) = store.get_nodes(["1"])
        assert node.metadata == {
            "when": "2024-05-01T00:00:00+00:00",
            "size": 1.5,
            "list": [0, 1],
            "id": str(UUID(int=5)),
            "pair": [1, 2],
            "$cost": 1,
        }


def test_a_single_string_is_no_list_of_nodes(folder):
    with AgentMemoryLlamaStore(folder) as store:
        store.add([TextNode(text="red", id_=name, embedding=[1.0, 0.0]) for name in "ab"])
        with pytest.raises(InvalidInputError, match="node_ids must be a list of strings, got str"):
            store.delete_nodes("ab")
        assert len(store.get_nodes()) == 2


async def test_a_conversation_decides_among_the_nodes_of_any_retriever():
    said = ["So, what would you like?", "A new pair of running shoes.", "For your birthday, then."]
    chat = [{"text": text, "speaker": speaker} for text, speaker in zip(said, ("Ann", "Ben", "Ann"), strict=True)]
    question = "What would Ben like for his birthday?"
    index = VectorStoreIndex([node(text, number) for number, text in enumerate(said)], embed_model=Words())
    postprocessor = AgentMemoryPostprocessor(EvoReranker(history=chat), top_n=2)
    found = index.as_retriever(similarity_top_k=3).retrieve(question)
    assert {each.node.node_id for each in found} == {"n0", "n1", "n2"}
    ranked = postprocessor.postprocess_nodes(found, query_str=question)
    assert [each.node.node_id for each in ranked] == ["n1", "n2"] and ranked[0].score > ranked[1].score
    again = await postprocessor.apostprocess_nodes(found, query_str=question)
    assert [each.score for each in again] == [each.score for each in ranked]
    assert postprocessor.postprocess_nodes([], query_str=question) == []
    unasked = postprocessor.postprocess_nodes(found)
    assert [each.node.node_id for each in unasked] == [each.node.node_id for each in found[:2]]


def test_a_postprocessor_takes_any_reranker_and_refuses_what_is_none():
    class Lengths:
        def score(self, query, texts):
            return [len(text) for text in texts]

    nodes = [NodeWithScore(node=TextNode(text=text), score=1.0) for text in ("a", "abc", "ab")]
    ranked = AgentMemoryPostprocessor(Lengths(), min_score=2).postprocess_nodes(nodes, query_str="x")
    assert [each.node.get_content() for each in ranked] == ["abc", "ab"]
    with pytest.raises(InvalidInputError, match="must have a method 'score'"):
        AgentMemoryPostprocessor("minilm")


def test_a_memory_may_hold_what_is_no_node(memory):
    memory.add("red notes of somebody else", key="other")
    store = AgentMemoryLlamaStore(memory)
    store.add([node("red apple", 1)])
    found = store.query(query("red", top=5)).nodes
    assert [each.text for each in found] == ["red apple"]
    assert [each.text for each in store.get_nodes()] == ["red apple"]
    store.clear()
    assert [entry.key for entry in memory.entries()] == ["other"]


def test_a_mistyped_option_of_the_block_is_refused(memory):
    with pytest.raises(ValueError, match="wheer"):
        AgentMemoryBlock(memory=memory, wheer={"user": "al"})


def test_membership_looks_into_no_list_and_a_field_that_is_missing_holds_nothing(store):
    store.add([node("a", 1, tags=["x"]), node("b", 2, tags="x"), node("c", 3)])

    def ids(operator, value):
        filters = MetadataFilters(filters=[MetadataFilter(key="tags", value=value, operator=operator)])
        return [each.node_id for each in store.get_nodes(filters=filters)]

    assert (ids("in", ["x", "y"]), ids("in", [])) == (["n2"], [])
    assert ids("all", []) == ["n1", "n2"]
    assert (ids("all", ["x"]), ids("any", ["x", "z"])) == (["n1", "n2"], ["n1", "n2"])
