from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from support import skip_locally

ROOT = Path(__file__).parents[2]


def _pinned():
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))


def test_pre_commit_uses_the_pinned_versions():
    config = (ROOT / ".pre-commit-config.yaml").read_text("utf-8")
    revisions = dict(re.findall(r"repo: https://github\.com/\S+?/([\w-]+)\n    rev: v(\S+)\n", config))
    pinned = _pinned()
    assert revisions == {"ruff-pre-commit": pinned["ruff"], "codespell": pinned["codespell"]}


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_the_changelog_has_the_version_under_a_date():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert re.search(
        rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )


def test_public_ci_runs_what_the_makefile_offers():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        for targets in re.findall(r"run: make ([\w -]+)$", workflow.read_text("utf-8"), re.MULTILINE):
            for target in targets.split():
                assert re.search(rf"^{target}:", makefile, re.MULTILINE), (workflow.name, target)


def test_the_containers_file_passes_hadolint_and_pins_what_is_tested():
    file, linter = ROOT / "examples" / "server" / "Dockerfile", Path(sys.executable).with_name("hadolint")
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    text = file.read_text("utf-8")
    assert f"torch=={_pinned()['torch'].partition('+')[0]} " in text
    assert f'"agent-memory[server]=={version}"' in text
    found = str(linter) if linter.exists() else shutil.which("hadolint")
    if found is None:
        skip_locally("hadolint is not installed")
    done = subprocess.run([found, "--no-color", file], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
