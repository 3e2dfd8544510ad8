"""Commands given the address of a store on PostgreSQL in the place of a folder."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("psycopg", reason="pip install 'agent-memory[postgres]'")

from typer.testing import CliRunner

from agent_memory import Memory
from agent_memory.cli import app


def call(*arguments, code=0, path=None):
    given = [str(one) for one in arguments]
    result = CliRunner().invoke(app, [*given, *(["--path", path] if path else [])], env={"COLUMNS": "200"})
    assert result.exit_code == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stderr


def test_commands_do_at_an_address_what_they_do_in_a_folder(url, tmp_path):
    assert "there is no store in postgresql://" in call("stats", path=url, code=3)
    call("add", "Alice moved to Berlin.", "--key", "home", "-s", "chat", path=url)
    assert "Berlin" in call("recall", "Where is Alice?", path=url)
    assert json.loads(call("stats", "--json", path=url))["entries"] == 1
    assert json.loads(call("check", "--json", path=url))["problems"] == []
    assert "home" in call("list", path=url) and "chat" in call("session", "list", path=url)
    call("update", "home", "--text", "Alice moved to Porto.", path=url)
    assert "Berlin" in call("history", "home", path=url)
    call("export", tmp_path / "out.jsonl", path=url)
    call("backup", tmp_path / "backup.db", path=url)
    call("maintenance", path=url)
    call("forget", "home", path=url)
    assert json.loads(call("import", tmp_path / "out.jsonl", "--json", path=url))["new"] == 1


def test_a_store_is_copied_and_restored_at_the_command_line(url, tmp_path):
    with Memory(tmp_path / "a") as memory:
        memory.add("Alice moved to Berlin.", key="home")
        memory.backup(tmp_path / "backup.db")
    assert "would copy 1 entries" in call("copy", tmp_path / "a", url, "--dry-run")
    said = json.loads(call("copy", tmp_path / "a", url, "--json"))
    assert (said["entries"], said["found"], said["dry_run"]) == (1, 0, False)
    assert "all rows are the same" in call("copy", url, tmp_path / "b")
    assert "Berlin" in call("recall", "Alice", path=str(tmp_path / "b"))
    call("add", "And to Porto.", path=url)
    assert "one of them has changed" in call("restore", tmp_path / "backup.db", path=url, code=2)
    assert "1 entries in postgresql://" in call("restore", tmp_path / "backup.db", path=f"{url}_restored")


@pytest.mark.parametrize("command", [("agent", "take-in"), ("agent", "status"), ("agent", "uninstall", "claude-code")])
def test_commands_that_need_a_folder_say_so_and_show_no_password(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = call(*command, path="postgresql://me:secret@db.example/agents?password=hidden", code=2)
    assert "must be a folder" in said and "db.example" in said
    assert "secret" not in said and "hidden" not in said
    assert list(tmp_path.iterdir()) == []


def test_other_addresses_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for address in ("mysql://me@db.example/agents", "https://memory.example"):
        assert "postgresql://" in call("add", "text", path=address, code=2)
        assert "postgresql://" in call("copy", address, tmp_path / "b", code=2)
    assert list(tmp_path.iterdir()) == []


def test_a_server_of_such_a_store_keeps_its_keys_in_a_folder_of_its_own(url, tmp_path):
    with Memory(url) as memory:
        memory.add("Alice moved to Berlin.", key="home")
    assert "--ledger FOLDER" in call("keys", "list", path=url, code=2)
    assert "--ledger FOLDER" in call("serve", "--port", "0", path=url, code=2)
    ledger = tmp_path / "ledger"
    made = json.loads(call("keys", "create", "--role", "writer", "--ledger", ledger, "--json", path=url))
    from fastapi.testclient import TestClient

    from agent_memory.server.app import create_app
    from agent_memory.server.settings import Settings

    with TestClient(
        create_app(lambda: Memory(url), Settings(ledger=str(ledger))), base_url="http://127.0.0.1"
    ) as client:
        asked = {"query": "Where is Alice?"}
        assert client.post("/v1/search", json=asked).status_code == 401
        found = client.post("/v1/search", json=asked, headers={"authorization": f"Bearer {made['text']}"})
        assert found.status_code == 200, found.text
        assert "Berlin" in found.text
    assert made["key"]["id"] in call("keys", "list", "--ledger", ledger, path=url)
    call("keys", "revoke", made["key"]["id"], "--ledger", ledger, path=url)
