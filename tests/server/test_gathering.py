"""Questions of many clients, encoded together."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

from support import WordEncoder

from agent_memory import Config


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
