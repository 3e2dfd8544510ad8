"""Every adapter says which extra it needs."""

from __future__ import annotations

import importlib
import sys

import pytest

from agent_memory import MissingDependencyError

ADAPTERS = [
    ("langchain", "langchain_core", "langchain"),
    ("langchain", "langchain", "langchain"),
    ("langgraph", "langgraph", "langgraph"),
    ("openai_agents", "agents", "openai-agents"),
    ("autogen", "autogen_core", "autogen"),
    ("llama_index", "llama_index", "llama-index"),
    ("crewai", "crewai", "crewai"),
    ("pydantic_ai", "pydantic_ai", "pydantic-ai"),
]


@pytest.mark.parametrize(("module", "package", "extra"), ADAPTERS)
def test_without_its_package_the_error_names_the_extra(monkeypatch, module, package, extra):
    for name in list(sys.modules):
        if name.split(".")[0] == package or name.startswith("agent_memory.integrations."):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'agent-memory\[{extra}\]'") as caught:
        importlib.import_module(f"agent_memory.integrations.{module}")
    assert caught.value.extra == extra
    assert isinstance(caught.value, ImportError)


def test_the_package_itself_imports_no_framework():
    import subprocess

    packages = sorted({package for _, package, _ in ADAPTERS} | {"mcp"})
    code = f"import agent_memory.cli.app, sys; print([name for name in {packages} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
