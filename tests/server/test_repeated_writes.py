"""Idempotency keys, quotas and the audit log hold by whatever door a write comes."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from support import WordEncoder

from agent_memory import RemoteMemory
from agent_memory.errors import InvalidInputError, StorageError
from agent_memory.remote import wire

ONCE = {"idempotency-key": "once"}


def scoped(*namespace):
    return ONCE | {"agent-memory-namespace": json.dumps(namespace)}


def test_a_key_that_another_namespace_has_sent_is_another_request(served):
    for scope in ("t1", "t2"):
        text = {"text": f"tea of {scope}", "key": "profile"}
        answer = served.client.post("/v1/memories", json=text, headers=scoped(scope))
        assert (answer.status_code, answer.json()["text"]) == (201, f"tea of {scope}")
    for scope in ("t1", "t2"):
        forgotten = served.client.delete("/v1/memories/profile", headers=scoped(scope) | {"idempotency-key": "gone"})
        assert forgotten.json()["forgotten"] == 1
    assert served.memory.check().entries == 0


def test_a_request_that_expects_another_version_is_another_one(served):
    served.memory.add("tea", key="a")
    etag = served.client.get("/v1/memories/a").headers["etag"]
    given = ONCE | {"if-match": etag}
    assert served.client.patch("/v1/memories/a", json={"text": "milk"}, headers=given).status_code == 200
    assert served.client.patch("/v1/memories/a", json={"text": "milk"}, headers=given).status_code == 200
    again = served.client.patch("/v1/memories/a", json={"text": "milk"}, headers=ONCE | {"if-match": "*"})
    assert (again.status_code, again.json()["type"].rpartition(":")[2]) == (422, "idempotency-key-reused")


def test_an_import_that_is_sent_again_brings_nothing_back(served):
    file = b'{"key": "a", "text": "tea"}\n'
    first = served.client.post("/v1/import", content=file, headers=ONCE)
    assert (first.status_code, first.json()["new"]) == (200, 1)
    served.memory.forget("a")
    again = served.client.post("/v1/import", content=file, headers=ONCE)
    assert (again.status_code, again.json()) == (200, first.json())
    assert served.memory.check().entries == 0
    other = served.client.post("/v1/import", content=file + b"\n", headers=ONCE)
    assert other.json()["type"].rpartition(":")[2] == "idempotency-key-reused"
    for path, body in (("/v1/maintenance", {}), ("/v1/check", {}), ("/v1/jobs", {"kind": "maintenance"})):
        both = [served.client.post(path, json=body, headers={"idempotency-key": path}).json() for _ in range(2)]
        assert both[0] == both[1]


def test_what_was_wrong_with_a_file_is_told_and_not_kept(served, tmp_path):
    file = b'{"key": "a", "text": "tea", "event_time": "SECRETWORD of May"}\n'
    answers = [served.client.post("/v1/import", content=file, headers=ONCE) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [422, 422]
    assert all("SECRETWORD" in answer.json()["detail"] for answer in answers)
    (told,) = served.client.get("/v1/operations").json()["items"]
    assert told["state"] == "failed"
    assert "SECRETWORD" in served.client.get(f"/v1/operations/{told['id']}").json()["error"]["detail"]
    served.serving.problems.clear()  # another process
    assert "not kept" in served.client.get(f"/v1/operations/{told['id']}").json()["error"]["detail"]
    assert not any(b"SECRETWORD" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_writes_at_once_do_not_pass_a_quota_and_replacing_is_no_more(serve):
    served = serve()
    client = served.as_key("acme", role="writer", max_entries=5)

    def write(number):
        items = [f"tea {number} {part}" for part in range(3)]
        if number % 2:
            return client.post("/v1/memories", json={"items": items}).status_code
        lines = "".join(json.dumps({"key": text, "text": text}) + "\n" for text in items)
        return client.post("/v1/import", content=lines.encode()).status_code

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(write, range(8)))
    assert sorted(answers)[0] in (200, 201)
    assert served.memory.check().entries == 3
    assert answers.count(507) == 7
    for number in range(2):
        assert client.post("/v1/memories", json={"text": f"new {number}", "key": f"n{number}"}).status_code == 201
    assert client.post("/v1/memories", json={"text": "one more"}).status_code == 507
    assert client.post("/v1/memories", json={"text": "one more", "key": "new"}).status_code == 507
    assert client.post("/v1/memories", json={"text": "another", "key": "n1"}).status_code == 201
    assert client.patch("/v1/memories/n1", json={"text": "a third"}).status_code == 200


def test_a_key_makes_none_with_wider_limits(served):
    maker = served.as_key("acme", max_entries=2, rate_per_minute=100, expires_at="2199-01-01")
    made = maker.post("/v1/keys", json={"namespace": ["acme", "x"], "role": "writer"}).json()["key"]
    assert (made["max_entries"], made["rate_per_minute"], made["expires_at"][:4]) == (2, 100, "2199")
    for wider in ({"max_entries": 3}, {"rate_per_minute": 101}, {"expires_at": "2299-01-01"}):
        assert maker.post("/v1/keys", json={"role": "writer", **wider}).status_code == 422
    narrower = maker.post("/v1/keys", json={"role": "writer", "max_entries": 1}).json()["key"]
    assert narrower["max_entries"] == 1


def test_the_rate_of_one_key_holds_up_no_other(served):
    slow = served.as_key("acme", role="reader", rate_per_minute=1)
    quick = served.as_key("acme", role="reader", rate_per_minute=1000)
    for _ in range(5):
        assert quick.get("/v1/me").status_code == 200
    assert [slow.get("/v1/me").status_code for _ in range(2)] == [200, 429]
    assert quick.get("/v1/me").status_code == 200


def call_tool(client, name, **arguments):
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": name, "arguments": arguments}}
    headers = {"accept": "application/json, text/event-stream", "mcp-protocol-version": "2025-06-18"}
    return client.post("/mcp", json=body, headers=headers).json()["result"]


def test_a_tool_stays_within_the_quota_and_is_recorded_by_its_key(served):
    client = served.as_key("acme", role="writer", max_entries=2)
    operator = served.as_key()
    answers = [call_tool(client, "remember", text=f"tea number {number}") for number in range(4)]
    assert [answer.get("isError", False) for answer in answers] == [False, False, True, True]
    assert "2 of 2 are stored" in json.dumps(answers[2])
    assert served.memory.check().entries == 2
    assert not call_tool(client, "forget", everything=True).get("isError", False)
    records = operator.get("/v1/audit").json()["items"]
    assert [(one["action"], one["count"], one["status"]) for one in records if one["namespace"] == ["acme"]] == [
        ("forget", 2, 200),
        *[("add", None, 507)] * 2,
        *[("add", 1, 200)] * 2,
    ]
    assert len({one["key_id"] for one in records if one["namespace"] == ["acme"]}) == 1


def test_a_stream_of_events_ends_with_its_key(served):
    operator = served.as_key()
    client = served.as_key("acme", role="reader")
    mine = client.get("/v1/me")
    assert mine.status_code == 200
    (key,) = [one for one in operator.get("/v1/keys").json()["items"] if one["namespace"] == ["acme"]]
    with client.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        assert operator.delete(f"/v1/keys/{key['id']}").status_code == 200
        served.memory.add("tea", namespace=("acme",))
        assert not any(line.startswith("data:") for line in lines)  # and it ends


def test_a_receipt_does_not_count_what_others_write(served):
    client = served.as_key("acme", role="writer")
    for number in range(3):
        served.memory.add(f"tea {number}")
    client.post("/v1/memories", json={"text": "mine", "key": "a"})
    served.memory.save_snapshot()
    told = client.delete("/v1/memories/a").json()
    assert (told["forgotten"], told["rows"], told["ids"]) == (1, 1, [])
    assert not any(digit in name for name in told["files"] for digit in "0123456789")


# --- the client ------------------------------------------------------------------------------------------------


def test_a_forked_process_gets_its_own_answers(served):
    memory = served.remote()
    memory.add("of the parent", key="parent")
    reading, writing = os.pipe()
    children = []
    for number in range(2):
        child = os.fork()
        if not child:
            wrong = 0
            for turn in range(20):
                key = f"c{number}-{turn}"
                wrong += memory.add(key, key=key).text != key
                wrong += memory.get(key).key != key
            os.write(writing, bytes([wrong]))
            os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    assert list(os.read(reading, 2)) == [0, 0]
    assert memory.get("parent").text == "of the parent"


class Slow(WordEncoder):
    """Takes longer than the server waits."""

    def encode_documents(self, texts, *, progress=None):
        import time

        time.sleep(0.002 * len(texts))
        return super().encode_documents(texts, progress=progress)


def test_many_entries_that_take_long_are_written_once(serve, monkeypatch):
    monkeypatch.setattr(wire, "_TRIES", 2)
    served = serve(encoder=Slow(), timeout_s=0.5)
    with RemoteMemory(served.url, timeout_s=30) as memory:
        entries = memory.add_many([f"tea number {number}" for number in range(900)])
    assert len(entries) == served.memory.check().entries == 900


def test_large_texts_metadata_and_answers_are_sent_in_parts(serve):
    served = serve(max_body_bytes=1_000_000, max_answer_bytes=200_000)
    memory = served.remote()
    texts = [f"чай {number} " + "молоко " * 8_000 for number in range(12)]
    entries = memory.add_many([{"text": text, "key": f"k{number}"} for number, text in enumerate(texts)])
    assert [entry.text for entry in entries] == texts
    memory.add_many([{"text": f"tea {number}", "metadata": {"long": "x" * 50_000}} for number in range(12)])
    assert len(memory.get_many([f"k{number}" for number in range(12)])) == 12
    assert len(memory.entries()) == 24
    assert [len(hits) for hits in memory.recall_many(["чай", "tea", "milk"] * 3, k=1)] == [1] * 9
    for number in range(3):
        memory.update("k1", text=texts[1] + str(number))
    assert len(memory.history("k1")) == 4


@pytest.mark.parametrize("status", [200, 301, 302])
def test_a_page_that_something_else_answers_with_is_no_answer(served, relay_page, status):
    with pytest.raises(StorageError, match="no server of agent-memory|sends its callers to http://login/"):
        RemoteMemory(relay_page(status))


def test_a_moment_to_ask_again_at_is_understood(relay_page):
    with pytest.raises(StorageError, match="503"):
        RemoteMemory(relay_page(503))


@pytest.fixture
def relay_page():
    """Serves one page for whatever is asked, with a status; returns its address."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
    from threading import Thread

    servers = []

    def serve_page(status):
        class Page(BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(status)
                self.send_header("content-type", "text/html")
                self.send_header("location", "http://login/")
                self.send_header("retry-after", "Fri, 27 Nov 2026 00:00:00 GMT")
                self.end_headers()
                self.wfile.write(b"<html>log in</html>")

            def log_message(self, *_):
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Page))
        Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield serve_page
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("wrong", [{"timeout_s": -1}, {"timeout_s": float("nan")}, {"timeout_s": "5"}])
def test_an_unusable_time_to_wait_is_refused(served, wrong):
    with pytest.raises(InvalidInputError, match="timeout_s"):
        RemoteMemory(served.url, **wrong)


def test_when_entries_expire_is_set_as_in_the_process(served):
    memory = served.remote()
    memory.add_many([{"text": "tea", "key": "a"}, {"text": "milk", "key": "b", "expires_at": "2199-01-01"}])
    assert memory.set_expiry({"a": "2199-05-01", "b": None, "none": None}) == 2
    here = served.memory
    assert (here.get("a").expires_at.isoformat()[:10], here.get("b").expires_at) == ("2199-05-02", None)
    with pytest.raises(InvalidInputError):
        memory.set_expiry({"a": "no time"})
    with pytest.raises(InvalidInputError):
        memory.set_expiry("a")
