"""What the site is generated from."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "_build" / "hooks.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_hooks"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["docs_hooks"]


def test_the_command_line_reference_has_every_command_with_its_options(hooks):
    page = hooks.render_commands()
    for heading, option in (
        ("## agent-memory recall", "`--where`, `-w` WHERE"),
        ("## agent-memory import", "`--format`, `--from` FORMAT"),
        ("### agent-memory jobs schedule", "`--keep` KEEP"),
        ("### agent-memory session show", "`--steps` STEPS"),
    ):
        section = page.split(f"{heading}\n")[1].split("\n## ")[0]
        assert option in section, heading
    commands = re.findall(r"^#+ (agent-memory .+)$", page, re.MULTILINE)
    assert len(commands) == len(set(commands)) >= 30


def test_a_command_says_its_default_and_its_variable(hooks):
    page = hooks.render_commands()
    assert "default `~/.agent-memory`; environment variable `AGENT_MEMORY_PATH`" in page
    assert "Maximum number of hits. (default `5`)" in page


def test_every_decision_record_is_in_the_index_with_date_and_status(hooks):
    rows = re.findall(
        r"^\| (\d{4}) \| \[.+\]\((.+)\) \| \d{4}-\d\d-\d\d \| (.+) \|$", hooks.render_index(), re.MULTILINE
    )
    files = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    assert [name for _, name, _ in rows] == files
    numbers = [number for number, _, _ in rows]
    assert len(set(numbers)) == len(numbers)
    assert {status.split()[0] for _, _, status in rows} <= {"accepted", "replaced", "proposed"}


def test_every_decision_record_asks_and_decides():
    for record in (ROOT / "docs" / "decisions").glob("*.md"):
        text = record.read_text("utf-8")
        assert "**Question.**" in text, record.name
        assert "**Decision" in text, record.name


def test_a_record_with_another_heading_is_refused(hooks, tmp_path, monkeypatch):
    (tmp_path / "0099-odd.md").write_text("# 99. Odd\n\nText.\n")
    monkeypatch.setattr(hooks, "RECORDS", tmp_path)
    with pytest.raises(ValueError, match=r"0099-odd\.md must begin with"):
        hooks.read_records()


@pytest.mark.slow
def test_the_site_builds_strictly_and_loads_nothing_from_the_network(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    pages = list((tmp_path / "site").rglob("*.html"))
    assert len(pages) > 30
    for page in pages:
        loaded = re.findall(
            r"<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)=\"?(https?:)?//", page.read_text("utf-8")
        )
        assert not loaded, page
