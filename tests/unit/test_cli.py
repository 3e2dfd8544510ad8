from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from agent_memory import Memory, errors
from agent_memory.cli import app
from agent_memory.cli.running import Group


@pytest.fixture
def store(tmp_path):
    with Memory(tmp_path / "store") as memory:
        memory.add("Alice moved to Berlin.", key="home", speaker="alice", metadata={"sure": True}, importance=0.5)
    return tmp_path / "store"


def run(folder, *arguments, code=0, **options):
    command = [sys.executable, "-m", "agent_memory.cli.app", *map(str, arguments)]
    environment = {**os.environ, "AGENT_MEMORY_PATH": str(folder), "COLUMNS": "200", "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stderr


def call(store, *arguments, code=0, input=None):
    """The same without a process of its own."""
    result = CliRunner().invoke(app, [*arguments, "--path", str(store)], input=input, env={"COLUMNS": "200"})
    assert result.exit_code == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stderr


def test_an_import_is_counted_before_and_after_it_is_done(tmp_path):
    talk = [{"role": "user", "content": "I moved to Lisbon."}, {"role": "assistant", "content": " "}]
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    said = call(tmp_path / "store", "import", str(tmp_path / "talk.json"), "--dry-run")
    assert "would write 1 new entries of 1 sessions; nothing was written" in said
    assert not (tmp_path / "store").exists()
    said = call(tmp_path / "store", "import", str(tmp_path / "talk.json"), "--format", "messages")
    assert "1 new entries in" in said
    assert "skipped: 1 empty" in said
    again = json.loads(call(tmp_path / "store", "import", str(tmp_path / "talk.json"), "--from", "messages", "--json"))
    assert (again["new"], again["unchanged"], again["reasons"], again["entries"]) == (0, 1, {"empty": 1}, 1)
    talk[0]["created_at"] = "soon"
    (tmp_path / "talk.json").write_text(json.dumps(talk))
    assert "line 1, message 1: event_time" in call(tmp_path / "store", "import", str(tmp_path / "talk.json"), code=2)
    assert "1 undated" in call(tmp_path / "store", "import", str(tmp_path / "talk.json"), "--assume-now")


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
        (["get", "missing"], 3, "error: no entry with key 'missing'"),
        (["update", "missing", "--text", "x"], 3, "error: no entry with key 'missing'"),
        (["get", "missing"], 3, "error: no entry with key 'missing'"),
        (["history", "missing"], 3, "error: no entry with key 'missing'"),
        (["update", "missing", "--text", "x"], 3, "error: no entry with key 'missing'"),
        (["session", "show", "missing"], 3, "error: no session 'missing'"),
        (["jobs", "cancel", "backup"], 2, "error: cancel takes the number of a job, got 'backup'"),
        (["models", "path", "nosuch"], 2, "error: model must be one of"),
        (["models", "verify", "nosuch"], 2, "error: model must be one of"),
        (["models", "pull", "nosuch"], 2, "error: model must be one of"),
        (["import", "missing.jsonl"], 3, "error: there is no file"),
        (["nonsense"], 2, "No such command"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(tmp_path, arguments, code, message):
    with Memory(tmp_path / "store"):
        pass
    result = CliRunner().invoke(app, arguments, env={"AGENT_MEMORY_PATH": str(tmp_path / "store"), "COLUMNS": "200"})
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1 or "Usage" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("arguments", [["add", "x"], ["recall", "x"], ["stats"], ["serve"], ["check"], ["forget", "x"]])
@pytest.mark.parametrize("address", ["postgresql://me:secret@127.0.0.1:9/x", "mysql://me:secret@127.0.0.1:9/x"])
def test_an_address_where_no_store_is_makes_no_folder_and_shows_no_password(tmp_path, arguments, address, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shown = call(address, *arguments, code=1 if address.startswith("p") and arguments != ["serve"] else 2)
    assert "error: " in shown and "secret" not in shown
    assert list(tmp_path.iterdir()) == []


CODES = {errors.InvalidInputError: 2, errors.NotFoundError: 3, errors.LeaseHeldError: 4, errors.LockTimeoutError: 4}
CLASSES = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.AgentMemoryError)
]


@pytest.mark.parametrize("kind", [*CLASSES, OSError, PermissionError])
def test_each_class_of_errors_has_its_exit_code(kind):
    failing = typer.Typer(cls=Group)

    @failing.command()
    def fail():
        raise kind.__new__(kind, "this went wrong")

    @failing.command()
    def other():
        pass

    result = CliRunner().invoke(failing, ["fail"])
    assert result.exit_code == next((code for base, code in CODES.items() if issubclass(kind, base)), 1)
    assert result.stderr == "error: this went wrong\n"


def test_an_entry_is_shown_changed_and_its_history_kept(store):
    shown = json.loads(call(store, "get", "home", "--json"))
    assert (shown["text"], shown["speaker"], shown["importance"]) == ("Alice moved to Berlin.", "alice", 0.5)
    clear = ["--clear", "speaker", "--clear", "importance", "--clear", "metadata", "--clear", "expires-at"]
    changed = json.loads(call(store, "update", "home", "--text", "-", *clear, "--json", input="Alice moved to Rome."))
    assert changed["text"] == "Alice moved to Rome."
    assert (changed["speaker"], changed["importance"], changed["metadata"]) == (None, None, {})
    given = ["--speaker", "bob", "-m", '{"a": 1}', "--importance", "1", "--event-time", "2026-05-01T12:00:00+02:00"]
    assert call(store, "update", "home", *given, "--expires-at", "2999-01-01") == "updated home\n"
    printed = call(store, "get", "home")
    for part in ("Alice moved to Rome.", "bob", '{"a": 1}', "1.0", "2026-05-01 10:00", "2999-01-02 00:00"):
        assert part in printed
    versions = json.loads(call(store, "history", "home", "--json"))
    assert [version["text"].split()[-1] for version in versions] == ["Berlin.", "Rome.", "Rome."]
    assert [version["superseded_at"] is None for version in versions] == [False, False, True]
    assert [line.split()[-1] for line in call(store, "history", "home").splitlines()] == ["Berlin.", "Rome.", "Rome."]


def test_a_key_is_looked_for_in_its_namespace(store):
    with Memory(store, namespace=("acme", "u1")) as memory:
        memory.add("Bob likes tea.", key="drink")
    place = ["--namespace", "acme/u1"]
    assert "Bob likes tea." in call(store, "get", "drink", *place)
    assert "no entry" in call(store, "get", "drink", code=3)
    assert "no entry" in call(store, "update", "home", "--text", "x", *place, code=3)
    assert "no entry" in call(store, "history", "home", *place, code=3)
    call(store, "update", "drink", "--text", "Bob likes coffee.", *place)
    assert len(json.loads(call(store, "history", "drink", *place, "--json"))) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to change"),
        (["--speaker", "bob", "--clear", "speaker"], "speaker can be given or cleared, not both"),
        (["--expires-at", "2999-01-01", "--clear", "expires-at"], "expires_at can be given or cleared, not both"),
        (["--metadata", "[1]"], "--metadata must be a JSON object"),
        (["--importance", "2"], "importance must lie between 0 and 1"),
        (["--event-time", "soon"], "event_time is not a usable date and time"),
        (["--clear", "text"], "'text' is not one of"),
    ],
)
def test_an_update_that_makes_no_sense_changes_nothing(store, arguments, message):
    assert message in call(store, "update", "home", *arguments, code=2)
    with Memory(store) as memory:
        assert len(memory.history("home")) == 1


def test_damage_left_is_exit_code_1(tmp_path):
    with Memory(tmp_path):
        pass
    (tmp_path / "memory.db").write_bytes(b"not a database" * 1000)
    assert "not a database" in run(tmp_path, "check", code=1)


def test_every_command_has_help_with_an_example():
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


@pytest.mark.slow
def test_care_at_the_command_line(tmp_path):
    store = tmp_path / "store"
    call(store, "add", "Alice moved to Berlin.", "--key", "a")
    planned = json.loads(call(store, "reindex", "--to", "minilm", "--dry-run", "--json"))
    assert (planned["state"], planned["encoded"]) == ("planned", 1)
    assert "done: 1 entries by copy" in call(store, "reindex", "--tiers", "64,768")
    assert "already" in call(store, "reindex", "--tiers", "64,768", code=2)
    assert "done: 1 entries by copy" in call(store, "reindex", "--sessions", "none")
    assert "is live" in call(store, "rollback")
    looked = call(store, "maintenance", "--dry-run")
    assert "nothing to do" in looked and "1 stored entries were used as queries, over a sample of 1 entries" in looked
    assert "recall@10 1.000 -> 1.000" in looked
    assert json.loads(call(store, "queries", "clear", "--json")) == {"cleared": 0}
    assert json.loads(call(store, "backup", str(tmp_path / "copy.db"), "--json"))["entries"] == 1
    assert "in " in call(tmp_path / "other", "restore", str(tmp_path / "copy.db"))
    assert "replace" in call(tmp_path / "other", "restore", str(tmp_path / "copy.db"), code=2)
    assert "Berlin" in call(tmp_path / "other", "list")
    call(store, "jobs", "schedule", "backup", "every 1h", "--folder", str(tmp_path / "backups"), "--keep", "2")
    assert "got 'sometimes'" in call(store, "jobs", "schedule", "purge", "sometimes", code=2)
    for _ in range(3):
        assert "backups" in call(store, "jobs", "run", "backup")
    assert len(list((tmp_path / "backups").iterdir())) == 2
    call(store, "jobs", "pause", "backup")
    assert "paused" in call(store, "jobs", "list")
    call(store, "jobs", "resume", "backup")
    assert "paused" not in call(store, "jobs", "list")
    assert [job["kind"] for job in json.loads(call(store, "jobs", "history", "--json"))][:2] == ["backup", "backup"]
    assert "no job 99" in call(store, "jobs", "cancel", "99", code=3)
    call(store, "jobs", "unschedule", "backup")
    assert "nothing is scheduled" in call(store, "jobs", "list")


def test_times_are_those_of_the_zone_that_is_named(tmp_path):
    store = tmp_path / "store"
    place = ("--timezone", "Asia/Tokyo", "--json")
    entry = json.loads(call(store, "add", "Lunch at the ramen place.", "--event-time", "2024-01-01", *place))
    assert entry["event_time"] == "2023-12-31T15:00:00+00:00"
    assert json.loads(call(store, "recall", "lunch", "--until", "2023", "--json"))
    assert not json.loads(call(store, "recall", "lunch", "--until", "2023", *place))
    question = ("Where was lunch yesterday?", "--now", "2024-01-02T08:00")
    (hit,) = json.loads(call(store, "recall", *question, "--explain", *place))
    assert hit["trace"]["time"]["adds"] > 0
    trace = json.loads(call(store, "why", *question[:1], entry["key"], *question[1:], "--json"))
    assert trace["detail"]["time"]["adds"] == 0, "in UTC it was on the last day of the year"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("recall", "tea", "--since", "12"), "since is not a usable date"),
        (("recall", "tea", "--until", "1683554160"), "until is not a usable date"),
        (("recall", "tea", "--as-of", "soon"), "as_of is not a usable date"),
        (("recall", "tea", "--timezone", "Mars/Base"), "timezone must be a time zone"),
        (("add", "tea", "--event-time", "-5"), "event_time is not a usable date"),
        (("add", "tea", "--expires-at", "2020-01-01"), "expires_at 2020-01-02T00:00:00+00:00 has passed"),
        (("update", "home", "--expires-at", "2020"), "has passed"),
    ],
)
def test_a_time_that_is_none_is_refused_with_its_value(store, arguments, message):
    assert message in call(store, *arguments, code=2)
