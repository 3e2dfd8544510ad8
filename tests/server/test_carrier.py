"""How ``RemoteMemory`` reaches its server: addresses, proxies, kept connections, and what fails on the way."""

from __future__ import annotations

import base64
import json
import socket
import threading

import httpx
import pytest

from agent_memory import RemoteMemory
from agent_memory.errors import ClosedError, InvalidInputError, StorageError


class Relay:
    """Hands on requests to a server, as a proxy would, and keeps what it saw."""

    def __init__(self, target: str) -> None:
        self.target = "127.0.0.1", int(target.rpartition(":")[2])
        self.heads: list[bytes] = []
        self.connections = 0
        self.cut_after: int | None = None
        self._client = httpx.Client(trust_env=False, verify=False)
        self._sock = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._sock.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._sock.close()
        self._client.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        answered = 0
        with sock, sock.makefile("rb") as lines:
            while self.cut_after is None or answered < self.cut_after:
                head = b"".join(iter(lines.readline, b"\r\n"))
                if not head:
                    return
                self.heads.append(head)
                first, _, rest = head.partition(b"\r\n")
                method, target, _ = first.split(b" ")
                headers = dict(line.split(b": ", 1) for line in rest.splitlines())
                named = {name.lower(): value for name, value in headers.items()}
                body = lines.read(int(named.get(b"content-length", b"0")))
                path = target.decode().replace("http://memory.example", "").removeprefix("/prefix")
                asked = {name.decode(): value.decode() for name, value in named.items() if name != b"host"}
                host, port = self.target
                answer = self._client.request(
                    method.decode(), f"http://{host}:{port}{path}", headers=asked, content=body
                )
                self._send(sock, answer)
                answered += 1

    def _send(self, sock: socket.socket, answer: httpx.Response) -> None:
        head = f"HTTP/1.1 {answer.status_code} x\r\ncontent-type: {answer.headers.get('content-type', '')}\r\n"
        sock.sendall(f"{head}content-length: {len(answer.content)}\r\n\r\n".encode() + answer.content)


@pytest.fixture
def relay(served):
    relay = Relay(served.url)
    served.memory.add("Alice moved to Berlin", key="a/b ü")
    yield relay
    relay.close()


def test_one_connection_carries_one_request_after_another(relay):
    with RemoteMemory(relay.url) as memory:
        for _ in range(10):
            assert memory.recall("Alice")[0].entry.key == "a/b ü"
            assert memory.get("a/b ü").text == "Alice moved to Berlin"
    assert relay.connections == 1


def test_a_connection_that_the_server_has_closed_is_made_again_and_a_write_is_done_once(relay, served):
    relay.cut_after = 2
    with RemoteMemory(relay.url) as memory:
        for number in range(6):
            memory.add(f"note {number}")
        assert len(memory.entries()) == 7
    assert len(served.memory.entries()) == 7
    assert relay.connections > 3


def test_a_server_below_a_path_is_asked_there(relay):
    for url in (f"{relay.url}/prefix", f"{relay.url}/prefix/"):
        with RemoteMemory(url) as memory:
            assert memory.get("a/b ü").key == "a/b ü"
            assert memory.entries(where={"n": {"$exists": False}}, speaker=None)[0].key == "a/b ü"
    assert {head.split(b" ")[1].partition(b"/v1")[0] for head in relay.heads} == {b"/prefix"}


def test_a_name_and_password_in_the_address_are_shown_and_a_key_comes_before_them(relay):
    at = relay.url.removeprefix("http://")
    with RemoteMemory(f"http://ann:s%40cret@{at}") as memory:
        memory.entries()
    basic = base64.b64encode(b"ann:s@cret")
    assert all(b"Basic " + basic in head for head in relay.heads)
    relay.heads.clear()
    with RemoteMemory(f"http://ann:s@{at}", key="am_x") as memory:
        memory.entries()
    assert all(b"Bearer am_x" in head and b"Basic" not in head for head in relay.heads)


@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_the_proxy_of_the_environment_is_used_unless_it_is_to_be_passed_by(relay, served, monkeypatch, variable):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, relay.url)
    with RemoteMemory("http://memory.example") as memory:
        assert memory.recall("Alice")[0].entry.key == "a/b ü"
    assert all(b" http://memory.example/v1/" in head for head in relay.heads)
    seen = len(relay.heads)
    monkeypatch.setenv("no_proxy", "127.0.0.1,other.example")
    with RemoteMemory(served.url) as memory:
        assert memory.recall("Alice")[0].entry.key == "a/b ü"
    assert len(relay.heads) == seen


def test_a_closed_memory_says_so_and_one_without_a_server_names_the_address(relay):
    memory = RemoteMemory(relay.url)
    memory.close()
    for call in (lambda: memory.recall("x"), memory.entries, lambda: memory.add("x"), lambda: memory.export("x.jsonl")):
        with pytest.raises(ClosedError):
            call()
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    with pytest.raises(StorageError, match=f"127.0.0.1:{port}") as error:
        RemoteMemory(f"http://ann:s3cret@127.0.0.1:{port}")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["", "memory", "ftp://a", "http://", "//host", "http://[", "http://a:b:c", "http://a:99999999", 7, None]
)
def test_an_address_that_names_no_server_is_refused(url):
    with pytest.raises(InvalidInputError, match="url must be like"):
        RemoteMemory(url)


@pytest.mark.parametrize("key", ["", " ", "am_é", "am_x\r\nX: y", "\x00", 7])
def test_a_key_that_cannot_be_sent_is_refused_before_anything_is(relay, key):
    with pytest.raises(InvalidInputError, match="key must be"):
        RemoteMemory(relay.url, key=key)
    assert not relay.heads


def test_a_transport_of_the_callers_own_carries_the_requests():
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append((request.method, request.url.path, json.loads(request.content or b"null")))
        return httpx.Response(503, headers={"retry-after": "0"}, json={"type": "x", "detail": "later", "status": 503})

    with pytest.raises(StorageError, match="later"):
        RemoteMemory("http://memory.example", transport=httpx.MockTransport(answer))
    assert asked == [("GET", "/v1/me", None)] * 5


def test_the_last_entries_come_first_as_they_do_in_the_process(served):
    served.memory.add_many([{"text": f"note {number}", "metadata": {"odd": number % 2}} for number in range(9)])
    with served.remote() as remote:
        for asked in (
            {},
            {"limit": 3},
            {"limit": 3, "offset": 2},
            {"offset": 7},
            {"limit": 5, "offset": 8},
            {"limit": 1, "offset": 9},
            {"limit": 2, "where": {"odd": 1}},
            {"limit": 2, "where": {"odd": 5}},
        ):
            assert remote.entries(newest_first=True, **asked) == served.memory.entries(newest_first=True, **asked), (
                asked
            )
        for memory in (remote, served.memory):
            with pytest.raises(InvalidInputError, match="newest_first"):
                memory.entries(newest_first="yes")
