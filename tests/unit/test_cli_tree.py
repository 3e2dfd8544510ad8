"""Every command of the command line, found by walking the tree of Typer apps."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from agent_memory import Memory
from agent_memory.cli import app
from agent_memory.cli.quick import keep_what_is_named, take_plain_values
from agent_memory.encoders.files import find_minilm

MAKERS = {"add", "import", "restore", "demo", "agent backfill", "mcp", "serve"}
"""Commands that make a store where there is none."""

UNASKED = {"hook", "agent install", "agent uninstall", "agent status", "agent take-in"}
"""Commands for coding agents, which have something to do before there is a store."""

LINES = {"jobs run", "mcp", "serve"}
"""Commands that print JSON Lines."""

RUNS = {
    "add": ["Bob likes tea.", "--speaker", "bob"],
    "get": ["home"],
    "history": ["home"],
    "update": ["home", "--importance", "0.5"],
    "list": ["--session", "chat"],
    "forget": ["home"],
    "recall": ["Where does Alice live?", "--explain"],
    "why": ["Where does Alice live?", "home"],
    "import": ["IN.jsonl"],
    "export": ["OUT.jsonl"],
    "backup": ["COPY.db"],
    "restore": ["BACKUP.db", "--replace"],
    "copy": ["store", "copied"],
    "stats": [],
    "check": [],
    "reindex": ["--tiers", "256,768"],
    "rollback": [],
    "maintenance": ["--dry-run"],
    "eval": ["SET", "--limit", "2"],
    "demo": [],
    "mcp": [],
    "topics": ["-k", "2"],
    "session list": [],
    "session show": ["chat", "--steps", "2"],
    "jobs run": ["purge", "verify"],
    "jobs list": [],
    "jobs schedule": ["purge", "every 1h"],
    "jobs unschedule": ["backup"],
    "jobs pause": ["backup"],
    "jobs resume": ["backup"],
    "jobs cancel": ["JOB"],
    "jobs history": [],
    "queries clear": [],
    "agent install": ["codex", "--project"],
    "agent uninstall": ["codex", "--project"],
    "agent status": [],
    "agent backfill": ["claude-code", "IN.jsonl"],
    "agent plugin": ["PLUGIN"],
    "agent take-in": [],
    "hook": ["beforeSubmitPrompt", "--agent", "cursor"],
    "models list": [],
    "models pull": ["minilm"],
    "models verify": ["minilm"],
    "models path": ["minilm"],
    "serve": ["--port", "0"],
    "keys create": ["--name", "bot"],
    "keys list": [],
    "keys revoke": ["KEY"],
}
"""What each command is run with; names in capitals stand for files of the test."""

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?\+00:00")


def leaves(command, path=()):
    if not hasattr(command, "commands"):
        yield " ".join(path), command
    for name, child in getattr(command, "commands", {}).items():
        yield from leaves(child, (*path, name))


COMMANDS = dict(leaves(typer.main.get_command(app)))


def options(command):
    return {option for parameter in command.params for option in parameter.opts}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with a store that has been re-indexed, the same with a re-index under way, and files for commands."""
    folder = tmp_path_factory.mktemp("cli")
    store = folder / "store"
    with Memory(store) as memory:
        memory.add("Alice lives in Paris.", key="home", session="chat", speaker="alice", event_time="2026-05-01T12:00Z")
        memory.add("Bob has a dog called Rex.", key="dog", session="chat", expires_at="2999-01-01")
        memory.update("home", text="Alice lives in Berlin.")
        memory.export(folder / "IN.jsonl")
        memory.backup(folder / "BACKUP.db")
        memory.reindex(tiers=[64, 768])
        memory.schedule("backup", "every 1h", options={"folder": str(folder / "backups")})
        memory.run_job("snapshot")
    shutil.copytree(store, folder / "underway")
    arguments = [sys.executable, "-W", "ignore", "-m", "agent_memory.cli", "reindex", "--tiers", "768"]
    environment = {**os.environ, "AGENT_MEMORY_FAILPOINT": "reindex-begun"}
    killed = subprocess.run([*arguments, "--path", str(folder / "underway")], env=environment, check=False)
    assert killed.returncode == -9
    (folder / "SET").mkdir()
    segments = [{"idx": number, "text": text} for number, text in enumerate(["My cat is Tom.", "My dog is Rex."])]
    (folder / "SET" / "conversations.jsonl").write_text(json.dumps({"id": "a", "segments": segments}))
    query = {"id": "1", "conv_id": "a", "query": "Which cat?", "evidence": [0], "category": "fact"}
    (folder / "SET" / "queries.jsonl").write_text(json.dumps(query))
    return folder


@pytest.fixture
def folder(made, tmp_path, monkeypatch):
    """A copy of the folder, as the present one."""
    copy = tmp_path / "cli"
    shutil.copytree(made, copy)
    monkeypatch.chdir(copy)
    return copy


def output_of(name, arguments, store, folder, monkeypatch):
    place = ["--path", str(store)] if "--path" in options(COMMANDS[name]) else []
    command = [*name.split(), *arguments, *place, "--json"]
    if name == "mcp":
        return served(command)
    if name == "serve":
        return announced(command)
    monkeypatch.setenv("AGENT_MEMORY_CACHE", str(folder / "cache"))
    if name.startswith("agent "):
        monkeypatch.setenv("HOME", str(folder))
    if name == "models pull":  # what an earlier pull has left is verified, without the network
        (folder / "cache" / "models").mkdir(parents=True)
        (folder / "cache" / "models" / "minilm").symlink_to(find_minilm())
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


def served(command):
    hello = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
    }
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "agent_memory.cli", *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        server.stdin.write(json.dumps(hello) + "\n")
        server.stdin.flush()
        answer = server.stdout.readline()
        rest, _ = server.communicate(timeout=60)
    assert server.returncode == 0
    return answer + rest


def announced(command):
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "agent_memory.cli", *command], stdout=subprocess.PIPE, text=True
    ) as server:
        line = server.stdout.readline()
        server.terminate()
        rest, _ = server.communicate(timeout=60)
    assert server.returncode in (0, -signal.SIGTERM)
    return line + rest


def times(value, name=""):
    if isinstance(value, dict):
        for key, part in value.items():
            yield from times(part, key)
    elif isinstance(value, list):
        for part in value:
            yield from times(part, name)
    elif isinstance(value, str) and re.search("_(at|time|event)$", name):
        yield value


def test_each_command_is_run_by_these_tests():
    assert set(RUNS) == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_prints_json(name, folder, monkeypatch):
    assert "--json" in options(COMMANDS[name])
    store = folder / ("underway" if name == "jobs cancel" else "store")
    arguments = RUNS[name]
    if "JOB" in arguments:
        with Memory(store) as memory:
            arguments = [str(memory.jobs()[0].id)]
    if "KEY" in arguments:
        made = CliRunner().invoke(app, ["keys", "create", "--path", str(store), "--json"])
        arguments = [json.loads(made.stdout)["key"]["id"]]
    output = output_of(name, arguments, store, folder, monkeypatch)
    values = [json.loads(line) for line in output.splitlines()] if name in LINES else [json.loads(output)]
    assert values and None not in values
    assert len(values) == (2 if name == "jobs run" else 1)
    for time in times(values):
        assert TIME.fullmatch(time)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_has_an_example_of_it(name):
    assert COMMANDS[name].epilog.startswith(f"Example: agent-memory {name}")
    result = CliRunner().invoke(app, [*name.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"Example: agent-memory {name}" in result.stdout
    assert "--json" in result.stdout


@pytest.mark.parametrize("name", sorted(name for name in COMMANDS if name not in MAKERS | UNASKED))
def test_a_command_that_adds_nothing_makes_no_store(name, tmp_path, monkeypatch):
    if "--path" not in options(COMMANDS[name]):
        assert name in ("copy", "eval", "agent plugin") or name.startswith("models ")
        return
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    arguments = ["1" if argument == "JOB" else argument for argument in RUNS[name]]
    for store in ("missing", "missing/below", "empty"):
        for form in ([], ["--json"]):
            result = CliRunner().invoke(app, [*name.split(), *arguments, "--path", store, *form])
            assert (result.exit_code, result.stdout) == (3, "")
            assert result.stderr == f"error: there is no store in {store}; add, import and restore make one\n"
    assert list(tmp_path.rglob("*")) == [tmp_path / "empty"]


@pytest.mark.parametrize("name", sorted(UNASKED))
def test_what_coding_agents_run_makes_no_store_and_needs_none(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    result = CliRunner().invoke(app, [*name.split(), *RUNS[name], "--path", "missing"])
    assert result.exit_code == 0, result.stderr
    assert not list(tmp_path.rglob("memory.db"))


@pytest.mark.parametrize("name", ["import", "restore"])
def test_a_missing_file_makes_no_store(name, tmp_path):
    result = CliRunner().invoke(app, [name, str(tmp_path / "missing"), "--path", str(tmp_path / "store")])
    assert result.exit_code == 3
    assert list(tmp_path.iterdir()) == []


def test_times_are_the_same_in_every_list(folder):
    def run(*arguments):
        result = CliRunner().invoke(app, [*arguments, "--path", "store"])
        assert result.exit_code == 0
        return result.stdout

    assert json.loads(run("list", "--sessions", "--json")) == json.loads(run("session", "list", "--json"))
    assert run("list", "--sessions") == run("session", "list")
    assert "2026-05-01 12:00" in run("session", "list")
    for arguments in (["list"], ["get", "home"], ["history", "home"], ["session", "list"], ["jobs", "history"]):
        found = re.findall(r"\d{4}-\d\d-\d\d(.{0,9})", run(*arguments))
        assert found
        assert all(re.match(r" \d\d:\d\d(?![:\d])", rest) for rest in found), found


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("gte", "get"), ("histroy", "history"), ("udpate", "update"), ("jobs histroy", "history"), ("models pth", "path")],
)
def test_a_mistyped_command_names_the_nearest_one(typed, meant):
    result = CliRunner().invoke(app, [*typed.split(), "x"])
    assert result.exit_code == 2
    assert f"Did you mean '{meant}'" in result.stderr


def run_command(command, arguments, capfd):
    """Run what Typer has built; return its exit code, output and errors."""
    with pytest.raises(SystemExit) as ended:
        command.main(arguments, prog_name="agent-memory")
    return ended.value.code, *capfd.readouterr()


def ease(command):
    take_plain_values(command)
    return command


GROUPS = sorted({name.split()[0] for name in COMMANDS if " " in name})
USAGES = [
    *([*name.split(), "--help"] for name in [*COMMANDS, *GROUPS, ""]),
    *(
        name.split()
        for name in ("", "nonsense", "gte", "--nonsense", "jobs", "recall", "add", "jobs histroy", "sessions")
    ),
    ["--no-helper", "recall", "--help"],
    ["recall", "x", "-k", "many"],
    ["recall", "x", "-k", "1.5"],
    ["recall", "x", "--min-confidence", "most"],
    ["recall", "x", "--nothing"],
    ["list", "--limit"],
]


@pytest.mark.parametrize("arguments", USAGES, ids=" ".join)
def test_what_is_built_for_a_command_alone_says_the_same(arguments, capfd):
    narrowed = ease(typer.main.get_command(keep_what_is_named(app, arguments)))
    expected = run_command(typer.main.get_command(app), arguments, capfd)
    assert run_command(narrowed, arguments, capfd) == expected and (expected[1] or expected[2])


@pytest.mark.parametrize("said", ["3", " 3 ", "1_0", "-2", "+4", "٣", "0003", "9" * 12, ".5", "1e2", "x", "", "2.0"])
def test_numbers_are_taken_as_typer_takes_them(said, capfd):
    small = typer.Typer()
    got = []

    @small.command()
    def one(k: int = 5, share: float = 0.5, name: str = "", flag: bool = False) -> None:
        got.append((k, share, name, flag))

    answers = []
    for built in (typer.main.get_command(small), ease(typer.main.get_command(small))):
        got.clear()
        ended = [run_command(built, [f"--{name}={said}"], capfd) for name in ("k", "share", "name")]
        answers.append((ended, list(got)))
    assert answers[0] == answers[1] and (5, 0.5, said, False) in got


@pytest.mark.parametrize("arguments", [["recall", "Who?"], ["add", "Alice left."], ["recall", "Who?", "-k", "3"]])
def test_brief_commands_load_nothing_that_is_slow_and_not_needed(folder, arguments):
    code = (
        "import sys; from agent_memory.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as ended: assert not ended.code, ended.code\n"
        "heavy = {'torch', 'transformers', 'sqlalchemy', 'pydantic', 'rich', 'numpy.ma', 'asyncio'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    command = [sys.executable, "-c", code, *arguments, "--path", "store"]
    environment = {**os.environ, "AGENT_MEMORY_HELPER": "0"}
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["recall", "--help"], ["models", "path", "--help"], ["nonsense"]])
def test_help_and_mistakes_load_no_heavy_library(arguments):
    code = (
        "import sys; from agent_memory.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'faiss', 'sqlalchemy', 'transformers', 'numpy', 'mcp'}\n"
        "sys.exit(', '.join(heavy & set(sys.modules)) or None)"
    )
    result = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_files_of_the_command_line_are_short():
    folder = Path(sys.modules["agent_memory.cli.app"].__file__).parent
    for file in folder.glob("*.py"):
        assert len(file.read_text("utf-8").splitlines()) < 300, file
