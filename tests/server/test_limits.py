"""What is refused before the memory is asked: strangers, oversized and slow requests, too many, too much."""

from __future__ import annotations

import itertools
import json
import re
import socket
import time
from datetime import UTC, datetime, timedelta

import httpx
import pytest
from typer.testing import CliRunner

from agent_memory import Config, InvalidInputError, LockTimeoutError, Memory
from agent_memory.server.keys import create_key
from agent_memory.server.serving import check_exposure
from agent_memory.storage.sqlite.ledger import open_ledger


def test_other_hosts_and_origins_are_refused(served):
    for host in ("evil.example", "127.0.0.1.evil.example:80", ""):
        answer = served.client.get("/v1/stats", headers={"host": host})
        assert answer.status_code in (400, 421)
    for origin in ("http://evil.example", "null", "https://127.0.0.1.evil.example"):
        answer = served.client.post("/v1/memories", json={"text": "x"}, headers={"origin": origin})
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:agent-memory:error:origin")
    assert served.memory.entries() == []
    assert served.client.get("/v1/stats", headers={"origin": served.url}).status_code == 200


def test_named_origins_and_hosts_are_answered(serve):
    served = serve(origins=("https://app.example",), hosts=("memory.example",))
    answer = served.client.options("/v1/search", headers={"origin": "https://app.example"})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (204, "https://app.example")
    answer = served.client.get("/v1/stats", headers={"origin": "https://app.example", "host": "memory.example"})
    assert answer.headers["access-control-allow-origin"] == "https://app.example"
    assert "access-control-allow-origin" not in served.client.get("/v1/stats", headers={"origin": served.url}).headers


def test_a_form_of_a_web_page_writes_nothing(served):
    answer = served.client.post("/v1/memories", content='{"text": "x"}', headers={"content-type": "text/plain"})
    assert answer.status_code == 422
    assert served.memory.entries() == []


def test_an_oversized_body_is_refused_with_both_sizes(serve):
    served = serve(max_body_bytes=2000)
    answer = served.client.post("/v1/memories", json={"text": "x" * 3000})
    assert (answer.status_code, answer.json()["limit"]) == (413, 2000)

    def endless():
        for _ in range(100):
            yield b"x" * 1000

    answer = served.client.post("/v1/memories", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    assert served.memory.entries() == []


def test_deep_and_odd_json_is_refused(served):
    for content in (b"[" * 100_000, b"{", b"\xff\xfe", b"null", b'"x"', b'{"text": ' + b"9" * 5000 + b"}"):
        answer = served.client.post("/v1/memories", content=content, headers={"content-type": "application/json"})
        assert answer.status_code in (400, 422), content[:20]
        assert answer.headers["content-type"] == "application/problem+json"


def test_slow_clients_are_let_go_and_idle_ones_disturb_nobody(serve, monkeypatch):
    monkeypatch.setenv("AGENT_MEMORY_SERVE_RECEIVE_S", "0.5")
    served = serve(receive_s=0.5)
    port = int(served.url.rpartition(":")[2])
    idle = [socket.create_connection(("127.0.0.1", port)) for _ in range(200)]
    slow = socket.create_connection(("127.0.0.1", port))
    slow.sendall(b"GET /v1/stats HTTP/1.1\r\nHost: 127.0.0.1")
    half = socket.create_connection(("127.0.0.1", port))
    lines = (
        "POST /v1/memories HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Content-Type: application/json",
        "Content-Length: 50",
    )
    head = "\r\n".join((*lines, "", ""))
    half.sendall(head.encode() + b'{"text"')
    assert served.client.get("/v1/stats").status_code == 200
    for one in (slow, half):
        one.settimeout(20)
    assert slow.recv(100) == b""
    assert b"408" in half.recv(1000)
    for one in (*idle, slow, half):
        one.close()
    assert served.memory.entries() == []


def test_a_client_that_takes_nothing_of_its_answer_is_let_go(serve, monkeypatch):
    monkeypatch.setenv("AGENT_MEMORY_SERVE_RECEIVE_S", "0.5")
    served = serve(receive_s=0.5)
    served.memory.add_many([{"text": f"{number} {'x' * 900_000}", "vector": False} for number in range(12)])
    address = "127.0.0.1", int(served.url.rpartition(":")[2])

    def count_answers() -> int:
        return int(float(re.findall(r'seconds_count\{method="GET"\} (\S+)', served.client.get("/metrics").text)[0]))

    served.client.get("/metrics")
    expected = itertools.count(count_answers() + 1)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(address)
        sock.sendall(f"GET /v1/export HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\n\r\n".encode())
        sock.settimeout(60)
        assert sock.recv(12) == b"HTTP/1.1 200"
        while count_answers() == next(expected):
            pass  # each asking counts itself for the next; the export counts when the server is done with it
        rest = 0
        with pytest.raises(ConnectionResetError):
            while part := sock.recv(1 << 20):
                rest += len(part)
            raise ConnectionResetError  # cut short without a reset
    assert rest < 10_000_000


def test_keys_that_another_process_makes_and_revokes_are_known_at_once(served):
    shown = httpx.Client(base_url=served.url)
    with shown, open_ledger(served.memory.path) as other:  # connections of its own, as another process has
        assert shown.get("/v1/stats").status_code == 200
        key, text = create_key(other, role="reader")
        assert shown.get("/v1/stats").status_code == 401
        headers = {"authorization": f"Bearer {text}"}
        assert [shown.get("/v1/stats", headers=headers).status_code for _ in range(3)] == [200, 200, 200]
        other.revoke_key(key.id, datetime.now(UTC))
        assert shown.get("/v1/stats", headers=headers).status_code == 401


def test_a_key_is_needed_as_soon_as_there_is_one(served):
    assert served.client.get("/v1/stats").status_code == 200
    key = served.key(role="reader")
    answer = served.client.get("/v1/stats")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    for shown in (key[:-1] + "x", "am_1_2", key.replace("am_", "Bearer am_")):
        headers = {"authorization": f"Bearer {shown}"}
        assert served.client.get("/v1/stats", headers=headers).status_code == 401
    assert served.client.get("/v1/stats", headers={"authorization": f"Bearer {key}"}).status_code == 200
    for path in ("/health/live", "/health/ready", "/version", "/"):
        assert served.client.get(path).status_code == 200


def test_revoked_and_expired_keys_stop_working_at_once(served):
    client = served.as_key(role="admin")
    me = client.get("/v1/me").json()["key"]["id"]
    soon = served.as_key(role="reader", expires_at=datetime.now(UTC) + timedelta(seconds=1.5))
    assert soon.get("/v1/stats").status_code == 200
    time.sleep(1.6)
    assert soon.get("/v1/stats").status_code == 401
    assert client.delete(f"/v1/keys/{me}").json()["revoked_at"]
    assert client.get("/v1/stats").status_code == 401


def test_keys_are_kept_as_hashes(served, tmp_path):
    key = served.key("acme")
    content = b"".join(file.read_bytes() for file in (tmp_path / "store").glob("server.db*"))
    assert key.split("_")[1].encode() in content
    assert key.split("_", 2)[2].encode() not in content
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "store").glob("server.db*"))


def test_a_reader_writes_nothing_and_a_writer_makes_no_keys(served):
    reader, writer = served.as_key(role="reader"), served.as_key(role="writer")
    answer = reader.post("/v1/memories", json={"text": "x"})
    assert (answer.status_code, answer.json()["detail"]) == (403, "this needs the role writer; the key's is reader")
    assert writer.post("/v1/memories", json={"text": "x"}).status_code == 201
    for path in ("/v1/keys", "/v1/audit"):
        assert writer.get(path).status_code == 403


def test_a_rate_is_told_with_what_is_left(serve):
    served = serve()
    client = served.as_key("acme", role="writer", rate_per_minute=3)
    assert [client.get("/v1/me").status_code for _ in range(3)] == [200, 200, 200]
    answer = client.get("/v1/me")
    assert (answer.status_code, answer.json()["limit"], answer.json()["left"]) == (429, 3, 0)
    assert int(answer.headers["retry-after"]) > 0
    assert served.as_key("other", role="writer").get("/v1/me").status_code == 200


def test_a_full_namespace_takes_no_more_and_says_what_is_left(serve):
    served = serve()
    client = served.as_key("acme", role="writer", max_entries=3)
    hidden = {"text": "c d", "namespace": ["acme", "@internal"]}
    assert client.post("/v1/memories", json={"items": ["a b", hidden]}).status_code == 201
    answer = client.post("/v1/memories", json={"items": ["e f", "g h"]})
    assert answer.status_code == 507
    assert {name: answer.json()[name] for name in ("limit", "stored", "left")} == {"limit": 3, "stored": 2, "left": 1}
    lines = [{"agent_memory_export": 1}] + [{"key": str(i), "text": f"n {i}", "namespace": ["acme"]} for i in range(5)]
    content = "\n".join(map(json.dumps, lines)).encode()
    answer = client.post("/v1/import", content=content, headers={"content-type": "application/x-ndjson"})
    assert answer.status_code == 507
    assert served.memory.check().entries == 2


def test_others_are_served_only_with_keys():
    for host in ("0.0.0.0", "", "192.168.1.2", "memory.example"):
        with pytest.raises(InvalidInputError, match="others can reach"):
            check_exposure(host, has_keys=False)
        check_exposure(host, has_keys=True)
    for host in ("127.0.0.1", "::1", "localhost"):
        check_exposure(host, has_keys=False)


def test_pages_may_load_nothing_from_elsewhere(served):
    for path in ("/", "/docs", "/inspector/main.js"):
        answer = served.client.get(path)
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
        assert "https://" not in answer.text
    assert served.client.get("/inspector/..%2Fapp.py").status_code == 404


def test_a_strangers_server_database_is_refused(tmp_path, serve):
    import sqlite3

    served = serve()
    served.key()
    file = tmp_path / "store" / "server.db"
    copy = tmp_path / "other" / "server.db"
    copy.parent.mkdir()
    source = sqlite3.connect(file)
    target = sqlite3.connect(copy)
    source.backup(target)
    target.execute("CREATE TRIGGER act AFTER INSERT ON audit BEGIN DELETE FROM keys; END")
    target.commit()
    source.close()
    target.close()
    from agent_memory import StorageError
    from agent_memory.storage.sqlite.ledger import Ledger

    with pytest.raises(StorageError, match="not as agent-memory makes it"):
        Ledger(copy.parent, lock_timeout_s=5)


def test_an_etag_protects_what_was_read_and_spares_what_is_known(served):
    client = served.client
    made = client.post("/v1/memories", json={"text": "Maya keeps bees", "key": "bees"})
    here, etag = "/v1/memories/bees", made.headers["etag"]
    for known in (etag, f"W/{etag}", f'"other", {etag}', "*"):
        assert client.get(here, headers={"if-none-match": known}).status_code == 304, known
    assert client.get(here, headers=[("if-none-match", '"a"'), ("if-none-match", etag)]).status_code == 304
    for other in ('"other"', etag.strip('"'), "", "W/*"):
        assert client.get(here, headers={"if-none-match": other}).status_code == 200, other
    for number, good in enumerate(("{}", '"other", {}', "*", "{},")):
        answer = client.patch(here, json={"metadata": {"n": number}}, headers={"if-match": good.format(etag)})
        assert (answer.status_code, answer.headers["etag"] != etag) == (200, True), good
        etag = answer.headers["etag"]
    for bad in ('"other"', f"W/{etag}", etag.strip('"'), made.headers["etag"], ""):
        for method in ("PATCH", "DELETE"):
            body = {"text": "changed"} if method == "PATCH" else None
            answer = client.request(method, here, json=body, headers={"if-match": bad})
            assert (answer.status_code, answer.json()["type"]) == (412, "urn:agent-memory:error:changed"), (method, bad)
    assert client.get(here).json()["text"] == "Maya keeps bees"
    assert client.delete("/v1/memories/none", headers={"if-match": "*"}).status_code == 412
    assert client.delete("/v1/memories/none").json()["forgotten"] == 0
    assert client.delete(here, headers={"if-match": etag}).json()["forgotten"] == 1


def test_nobody_changes_an_entry_between_the_look_at_if_match_and_its_end(served, monkeypatch):
    from agent_memory.server.routes import memories

    client, here = served.client, "/v1/memories/bees"
    etag = client.post("/v1/memories", json={"text": "Maya keeps bees", "key": "bees"}).headers["etag"]
    check, config, refused = memories.check_match, Config(lock_timeout_s=0.1), []

    def check_and_try(request, entry):
        check(request, entry)
        with Memory(served.memory.path, encoder=served.memory.encoder, config=config) as other:
            try:
                other.update("bees", text="Maya sold her bees")
            except LockTimeoutError as error:
                refused.append(str(error))

    monkeypatch.setattr(memories, "check_match", check_and_try)
    answer = client.delete(here, headers={"if-match": etag})
    assert (answer.json().get("forgotten"), len(refused)) == (1, 1), answer.text


def test_the_first_key_is_made_before_the_store_so_that_others_can_be_served(tmp_path, serve):
    from agent_memory.cli import app

    def run(*arguments: str):
        place = str(tmp_path / "new" / "store")
        return CliRunner().invoke(app, ["keys", *arguments, "--path", place, "--ledger", place, "--json"])

    made = json.loads(run("create", "--role", "writer").stdout)
    assert [one["id"] for one in json.loads(run("list").stdout)] == [made["key"]["id"]]
    served = serve(tmp_path / "new" / "store", require_keys=True)
    assert served.client.get("/v1/me").status_code == 401
    shown = {"authorization": f"Bearer {made['text']}"}
    assert served.client.post("/v1/memories", json={"text": "bees"}, headers=shown).status_code == 201


def test_the_passages_of_a_text_are_told_by_their_places(served):
    text = "\n\n".join(f"{number}. {'The garden has roses and bees. ' * 8}" for number in range(12))
    served.memory.add(text, key="long/one", namespace=("acme",))
    served.memory.add(text, key="given", vector=served.memory.encoder.encode_documents(["bees"])[0])
    served.memory.add("Bees.", key="short")

    def ask(key: str, **params: object) -> list[list[int]]:
        return served.client.get(f"/v1/memories/{key}/passages", params=params).json()["items"]

    found = ask("long%2Fone", namespace="acme")
    assert len(found) > 1
    assert (found[0][0], found[-1][1]) == (0, len(text.rstrip()))
    assert len(ask("given")) > 1
    assert ask("short") == [[0, 5]]
    for path in ("none", "long%2Fone"):
        assert served.client.get(f"/v1/memories/{path}/passages").status_code == 404
