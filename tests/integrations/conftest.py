"""The frameworks of ``make test`` must be there; the others are tested where they are installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

_ELSEWHERE = {
    "test_autogen.py": "autogen_core",
    "test_crewai.py": "crewai",
    "test_deepagents.py": "deepagents",
    "test_llama_index.py": "llama_index",
    "test_mem0.py": "mem0",
    "test_openai_agents.py": "agents",
    "test_pydantic_ai.py": "pydantic_ai",
}
collect_ignore = [file for file, package in _ELSEWHERE.items() if find_spec(package) is None]


@pytest.fixture(autouse=True)
def _no_tracing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "OTEL_SDK_DISABLED", "CREWAI_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true" if "DISABLE" in name else "false")
    yield
