"""OpenAIEncoder against a local server that speaks the protocol."""

import base64
import builtins
import json
import logging
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from agent_memory import Memory
from agent_memory.encoders import Encoder, OpenAIEncoder
from agent_memory.errors import (
    DimensionMismatchError,
    EncoderError,
    InvalidInputError,
    MissingDependencyError,
)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        self.failures = []
        self.dimension = 8
        self.change = lambda data: data

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((self.path, self.headers.get("Authorization"), body))
        if self.server.failures:
            status, headers = self.server.failures.pop(0)
            return self.answer(
                status, {"error": {"message": f"try later: {self.headers['Authorization']} at {self.path}"}}, headers
            )
        data = [
            {"object": "embedding", "index": i, "embedding": vector(text, self.server.dimension)}
            for i, text in enumerate(body["input"])
        ]
        self.answer(200, {"object": "list", "data": self.server.change(data), "model": body["model"]}, {})

    def answer(self, status, content, headers):
        raw = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": len(raw),
            **headers,
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *args):
        pass


def vector(text, dimension):
    return [float(len(text) + 1), *(float(ord(c) % 7) for c in text.ljust(dimension - 1)[: dimension - 1])]


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def encoder(server):
    made = OpenAIEncoder("small", dimension=8, base_url=server.url, api_key="secret", batch_size=2, retries=2)
    yield made
    made.close()


def test_batches_in_order_and_normalised(server, encoder):
    texts = ["one", "three", "five or six", "seven", "e"]
    server.change = lambda data: data[::-1]
    seen = []
    vectors = encoder.encode_documents(texts, progress=lambda done, total: seen.append((done, total)))
    expected = np.array([vector(t, 8) for t in texts])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors, expected, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_queries(texts), vectors)
    assert isinstance(encoder, Encoder)
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert [len(body["input"]) for _, _, body in server.requests[:3]] == [2, 2, 1]
    assert server.requests[0][:2] == ("/v1/embeddings", "Bearer secret")
    assert "dimensions" not in server.requests[0][2]


def test_asks_for_the_dimension_only_when_told(server):
    short = OpenAIEncoder("small", dimension=8, base_url=server.url, api_key="", request_dimension=True)
    short.encode_queries(["text"])
    short.close()
    assert server.requests[0][2]["dimensions"] == 8
    assert server.requests[0][1] is None


def test_retries_what_says_later(server, encoder):
    server.failures = [(429, {"Retry-After": "0"}), (503, {"Retry-After": "0"})]
    assert encoder.encode_documents(["text"]).shape == (1, 8)
    assert len(server.requests) == 3


def test_gives_up_with_the_last_reason(server, encoder):
    server.failures = [(503, {"Retry-After": "0"})] * 3
    with pytest.raises(EncoderError, match="HTTP 503"):
        encoder.encode_documents(["text"])
    assert len(server.requests) == 3


def test_refusals_are_not_retried(server, encoder):
    server.failures = [(401, {})]
    with pytest.raises(EncoderError, match="HTTP 401"):
        encoder.encode_documents(["text"])
    assert len(server.requests) == 1


def test_unreachable_endpoint_is_an_encoder_error():
    nobody = OpenAIEncoder("small", dimension=8, base_url="http://127.0.0.1:9", retries=0, timeout_s=2.0)
    with pytest.raises(EncoderError, match="ConnectError"):
        nobody.encode_documents(["text"])
    nobody.close()


def test_dimension_is_checked(server, encoder):
    server.dimension = 6
    with pytest.raises(DimensionMismatchError, match="8 dimensions, got 6"):
        encoder.encode_documents(["text"])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:1], "1 vectors for 2"),
        (lambda data: [{"index": 0}], "without usable data"),
        (lambda data: [dict(item, embedding=[0.0] * 8) for item in data], "zero or not finite"),
        (lambda data: "nonsense", "without usable data"),
    ],
)
def test_unusable_answers_are_refused(server, encoder, change, said):
    server.change = change
    with pytest.raises(EncoderError, match=said):
        encoder.encode_documents(["a", "b"])


def test_base64_answers_are_understood(server, encoder):
    def packed(data):
        return [
            dict(item, embedding=base64.b64encode(np.array(item["embedding"], "<f4").tobytes()).decode())
            for item in data
        ]

    plain = encoder.encode_documents(["text"])
    server.change = packed
    np.testing.assert_allclose(encoder.encode_documents(["text"]), plain)


def test_fingerprint_names_endpoint_and_model(server, encoder):
    other = OpenAIEncoder("large", dimension=8, base_url=server.url)
    elsewhere = OpenAIEncoder("small", dimension=8, base_url="https://example.org/v1/")
    assert len({e.spec.fingerprint for e in (encoder, other, elsewhere)}) == 3
    assert not server.requests


def test_missing_extra_is_named(monkeypatch):
    real = builtins.__import__

    def without_httpx(name, *args, **kwargs):
        if name == "httpx":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_httpx)
    with pytest.raises(MissingDependencyError, match=r"agent-memory\[openai\]"):
        OpenAIEncoder("small", dimension=8)


def test_wrong_options_are_refused():
    with pytest.raises(InvalidInputError, match="ftp"):
        OpenAIEncoder("small", dimension=8, base_url="ftp://example.org")
    with pytest.raises(InvalidInputError, match="positive"):
        OpenAIEncoder("small", dimension=0)


@pytest.mark.parametrize(
    "url",
    ["https://user:s3cret@example.org/v1", "https://s3cret@example.org/v1", "https://example.org/v1?api_key=s3cret"],
)
def test_credentials_in_the_url_are_refused_and_not_repeated(url):
    with pytest.raises(InvalidInputError, match="pass the key as api_key") as caught:
        OpenAIEncoder("small", dimension=8, base_url=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "http://[::1",
        "https://example.org:99999999/v1",
        "https://exa mple.org/v1",
        "https:///s3cret/v1",
        "https://example.org/\x00s3cret",
    ],
)
def test_a_url_that_is_none_is_refused_and_not_repeated(url):
    with pytest.raises(InvalidInputError) as caught:
        OpenAIEncoder("small", dimension=8, base_url=url)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-s3cret\n", "sk s3cret", "sk-s3crét", "\x00s3cret", b"s3cret"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(key):
    with pytest.raises(InvalidInputError, match="api_key") as caught:
        OpenAIEncoder("small", dimension=8, api_key=key)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("part", ["sk-S3CRET", "S3CRET%2Fkey", "hunter2"])
def test_a_credential_in_the_path_reaches_no_store_log_message_or_backup(tmp_path, server, caplog, part):
    base = server.url.replace("/v1", f"/{part}/v1")
    told = [part, "S3CRET", "hunter2", "sk-KEY"]
    with closing(OpenAIEncoder("small", dimension=8, base_url=base, api_key="sk-KEY", retries=0)) as encoder:
        with caplog.at_level(logging.DEBUG), Memory(tmp_path / "store", encoder=encoder) as memory:
            memory.add("one")
            memory.backup(tmp_path / "copy.db")
            memory.export(tmp_path / "all.jsonl")
            shown = repr(memory.stats())
        server.failures = [(401, {})]
        with pytest.raises(EncoderError) as refused:
            encoder.encode_documents(["one"])
        server.failures = [(302, {"Location": f"{base}/elsewhere"})]
        with pytest.raises(EncoderError, match="302"):
            encoder.encode_documents(["one"])
    texts = [caplog.text, shown, str(refused.value), repr(encoder.spec), repr(encoder)]
    files = [path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file()]
    assert files and "HTTP Request" in caplog.text
    assert [secret for secret in told for text in texts + files if secret in text] == []


def test_another_path_is_another_space():
    def pipeline(path):
        return OpenAIEncoder("small", dimension=8, base_url=f"https://example.org{path}").spec.pipeline

    assert len({pipeline(path) for path in ("/v1", "/team-a/v1", "/team-b/v1", "/openai/v1")}) == 4
    assert pipeline("/openai/v1/") == pipeline("/openai/v1") == "openai+https://example.org/openai/v1+l2"
