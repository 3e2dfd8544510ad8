from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


@pytest.mark.slow
def test_quick_start_prints_what_the_readme_says(tmp_path):
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL).groups()
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == output


def test_targets_named_in_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for target in re.findall(r"(?:^    |`)make ([a-z]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_named_in_the_documents_exist():
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    named = 0
    for document in documents:
        for name in re.findall(r"`((?:\w+/)+\w+\.(?:py|md|json|toml))`", document.read_text("utf-8")):
            assert (ROOT / name).exists() or "NNNN" in name, f"{document.name}: {name}"
            named += 1
    assert named >= 10


def test_links_of_the_documents_at_the_top_lead_to_files():
    for document in ROOT.glob("*.md"):
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text("utf-8")):
            assert (ROOT / target).exists(), f"{document.name}: {target}"
