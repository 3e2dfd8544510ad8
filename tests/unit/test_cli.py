from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from agent_memory.cli import app


def run(folder, *arguments, code=0, **options):
    command = [sys.executable, "-m", "agent_memory.cli.app", *map(str, arguments)]
    environment = {**os.environ, "AGENT_MEMORY_PATH": str(folder), "COLUMNS": "200", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stderr


@pytest.mark.slow
def test_a_session_at_the_command_line(tmp_path):
    store = tmp_path / "store"
    entry = json.loads(
        run(store, "add", "Alice moved to Berlin.", "-s", "c1", "--key", "k1", "-m", '{"topic": "home"}', "--json")
    )
    assert (entry["key"], entry["session"], entry["metadata"]) == ("k1", "c1", {"topic": "home"})
    assert "remembered" in run(store, "add", "-", input="Bob likes tea.")
    hits = json.loads(run(store, "recall", "Where does Alice live?", "-k", "1", "--json"))
    assert hits[0]["text"] == "Alice moved to Berlin." and hits[0]["rank"] == 1
    assert "Berlin" in run(store, "recall", "Alice", "--where", '{"topic": {"$exists": true}}')
    assert "Bob likes tea." in run(store, "list")
    assert json.loads(run(store, "stats", "--json"))["entries"] == 2
    assert json.loads(run(store, "export", tmp_path / "out.jsonl", "--json"))["entries"] == 2
    other = tmp_path / "other"
    assert json.loads(run(other, "import", tmp_path / "out.jsonl", "--json"))["new"] == 2
    assert "c1" in run(other, "list", "--sessions")
    assert json.loads(run(other, "forget", "k1", "--json")) == {"forgotten": 1}
    assert "sound" in run(other, "check")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["add", " "], 2, "error: text must not be empty"),
        (["list", "--where", "{"], 2, "error: --where is not JSON"),
        (["list", "--where", '{"$bad": 1}'], 2, "error: unknown filter operator"),
        (["forget"], 2, "error: say what to forget"),
        (["forget", "missing"], 3, "error: no entry with key 'missing'"),
        (["import", "missing.jsonl"], 3, "error: there is no file"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(tmp_path, arguments, code, message):
    errors = run(tmp_path / "store", *arguments, code=code)
    assert message in errors
    assert "Traceback" not in errors


def test_damage_left_is_exit_code_1(tmp_path):
    run(tmp_path, "list")
    (tmp_path / "memory.db").write_bytes(b"not a database" * 1000)
    assert "not a database" in run(tmp_path, "check", code=1)


def test_every_command_has_help_with_an_example():
    from typer.testing import CliRunner

    runner = CliRunner()
    top = runner.invoke(app, ["--help"]).output
    assert "Exit codes" in top
    names = "add recall import export list forget stats check demo reindex rollback maintenance backup restore".split()
    for name in names:
        assert name in top
        assert "Example: agent-memory" in runner.invoke(app, [name, "--help"]).output.replace("\n", " ")


@pytest.mark.slow
def test_demo_finds_the_latest_values(tmp_path):
    answers = json.loads(run(tmp_path, "demo", "--json"))
    changed = [answer for answer in answers if answer["category"] == "changed"]
    assert len(changed) >= 10
    assert sum(answer["rank"] == 1 for answer in changed) >= 12
    assert all(answer["rank"] is not None for answer in changed)


def test_care_at_the_command_line(tmp_path):
    store = tmp_path / "store"
    run(store, "add", "Alice moved to Berlin.", "--key", "a")
    planned = json.loads(run(store, "reindex", "--to", "minilm", "--dry-run", "--json"))
    assert (planned["state"], planned["encoded"]) == ("planned", 1)
    assert "done: 1 entries by copy" in run(store, "reindex", "--tiers", "64,768")
    assert "already" in run(store, "reindex", "--tiers", "64,768", code=2)
    assert "done: 1 entries by copy" in run(store, "reindex", "--sessions", "none")
    assert "is live" in run(store, "rollback")
    looked = run(store, "maintenance")
    assert "nothing to do" in looked and "for want of logged ones: recall@10 1.000 -> 1.000" in looked
    assert json.loads(run(store, "queries", "clear", "--json")) == {"cleared": 0}
    assert json.loads(run(store, "backup", tmp_path / "copy.db", "--json"))["entries"] == 1
    assert "in " in run(tmp_path / "other", "restore", tmp_path / "copy.db")
    assert "replace" in run(tmp_path / "other", "restore", tmp_path / "copy.db", code=2)
    assert "Berlin" in run(tmp_path / "other", "list")
    run(store, "jobs", "schedule", "backup", "every 1h", "--folder", tmp_path / "backups", "--keep", "2")
    assert "got 'sometimes'" in run(store, "jobs", "schedule", "purge", "sometimes", code=2)
    for _ in range(3):
        assert "backups" in run(store, "jobs", "run", "backup")
    assert len(list((tmp_path / "backups").iterdir())) == 2
    run(store, "jobs", "pause", "backup")
    assert "paused" in run(store, "jobs", "list")
    run(store, "jobs", "resume", "backup")
    assert "paused" not in run(store, "jobs", "list")
    assert [job["kind"] for job in json.loads(run(store, "jobs", "history", "--json"))][:2] == ["backup", "backup"]
    assert "no job 99" in run(store, "jobs", "cancel", "99", code=3)
    run(store, "jobs", "unschedule", "backup")
    assert "nothing is scheduled" in run(store, "jobs", "list")
