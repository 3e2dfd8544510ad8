"""Questions of many clients, encoded together."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

from support import WordEncoder

from agent_memory import Config
from agent_memory.server.serving import Lane
from agent_memory.telemetry.stages import observe, stage


class HeldEncoder(WordEncoder):
    """Holds up the first question until the server has all the others."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[list[str]] = []
        self.begun, self.go_on = threading.Event(), threading.Event()

    def encode_queries(self, texts):
        self.calls.append(list(texts))
        self.begun.set()
        assert self.go_on.wait(60)
        if any("fail" in text for text in texts):
            raise ValueError("this encoder fails")
        return super().encode_queries(texts)


def test_questions_of_many_clients_are_encoded_together_and_answered_each_by_itself(serve):
    encoder = HeldEncoder()
    served = serve(encoder=encoder, config=Config(gather_ms=2), threads=16)
    served.memory.add_many([f"word{number} and more" for number in range(12)])
    questions = ["the first", *(f"word{number} and" for number in range(11)), "fail"]

    def ask(question: str):
        return served.client.post("/v1/search", json={"query": question, "k": 1})

    with ThreadPoolExecutor(len(questions)) as pool:
        first = pool.submit(ask, questions[0])
        assert encoder.begun.wait(60)
        found = [pool.submit(ask, question) for question in questions[1:]]
        gathering = served.memory._store.space.gathering
        while gathering._open is None or gathering._open.callers < len(found):
            pass
        encoder.go_on.set()
        assert first.result(60).status_code == 200
        *answers, failed = [one.result(60) for one in found]
    assert [answer.json()["hits"][0]["text"] for answer in answers] == [
        f"word{number} and more" for number in range(11)
    ]
    assert (failed.status_code, failed.json()["type"].rpartition(":")[2]) == (500, "EncoderError")
    assert sorted(map(len, encoder.calls[:2])) == [1, 12]
    # What the group could not be asked together, each was asked by itself.
    assert sorted(call[0] for call in encoder.calls[2:]) == sorted(questions[1:])
    assert "this encoder fails" in json.dumps(failed.json())


class Visits:
    """Threads that are in a lane, each until it is let go."""

    def __init__(self, lane: Lane) -> None:
        self.lane, self.inside = lane, []

    def stay(self, name: str, go_on: threading.Event, step: str | None = None) -> None:
        with self.lane.take():
            if step is None:
                self.inside.append(name)
                assert go_on.wait(60)
                self.inside.remove(name)
            else:
                with stage(step):
                    self.stay_outside(name, go_on)
                self.inside.append(name)

    def stay_outside(self, name: str, go_on: threading.Event) -> None:
        self.inside.append(f"{name} steps out")
        assert go_on.wait(60)


def wait_until(true) -> None:
    limit = time.monotonic() + 60
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_searches_run_one_at_a_time_and_encoding_is_left_out():
    lane = Lane(60)
    visits, first, second, stop = Visits(lane), threading.Event(), threading.Event(), observe(lane.watch)
    with ThreadPoolExecutor(3) as pool:
        encoding = pool.submit(visits.stay, "a", first, "encode")
        wait_until(lambda: visits.inside == ["a steps out"])
        pool.submit(visits.stay, "b", second)
        wait_until(lambda: "b" in visits.inside)  # a does not hold it up
        first.set()
        time.sleep(0.1)
        assert "a" not in visits.inside  # and comes back when b has gone
        second.set()
        encoding.result(60)
        assert visits.inside == ["a steps out", "a"]
    stop()


def test_a_slow_search_holds_up_nobody_for_long():
    lane = Lane(0.05)
    visits, slow, fast = Visits(lane), threading.Event(), threading.Event()
    with ThreadPoolExecutor(2) as pool:
        held = pool.submit(visits.stay, "slow", slow)
        wait_until(lambda: visits.inside == ["slow"])
        fast.set()
        pool.submit(visits.stay, "fast", fast).result(60)
        assert not held.done() and lane._lock.locked()  # who came without its turn gives none back
        slow.set()
        held.result(60)
        assert not lane._lock.locked()
