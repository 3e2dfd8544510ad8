"""Spans of OpenTelemetry (extra ``otel``), by its conventions for memory operations of generative AI.

Nothing is traced, and OpenTelemetry is not imported, until ``trace`` is called. Spans hold no content unless that is
asked for: numbers, names of models and errors, and the id of the store.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from agent_memory.errors import InvalidInputError, MissingDependencyError
from agent_memory.telemetry.stages import CONTENT, Facts, observe

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
    from opentelemetry.trace import Span, Tracer, TracerProvider

CONTENT_VARIABLE = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
"""The variable by which OpenTelemetry's own instrumentations of generative AI are allowed to tell content."""

_ALLOWING = ("1", "true", "span_only", "span_and_event")
_OPERATIONS = {"update": "update_memory", "forget": "delete_memory", "recall": "search_memory"}
_NAMES = {
    "query": "gen_ai.memory.query.text",
    "key": "gen_ai.memory.record.id",
    "session": "gen_ai.conversation.id",
    "records": "gen_ai.memory.record.count",
    "model": "gen_ai.request.model",
    "dimension": "gen_ai.embeddings.dimension.count",
}


def trace(tracer_provider: TracerProvider | None = None, *, content: bool | None = None) -> Callable[[], None]:
    """Write a span for each operation of every memory of this process, and its stages; returns what ends that.

    Args:
        tracer_provider: Where spans go; OpenTelemetry's global provider if left out.
        content: Whether spans hold texts, questions, keys and sessions; if left out, whether the environment variable
            ``OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT`` says so.

    Raises:
        MissingDependencyError: OpenTelemetry is not installed.

    Example:
        >>> from agent_memory.telemetry.tracing import trace
        >>> stop = trace()
        >>> entry = memory.add("Alice moved to Berlin.")  # the span "create_memory", in it "embeddings …"
        >>> stop()
    """
    tracer, told = get_tracer(tracer_provider), allows_content() if content is None else content
    if not isinstance(told, bool):
        raise InvalidInputError(f"content must be True, False or None, got {told!r}")

    @contextmanager
    def observer(name: str, facts: Facts) -> Iterator[None]:
        with _open(tracer, _name(name, facts), told) as span:
            span.set_attributes(_describe(name, facts, told))
            yield
            if span.is_recording():
                span.set_attributes(_describe(name, facts, told))

    return observe(observer)


def get_tracer(tracer_provider: TracerProvider | None = None) -> Tracer:
    """Return what makes spans.

    Raises:
        MissingDependencyError: OpenTelemetry is not installed.
    """
    try:
        from opentelemetry import trace as api
    except ModuleNotFoundError as error:
        raise MissingDependencyError("opentelemetry", "otel") from error
    return api.get_tracer("agent-memory", version("agent-memory"), tracer_provider)


def allows_content() -> bool:
    """Return whether the environment allows spans to hold content."""
    return os.environ.get(CONTENT_VARIABLE, "").strip().lower() in _ALLOWING


@contextmanager
def trace_request(tracer: Tracer, method: str, headers: Mapping[str, str]) -> Iterator[Facts]:
    """Write the span of an HTTP request, whose parent is the one that its headers name.

    Args:
        tracer: Makes the span.
        method: The request's method.
        headers: Its headers.

    Yields:
        Facts to be added: ``route``, a path with the names of its parameters, and ``status``. Paths and queries as
        they were sent are left out, since they hold keys and filters.
    """
    from opentelemetry import propagate
    from opentelemetry.trace import SpanKind, Status, StatusCode

    facts: Facts = {}
    parent = propagate.extract(headers)
    with _open(tracer, method, False, context=parent, kind=SpanKind.SERVER) as span:
        span.set_attribute("http.request.method", method)
        yield facts
        if route := facts.get("route"):
            span.update_name(f"{method} {route}")
            span.set_attribute("http.route", route)
        if status := facts.get("status"):
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_attribute("error.type", str(status))
                span.set_status(Status(StatusCode.ERROR))


def export_spans() -> SdkTracerProvider:
    """Return a provider that sends spans by OTLP over HTTP, to where OpenTelemetry's environment variables say.

    Raises:
        MissingDependencyError: OpenTelemetry's SDK or exporter is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise MissingDependencyError(error.name or "opentelemetry", "otel") from error
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "agent-memory"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


@contextmanager
def _open(tracer: Tracer, name: str, told: bool, **options: Any) -> Iterator[Span]:  # noqa: ANN401 - OpenTelemetry's
    """Open a span; an error is noted by its name, and by its message only if content may be told."""
    from opentelemetry.trace import Status, StatusCode

    current: AbstractContextManager[Span] = tracer.start_as_current_span(
        name, record_exception=told, set_status_on_exception=False, **options
    )
    with current as span:
        try:
            yield span
        except BaseException as error:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(Status(StatusCode.ERROR, str(error) if told else None))
            raise


def _name(name: str, facts: Facts) -> str:
    if name == "encode":
        return f"embeddings {facts['model']}"
    operation = _get_operation(name, facts)
    return operation or f"agent_memory.{name}"


def _get_operation(name: str, facts: Facts) -> str | None:
    if name == "add":
        return "upsert_memory" if facts.get("named") else "create_memory"
    return "embeddings" if name == "encode" else _OPERATIONS.get(name)


def _describe(name: str, facts: Facts, told: bool) -> dict[str, Any]:
    """Return the attributes of a span by the facts of its stage."""
    found: dict[str, Any] = {}
    if operation := _get_operation(name, facts):
        found["gen_ai.operation.name"] = operation
        found["gen_ai.provider.name"] = "agent_memory"
    for fact, value in facts.items():
        if value is None or (fact in CONTENT and not told):
            continue
        if fact == "store":
            found["gen_ai.memory.store.id"] = value.id
        elif fact == "texts":
            found["gen_ai.memory.records"] = json.dumps([{"content": text} for text in value], ensure_ascii=False)
        elif fact == "hits":
            records = [{"id": hit.entry.key, "content": hit.text, "score": hit.score} for hit in value]
            found["gen_ai.memory.records"] = json.dumps(records, ensure_ascii=False)
        else:
            found[_NAMES.get(fact, f"agent_memory.{fact}")] = value
    return found
