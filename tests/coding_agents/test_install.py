"""Install and uninstall: into other people's settings and out again, by each agent's published shape."""

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema
import pytest
import schemas
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_settings_files import files
from typer.testing import CliRunner

from agent_memory import StorageError
from agent_memory.agents import jsonc, people
from agent_memory.agents.events import AGENTS
from agent_memory.agents.install import find_command
from agent_memory.agents.layouts import Scope, list_parts
from agent_memory.cli import app

SHAPES = {
    ("claude-code", "hooks"): schemas.CLAUDE_SETTINGS,
    ("claude-code", "mcp"): schemas.MCP_SERVERS,
    ("codex", "hooks"): schemas.CODEX_HOOKS,
    ("codex", "mcp"): schemas.CODEX_CONFIG,
    ("cursor", "hooks"): schemas.CURSOR_HOOKS,
    ("cursor", "mcp"): schemas.MCP_SERVERS,
    ("opencode", "mcp"): schemas.OPENCODE_CONFIG,
}
EVERY = [(agent, scope) for agent in AGENTS for scope in Scope]


def run(*arguments):
    done = CliRunner().invoke(app, ["agent", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


def snapshot(*folders):
    """Every file, link and folder, with what it holds and its permissions."""
    found = {}
    for folder in folders:
        for place, _, names in os.walk(folder):
            if ".agent-memory" in place:
                continue
            found[place] = "folder"
            for name in names:
                path = Path(place, name)
                held = os.readlink(path) if path.is_symlink() else path.read_bytes()
                found[str(path)] = held, stat.S_IMODE(path.stat().st_mode)
    return {name: held for name, held in found.items() if not name.endswith(".agent-memory")}


def parts_of(agent, scope, home, project):
    return list_parts(agent, scope, home if scope is Scope.USER else project, ["agent-memory"], None)


def load(path):
    return tomllib.loads(path.read_text()) if path.suffix == ".toml" else jsonc.read(jsonc.parse(path.read_bytes()))


@pytest.mark.parametrize(("agent", "scope"), EVERY)
def test_what_is_written_has_the_shape_that_the_agent_publishes(agent, scope, home, project):
    run("install", agent, f"--{scope}")
    for part in parts_of(agent, scope, home, project):
        if part.kind in ("hooks", "mcp"):
            jsonschema.validate(load(part.path), SHAPES[agent, part.kind])
        assert part.path.is_relative_to(home if scope is Scope.USER else project)
        assert part.path.read_bytes()
    skill = next(part.path for part in parts_of(agent, scope, home, project) if part.kind == "skill")
    head = skill.read_text().split("---")[1]
    assert f"name: {skill.parent.name}" in head and "description: " in head
    assert len(head.split("description: ")[1]) <= 1024


@pytest.mark.parametrize(("agent", "scope"), EVERY)
def test_twice_is_once_and_uninstall_leaves_what_it_found(agent, scope, home, project):
    before = snapshot(home, project)
    run("install", agent, f"--{scope}")
    once = snapshot(home, project)
    assert once != before
    assert "written" not in run("install", agent, f"--{scope}")
    assert snapshot(home, project) == once
    run("uninstall", agent, f"--{scope}")
    assert snapshot(home, project) == before
    run("uninstall", agent, f"--{scope}")
    assert snapshot(home, project) == before


def test_all_agents_live_beside_each_other(home, project):
    before = snapshot(home, project)
    for agent, scope in EVERY:
        run("install", agent, f"--{scope}")
    for agent, scope in EVERY[::-1]:
        run("uninstall", agent, f"--{scope}")
    assert snapshot(home, project) == before


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["claude-code", "codex", "cursor", "opencode"]), files(), st.sampled_from(["file", "link", "hard"])
)
def test_other_peoples_settings_stay_byte_for_byte(home, project, agent, file, kind):
    _, text = file
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    originals = []
    for number, part in enumerate(parts_of(agent, Scope.USER, home, project)):
        if part.path.suffix in (".json", ".jsonc"):
            part.path.parent.mkdir(parents=True, exist_ok=True)
            target = part.path if kind == "file" else home / f"dotfiles-{number}"
            target.write_bytes(text)
            target.chmod(0o640)
            if kind == "link":
                part.path.symlink_to(target)
            elif kind == "hard":
                os.link(target, part.path)
            originals.append((part.path, target))
    before = snapshot(home)
    run("install", agent)
    for path, target in originals:
        added = path.read_bytes()
        assert added == target.read_bytes() != text
        rest = iter(added)
        assert all(byte in rest for byte in text)
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
        assert path.is_symlink() == (kind == "link")
    run("install", agent)
    assert originals == [] or originals[0][0].read_bytes() == originals[0][1].read_bytes()
    run("uninstall", agent)
    assert snapshot(home) == before


def test_entries_that_come_later_stay_when_ours_go(home, project):
    settings_file = home / ".claude" / "settings.json"
    run("install", "claude-code")
    theirs = {"hooks": [{"type": "command", "command": "bell"}]}
    text = jsonc.append(settings_file.read_bytes(), ("hooks", "Stop"), theirs)
    settings_file.write_bytes(jsonc.put(text, ("model",), "x"))
    run("uninstall", "claude-code")
    assert load(settings_file) == {
        "hooks": {"Stop": [theirs]},
        "model": "x",
    }
    assert not (home / ".claude" / "skills").exists()


def test_a_version_that_we_have_added_stays_for_hooks_that_came_later(home, project):
    file = home / ".cursor" / "hooks.json"
    run("install", "cursor")
    file.write_bytes(jsonc.append(file.read_bytes(), ("hooks", "stop"), {"command": "bell"}))
    run("uninstall", "cursor")
    assert load(file) == {"version": 1, "hooks": {"stop": [{"command": "bell"}]}}


def test_a_server_of_that_name_and_a_skill_of_somebody_else_stay(home, project):
    servers, skill = home / ".claude.json", home / ".claude" / "skills" / "agent-memory" / "SKILL.md"
    servers.write_text('{"mcpServers": {"agent-memory": {"command": "mine"}}}')
    skill.parent.mkdir(parents=True)
    skill.write_text("mine")
    before = snapshot(home, project)
    assert run("install", "claude-code").count("kept") == 2
    run("uninstall", "claude-code")
    assert snapshot(home, project) == before


def test_a_skill_that_somebody_has_changed_stays(home, project):
    skill = home / ".claude" / "skills" / "agent-memory" / "SKILL.md"
    run("install", "claude-code")
    skill.write_text(skill.read_text() + "\nOur own rule.\n")
    assert "kept" in run("uninstall", "claude-code")
    assert skill.read_text().endswith("Our own rule.\n")


def test_an_installation_that_has_moved_is_corrected_not_doubled(home, project, monkeypatch):
    run("install", "codex")
    monkeypatch.setattr("agent_memory.agents.install.find_command", lambda: ["/elsewhere/agent-memory"])
    run("install", "codex")
    hooks, config = load(home / ".codex" / "hooks.json"), load(home / ".codex" / "config.toml")
    assert [len(groups) for groups in hooks["hooks"].values()] == [1, 1, 1]
    assert all("/elsewhere/" in group["hooks"][0]["command"] for (group,) in hooks["hooks"].values())
    assert config["mcp_servers"]["agent-memory"]["command"] == "/elsewhere/agent-memory"
    run("uninstall", "codex")
    assert not (home / ".codex").exists()


def test_what_people_have_added_to_our_parts_stays_when_they_are_written_again(home, project, monkeypatch):
    run("install", "claude-code")
    run("install", "codex")
    settings, servers = home / ".claude" / "settings.json", home / ".claude.json"
    config, skill = home / ".codex" / "config.toml", home / ".claude" / "skills" / "agent-memory" / "SKILL.md"
    facts, known = load(settings), load(servers)
    theirs = {"type": "command", "command": "say done"}
    facts["hooks"]["Stop"][0]["hooks"].append(theirs)
    facts["hooks"]["SessionStart"][0] |= {"matcher": "startup"}
    facts["hooks"]["SessionStart"][0]["hooks"][0]["timeout"] = 33
    known["mcpServers"]["agent-memory"]["env"] = {"LANG": "C"}
    settings.write_text(json.dumps(facts))
    servers.write_text(json.dumps(known))
    config.write_text(config.read_text() + 'env = { LANG = "C" }\nstartup_timeout_sec = 20\n')
    skill.write_text("Our own rule.\n")
    monkeypatch.setattr("agent_memory.agents.install.find_command", lambda: ["/elsewhere/agent-memory"])
    assert "kept" in run("install", "claude-code")
    run("install", "codex")
    hooks = load(settings)["hooks"]
    assert [len(hooks["Stop"]), len(hooks["Stop"][0]["hooks"])] == [1, 2] and theirs in hooks["Stop"][0]["hooks"]
    (start,) = hooks["SessionStart"]
    assert (start["matcher"], start["hooks"][0]["timeout"]) == ("startup", 33)
    assert all("/elsewhere/" in group["hooks"][0]["command"] for (group,) in hooks.values())
    server = load(servers)["mcpServers"]["agent-memory"]
    assert (server["env"], server["command"]) == ({"LANG": "C"}, "/elsewhere/agent-memory")
    server = load(config)["mcp_servers"]["agent-memory"]
    assert (server["env"], server["startup_timeout_sec"]) == ({"LANG": "C"}, 20)
    assert server["command"] == "/elsewhere/agent-memory" and skill.read_text() == "Our own rule.\n"
    run("uninstall", "claude-code")
    run("uninstall", "codex")
    assert load(settings) == {"hooks": {"Stop": [{"hooks": [theirs]}]}}
    assert not servers.exists() and not config.exists()


@pytest.mark.parametrize("agent", AGENTS)
def test_another_store_is_used_by_all_parts(agent, home, project, tmp_path):
    stores = [str(tmp_path / name) for name in ("first", "second")]
    for store in stores:
        run("install", agent, "--path", store)
    texts = [part.path.read_text() for part in parts_of(agent, Scope.USER, home, project) if part.kind != "skill"]
    assert all(stores[1] in text and stores[0] not in text for text in texts)
    run("uninstall", agent, "--path", stores[1])
    assert not any("agent-memory" in str(name) for name in snapshot(home, project))


def test_a_skill_that_two_agents_share_by_a_link_goes_with_the_last(home, project):
    (home / ".agents" / "skills").mkdir(parents=True)
    (home / ".claude").mkdir()
    (home / ".claude" / "skills").symlink_to(home / ".agents" / "skills")
    before = snapshot(home, project)
    skill = home / ".agents" / "skills" / "agent-memory" / "SKILL.md"
    for first, last in (("codex", "claude-code"), ("claude-code", "codex")):
        run("install", "claude-code")
        run("install", "codex")
        assert "kept" in run("uninstall", first)
        assert skill.exists()
        run("uninstall", last)
        assert snapshot(home, project) == before


def test_installations_at_once_lose_no_receipt(home, project):
    before = snapshot(home, project)
    command = [sys.executable, "-m", "agent_memory", "agent", "install"]
    started = [subprocess.Popen([*command, agent], stdout=subprocess.DEVNULL) for agent in AGENTS]
    assert [one.wait(60) for one in started] == [0] * len(AGENTS)
    kept = json.loads((home / ".agent-memory" / "agents" / "installed.json").read_text())
    assert len(kept) == sum(len(parts_of(agent, Scope.USER, home, project)) for agent in AGENTS)
    for agent in AGENTS:
        run("uninstall", agent)
    assert snapshot(home, project) == before


@pytest.mark.parametrize("content", [b"[1]", b"{", b"null", b'{"a": 1}', b"\xff"])
def test_receipts_that_somebody_has_spoilt_are_none(home, project, content):
    run("install", "claude-code")
    (home / ".agent-memory" / "agents" / "installed.json").write_bytes(content)
    run("install", "claude-code")
    run("uninstall", "claude-code")
    assert b"agent-memory" not in (home / ".claude" / "settings.json").read_bytes()


def test_a_path_that_settings_cannot_hold_is_refused_and_nothing_is_written(home, project):
    before = snapshot(home, project)
    done = CliRunner().invoke(app, ["agent", "install", "claude-code", "--path", "/tmp/\udcff"])
    assert done.exit_code == 2 and "not UTF-8" in done.output
    assert snapshot(home, project) == before


@pytest.mark.parametrize("place", ["file", "folder"])
def test_what_is_read_only_is_refused_and_nothing_is_written(home, project, place):
    file = home / ".claude" / "settings.json"
    file.parent.mkdir()
    file.write_text("{}")
    (file if place == "file" else file.parent).chmod(0o444 if place == "file" else 0o555)
    before = snapshot(home, project)
    done = CliRunner().invoke(app, ["agent", "install", "claude-code"])
    assert done.exit_code == 2
    assert "read-only" in done.output
    assert snapshot(home, project) == before
    file.parent.chmod(0o755)


@pytest.mark.parametrize("text", ["{", "[]", '{"hooks": 3}', '{"hooks": {"Stop": {}}}', '{"a" 1}'])
def test_settings_that_cannot_be_understood_are_refused_and_named(home, project, text):
    file = home / ".claude" / "settings.json"
    file.parent.mkdir()
    file.write_text(text)
    before = snapshot(home, project)
    done = CliRunner().invoke(app, ["agent", "install", "claude-code"])
    assert done.exit_code == 2
    assert "settings.json" in done.output
    assert snapshot(home, project) == before


def test_a_table_that_cannot_be_understood_is_refused_and_named(home, project):
    file = home / ".codex" / "config.toml"
    file.parent.mkdir()
    file.write_text("a = \n")
    for command in ("install", "uninstall"):
        done = CliRunner().invoke(app, ["agent", command, "codex"])
        assert done.exit_code == 2 and "config.toml" in done.output
        assert file.read_text() == "a = \n"


@pytest.mark.parametrize("agent", ["claude-code", "cursor", "codex", "opencode"])
@pytest.mark.parametrize(
    "text",
    [
        '{"hooks": []}', '{"hooks": {"Stop": {}}}', '{"hooks": {"Stop": [], "stop": []}, "mcpServers": {}, "mcp": {}}',
        '{"hooks": null}', "{}", "",
    ],
)  # fmt: skip
@pytest.mark.parametrize("first", ["install", None])
def test_uninstall_leaves_empty_parts_that_others_have_written(home, project, agent, text, first):
    names = [".claude/settings.json", ".claude.json", ".cursor/hooks.json", ".cursor/mcp.json", ".codex/hooks.json"]
    for name in (*names, ".config/opencode/opencode.json"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text)
    before = snapshot(home, project)
    if first is not None:
        CliRunner().invoke(app, ["agent", first, agent])
    assert CliRunner().invoke(app, ["agent", "uninstall", agent]).exit_code == 0
    assert snapshot(home, project) == before


def test_without_a_receipt_ours_still_goes_and_theirs_stays(home, project, store):
    file = home / ".claude" / "settings.json"
    file.parent.mkdir()
    file.write_text('{"model": "x"}')
    run("install", "claude-code")
    (store / "agents" / "installed.json").unlink()
    run("uninstall", "claude-code")
    assert load(file) == {"model": "x"}
    assert load(home / ".claude.json") == {}


def test_the_written_commands_run_from_any_shell_with_any_path(home, project, tmp_path):
    """Paths with spaces, dollars, quotes and backslashes; the store's too."""
    place = tmp_path / "store $HOME 'a' \"b\" \\c"
    run("install", "claude-code", "--path", str(place))
    hooks = load(home / ".claude" / "settings.json")["hooks"]
    command = hooks["UserPromptSubmit"][0]["hooks"][0]["command"]
    assert shlex.split(command)[-1] == str(place)
    sent = json.dumps({"session_id": "s", "cwd": str(project), "prompt": "We use PostgreSQL."})
    done = subprocess.run(["sh", "-c", command], input=sent, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((place / "agents" / "spool").glob("*.json"))
    run("uninstall", "claude-code", "--path", str(place))


def test_a_projects_own_modules_are_never_run(home, project, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda *_: False)  # no script beside the interpreter
        command = find_command()
    for name in ("json", "agent_memory", "typing"):
        (project / f"{name}.py").write_text("raise SystemExit('a stranger was run')")
    done = subprocess.run([*command, "--version"], cwd=project, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")


def test_status_says_what_is_installed(home, project):
    facts = json.loads(run("status", "--json"))
    assert {part["state"] for part in facts["agents"]["codex"]["user"]} == {"absent"}
    run("install", "codex")
    facts = json.loads(run("status", "codex", "--json"))
    assert {part["state"] for part in facts["agents"]["codex"]["user"]} == {"installed"}
    assert {part["state"] for part in facts["agents"]["codex"]["project"]} == {"absent"}
    assert facts["project"].startswith("projects/project $x")
    assert "last run: never" in run("status", "codex")


def test_a_portable_package_has_the_shape_of_agent_plugins_1_0(tmp_path):
    folder = tmp_path / "plugin"
    run("plugin", str(folder))
    jsonschema.validate(json.loads((folder / "plugin.json").read_text()), schemas.PLUGIN)
    jsonschema.validate(json.loads((folder / "mcp.json").read_text()), schemas.PLUGIN_MCP)
    assert (folder / "skills" / "agent-memory" / "SKILL.md").is_file()
    assert CliRunner().invoke(app, ["agent", "plugin", str(folder)]).exit_code == 2


def test_files_that_took_the_place_of_ours_are_other_peoples(home, project):
    run("install", "claude-code")
    shutil.rmtree(home / ".claude")
    (home / ".claude.json").unlink()
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").write_bytes(b'{"hooks": {}}\n')
    (home / ".claude.json").write_bytes(b'{"mcpServers": {}}\n')
    before = snapshot(home)
    run("install", "claude-code")
    run("uninstall", "claude-code")
    assert snapshot(home) == before


def test_a_refused_install_remembers_nothing(home, project, monkeypatch):
    """Later, what somebody has written meanwhile would be taken for ours."""

    def refuse(edits):
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(people, "write_all", refuse)
        assert CliRunner().invoke(app, ["agent", "install", "claude-code"]).exit_code != 0
    (home / ".claude").mkdir()
    (home / ".claude" / "settings.json").write_bytes(b"{}")
    (home / ".claude.json").write_bytes(b'{"mcpServers": {"agent-memory": {"command": "my-own-thing"}}}')
    before = snapshot(home)
    assert "kept" in run("install", "claude-code")
    assert json.loads((home / ".claude.json").read_bytes())["mcpServers"]["agent-memory"]["command"] == "my-own-thing"
    run("uninstall", "claude-code")
    assert snapshot(home) == before
