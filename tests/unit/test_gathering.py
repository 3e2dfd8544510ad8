"""Questions of several threads, encoded together."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from support import WordEncoder

from agent_memory import Config, EncoderError, Memory
from agent_memory.live.gathering import Gathering

FOREVER = 1e6


class Encoder(WordEncoder):
    """Notes what it encodes together, and can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()

    def encode_queries(self, texts):
        self.calls.append(list(texts))
        self.begun.set()
        assert self.go_on.wait(60)
        if "bad" in texts:
            raise ValueError("this encoder does not like bad questions")
        return super().encode_queries(texts)


def ask_behind(encoder: Encoder, gathering: Gathering, questions: list[str]) -> list[object]:
    """Ask all questions while another one is being encoded; returns vectors or errors, in their order."""

    def ask(question: str) -> object:
        try:
            return gathering.encode([question], encoder.encode_queries)[0]
        except ValueError as error:
            return error

    encoder.go_on.clear()
    with ThreadPoolExecutor(len(questions) + 1) as pool:
        first = pool.submit(ask, "the first")
        assert encoder.begun.wait(60)
        found = [pool.submit(ask, question) for question in questions]
        while gathering._open is None or gathering._open.callers < len(questions):
            pass
        encoder.go_on.set()
        assert isinstance(first.result(60), np.ndarray)
        return [one.result(60) for one in found]


def test_a_question_that_comes_alone_does_not_wait():
    gathering, encoder = Gathering(FOREVER, lambda: 1), Encoder()
    found = gathering.encode(["alone"], encoder.encode_queries)
    np.testing.assert_array_equal(found, encoder.encode_documents(["alone"]))


def test_questions_that_come_while_one_is_encoded_are_encoded_together():
    encoder, questions = Encoder(), [f"question {number}" for number in range(8)]
    found = ask_behind(encoder, Gathering(0.002, lambda: 9), questions)
    assert sorted(map(len, encoder.calls)) == [1, 8]
    np.testing.assert_array_equal(np.stack(found), encoder.encode_documents(questions))


def test_equal_questions_are_encoded_once():
    encoder = Encoder()
    found = ask_behind(encoder, Gathering(0.002, lambda: 9), ["same", "same", "other"])
    assert sorted(encoder.calls[1]) == ["other", "same"]
    np.testing.assert_array_equal(found[0], found[1])


def test_a_question_waits_for_one_that_is_about_to_come():
    encoder, gathering = Encoder(), Gathering(FOREVER, lambda: 2)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda text: gathering.encode([text], encoder.encode_queries), ["one", "two"]))
    assert [sorted(call) for call in encoder.calls] == [["one", "two"]]


def test_a_question_goes_alone_when_the_time_is_up():
    encoder, gathering = Encoder(), Gathering(0.01, lambda: 2)
    gathering.encode(["one"], encoder.encode_queries)
    assert encoder.calls == [["one"]]


def test_an_error_of_one_question_concerns_no_other():
    encoder = Encoder()
    good, bad, fine = ask_behind(encoder, Gathering(0.002, lambda: 4), ["good", "bad", "fine"])
    assert isinstance(bad, ValueError)
    np.testing.assert_array_equal(np.stack([good, fine]), encoder.encode_documents(["good", "fine"]))


@pytest.mark.parametrize("shape", [(0, 96), (5, 96), (3,), ()])
def test_a_group_of_which_the_encoder_returns_too_few_or_many_vectors_is_encoded_one_by_one(shape):
    encoder = Encoder()
    encode = encoder.encode_queries
    encoder.encode_queries = lambda texts: encode(texts) if len(texts) == 1 else np.zeros(shape)
    found = ask_behind(encoder, Gathering(0.002, lambda: 4), ["a", "b", "c"])
    np.testing.assert_array_equal(np.stack(found), encoder.encode_documents(["a", "b", "c"]))


def test_an_interrupt_of_the_one_who_encodes_leaves_nobody_waiting():
    encoder = Encoder()
    encode = encoder.encode_queries

    def interrupted(texts):
        if len(texts) > 1:
            raise KeyboardInterrupt
        return encode(texts)

    encoder.encode_queries = interrupted
    gathering, found = Gathering(FOREVER, lambda: 3), []

    def ask(text):
        try:
            found.append(gathering.encode([text], encoder.encode_queries)[0])
        except KeyboardInterrupt:
            found.append(None)

    threads = [threading.Thread(target=ask, args=(text,)) for text in ("a", "b", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(one is None for one in found) == 1 and len(found) == 3
    gathering._count_calls = lambda: 1
    assert gathering.encode(["later"], encode).shape == (1, 96)


def test_a_turn_that_is_lost_before_it_began_leaves_nobody_waiting():
    encoder, gathering = Encoder(), Gathering(FOREVER, lambda: 1)
    joined = gathering._join

    def join(texts, turn):
        joined(texts, turn)
        raise KeyboardInterrupt

    gathering._join = join
    with pytest.raises(KeyboardInterrupt):
        gathering.encode(["lost"], encoder.encode_queries)
    gathering._join = joined
    assert gathering.encode(["later"], encoder.encode_queries).shape == (1, 96)


def test_more_questions_than_a_group_holds_are_all_answered():
    encoder, questions = Encoder(), [f"question {number}" for number in range(150)]
    gathering = Gathering(0.002, lambda: 151)
    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(lambda text: gathering.encode([text], encoder.encode_queries)[0], questions))
    np.testing.assert_array_equal(np.stack(found), encoder.encode_documents(questions))
    assert max(map(len, encoder.calls)) <= 64
    assert gathering.encode(questions, encoder.encode_queries).shape == (150, 96)


def test_answers_are_those_of_a_memory_that_encodes_each_question_by_itself(tmp_path):
    texts = [f"{name} moved to {place}." for name in ("Ann", "Ben", "Eve") for place in ("Rome", "Porto", "Oslo")]
    questions = [f"Where is {name}? {number}" for name in ("Ann", "Ben", "Eve") for number in range(8)]
    with Memory(tmp_path) as memory:
        memory.add_many(texts)
        alone = [memory.recall(question, k=9) for question in questions]
    with Memory(tmp_path, config=Config(gather_ms=20)) as memory, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: memory.recall(question, k=9), questions))
    for one, other in zip(alone, together, strict=True):
        ours, theirs = ({hit.entry.key: hit.score for hit in hits} for hits in (one, other))
        assert ours == pytest.approx(theirs, abs=2e-3)


def test_a_memory_that_gathers_moves_to_another_encoder(tmp_path):
    with Memory(tmp_path, encoder=WordEncoder(), config=Config(gather_ms=20)) as memory:
        memory.add_many([f"word{number} and more" for number in range(20)])
        memory.reindex(encoder=WordEncoder(32, name="other"))
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda number: memory.recall(f"word{number} and", k=1), range(20)))
    assert [hits[0].text for hits in found] == [f"word{number} and more" for number in range(20)]


def test_a_memory_that_gathers_raises_the_errors_of_its_encoder(tmp_path):
    with Memory(tmp_path, encoder=Encoder(), config=Config(gather_ms=20)) as memory:
        memory.add("something good")
        with pytest.raises(EncoderError, match="does not like bad questions"):
            memory.recall("bad")
        assert memory.recall("good")
