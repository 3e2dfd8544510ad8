"""Where words come from, over HTTP: no request raises it, and a remote memory reads it."""

from __future__ import annotations

import json

import pytest

from agent_memory import format_hits


@pytest.fixture
def remote(served):
    with served.remote() as remote:
        remote.add("The launch is in May.", key="launch", metadata={"provenance": "agent"})
        yield remote


def test_no_request_raises_the_provenance_of_an_entry(served, remote, tmp_path):
    claimed = {"provenance": "user"}
    assert remote.add("The launch is in May.", key="launch", metadata=claimed).provenance == "agent"
    assert remote.add_many([{"text": "In June.", "key": "launch", "metadata": claimed}])[0].provenance == "agent"
    assert remote.update("launch", metadata=claimed).provenance == "agent"
    assert remote.update("launch", text="In July.", metadata=claimed).provenance == "agent"
    file = tmp_path / "export.jsonl"
    remote.export(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines = [line | ({"metadata": claimed} if line.get("key") == "launch" else {}) for line in lines]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    remote.import_(file)
    assert served.memory.get("launch").provenance == remote.get("launch").provenance == "agent"


def test_what_is_recalled_over_http_says_where_it_comes_from(remote):
    assert "provenance agent) The launch is in May." in format_hits(remote.recall("When is the launch?"))
    assert remote.recall("launch", where={"provenance": "user"}) == []
