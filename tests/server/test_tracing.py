"""Spans of OpenTelemetry: of requests, of the memory's operations and of their stages; without content."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

import httpx
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support import WordEncoder
from support_server import _serve, serve_alone

from agent_memory import InvalidInputError, Memory, NotFoundError
from agent_memory.server.app import create_app
from agent_memory.server.settings import Settings
from agent_memory.telemetry import stages as telemetry
from agent_memory.telemetry.tracing import CONTENT_VARIABLE, trace

SECRETS = ("xylophone", "zeppelin", "quokka", "marmalade", "ocelot")
PARENT = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    yield InMemorySpanExporter()
    assert telemetry._observers == []


@pytest.fixture
def provider(spans) -> TracerProvider:
    found = TracerProvider(shutdown_on_exit=False)
    found.add_span_processor(SimpleSpanProcessor(spans))
    return found


@contextmanager
def traced(provider: TracerProvider, **options: object) -> Iterator[None]:
    stop = trace(provider, **options)
    try:
        yield
    finally:
        stop()


def name_children(spans: InMemorySpanExporter) -> dict[str, set[str | None]]:
    """Return the names of spans with those of their parents."""
    finished = spans.get_finished_spans()
    names = {span.context.span_id: span.name for span in finished}
    found: dict[str, set[str | None]] = {}
    for span in finished:
        found.setdefault(span.name, set()).add(names.get(span.parent.span_id) if span.parent else None)
    return found


class Reranker:
    def score(self, query, texts):
        import numpy as np

        return np.arange(len(texts), dtype=np.float32)


def use_everything(memory: Memory) -> None:
    memory.add("a xylophone in the attic", session="quokka", speaker="marmalade", metadata={"kind": "ocelot"})
    memory.add("a zeppelin over the lake", key="zeppelin")
    memory.add_many(["one more zeppelin", "another xylophone"], session="quokka")
    memory.update("zeppelin", text="a larger zeppelin")
    memory.recall("where is the xylophone", session="quokka", k=2, rerank=Reranker())
    memory.recall_many(["xylophone", "zeppelin"], where={"kind": "ocelot"}, k=3)
    memory.why("xylophone", "zeppelin")
    memory.reindex(tiers=(32, 96))
    memory.rollback()
    memory.forget("zeppelin")


def test_operations_and_their_stages_are_spans_by_the_conventions(spans, provider, tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory, traced(provider):
        use_everything(memory)
        store = memory._store.id
    parents = name_children(spans)
    assert {"create_memory", "upsert_memory", "update_memory", "delete_memory", "search_memory"} <= set(parents)
    operations = ("create_memory", "upsert_memory", "search_memory", "delete_memory", "agent_memory.reindex")
    assert all(parents[name] == {None} for name in operations)
    assert {"create_memory", "upsert_memory", "update_memory", "search_memory"} <= parents["embeddings words"]
    assert "search_memory" in parents["agent_memory.tiers"] & parents["agent_memory.words"]
    assert parents["agent_memory.rerank"] == {"search_memory"}
    assert parents["agent_memory.rollback"] == parents["agent_memory.why"] == {None}
    for span in spans.get_finished_spans():
        assert span.kind is SpanKind.INTERNAL and span.status.status_code is StatusCode.UNSET
        if span.name.endswith("_memory"):
            assert span.attributes["gen_ai.operation.name"] == span.name
            assert span.attributes["gen_ai.provider.name"] == "agent_memory"
            assert span.attributes["gen_ai.memory.store.id"] == store
    search = [span.attributes for span in spans.get_finished_spans() if span.name == "search_memory"]
    assert [one["gen_ai.memory.record.count"] for one in search] == [2, 2]
    assert search[0]["agent_memory.k"] == 2 and search[1]["agent_memory.questions"] == 2
    encode = next(span.attributes for span in spans.get_finished_spans() if span.name == "embeddings words")
    assert encode["gen_ai.request.model"] == "words" and encode["gen_ai.embeddings.dimension.count"] == 96


@pytest.mark.parametrize("variable", [None, "false", "no_content", ""])
def test_no_span_holds_content(spans, provider, tmp_path, monkeypatch, variable):
    monkeypatch.delenv(CONTENT_VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(CONTENT_VARIABLE, variable)
    with Memory(tmp_path, encoder=WordEncoder()) as memory, traced(provider):
        use_everything(memory)
        with pytest.raises(NotFoundError):
            memory.update("xylophone", text="zeppelin")
        with pytest.raises(InvalidInputError):
            memory.recall("xylophone", where={"$ocelot": 1})
    told = "".join(span.to_json() for span in spans.get_finished_spans())
    assert told and not [secret for secret in SECRETS if secret in told]


@pytest.mark.parametrize("how", ["argument", "true", "SPAN_ONLY"])
def test_spans_hold_content_where_that_is_asked_for(spans, provider, tmp_path, monkeypatch, how):
    if how != "argument":
        monkeypatch.setenv(CONTENT_VARIABLE, how)
    with (
        Memory(tmp_path, encoder=WordEncoder()) as memory,
        traced(provider, content=True if how == "argument" else None),
    ):
        use_everything(memory)
    search = next(span.attributes for span in spans.get_finished_spans() if span.name == "search_memory")
    assert search["gen_ai.memory.query.text"] == "where is the xylophone"
    assert search["gen_ai.conversation.id"] == "quokka"
    records = json.loads(search["gen_ai.memory.records"])
    assert {"id", "content", "score"} == set(records[0]) and "xylophone" in search["gen_ai.memory.records"]
    added = next(span.attributes for span in spans.get_finished_spans() if span.name == "create_memory")
    assert json.loads(added["gen_ai.memory.records"]) == [{"content": "a xylophone in the attic"}]
    forgotten = next(span.attributes for span in spans.get_finished_spans() if span.name == "delete_memory")
    assert forgotten["gen_ai.memory.record.id"] == "zeppelin"


def test_an_error_is_told_by_its_name(spans, provider, tmp_path):
    class Broken(WordEncoder):
        def encode_queries(self, texts):
            raise ValueError("the xylophone is out of tune")

    with Memory(tmp_path, encoder=Broken()) as memory, traced(provider):
        memory.add("something")
        with pytest.raises(Exception, match="out of tune"):
            memory.recall("xylophone")
    search = next(span for span in spans.get_finished_spans() if span.name == "search_memory")
    assert search.status.status_code is StatusCode.ERROR and not search.status.description
    assert search.attributes["error.type"] == "EncoderError" and not search.events


def test_nothing_is_traced_before_and_after(spans, provider, tmp_path):
    with Memory(tmp_path, encoder=WordEncoder()) as memory:
        memory.add("before")
        with traced(provider):
            pass
        memory.add("after")
    assert spans.get_finished_spans() == ()


def test_a_memory_that_nobody_traces_does_not_load_opentelemetry(tmp_path):
    code = (
        "import sys; from agent_memory import Memory; import agent_memory.telemetry.tracing\n"
        "with Memory(sys.argv[1]) as memory: memory.add('x', vector=False); memory.recall('x', mode='lexical')\n"
        "assert not [name for name in sys.modules if name.startswith('opentelemetry')]"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path], check=True)


@contextmanager
def serve_traced(provider, folder, *, encoder=None, otel=True) -> Iterator[httpx.Client]:
    app = create_app(
        lambda: Memory(folder, encoder=encoder or WordEncoder()), Settings(otel=otel), tracer_provider=provider
    )
    with contextmanager(_serve)(app) as served:
        yield served.client


def test_the_context_of_a_request_is_the_parent_of_all_that_is_done_for_it(spans, provider, tmp_path):
    headers = {"traceparent": f"00-{PARENT}-00f067aa0ba902b7-01"}
    with serve_traced(provider, tmp_path) as client:
        client.post("/v1/memories", json={"text": "a xylophone", "key": "ocelot"}, headers=headers)
        client.post("/v1/search", json={"query": "xylophone"}, headers=headers)
        client.get("/v1/memories/ocelot", params={"namespace": "[]"}, headers=headers)
        assert client.get("/v1/memories/quokka", headers=headers).status_code == 404
        client.post("/v1/reindex", json={"tiers": [32, 96]}, headers={**headers, "prefer": "respond-async"})
    assert {f"{span.context.trace_id:032x}" for span in spans.get_finished_spans()} == {PARENT}
    parents = name_children(spans)
    assert parents["upsert_memory"] == {"POST /v1/memories"}
    assert parents["search_memory"] == {"POST /v1/search"}
    assert parents["agent_memory.reindex"] == {"POST /v1/reindex"}
    found = {span.name: span for span in spans.get_finished_spans() if span.kind is SpanKind.SERVER}
    assert found["POST /v1/search"].attributes["http.response.status_code"] == 200
    assert "GET /v1/memories/{key}" in found
    assert not [secret for secret in SECRETS for span in spans.get_finished_spans() if secret in span.to_json()]


def test_a_request_without_a_context_begins_one_and_a_failure_is_an_error(spans, provider, tmp_path):
    with serve_traced(provider, tmp_path) as client:
        assert client.get("/v1/stats", headers={"traceparent": "nonsense"}).status_code == 200
        assert client.request("PROPFIND", "/v1/stats").status_code == 405
    assert [span.name for span in spans.get_finished_spans()] == ["GET /v1/stats", "_OTHER /v1/stats"]
    spans.clear()

    class Broken(WordEncoder):
        def encode_queries(self, texts):
            raise ValueError("the xylophone is out of tune")

    with serve_traced(provider, tmp_path / "broken", encoder=Broken()) as client:
        client.post("/v1/memories", json={"text": "something"})
        assert client.post("/v1/search", json={"query": "zeppelin"}).status_code == 500
    found = {span.name: span for span in spans.get_finished_spans()}
    assert found["POST /v1/search"].status.status_code is StatusCode.ERROR
    assert found["search_memory"].attributes["error.type"] == "EncoderError"
    assert not [secret for secret in SECRETS for span in found.values() if secret in span.to_json()]


def test_a_server_that_is_not_asked_to_trace_writes_no_spans(spans, provider, tmp_path):
    with serve_traced(provider, tmp_path, otel=False) as client:
        assert client.post("/v1/memories", json={"text": "a xylophone"}).status_code == 201
    assert spans.get_finished_spans() == ()


class Collector(BaseHTTPRequestHandler):
    bodies: ClassVar[list[bytes]] = []

    def do_POST(self) -> None:
        self.bodies.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.slow
def test_a_server_sends_its_spans_to_a_collector(tmp_path):
    Collector.bodies.clear()
    collector = ThreadingHTTPServer(("127.0.0.1", 0), Collector)
    Thread(target=collector.serve_forever, daemon=True).start()
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}"}
    assert not [name for name in os.environ if name.startswith("OTEL_")]
    with serve_alone(tmp_path / "store", "--otel", env=env) as (url, process):
        body = {"text": "a xylophone", "vector": False}
        assert httpx.post(f"{url}/v1/memories", json=body, timeout=60).status_code == 201
        process.terminate()
        assert process.wait(60) in (0, -signal.SIGTERM)
    collector.shutdown()
    collector.server_close()
    sent = b"".join(Collector.bodies)
    assert b"create_memory" in sent and b"POST /v1/memories" in sent and b"agent-memory" in sent
    assert b"xylophone" not in sent
