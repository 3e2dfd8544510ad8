"""The examples in the docstrings of ``Memory`` are run as they stand."""

import doctest
import inspect

import pytest

from agent_memory import Memory

METHODS = [name for name, _ in inspect.getmembers(Memory, lambda one: hasattr(one, "__wrapped__"))]


@pytest.mark.parametrize("name", [*METHODS, "restore"])
def test_the_example_of_a_method_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Memory("my-agent") as memory:
        names = {"memory": memory, "Memory": Memory}
        (example,) = doctest.DocTestFinder(recurse=False).find(getattr(Memory, name), name, globs=names)
        assert example.examples, f"Memory.{name} has no example"
        outcome = doctest.DocTestRunner().run(example)
    assert outcome.failed == 0
