"""Every example of the README and of the pages runs as it is printed, and prints what it says."""

from __future__ import annotations

import documents
import pytest

PAGES = sorted(
    str(path.relative_to(documents.ROOT))
    for path in [documents.ROOT / "README.md", *(documents.ROOT / "docs").rglob("*.md")]
    if not {"decisions", "integrations"} & set(path.parts)
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("page", [page for page in PAGES if documents.examples(page)])
def test_the_examples_of_a_page_print_what_it_says(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AGENT_MEMORY_PATH", raising=False)
    monkeypatch.setenv("AGENT_MEMORY_HOOK_LIMIT", "120")  # a busy machine must not fail a page
    documents.run(page)


def test_pages_for_newcomers_have_examples():
    for page in ("README.md", "docs/quickstart.md", "docs/howto/filters.md", "docs/howto/sessions.md"):
        assert len(documents.examples(page)) >= 3, page


def test_every_block_says_what_it_is():
    for page in PAGES:
        fences = [line for line in (documents.ROOT / page).read_text("utf-8").splitlines() if line.startswith("```")]
        openings = fences[::2]
        assert "```" not in openings, page
        assert set(fences[1::2]) <= {"```"}, page
