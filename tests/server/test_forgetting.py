"""Forgetting over HTTP: the whole receipt, what a preview counts, and what each key may read of it."""

from __future__ import annotations

import json

import pytest
from support import WordEncoder

from agent_memory import Config, Memory
from agent_memory.records import Erasure

SECRET = "zanzibar"
MOMENTS = {"token", "made_at", "store_id"}


def fill(memory):
    """One entry with a former version and one it superseded, and one that stays."""
    memory.add("tea", key="old", metadata={"n": 1}, session="s")
    memory.add("coffee", key="drink", metadata={"n": 1}, session="s")
    memory.update("drink", text="cocoa")
    memory.supersede("old", "drink")
    memory.add("rain", key="weather", metadata={"n": 2}, session="s")


SELECTIONS = [
    {"key": "drink"},
    {"key": "old"},
    {"key": "nobody"},
    {"where": {"n": 1}},
    {"session": "s"},
    {"session": "s", "where": {"n": 2}},
    {"everything": True},
    {"key": "drink", "dry_run": True},
    {"everything": True, "dry_run": True},
    {"key": "drink", "deferred": True},
]


@pytest.mark.parametrize("selection", SELECTIONS, ids=json.dumps)
def test_a_receipt_over_http_is_that_of_python(serve, tmp_path, selection):
    served = serve()
    with Memory(tmp_path / "local", encoder=WordEncoder()) as local:
        fill(local)
        expected = local.forget(**selection)
    fill(served.memory)
    found = served.remote().forget(**selection)
    assert isinstance(found, Erasure)
    assert found == expected
    there, here = found.to_dict(), expected.to_dict()
    assert there.keys() == here.keys()
    for name in there.keys() - MOMENTS:
        assert there[name] == here[name], name
    assert (len(found.token), found.store_id != "") == (len(expected.token), True)


def test_each_route_answers_with_the_whole_receipt(served):
    fill(served.memory)
    names = {"forgotten", *Erasure.__annotations__}
    answer = served.client.delete("/v1/memories/weather").json()
    assert answer.keys() == names
    assert (answer["forgotten"], answer["rows"], answer["selection"], answer["pending"]) == (1, 1, "key", [])
    assert answer["verified"]
    answer = served.client.post("/v1/memories/forget", json={"where": {"n": 1}}).json()
    assert answer.keys() == names
    assert (answer["forgotten"], answer["rows"], len(answer["ids"])) == (2, 3, 3)
    answer = served.client.post("/v1/purge").json()
    assert answer.keys() == names
    assert (answer["forgotten"], answer["selection"], answer["token"]) == (0, "expired", "")
    assert served.remote().purge_expired() == 0


def test_a_preview_counts_versions_and_superseded_entries_and_forgets_nothing(served):
    fill(served.memory)
    for seen in (
        served.client.post("/v1/memories/forget", json={"key": "drink", "dry_run": True}).json(),
        served.client.delete("/v1/memories/drink", params={"dry_run": "true"}).json(),
    ):
        assert (seen["would_forget"], seen["rows"], seen["dry_run"]) == (2, 3, True)
        assert sorted(one["text"] for one in seen["sample"]) == ["cocoa", "coffee", "tea"]
    assert served.memory.get("drink").text == "cocoa"
    for flag in ("yes", None, 1):
        answer = served.client.post("/v1/memories/forget", json={"everything": True, "dry_run": flag})
        assert answer.status_code == 422, flag
    assert len(served.memory.entries()) == 2


def test_only_the_operator_learns_where_copies_lie(served, tmp_path):
    served.memory.add("first", key="a", namespace=("acme",))
    served.memory.add("second", key="b", namespace=("acme",))
    served.memory.add("third", key="c", namespace=("acme",))
    served.memory.backup(tmp_path / "copy.db")
    served.memory.export(tmp_path / "copy.jsonl")
    given = {"params": {"namespace": "acme"}}
    keys = (served.as_key("acme", role="admin"), served.as_key(role="writer"), served.as_key("acme", role="writer"))
    for client in keys:
        for method, path in (("DELETE", "/v1/memories/a"), ("DELETE", "/v1/memories/a?dry_run=true&namespace=acme")):
            answer = client.request(method, path, **({} if "?" in path else given))
            assert answer.status_code == 200
            assert not {"backups", "exports"} & answer.json().keys()
            assert str(tmp_path) not in answer.text
    answer = served.as_key(role="admin").delete("/v1/memories/b", **given).json()
    assert answer["backups"] == [str(tmp_path / "copy.db")]
    assert answer["exports"] == [str(tmp_path / "copy.jsonl")]
    remote = served.remote(key=served.key("acme", role="writer"))
    assert remote.forget("c").backups == ()


def test_what_is_pending_names_no_folder_to_others(serve, tmp_path):
    served = serve(config=Config(lock_timeout_s=0.3))
    client = served.as_key("acme", role="writer")
    client.post("/v1/memories", json={"text": "first", "key": "a"})
    with served.memory._store.read() as tx:  # the log cannot be emptied while somebody reads
        assert tx.changes.last_seq() > 0
        answer = client.delete("/v1/memories/a")
    assert any("log in use" in one for one in answer.json()["pending"])
    assert str(tmp_path) not in answer.text


def test_a_repeated_request_gets_the_same_receipt_and_the_server_keeps_no_content_of_it(served, tmp_path):
    served.memory.add(f"{SECRET} is here", key=f"{SECRET}-key", metadata={"who": SECRET}, session=SECRET)
    served.memory.add(f"{SECRET} is here, too", key="other", metadata={"who": SECRET}, session=SECRET)
    for given in ({"where": {"who": SECRET}}, {"session": SECRET}, {"key": f"{SECRET}-key"}):
        headers = {"idempotency-key": json.dumps(sorted(given))}
        served.client.post("/v1/memories/forget", json={**given, "dry_run": True}, headers=headers)
    headers = {"idempotency-key": "once"}
    first = served.client.post("/v1/memories/forget", json={"session": SECRET}, headers=headers).json()
    again = served.client.post("/v1/memories/forget", json={"session": SECRET}, headers=headers).json()
    assert first == again
    assert (first["forgotten"], len(first["token"])) == (2, 32)
    kept = b"".join(file.read_bytes() for file in (tmp_path / "store").glob("*.db*"))
    assert SECRET.encode() not in kept
