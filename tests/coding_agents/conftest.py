"""Everything here runs in a home, a project and a store of its own; the real home is never looked at."""

import pytest
from scripted_agent import Agent

VARIABLES = (
    *("CLAUDE_CONFIG_DIR", "CLAUDE_PROJECT_DIR", "CODEX_HOME", "XDG_CONFIG_HOME"),
    *("AGENT_MEMORY_PATH", "AGENT_MEMORY_PROJECT", "AGENT_MEMORY_HOOKS"),
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    folder = tmp_path / 'home of $USER\'s "x\\y"'
    folder.mkdir()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("AGENT_MEMORY_HOOK_LIMIT", "120")  # a busy machine must not fail a test
    return folder


@pytest.fixture
def project(tmp_path, monkeypatch):
    folder = tmp_path / "project $x 'y' \"z\" \\n"
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").write_text("ref: refs/heads/main\n")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def store(home):
    return home / ".agent-memory"


@pytest.fixture
def claude(project, store):
    return Agent("claude-code", project, store)
