"""Arguments of every wrong kind, for every method: an error of this package, quickly, and a store that stays sound."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest

from agent_memory import AgentMemoryError, AsyncMemory, InvalidInputError, Memory
from agent_memory.recall.request import RecallOptions

LOOP: list[object] = []
LOOP.append(LOOP)
HOSTILE = {
    "none": None,
    "number": 5,
    "minus": -1,
    "zero": 0,
    "huge": 10**400,
    "wide": 2**70,
    "nan": float("nan"),
    "inf": float("inf"),
    "true": True,
    "text": "abc",
    "empty": "",
    "nul": "a\0b",
    "surrogate": "\ud800",
    "long": "x" * 20_000,
    "bytes": b"abc",
    "list": [1, "a", None],
    "nothing": [],
    "nested": [[1], [2]],
    "mapping": {"a": 1},
    "numbers": {5: 5},
    "set": {1},
    "object": object(),
    "function": lambda *_: 1,
    "array": np.ones(3),
    "point": np.array(5),
    "loop": LOOP,
    "end": datetime.max,
    "start": datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    "ages": timedelta.max,
    "back": timedelta(-1),
    "complex": 1j,
    "now": datetime.now(UTC),
}
GOOD = {"query": "tea", "queries": ["tea"], "text": "tea", "key": "k", "keys": ["k"], "old": "k", "new": "k2"}
GOOD |= {
    "expiries": {"k": "2999-01-01"},
    "items": ["a"],
    "path": "file",
    "source": "nowhere",
    "target": "elsewhere",
    "kind": "purge",
    "trigger": "every 1h",
    "name": "purge",
    "job": 1,
}
APART = {"close", "open", "restore", "work"}
METHODS = sorted(name for name in vars(Memory) if not name.startswith("_") and name not in APART)
METHODS = [name for name in METHODS if callable(getattr(Memory, name))]
SLOW = {"backup": ("path",), "check": ("repair",), "why": ("query", "key", "half_life")}


def calls(method):
    """Yield (positional, keyword) arguments: good ones, but one."""
    parameters = [one for one in inspect.signature(method).parameters.values() if one.name != "self"]
    open_ended = any(one.kind is one.VAR_KEYWORD for one in parameters)
    parameters = [one for one in parameters if one.kind is not one.VAR_KEYWORD]
    good = {one.name: GOOD[one.name] for one in parameters if one.default is one.empty}
    names = [one.name for one in parameters] + (list(RecallOptions.__annotations__) if open_ended else [])
    first = [one.name for one in parameters if one.kind is one.POSITIONAL_ONLY]
    for name in SLOW.get(method.__name__, names):
        for kind, value in HOSTILE.items():
            given = {**good, name: value}
            yield f"{name}={kind}", [given.pop(one) for one in first], given


@pytest.mark.parametrize("name", METHODS)
def test_a_wrong_argument_is_refused_or_harmless(memory, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory.add("likes tea", key="k", session="s")
    memory.add("likes coffee", key="k2")
    for what, positional, keyword in calls(getattr(Memory, name)):
        try:
            getattr(memory, name)(*positional, **keyword)
        except AgentMemoryError:
            pass
        except Exception as error:
            pytest.fail(f"{name}({what}) raised {error!r}"[:500])
    memory.add("likes water", key="k3")
    assert "likes water" in [hit.text for hit in memory.recall("likes water")]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("get_many", {"keys": 5}),
        ("get_many", {"keys": "abc"}),
        ("get_many", {"keys": b"abc"}),
        ("get_many", {"keys": [5]}),
        ("vectors", {"keys": None}),
        ("get", {"key": 5}),
        ("history", {"key": ["k"]}),
        ("entries", {"where": 5}),
        ("entries", {"limit": "5"}),
        ("entries", {"offset": 1.5}),
        ("forget", {"everything": "no"}),
        ("forget", {"where": np.ones(3)}),
        ("recall", {"query": "tea", "exact": "no"}),
        ("recall", {"query": "tea", "rerank": 5}),
        ("recall_many", {"queries": "tea"}),
        ("export", {"path": 5}),
        ("export", {"path": ""}),
        ("backup", {"path": b"x"}),
        ("import_", {"path": "x", "progress": 5}),
        ("collect_generations", {"grace": 7}),
        ("jobs", {"limit": "ten"}),
        ("cancel_job", {"job": "one"}),
        ("schedule", {"kind": "purge", "trigger": 5}),
        ("schedule", {"kind": "purge", "trigger": "every 1h", "options": 5}),
        ("unschedule", {"name": 5}),
        ("reindex", {"encoder": 5}),
        ("reindex", {"max_cpu": "all"}),
        ("maintenance", {"only": "purge"}),
    ],
)
async def test_wrong_kinds_are_named_with_and_without_asyncio(folder, open_memory, name, arguments):
    memory = open_memory()
    memory.add("likes tea", key="k")
    positional = [arguments.pop("queries")] if "queries" in arguments else []
    with pytest.raises(InvalidInputError):
        getattr(memory, name)(*positional, **arguments)
    async with AsyncMemory(folder, encoder=memory.encoder) as opened:
        with pytest.raises(InvalidInputError):
            await getattr(opened, name)(*positional, **arguments)


def test_unknown_arguments_are_type_errors(memory):
    for name in METHODS:
        with pytest.raises(TypeError):
            getattr(memory, name)(no_such_argument=1)
