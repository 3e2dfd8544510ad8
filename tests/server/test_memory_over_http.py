"""What tests of ``Memory`` ask, asked of ``RemoteMemory``: the same tests, over HTTP."""

from __future__ import annotations

import asyncio
import threading

import pytest
from unit import test_memory
from unit.test_memory import *  # noqa: F403

from agent_memory import InvalidInputError, Router
from agent_memory.aio import run_in_thread

# What a server's own process does, and what is said about a folder; the rest holds over HTTP too.
LOCAL = (
    "test_progress_counts_whole_batches",
    "test_given_vectors_share_larger_transactions_unless_a_session_must_evolve_them",
    "test_another_encoder_is_refused_and_nothing_changes",
    "test_two_encoders_racing_for_a_new_store",
    "test_a_memory_says_what_it_is",
    "test_settings_may_be_a_mapping",
    "test_a_path_that_names_no_folder_is_refused",
)
for name in LOCAL:
    assert hasattr(test_memory, name)
    del globals()[name]


@pytest.fixture
def open_memory(serve, folder):
    remotes = []

    def open_(**options):
        place = options.pop("path", folder)
        namespace = options.pop("namespace", None)
        remotes.append(serve(place, **options).remote(namespace=namespace))
        return remotes[-1]

    yield open_
    for remote in remotes:
        remote.close()


def test_topics_over_http_are_those_of_the_memory(serve, folder):
    served = serve(folder)
    texts = ["tea with milk", "tea with lemon", "code in python", "code in rust"]
    remote = served.remote()
    remote.add_many([{"text": text, "namespace": (text[:3],)} for text in texts])
    first = remote.topics(k=2)
    assert first == served.memory.topics(k=2) and first.entries == 4
    remote.add("tea with honey")
    assert remote.topics(previous=first) == served.memory.topics(previous=first)
    remote.close()


def test_a_router_is_not_made_of_a_memory_elsewhere(folder, serve):
    served = serve(folder)
    with pytest.raises(InvalidInputError, match="source must be an open Memory or an encoder, got RemoteMemory"):
        Router(served.remote(), {"email": "Sends an e-mail."})
    assert served.memory.entries() == []


def test_what_a_router_keeps_is_not_served_unless_it_is_asked_for(folder, serve):
    served = serve(folder)
    Router(served.memory, {"email": "Sends an e-mail to people.", "alarm": "Wakes people."})
    remote = served.remote()
    remote.add("people sleep", namespace=("ann",))
    for mode in ("hybrid", "dense", "lexical"):
        assert [hit.text for hit in remote.recall("sends people wakes", mode=mode)] == ["people sleep"]
    assert [entry.text for entry in remote.entries()] == ["people sleep"] and remote.stats().entries == 1
    assert remote.namespaces() == [("ann",)] and remote.topics(k=1).entries == 1
    assert len(remote.recall("wakes", namespace=("routes", "@internal"))) == 2
    remote.close()


def test_a_text_without_a_vector_or_encoded_later_is_kept(folder, serve):
    remote = serve(folder).remote()
    silent = remote.add("(calls search)", vector=False)
    remote.add_many([{"text": "(tool output)", "vector": False}, {"text": "we met in Rome", "vector": "later"}])
    assert remote.vectors([silent.key]) == {}
    assert [hit.text for hit in remote.recall("met Rome", mode="lexical")] == ["we met in Rome"]
    with pytest.raises(InvalidInputError, match="vector"):
        remote.add("x", vector="never")


def test_a_write_that_was_sent_is_waited_for_by_whom_it_is_cancelled(folder, serve):
    served = serve(folder)
    remote, sent, go_on = served.remote(), threading.Event(), threading.Event()
    ask = remote._wire._carrier.ask

    def held(*given, **named):
        sent.set()
        assert go_on.wait(60)
        return ask(*given, **named)

    async def cancel():
        write = asyncio.create_task(run_in_thread(lambda: remote.add("held", key="k")))
        while not sent.is_set():
            await asyncio.sleep(0.001)
        write.cancel()
        await asyncio.sleep(0.01)
        assert not write.done()  # its outcome is not known yet
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await write

    remote._wire._carrier.ask = held
    asyncio.run(cancel())
    assert served.memory.get("k").text == "held"
