"""What the description says, held against what the server does; and HTTP against Python."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from support import WordEncoder
from support_server import serve_in_process

from agent_memory import AgentMemoryError, Memory
from agent_memory.server.settings import Settings

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LONG = ("/v1/events", "/v1/backup", "/v1/jobs")  # a stream that does not end, and what is covered elsewhere


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("described") / "store"
    with serve_in_process(lambda: Memory(folder, encoder=WordEncoder()), Settings()) as served:
        served.memory.add_many([{"text": f"fact number {i}", "key": f"k{i}", "session": "s"} for i in range(5)])
        yield served


@pytest.mark.slow
def test_every_answer_is_as_described(served):
    key = {"authorization": f"Bearer {served.key()}"}
    described = schemathesis.openapi.from_url(f"{served.url}/openapi.json").exclude(path=list(LONG))
    faults = []
    for found in described.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), database=None
        )
        @given(case=operation.as_strategy())
        def check(case):
            case.call_and_validate(checks=CHECKS, headers=key, timeout=60)

        try:
            check()
        except Exception as error:
            faults.append(f"{operation.label}: {error}")
    assert not faults, "\n\n".join(faults)
    counted = served.client.get("/metrics", headers=key).text
    assert 'agent_memory_requests_total{method="POST",status="200"}' in counted  # some of it was usable


NAMES = st.sampled_from(["a", "b", "c/d", "é ü", "x" * 512, "", "a\nb", "?", "%2F", ".."])
WORDS = st.lists(st.sampled_from("tea coffee rain sun moves lives berlin rome".split()), min_size=0, max_size=4).map(
    " ".join
)
SCOPES = st.sampled_from([None, (), ("t",), ("t", "u")])
WHERE = st.sampled_from([None, {}, {"n": 1}, {"n": {"$gte": 2}}, {"n": {"$bad": 1}}, {"$or": [{"n": 1}, {"n": 3}]}])
ITEM = st.fixed_dictionaries(
    {"text": WORDS, "key": NAMES},
    optional={
        "session": NAMES,
        "speaker": NAMES,
        "metadata": st.sampled_from([{}, {"n": 1}, {"n": 3, "deep": {"x": [1, None]}}]),
        "importance": st.sampled_from([0.5, 2, -1]),
        "namespace": SCOPES,
        "event_time": st.sampled_from(["2024-01-01", "soon", datetime(2024, 5, 1, tzinfo=UTC)]),
    },
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "k": st.sampled_from([1, 3, 0, 10_001]),
        "session": NAMES,
        "where": WHERE,
        "mode": st.sampled_from(["hybrid", "dense", "lexical", "other"]),
        "explain": st.booleans(),
        "exact": st.booleans(),
        "diversity": st.sampled_from([0.0, 0.5, 2.0]),
        "half_life": st.sampled_from([timedelta(days=1), timedelta(0)]),
        "namespace": SCOPES,
    },
)
CALLS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.just(()), ITEM),
        st.tuples(st.just("add_many"), st.lists(ITEM, max_size=3).map(lambda items: (items,)), st.just({})),
        st.tuples(st.just("recall"), WORDS.map(lambda text: (text,)), OPTIONS),
        st.tuples(st.just("recall_many"), st.lists(WORDS, max_size=2).map(lambda texts: (texts,)), OPTIONS),
        st.tuples(st.just("why"), st.tuples(WORDS, NAMES), OPTIONS),
        st.tuples(st.just("get"), st.tuples(NAMES), st.fixed_dictionaries({}, optional={"namespace": SCOPES})),
        st.tuples(
            st.just("update"),
            st.tuples(NAMES),
            st.fixed_dictionaries({}, optional={"text": WORDS, "importance": st.sampled_from([None, 0.1, 7])}),
        ),
        st.tuples(st.just("history"), st.tuples(NAMES), st.just({})),
        st.tuples(st.just("supersede"), st.tuples(NAMES, NAMES), st.just({})),
        st.tuples(
            st.just("forget"),
            st.tuples(),
            st.fixed_dictionaries({}, optional={"key": NAMES, "where": WHERE, "session": NAMES}),
        ),
        st.tuples(
            st.just("entries"),
            st.tuples(),
            st.fixed_dictionaries({}, optional={"where": WHERE, "limit": st.sampled_from([0, 1, 5])}),
        ),
        st.tuples(st.sampled_from(["sessions", "namespaces", "purge_expired"]), st.just(()), st.just({})),
    ),
    min_size=1,
    max_size=12,
)


def outcome(memory, call):
    """What a call returns or raises, without the moments at which it was made."""
    name, args, kwargs = call
    try:
        return timeless(getattr(memory, name)(*args, **kwargs))
    except AgentMemoryError as error:
        return type(error), str(error)


def timeless(found):
    from agent_memory.formats.payload import to_json

    moments = {"created_at", "updated_at", "superseded_at", "event_time", "first_event", "last_event"}

    def strip(value):
        if isinstance(value, dict):
            return {key: strip(part) for key, part in value.items() if key not in moments}
        if isinstance(value, list):
            return [strip(part) for part in value]
        return round(value, 5) if isinstance(value, float) else value

    return strip(to_json(found))


@pytest.fixture(scope="module")
def open_server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared") / "store"
    with serve_in_process(lambda: Memory(folder, encoder=WordEncoder()), Settings()) as served:
        yield served


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(calls=CALLS)
def test_http_and_python_give_the_same_hits_errors_and_counts(open_server, tmp_path_factory, calls):
    served = open_server
    served.memory.forget(everything=True)
    remote = served.remote()
    with Memory(tmp_path_factory.mktemp("python"), encoder=WordEncoder()) as local:
        for call in calls:
            assert outcome(remote, call) == outcome(local, call), call
