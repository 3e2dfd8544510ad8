"""A server as a process of its own: killed, stopped, and several at once."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack

import httpx
import pytest
import uvicorn
from support_server import serve_alone

from agent_memory import Memory, RemoteMemory
from agent_memory.server.run import listen

pytestmark = pytest.mark.slow


def test_nothing_acknowledged_is_lost_when_the_server_is_killed_and_a_repeated_write_is_done_once(tmp_path):
    acknowledged: list[str] = []
    with serve_alone(tmp_path / "store") as (url, process):

        def write(worker):
            with httpx.Client(base_url=url, timeout=20) as client:
                for i in range(1000):
                    headers = {"idempotency-key": f"{worker}-{i}"}
                    try:
                        answer = client.post("/v1/memories", json={"text": f"fact {worker} {i}"}, headers=headers)
                    except httpx.TransportError:
                        return
                    assert answer.status_code == 201
                    acknowledged.append(answer.json()["text"])

        threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        while len(acknowledged) < 20 and any(thread.is_alive() for thread in threads):
            time.sleep(0.01)
        assert len(acknowledged) >= 20
        process.send_signal(signal.SIGKILL)
        for thread in threads:
            thread.join()
    with serve_alone(tmp_path / "store") as (url, _), httpx.Client(base_url=url, timeout=20) as client:
        for worker in range(4):
            done = [int(text.split()[2]) for text in acknowledged if text.startswith(f"fact {worker} ")]
            for i in range(max(done, default=-1) + 2):  # what was acknowledged, and what was cut off
                headers = {"idempotency-key": f"{worker}-{i}"}
                answer = client.post("/v1/memories", json={"text": f"fact {worker} {i}"}, headers=headers)
                assert (answer.status_code, answer.json()["text"]) == (201, f"fact {worker} {i}")
    with Memory(tmp_path / "store") as memory:
        texts = [entry.text for entry in memory.entries()]
        assert set(acknowledged) <= set(texts)
        assert len(texts) == len(set(texts))
        assert memory.check().ok


def test_sigterm_finishes_what_is_under_way_and_ends_the_streams(tmp_path):
    with serve_alone(tmp_path / "store") as (url, process):
        answers: list[int] = []
        with httpx.Client(base_url=url, timeout=30) as client, client.stream("GET", "/v1/events") as stream:
            lines = stream.iter_lines()
            next(lines)
            many = [f"number {i}" for i in range(300)]
            thread = threading.Thread(
                target=lambda: answers.append(
                    httpx.post(f"{url}/v1/memories", json={"items": many}, timeout=60).status_code
                )
            )
            thread.start()
            time.sleep(0.3)
            process.terminate()
            for _ in lines:
                pass
        thread.join()
        assert process.wait(40) in (0, -signal.SIGTERM)
    with Memory(tmp_path / "store") as memory:
        assert answers != [201] or len(memory.entries()) == 300


def test_several_processes_serve_one_store_and_each_knows_what_the_others_wrote(tmp_path):
    with serve_alone(tmp_path / "store", "--workers", "2") as (url, process):
        for i in range(12):
            with RemoteMemory(url) as memory:  # a connection each, so that both processes get some
                memory.add(f"fact number {i}", key=str(i))
                assert memory.recall(f"fact number {i}", k=1)[0].entry.key == str(i)
                assert len(memory.entries()) == i + 1
        text = httpx.get(f"{url}/metrics").text
        assert 'agent_memory_requests_total{method="POST",status="201"} 12.0' in text
        assert "agent_memory_entries 12.0" in text
        process.terminate()
        assert process.wait(40) == 0


def test_others_are_not_served_without_keys(tmp_path):
    with pytest.raises(AssertionError, match="others can reach"), serve_alone(tmp_path / "store", "--host", "0.0.0.0"):
        pass


def test_a_thousand_idle_connections_keep_nobody_from_being_served(tmp_path):
    """Also where a shell allows a process fewer files than that."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, hard))
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        url, _ = stack.enter_context(serve_alone(tmp_path / "store"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
        address = "127.0.0.1", int(url.rpartition(":")[2])
        idle = [stack.enter_context(socket.create_connection(address)) for _ in range(1000)]
        for one in idle[::10]:  # some are idle after a request
            one.sendall(f"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1:{address[1]}\r\n\r\n".encode())
            assert one.recv(12) == b"HTTP/1.1 200"
        with RemoteMemory(url) as memory:
            memory.add("Alice moved to Berlin.")
            assert memory.recall("Where does Alice live?")[0].text == "Alice moved to Berlin."


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_beginning():
    config = uvicorn.Config("", host="127.0.0.1", port=0, backlog=8)
    with listen(config) as door, socket.create_connection(door.getsockname()[:2]):
        with door.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_whose_parent_or_terminal_is_gone_holds_no_port(tmp_path, workers):
    with serve_alone(tmp_path / "store", "--workers", str(workers)) as (url, process):
        assert httpx.get(f"{url}/health/ready").status_code == 200
        os.kill(process.pid, signal.SIGHUP if workers == 1 else signal.SIGKILL)
        process.wait(30)
        deadline = time.monotonic() + 30
        with pytest.raises(httpx.TransportError):
            while time.monotonic() < deadline:
                httpx.get(f"{url}/health/live")
                time.sleep(0.1)


def test_a_socket_in_a_file_is_served_to_who_may_open_it(tmp_path):
    place, path = tmp_path / "store", tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        code = (
            "import os, sys; os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "sys.argv = ['agent-memory', 'serve', '--json', '--path', sys.argv[1]]; "
            "from agent_memory.cli import main; main()"
        )

        def take_third():
            os.dup2(listening.fileno(), 3, inheritable=True)

        process = subprocess.Popen(
            [sys.executable, "-c", code, str(place)], preexec_fn=take_third, close_fds=False, stdout=subprocess.PIPE
        )
    try:
        assert f"unix:{path}".encode() in process.stdout.readline()
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
            assert client.post("/v1/memories", json={"text": "tea"}).status_code == 201
            assert client.get("/v1/memories").json()["items"][0]["text"] == "tea"
    finally:
        process.terminate()
        assert process.wait(30) in (0, -signal.SIGTERM)
        process.stdout.close()


def test_what_a_killed_server_was_sent_is_deleted_by_the_next(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()

    def send():
        yield b'{"text": "SECRETWORD is sent"}\n' * 10_000
        started.set()
        time.sleep(30)

    started = threading.Event()
    with serve_alone(tmp_path / "store") as (url, process):

        def upload():
            with contextlib.suppress(httpx.TransportError):
                httpx.post(f"{url}/v1/import", content=send(), timeout=60)

        threading.Thread(target=upload, daemon=True).start()
        assert started.wait(30)
        deadline = time.monotonic() + 30
        while not find_secret(tmp_path) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.kill()
        process.wait(30)
    with serve_alone(tmp_path / "store"):
        assert find_secret(tmp_path) == []


def find_secret(folder):
    return [path for path in folder.rglob("*") if path.is_file() and b"SECRETWORD" in path.read_bytes()]
