"""A reranker that knows the conversation: what it scores, and that recall and other retrievers can use it."""

import threading
from datetime import UTC, datetime

import numpy as np
import pytest
from support import WordEncoder
from unit.encoders.test_evoembedding_files import write_checkpoint

from agent_memory import InvalidInputError, Memory, ModelNotFoundError
from agent_memory.encoders import EvoEmbeddingModel, EvoReranker, Reranker

CHAT = [
    {"text": "So, what would you like?", "speaker": "Ann"},
    {"text": "A new pair of running shoes.", "speaker": "Ben"},
    {"text": "For your birthday, then.", "speaker": "Ann"},
    {"text": "Tea is fine for me.", "speaker": "Carl"},
]
TEXTS = [said["text"] for said in CHAT]
QUESTION = "What would Ben like for his birthday?"


@pytest.fixture(scope="module")
def embedded():
    return EvoReranker(history=CHAT)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    write_checkpoint(folder)
    return EvoReranker.from_pretrained(folder, history=TEXTS), EvoEmbeddingModel.from_pretrained(folder)


def best(reranker, query=QUESTION, texts=TEXTS):
    return texts[int(reranker.score(query, texts).argmax())]


def test_what_was_said_around_a_text_decides(embedded):
    assert isinstance(embedded, Reranker)
    assert best(EvoReranker()) == "So, what would you like?"
    assert best(embedded) == "A new pair of running shoes."
    assert best(embedded.after([]), QUESTION) == "So, what would you like?"


def test_a_text_of_the_conversation_has_the_vector_that_a_store_gives_it(tmp_path, embedded):
    with Memory(tmp_path / "store") as memory:
        entries = memory.add_many([{**said, "event_time": "2025-05-01"} for said in CHAT], session="chat")
        reranker = embedded.after(memory.entries(session="chat"))
        hits = memory.recall(QUESTION, session="chat", mode="dense", exact=True)
        assert {hit.text: hit.score for hit in hits} == pytest.approx(
            dict(zip(TEXTS, reranker.score(QUESTION, TEXTS).tolist(), strict=True)), abs=1e-3
        )
        assert [entry.text for entry in entries] == TEXTS


def test_recall_takes_it(tmp_path, embedded):
    with Memory(tmp_path / "store", session_encoder=None) as memory:
        memory.add_many(TEXTS)
        assert memory.recall(QUESTION, k=1, mode="dense")[0].text == "So, what would you like?"
        hit = memory.recall(QUESTION, k=1, rerank=embedded, explain=True)[0]
        assert (hit.text, hit.trace["rerank"]) == ("A new pair of running shoes.", hit.score)


def test_scores_depend_on_no_other_text_and_on_no_order(embedded, published):
    for reranker in (embedded, published[0]):
        texts = [*TEXTS, "a stranger's text", TEXTS[0]]
        together = reranker.score(QUESTION, texts)
        np.testing.assert_allclose(reranker.score(QUESTION, texts[::-1])[::-1], together, atol=1e-6)
        alone = [float(reranker.score(QUESTION, [text])[0]) for text in texts]
        np.testing.assert_allclose(alone, together, atol=1e-5)
        assert together[0] == together[-1] and together.dtype == np.float32


def test_a_stretch_of_what_was_said_stands_where_its_whole_was_said(embedded):
    whole = "Yes. A new pair of running shoes, please, and nothing that is made of leather."
    stretch = "A new pair of running shoes, please"
    reranker = embedded.after([CHAT[0], {"text": whole, "speaker": "Ben"}, CHAT[2]])
    there = embedded.after([CHAT[0], {"text": stretch, "speaker": "Ben"}, CHAT[2]])
    early = reranker._embed([stretch], reranker._read())[stretch]
    np.testing.assert_allclose(early, there._embed([stretch], there._read())[stretch], atol=1e-4)
    late = embedded.after([CHAT[0], CHAT[2]])
    assert not np.allclose(early, late._embed([stretch], late._read())[stretch], atol=1e-2)


def test_the_latest_of_equal_texts_counts(embedded):
    twice = embedded.after([CHAT[3], *CHAT[:3], CHAT[3]])
    once = embedded.after([CHAT[3], *CHAT[:3], {"text": "Tea is fine for me!", "speaker": "Carl"}])
    vectors = twice._read().vectors
    np.testing.assert_allclose(vectors[TEXTS[3]], once._read().vectors["Tea is fine for me!"], atol=0.1)
    assert not np.allclose(vectors[TEXTS[3]], embedded.after([CHAT[3]])._read().vectors[TEXTS[3]], atol=0.01)


def test_the_published_model_scores_as_its_own_rerank_does(published):
    reranker, model = published
    memory = model.empty_memory()
    for text in TEXTS:
        memory = memory.append(model.embed_segment(text, memory)[1])
    strangers = ["word1 word2", "another one"]
    expected = model.rerank(QUESTION, strangers, history=memory) * 0.1
    np.testing.assert_allclose(reranker.score(QUESTION, strangers), expected, atol=1e-5)


def test_a_long_conversation_keeps_what_its_queue_holds(embedded):
    long = [f"Step {number} of the plan concerns item {number * 7}." for number in range(150)]
    reranker = embedded.after(long)
    assert best(reranker, "Which step concerns item 42?", long) == long[6]
    capacity = reranker.session_encoder.spec.capacity
    assert len(reranker._before(149, reranker._read())) == min(149, capacity)


def test_threads_share_one(embedded):
    reranker, found = embedded.after(CHAT), []
    threads = [
        threading.Thread(target=lambda: found.append(reranker.score(QUESTION, TEXTS).tolist())) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4 and all(scores == found[0] for scores in found)


def test_nothing_to_score_and_blank_texts(embedded):
    assert embedded.score(QUESTION, []).shape == (0,)
    assert embedded.score(QUESTION, [" ", TEXTS[1], ""]).tolist()[::2] == [-1, -1]


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("a text", "history must be a list"),
        (7, "history must be a list"),
        (["fine", ""], r"history\[1\] must have a text"),
        ([{"text": "x", "who": "Ann"}], r"history\[0\] has \['who'\]"),
        ([{"speaker": "Ann"}], r"history\[0\] must have a text"),
        ([{"text": "x", "speaker": 7}], r"history\[0\].speaker"),
        ([{"text": "x", "event_time": "soon"}], r"history\[0\].event_time"),
        ([None], r"history\[0\] must be a text"),
    ],
)
def test_an_unusable_conversation_is_refused_by_name(history, message):
    with pytest.raises(InvalidInputError, match=message):
        EvoReranker(history=history)


def test_texts_that_are_no_list_are_refused(embedded):
    for texts in ((each for each in ["a"]), {"a"}, {"a": 1}, None):
        with pytest.raises(InvalidInputError, match="must be a list of strings"):
            embedded.score("a question", texts)
    with pytest.raises(InvalidInputError, match="not valid Unicode"):
        embedded.score("half a \ud83d", ["a"])


def test_other_unusable_arguments(embedded, tmp_path):
    with pytest.raises(InvalidInputError, match="no session encoder was trained on the vectors of 'words'"):
        EvoReranker(WordEncoder())
    with pytest.raises(InvalidInputError, match="blank"):
        embedded.score(" ", TEXTS)
    with pytest.raises(InvalidInputError, match=r"texts\[0\]"):
        embedded.score(QUESTION, [b"x"])
    with pytest.raises(InvalidInputError, match="one str"):
        embedded.score(QUESTION, "x")
    with pytest.raises(ModelNotFoundError):
        EvoReranker.from_pretrained(tmp_path / "nowhere")


def test_times_of_what_was_said_may_be_text_or_moments(embedded):
    moments = [datetime(2025, 5, 1, tzinfo=UTC), "2025-05-01", "2025-05-01T00:00:00Z"]
    found = [embedded.after([{"text": "Tea.", "event_time": at}, "Yes."]).score("Tea?", ["Yes."]) for at in moments]
    assert len({float(scores[0]) for scores in found}) == 1
