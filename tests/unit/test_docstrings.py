"""The examples in the docstrings of ``Memory`` are run as they stand."""

import doctest
import inspect

import pytest

from agent_memory import Memory
from agent_memory.recall.reader import Reader
from agent_memory.upkeep.operator import Operator

PUBLIC = {name for name, _ in inspect.getmembers(Memory, inspect.isfunction) if not name.startswith("_")}
DELEGATED = sorted(PUBLIC & (vars(Reader).keys() | vars(Operator).keys()))


@pytest.mark.parametrize("name", DELEGATED)
def test_the_example_of_a_delegated_method_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    method = getattr(Memory, name)
    with Memory("my-agent") as memory:
        (example,) = doctest.DocTestFinder(recurse=False).find(method, name, globs={"memory": memory, "Memory": Memory})
        assert example.examples, f"Memory.{name} has no example"
        outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example)
    assert outcome.failed == 0
