"""A key of one namespace never sees, counts or deletes what belongs to another, on any route."""

from __future__ import annotations

import json
import re

import httpx
import pytest

OURS, THEIRS = ("acme", "u1"), ("acme", "u2")
SECRET = "zanzibar"


@pytest.fixture
def shared(serve):
    served = serve()
    for namespace in (OURS, THEIRS, ("acme",), ()):
        word = "ours" if namespace == OURS else SECRET
        served.memory.add(f"{word} is here", key=f"{word}-key", session=f"{word}-s", speaker=word, namespace=namespace)
    served.memory.add(f"{SECRET} is here", key="same", namespace=THEIRS)
    served.memory.add("ours is here too", key="same", namespace=OURS)
    return served


def routes(served):
    """Every (method, path, whether a namespace can be named in the query) of the description, with names filled in."""
    for path, operations in served.client.get("/openapi.json", headers={}).json()["paths"].items():
        for method, operation in operations.items():
            scoped = any(one["name"] == "namespace" for one in operation.get("parameters", ()))
            for name in ("same", f"{SECRET}-key"):
                filled = path.replace("{key}", name).replace("{session}", f"{SECRET}-s").replace("{name}", "maintain")
                filled = filled.replace("{job}", "1").replace("{operation}", "x").replace("{key_id}", "000000000000")
                yield method.upper(), filled, scoped
                if filled == path:
                    break


BODIES = [
    {},
    {"query": SECRET, "k": 50, "explain": True, "mode": "lexical"},
    {"queries": [SECRET]},
    {"keys": [f"{SECRET}-key", "same"]},
    {"where": {"a": {"$exists": False}}, "dry_run": True},
    {"everything": True, "dry_run": True},
    {"session": f"{SECRET}-s", "dry_run": True},
    {"query": SECRET, "namespace": list(THEIRS)},
    {"query": SECRET, "entry_namespace": list(THEIRS)},
    {"query": SECRET, "entry_namespace": ["acme"], "mode": "lexical"},
    {"keys": ["same"], "namespace": list(THEIRS)},
    {"everything": True, "namespace": list(THEIRS)},
    {"everything": True, "namespace": ["acme"]},
    {"text": "x", "key": "same", "namespace": list(THEIRS)},
    {"items": [{"text": "x", "namespace": ["acme"]}]},
    {"by": "same", "namespace": list(THEIRS)},
]


@pytest.mark.parametrize("role", ["reader", "admin"])
def test_no_route_tells_or_changes_what_is_anothers(shared, role):
    client = shared.as_key(*OURS, role=role)
    before = sorted(
        (entry.namespace, entry.key, entry.text) for entry in shared.memory.entries() if entry.namespace != OURS
    )
    told = []
    for method, path, scoped in routes(shared):
        if path == "/v1/events":
            continue
        params = [{}, {"namespace": list(THEIRS)}, {"namespace": ["acme"]}]
        for turn, body in enumerate(BODIES if method in ("POST", "PATCH", "PUT") else [None]):
            for given in params if scoped or not turn else params[:1]:  # it means nothing there: once is enough
                answer = client.request(method, path, json=body, params=given)
                text = answer.text.replace(json.dumps(body)[1:-1], "")
                asked = SECRET in path or SECRET in json.dumps(body)
                if f"{SECRET} is here" in text or (SECRET in text and not asked and answer.status_code < 400):
                    told.append((method, path, body, given, text[:200]))
                assert answer.status_code < 500, (method, path, body, answer.text)
    assert not told
    after = sorted(
        (entry.namespace, entry.key, entry.text) for entry in shared.memory.entries() if entry.namespace != OURS
    )
    assert after == before


def test_counts_are_those_of_the_scope(shared):
    client = shared.as_key(*OURS)
    stats = client.get("/v1/stats").json()
    assert (stats["entries"], stats["sessions"], stats["namespaces"]) == (2, 1, 1)
    assert (stats["seq"], stats["database_bytes"], stats["snapshot_bytes"], stats["index"]) == (0, 0, 0, {})
    assert client.get("/v1/memories", params={"count": True}).json()["total"] == 2
    assert client.get("/v1/namespaces").json()["items"] == [list(OURS)]
    assert len(client.get("/v1/export").text.splitlines()) == 3


def test_everything_is_everything_of_the_scope(shared):
    others = len(shared.memory.entries()) - 2
    assert shared.as_key(*OURS).post("/v1/memories/forget", json={"everything": True}).json()["forgotten"] == 2
    assert len(shared.memory.entries()) == others


def test_what_concerns_the_whole_store_is_refused_to_a_narrower_key(shared):
    client = shared.as_key(*OURS)
    for method, path in [
        ("GET", "/metrics"),
        ("GET", "/v1/backup"),
        ("GET", "/v1/jobs"),
        ("GET", "/v1/generations"),
        ("GET", "/v1/schedules"),
        ("POST", "/v1/check"),
        ("POST", "/v1/reindex"),
        ("POST", "/v1/rollback"),
        ("POST", "/v1/maintenance"),
        ("POST", "/v1/snapshot"),
    ]:
        answer = client.request(method, path, json={} if method == "POST" else None)
        assert (answer.status_code, answer.json()["detail"]) == (
            403,
            "this concerns the whole store; the key sees 'acme/u1' only",
        ), path


def test_a_key_cannot_widen_itself(shared):
    client = shared.as_key(*OURS)
    for scope in ('["acme"]', "[]", json.dumps(list(THEIRS)), '"acme"', "{", '["acme", 1]'):
        answer = client.get("/v1/memories", headers={"agent-memory-namespace": scope})
        assert answer.status_code == 403, scope
    for namespace in (["acme"], [], list(THEIRS)):
        assert client.post("/v1/keys", json={"namespace": namespace, "role": "admin"}).status_code == 422
    made = client.post("/v1/keys", json={"namespace": [*OURS, "deep"], "role": "writer"})
    assert made.status_code == 201
    other = shared.as_key(*THEIRS)
    assert other.get("/v1/keys").json()["items"] == [
        key for key in other.get("/v1/keys").json()["items"] if key["namespace"][:2] == list(THEIRS)
    ]
    assert other.delete(f"/v1/keys/{made.json()['key']['id']}").status_code == 404


def test_the_audit_log_of_another_is_not_shown(shared):
    shared.as_key("ACME", "u1", role="writer").post(
        "/v1/memories", json={"text": "by another, whose name differs in case"}
    )
    shared.as_key(*THEIRS, role="writer").post("/v1/memories", json={"text": "by another"})
    ours = shared.as_key(*OURS)
    ours.post("/v1/memories", json={"text": "mine"})
    found = ours.get("/v1/audit").json()["items"]
    assert [(one["action"], one["namespace"], one["seq"]) for one in found] == [("add", list(OURS), 0)]


def test_cursors_tell_nothing_and_are_refused_when_made_up(shared):
    client = shared.as_key(*OURS)
    page = client.get("/v1/memories", params={"limit": 1}).json()
    assert re.fullmatch("[0-9a-f]{16}", page["next"])
    assert int(page["next"], 16) > 2**20
    rest = client.get("/v1/memories", params={"limit": 5, "cursor": page["next"]}).json()
    assert [entry["key"] for entry in page["items"] + rest["items"]] == ["ours-key", "same"]
    assert client.get("/v1/memories", params={"cursor": "0" * 15}).status_code == 422


def test_mcp_sees_the_scope_of_the_key_and_writes_by_its_role(shared):
    def call(client: httpx.Client, method: str, **params: object):
        headers = {"accept": "application/json, text/event-stream"}
        message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return client.post("/mcp", json=message, headers=headers).json()["result"]

    reader, writer = shared.as_key(*OURS, role="reader"), shared.as_key(*OURS, role="writer")
    names = {tool["name"] for tool in call(reader, "tools/list")["tools"]}
    assert names == {"recall", "read", "why", "list_sessions"}
    found = json.dumps(call(reader, "tools/call", name="recall", arguments={"query": SECRET, "k": 50}))
    assert "ours is here" in found
    assert f"{SECRET} is" not in found
    assert call(reader, "tools/call", name="forget", arguments={"everything": True}).get("isError")
    assert not call(writer, "tools/call", name="forget", arguments={"everything": True}).get("isError")
    assert {entry.namespace for entry in shared.memory.entries()} == {THEIRS, ("acme",), ()}
    assert httpx.post(f"{shared.url}/mcp", json={}).status_code == 401


def test_events_tell_the_keys_of_the_scope_alone_and_resume(shared):
    client = shared.as_key(*OURS, role="reader")

    def read(lines, wanted):
        events = []
        for line in lines:
            if line.startswith("id: "):
                last = line[4:]
            if line.startswith("data: "):
                events.append((json.loads(line[6:]).get("op"), json.loads(line[6:]).get("key")))
                if len(events) == wanted:
                    return events, last
        raise AssertionError("the stream ended")

    with client.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        next(lines)
        shared.memory.add("theirs", key="t1", namespace=THEIRS)
        shared.memory.add("of a feature", key="f1", namespace=(*OURS, "@internal"))
        shared.memory.add("mine", key="m1", namespace=OURS)
        assert read(lines, 1)[0] == [("put", "m1")]
        shared.memory.forget("t1", namespace=THEIRS)
        shared.memory.forget("m1", namespace=OURS)
        shared.memory.add("mine", key="m2", namespace=OURS)
        events, last = read(lines, 2)
        assert events == [("forget", "m1"), ("put", "m2")]
    shared.memory.add("mine", key="m3", namespace=OURS)
    with client.stream("GET", "/v1/events", headers={"last-event-id": last}) as stream:
        events, _ = read(stream.iter_lines(), 1)
        assert events == [("put", "m3")]
