from __future__ import annotations

import inspect
import re

from agent_memory import AgentMemoryError, EncoderError, MissingDependencyError, errors


def drawn() -> dict[str, str | None]:
    """Return the parent of each class as the tree in the module's docstring draws it."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        found = re.match(r"[ │├└─]*(\w+Error)\b", line)
        if found is None or not line.startswith("    "):
            continue
        depth = found.start(1)
        above = [(column, name) for column, name in above if column < depth]
        parents[found[1]] = above[-1][1] if above else None
        above.append((depth, found[1]))
    return parents


def test_the_tree_in_the_docstring_is_that_of_the_classes():
    classes = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, AgentMemoryError)]
    assert drawn() == {
        each.__name__: None if each is AgentMemoryError else each.__bases__[0].__name__ for each in classes
    }


def test_a_missing_package_is_an_import_error_and_no_fault_of_an_encoder():
    assert MissingDependencyError.__bases__ == (AgentMemoryError, ImportError)
    assert not issubclass(MissingDependencyError, EncoderError)
