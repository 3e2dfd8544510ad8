"""An import is killed: what it had written is whole, and when it is run again it writes the rest, once."""

from __future__ import annotations

import json
import os

import pytest
from support import WordEncoder, python

from agent_memory import Config, Memory

IMPORTER = """
import sys
from support import WordEncoder
from agent_memory import Config, Memory

with Memory(sys.argv[1], encoder=WordEncoder(), config=Config(batch_size=8)) as memory:
    memory.import_(sys.argv[2])
"""


@pytest.fixture
def file(tmp_path):
    lines = [
        json.dumps({"id": f"c{n}", "segments": [{"idx": i, "text": f"fact {i} of {n}"} for i in range(10)]})
        for n in range(6)
    ]
    (tmp_path / "file.jsonl").write_text("\n".join(lines))
    return tmp_path / "file.jsonl"


@pytest.mark.parametrize(("place", "written"), [("import-checked", 0), ("import-batch:1", 8), ("import-batch:5", 40)])
def test_an_import_that_was_killed_is_completed_by_the_next(tmp_path, file, place, written):
    folder = tmp_path / "store"
    killed = python(IMPORTER, folder, file, env={"AGENT_MEMORY_FAILPOINT": place})
    killed.communicate(timeout=60)
    assert killed.returncode == -9
    assert not [name for name in os.listdir(folder) if "tmp" in name]
    with Memory(folder, encoder=WordEncoder(), config=Config(batch_size=8)) as memory:
        assert len(memory.entries()) == written
        assert memory.check().ok
        done = memory.import_(file)
        assert (done.new, done.updated, done.unchanged) == (60 - written, 0, written)
        assert len(memory.entries()) == 60
        assert [session.entries for session in memory.sessions()] == [10] * 6
        assert memory.check().ok
