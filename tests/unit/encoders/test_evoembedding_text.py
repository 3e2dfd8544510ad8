"""EvoEmbedding on texts: plain embeddings, sessions, reranking, and what is refused."""

import dataclasses
import itertools
import subprocess
import sys

import numpy as np
import pytest
from unit.encoders.test_evoembedding_files import QWEN3, WORDS, random_weights, write_checkpoint

from agent_memory.encoders import EvoEmbeddingModel, Exchange, LatentQueue
from agent_memory.encoders.evo.text import QUERY_PREFIX
from agent_memory.errors import EncoderError, InvalidInputError

HISTORY = [
    Exchange("my cat is called tom", "noted"),
    "i live in ulm",
    Exchange("the cat is now called kim"),
    "it rains",
    "i live in bern now",
]


def ids(text):
    return [WORDS.index(c) if c in WORDS else WORDS.index("[UNK]") for c in text]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Four segments fill the queue, so that the history overflows it.
    return write_checkpoint(tmp_path_factory.mktemp("evo") / "model", capacity=8)


@pytest.fixture(scope="module")
def model(folder):
    return EvoEmbeddingModel.from_pretrained(folder)


def test_importing_the_package_imports_no_model_library():
    code = (
        "import sys; import agent_memory.encoders as e; e.EvoEmbeddingModel, e.LatentQueue, e.Exchange; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_embed_is_the_embedding_of_a_segment_without_memory(model):
    texts = ["a cat", "the rain in bern is long and cold", "x"]
    vectors = model.embed(texts)
    assert vectors.shape == (3, model.dimension) and vectors.dtype == np.float32
    for text, vector in zip(texts, vectors, strict=True):
        alone, _ = model.embed_segment(text, model.empty_memory())
        np.testing.assert_allclose(vector, alone, atol=1e-5)
    as_queries = model.embed(texts, query=True)
    np.testing.assert_allclose(as_queries[0], model.embed_query(texts[0], model.empty_memory()), atol=1e-5)
    np.testing.assert_allclose(as_queries, model.embed([QUERY_PREFIX + text for text in texts]), atol=1e-5)
    assert model.embed([]).shape == (0, model.dimension)


def test_an_exchange_is_written_as_chat_and_embedded_as_plain_text(model):
    im_start, im_end = WORDS.index("<|im_start|>"), WORDS.index("<|im_end|>")
    newline = ids("\n")
    user = [im_start, *ids("user\nhi"), im_end, *newline]
    chat = [*user, im_start, *ids("assistant\nho"), im_end, *newline]
    memory = model.empty_memory()
    for segment, written, embedded in (
        (Exchange("hi", "ho"), chat, ids("User: hi\nAssistant: ho")),
        (Exchange("hi"), user, ids("User: hi")),
        ("hi", user, ids("hi")),
    ):
        got, want = model.embed_segment(segment, memory), model.embed_segment_ids(written, embedded, memory)
        assert np.array_equal(got[0], want[0]) and np.array_equal(got[1], want[1])


def test_control_tokens_in_a_text_are_only_text(model):
    written = model._text.encode_chat("<|im_end|><|endoftext|>").tolist()
    controls = [i for i in written if WORDS[i].startswith("<|")]
    assert [WORDS[i] for i in controls] == ["<|im_start|>", "<|im_end|>"]


def test_a_memory_continues_in_another_process(folder, model):
    memory = model.empty_memory()
    for segment in HISTORY[:3]:
        memory = memory.append(model.embed_segment(segment, memory)[1])
    restored = LatentQueue(np.frombuffer(memory.latents.tobytes(), np.float32).reshape(-1, 32), 8)
    again = EvoEmbeddingModel.from_pretrained(folder)
    for here, there in zip(
        model.embed_segment(HISTORY[3], memory), again.embed_segment(HISTORY[3], restored), strict=True
    ):
        assert np.array_equal(here, there)


def test_a_query_depends_on_the_memory(model):
    memory = model.empty_memory()
    vectors = [model.embed_query("where", memory)]
    for segment in HISTORY:
        memory = memory.append(model.embed_segment(segment, memory)[1])
        vectors.append(model.embed_query("where", memory))
    assert all(np.abs(a - b).max() > 1e-4 for a, b in itertools.pairwise(vectors))


@pytest.mark.parametrize("history", [(), HISTORY], ids=["no history", "history"])
def test_the_order_of_candidates_does_not_change_a_bit(model, history):
    candidates = ["i live in ulm", "it rains", "a cat", "long text about the rain in bern", HISTORY[0], "a cat"]
    want = model.rerank("where", candidates, history=history)
    assert want.dtype == np.float32 and want[2] == want[5] and np.abs(want).max() <= 10.001
    for order in itertools.islice(itertools.permutations(range(6)), 0, 720, 37):
        got = model.rerank("where", [candidates[i] for i in order], history=history)
        assert np.array_equal(got, want[list(order)])
    assert model.rerank("where", [], history=history).shape == (0,)


def test_a_candidate_of_the_history_is_read_with_the_memory_before_it(model):
    written = [model._text.encode_chat(segment) for segment in HISTORY]
    embedded = [model._text.encode_plain(segment) for segment in HISTORY]
    history, query = model.embed_token_ids(written, embedded, ids("where"))
    scores = model.rerank("where", HISTORY[::-1], history=HISTORY)
    np.testing.assert_allclose(scores, 10 * (history @ query)[::-1], atol=1e-4)
    latest = model.rerank("where", ["it rains"], history=["it rains", *HISTORY])
    once = model.rerank("where", ["it rains"], history=["it rain.", *HISTORY])
    assert latest[0] != once[0]


def test_other_candidates_are_read_with_the_memory_after_it(model):
    memory = model.empty_memory()
    for segment in HISTORY[:2]:
        memory = memory.append(model.embed_segment(segment, memory)[1])
    scores = model.rerank("where", ["a", "b c"], history=memory)
    query = model.embed_query("where", memory)
    want = [10 * model.embed_segment(text, memory)[0] @ query for text in ("a", "b c")]
    np.testing.assert_allclose(scores, want, atol=1e-4)


def test_a_queue_is_bounded_and_cannot_be_changed():
    given = np.arange(6, dtype=np.float32).reshape(3, 2)
    queue = LatentQueue(given, 4)
    longer = queue.append(given + 10)
    assert len(queue) == 3 and longer.latents[:, 0].tolist() == [4, 10, 12, 14]
    given[:] = -1
    assert queue.latents[0, 1] == 1
    with pytest.raises(ValueError, match="read-only"):
        queue.latents[0] = 5
    with pytest.raises(dataclasses.FrozenInstanceError):
        queue.capacity = 9


def nan():
    return np.full((1, 32), np.nan, np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.embed_token_ids([], [], [5]),
        lambda m: m.embed_token_ids([[5]], [[5]], []),
        lambda m: m.embed_token_ids([[5], []], [[5], [5]], [5]),
        lambda m: m.embed_token_ids([[5]], [[5], [5]], [5]),
        lambda m: m.embed_token_ids([[5]], [[5]], [len(WORDS)]),
        lambda m: m.embed_token_ids([[-1]], [[5]], [5]),
        lambda m: m.embed_token_ids([[5.0]], [[5]], [5]),
        lambda m: m.embed_token_ids([[True]], [[5]], [5]),
        lambda m: m.embed_token_ids([["a"]], [[5]], [5]),
        lambda m: m.embed_token_ids([[[5], [5, 6]]], [[5]], [5]),
        lambda m: m.embed_token_ids("a", [[5]], [5]),
        lambda m: m.embed_token_ids(None, [[5]], [5]),
        lambda m: m.embed_token_ids([[2**70]], [[5]], [5]),
        lambda m: m.embed_token_ids([[5]], [[5]], [5], chunk_segments=0),
        lambda m: m.embed_token_ids([[5]], [[5]], [5], chunk_segments=True),
        lambda m: m.embed("one text"),
        lambda m: m.embed([""]),
        lambda m: m.embed([5]),
        lambda m: m.embed_segment("", m.empty_memory()),
        lambda m: m.embed_segment(5, m.empty_memory()),
        lambda m: m.embed_segment("a", None),
        lambda m: m.embed_query("a", LatentQueue(np.zeros((2, 16), np.float32), 8)),
        lambda m: m.embed_query("a", LatentQueue(np.zeros((2, 32), np.float32), 9)),
        lambda m: m.embed_query("", m.empty_memory()),
        lambda m: m.embed_query(["a"], m.empty_memory()),
        lambda m: m.rerank("a", "b"),
        lambda m: m.rerank("a", ["b"], history="c"),
        lambda m: m.rerank("a", ["b", 3]),
        lambda m: m.rerank("a", ["b", ""]),
        lambda m: m.empty_memory().append(np.zeros((2, 16), np.float32)),
        lambda m: m.empty_memory().append(np.zeros((2, 32))),
        lambda m: m.empty_memory().append(nan()),
        lambda m: LatentQueue(np.zeros((9, 32), np.float32), 8),
        lambda m: LatentQueue(np.zeros((1, 32), np.float32), 0),
        lambda m: Exchange(5),
    ],
)
def test_bad_input(model, call):
    with pytest.raises(InvalidInputError):
        call(model)


def test_texts_need_a_tokenizer(folder, model, tmp_path):
    weights = random_weights(QWEN3 | {"vocab_size": 151_700, "hidden_size": 16})
    base = QWEN3 | {"vocab_size": 151_700, "hidden_size": 16}
    bare = EvoEmbeddingModel.from_pretrained(
        write_checkpoint(tmp_path / "bare", base, weights=weights, tokenizer=False)
    )
    assert bare.tokenizer is None and model.tokenizer is not None
    with pytest.raises(InvalidInputError, match=r"tokenizer\.json"):
        bare.embed(["a"])


def test_weights_that_give_no_numbers(tmp_path):
    weights = random_weights(QWEN3)
    weights["mem_to_emb.2.bias"][0] = float("nan")
    broken = EvoEmbeddingModel.from_pretrained(write_checkpoint(tmp_path / "evo", weights=weights))
    with pytest.raises(EncoderError, match="not finite"):
        broken.embed(["a"])
