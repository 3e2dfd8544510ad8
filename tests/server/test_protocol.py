"""What comes in over the wire: odd requests are refused in the words of all others, and well-formed ones answered."""

from __future__ import annotations

import json
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def exchange(served, *parts: bytes) -> bytes:
    """Send parts of requests over one connection; returns all that comes until the server closes it."""
    address = "127.0.0.1", int(served.url.rpartition(":")[2])
    with socket.create_connection(address, timeout=20) as sock:
        for part in parts:
            try:
                sock.sendall(part.replace(b"HOST", f"Host: 127.0.0.1:{address[1]}".encode()))
            except (BrokenPipeError, ConnectionResetError):
                break  # refused before it was all sent
        found = b""
        try:
            while part := sock.recv(65_536):
                found += part
        except ConnectionResetError:
            pass
        return found


CLOSE = b"Connection: close\r\n\r\n"


@pytest.mark.parametrize(
    "request_",
    [
        b"BREW /v1/stats HTTP/1.1\r\nHOST\r\n\r\n",
        b"GET /v1/stats HTTP/9.9\r\nHOST\r\n\r\n",
        b"GET /v1/stats\r\n\r\n",
        b"GET http://[/ HTTP/1.1\r\nHOST\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHOST\r\n\r\n",
        b"GET /v1/stats HTTP/1.1\r\nHOST\r\nno colon\r\n\r\n",
        b"GET /v1/stats HTTP/1.1\r\nHOST\r\nBad Name: x\r\n\r\n",
        b"GET /v1/stats HTTP/1.1\r\nHOST\r\nX: a\x00b\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHOST\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHOST\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHOST\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /v1/search HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked, gzip\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_as_a_problem_and_the_server_goes_on(served, request_):
    head, _, body = exchange(served, request_).partition(b"\r\n\r\n")
    assert head[:13] in (b"HTTP/1.1 400 ", b"HTTP/1.1 421 ")  # a request of HTTP 0.9 names no host
    assert b"content-type: application/problem+json" in head
    assert json.loads(body)["status"] == int(head[9:12])
    assert served.client.get("/v1/stats").status_code == 200


@pytest.mark.parametrize(
    "begin, more",
    [
        (b"GET /v1/stats HTTP/1.1\r\nHOST\r\n", b"X-%d: " + b"a" * 1000 + b"\r\n"),
        (b"GET /v1/stats HTTP/1.1\r\nHOST\r\nX: ", b"%d" + b"a" * 1000),
        (b"GET /v1/stats?", b"%d" + b"a" * 1000),
        (b"POST /v1/purge HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"%d" + b"a" * 1000),
        (
            b"POST /v1/search HTTP/1.1\r\nHOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
            b"X: %d" + b"a" * 1000 + b"\r\n",
        ),
    ],
    ids=["headers", "one-header", "target", "chunk", "trailers"],
)
def test_heads_do_not_grow_without_end(served, begin, more):
    found = exchange(served, begin, *(more % number for number in range(400)))
    assert b"400 Bad Request" in found or found == b""  # what was on its way when the connection was reset is lost
    assert served.client.get("/v1/stats").status_code == 200


def test_what_follows_a_body_replaces_nothing_that_was_checked(served):
    key = served.key("acme", role="reader").encode()
    found = exchange(
        served,
        b"POST /v1/search HTTP/1.1\r\nHOST\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b'e\r\n{"query": "x"}\r\n0\r\nAuthorization: Bearer ' + key + b"\r\n\r\n",
    )
    assert found.startswith(b"HTTP/1.1 401 ")


def test_requests_that_come_at_once_in_parts_or_without_keeping_the_connection_are_answered(served):
    served.memory.add("Alice moved to Berlin", key="move")
    one = b"GET /v1/memories/move HTTP/1.1\r\nHOST\r\n"
    asked = b"POST /v1/search HTTP/1.1\r\nHOST\r\nContent-Type: application/json\r\n"
    body = b'{"query": "Where is Alice?"}'
    assert exchange(served, (one + b"\r\n") * 3 + one + CLOSE).count(b"Alice moved to Berlin") == 4
    assert b"Alice moved" in exchange(served, b"GET /v1/memories/move HTTP/1.0\r\nHOST\r\n\r\n")
    whole = asked + b"Content-Length: %d\r\n" % len(body) + CLOSE + body
    assert b"Alice moved" in exchange(served, whole[:99], whole[99:110], whole[110:])
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in body) + b"0\r\n\r\n"
    assert b"Alice moved" in exchange(served, asked + b"Transfer-Encoding: chunked\r\n" + CLOSE + chunks)
    assert b"Alice moved" in exchange(served, one + b"Connection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n")
    waited = asked + b"Expect: 100-continue\r\nContent-Length: %d\r\n" % len(body) + CLOSE
    assert b"100 Continue" in exchange(served, waited, body)


@pytest.mark.parametrize("path", ["/", "/health/live", "/health/ready", "/version", "/metrics", "/openapi.json"])
def test_a_monitor_may_ask_for_the_head_alone(served, path):
    def ask(method):
        return exchange(served, f"{method} {path} HTTP/1.1\r\nHOST\r\n".encode() + CLOSE).partition(b"\r\n\r\n")

    head, _, body = ask("HEAD")
    assert head.startswith(b"HTTP/1.1 200 ") and body == b""
    names = {line.partition(b":")[0] for line in head.split(b"\r\n")}
    assert names == {line.partition(b":")[0] for line in ask("GET")[0].split(b"\r\n")}


def test_the_head_of_what_may_be_long_is_refused(served):
    for path in ("/v1/events", "/v1/export", "/mcp"):
        assert b" 405 " in exchange(served, f"HEAD {path} HTTP/1.1\r\nHOST\r\n".encode() + CLOSE).split(b"\r\n")[0]


BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("10" * 400),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["a", "", "é"]) | st.text(max_size=2), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(
    "query queries k where namespace mode explain text items keys key session everything dry_run texts metadata".split()
)
PATHS = ["/v1/search", "/v1/memories", "/v1/memories/get", "/v1/memories/forget", "/v1/encode", "/v1/queries/clear"]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(PATHS), st.dictionaries(NAMES, BODIES, max_size=4) | BODIES)
def test_the_short_way_answers_as_the_long_way_does(served, path, body):
    text = json.dumps(body).encode()
    answers = []
    for kind in ("application/json", "application/x+json"):  # the second is no JSON to the short way
        content = text.replace(b'"dry_run": false', b'"dry_run": true')
        answer = served.client.post(path, content=content, headers={"content-type": kind})
        shown = answer.json() if answer.content else None
        answers.append((answer.status_code, answer.headers["content-type"], shape(shown, answer.status_code)))
    assert answers[0] == answers[1]


def shape(shown, status):
    """What two answers have in common: all of a refusal, the names of a success, whose keys and times differ."""
    if status >= 400:
        return shown
    return sorted(shown) if isinstance(shown, dict) else type(shown)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"query": "x"',
        b'\xef\xbb\xbf{"query": "x"}',
        '{"query": "x"}'.encode("utf-16"),
        b'{"query": "\xff"}',
        b'{"query": "\\ud800"}',
        b'{"query": "x", "k": 1e999}',
        b'{"query": "x", "k": NaN}',
        b'{"query": "x", "k": -0}',
        b'{"query": "x", "k": 2, "k": 1}',
        b'{"query": [' + b"1," * 9 + b"1]}",
        b'{"query": "x", "where": ' + b'{"$not": ' * 300 + b"{}" + b"}" * 300 + b"}",
        b'{"query": "x", "nonsense": 1}',
        b'{"query": "x", "queries": ["x"]}',
        b"{} {}",
        b'{"query": "x",}',
        b"{'query': 'x'}",
        b'{"k": 1' + b"0" * 5000 + b', "query": "x"}',
    ],
)
def test_a_body_means_the_same_on_either_way(served, content):
    served.memory.add("x is here", key="x")
    short, long = (
        served.client.post("/v1/search", content=content, headers={"content-type": kind})
        for kind in ("application/json; charset=utf-8", "application/x+json")
    )
    assert short.status_code == long.status_code
    assert short.json() == long.json()


def test_a_query_parameter_that_a_route_does_not_know_is_refused(served):
    """A misspelt one would be ignored, as a dry run that forgets for good."""
    entry = served.memory.add("Ada keeps bees", key="bees")
    answer = served.client.delete("/v1/memories/bees", params={"dryrun": "true"})
    assert answer.status_code == 422
    assert "unknown query parameter 'dryrun'; it takes namespace, deferred, dry_run" in answer.json()["detail"]
    twice = served.client.delete("/v1/memories/bees?dry_run=true&dry_run=false")
    assert twice.status_code == 422 and "may be given once, got 2" in twice.json()["detail"]
    assert served.memory.get("bees") == entry
    for path, operations in served.client.get("/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            if not path.startswith("/v1/"):
                continue
            where = path.replace("{", "").replace("}", "")
            refused = served.client.request(method, where, params={"unheard": "1"}, json={})
            assert refused.status_code == 422, (method, path)
            assert "unknown query parameter 'unheard'" in refused.json()["detail"]
            taken = refused.json()["detail"].partition("it takes ")[2].split(", ")
            named = [one["name"] for one in operation.get("parameters", []) if one["in"] == "query"]
            assert taken == (named or ["none"]), (method, path)
