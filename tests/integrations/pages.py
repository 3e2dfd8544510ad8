"""Runs the snippet of a page under docs/integrations as it is printed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "integrations"


def snippet(page: str) -> str:
    """Return the first Python block of a page."""
    return re.search(r"```python\n(.*?)```", (PAGES / f"{page}.md").read_text("utf-8"), re.DOTALL)[1]


def run(page: str, **names: Any) -> dict[str, Any]:
    """Run it in the current folder with the names that the page says are yours; returns all names."""
    code = snippet(page)
    assert len([line for line in code.splitlines() if line and not line.startswith(("from ", "import "))]) <= 5
    lines = code.splitlines()
    body = "\n".join(f"    {line}" for line in lines) + "\n    return locals()"
    space: dict[str, Any] = dict(names)
    if "await " in code:
        import asyncio

        exec(f"async def main():\n{body}", space)
        return asyncio.run(space["main"]())
    exec(code, space)
    return space
